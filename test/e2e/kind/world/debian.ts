import { rmSync } from "node:fs";
import { join } from "node:path";
import { run } from "../../../../tools/command";
import { cacheDirectory } from "../../../../system/cache";
import { debianImage, fingerprint, hasImage, recipeLabel } from "./docker-image";

const suite = "bookworm";

/** What systemd, containerd, kubelet and Kind's scripts call on a node. */
const packages = [
  ...["systemd", "systemd-sysv", "dbus", "procps", "mount", "kmod", "curl", "jq", "ca-certificates"],
  ...["runc", "libseccomp2", "iproute2", "iptables", "nftables", "conntrack", "ethtool", "socat"],
];

/** What a package leaves on the disk that no program reads. */
const ballast = ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"];

/** Installs Debian, in a directory and from its own package registry, as the image that the others start from. */
export async function ensureDebian(report: (line: string) => void): Promise<void> {
  const recipe = fingerprint(suite, ...packages, ...ballast);
  if (await hasImage(debianImage, recipe)) return;
  report("installing Debian 12 with debootstrap, about 90 s");
  const root = join(cacheDirectory(), "world", "debian.draft");
  const archive = `${root}.tar`;
  try {
    await run("debootstrap", ["--variant=minbase", `--include=${packages.join(",")}`, suite, root], {
      timeout: 900_000,
    });
    for (const path of ballast) rmSync(join(root, path), { recursive: true });
    await run("tar", ["--create", "--file", archive, "--directory", root, "."]);
    await run("docker", ["import", "--change", `LABEL ${recipeLabel}=${recipe}`, archive, debianImage]);
  } finally {
    rmSync(root, { recursive: true, force: true });
    rmSync(archive, { force: true });
  }
}
