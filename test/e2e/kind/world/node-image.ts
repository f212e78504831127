import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { run } from "../../../../tools/command";
import { pinnedVersion } from "../../../../tools/tools";
import { buildImage, buildProgramImage, copy, moveImage } from "./docker-image";
import { goModuleDirectory } from "./go-build";

/** Where the programs of a node are on this machine: path by name. */
export type Programs = (name: string) => string;

const toolsOfKind = join(__dirname, "../../../../tools/cli");

/** Path in the node's file system → names of programs. */
const installed = {
  // Where Kind's unit files and scripts look for them.
  "usr/local/bin": ["containerd", "containerd-shim-runc-v2", "ctr", "crictl"],
  "usr/bin": ["kubeadm", "kubelet", "kubectl"],
  "opt/cni/bin": ["host-local", "loopback", "portmap", "ptp"],
};

/**
 * Builds a Kind node with the Kubernetes of `tools/go.mod`, as `kind build node-image` would. Its images are
 * in containerd's store already, so that a cluster starts without pulling any.
 *
 * @param scratch a directory for what is needed meanwhile
 */
export async function buildNodeImage(
  reference: string,
  programs: Programs,
  scratch: string,
  recipe: string,
): Promise<void> {
  const kind = join(await goModuleDirectory(toolsOfKind, "sigs.k8s.io/kind"), "images/base/files");
  const root = join(scratch, "root");
  const version = pinnedVersion("kube-apiserver");
  rmSync(scratch, { recursive: true, force: true });

  for (const part of ["etc", "kind", "usr"]) copy(join(kind, part), join(root, part));
  // In the module cache all files may only be read.
  await run("chmod", ["-R", "u=rwX,go=rX", root]);
  for (const [directory, names] of Object.entries(installed))
    for (const name of names) copy(programs(name), join(root, directory, name));
  copy(join(__dirname, "node/unprivileged"), join(root, "usr/local/bin/unprivileged"));
  copy(join(__dirname, "node/10-ptp.conflist"), join(root, "etc/cni/net.d/10-ptp.conflist"));
  copy(join(__dirname, "node/manifests"), join(root, "kind/manifests"));
  writeFileSync(join(root, "kind/version"), version);
  await run("chmod", ["-R", "a+x", join(root, "usr/local/bin"), join(root, "kind/bin")]);

  const pause = sandboxImage(readFileSync(join(kind, "etc/containerd/config.toml"), "utf8"));
  const listed = await run(programs("kubeadm"), [
    "config",
    "images",
    "list",
    "--kubernetes-version",
    version,
  ]);
  for (const image of listed.trim().split("\n")) {
    const name = basename(image).replace(/:.*/, "");
    const references = name === "pause" ? [...new Set([image, pause])] : [image];
    if (name === "kube-proxy") await buildKubeProxyImage(image, programs, scratch, recipe);
    else await buildProgramImage(references, { program: programs(name) }, recipe);
    await moveImage(references, join(scratch, "images", `${name}.tar`));
  }

  copy(join(__dirname, "node/Dockerfile"), join(scratch, "Dockerfile"));
  await buildImage([reference], scratch, recipe);
  rmSync(scratch, { recursive: true });
}

async function buildKubeProxyImage(
  reference: string,
  programs: Programs,
  scratch: string,
  recipe: string,
): Promise<void> {
  const context = join(scratch, "kube-proxy");
  copy(join(__dirname, "kube-proxy"), context);
  copy(programs("kube-proxy"), join(context, "kube-proxy"));
  await buildImage([reference], context, recipe);
  rmSync(context, { recursive: true });
}

/** The image that holds a pod's namespaces, as containerd's configuration names it. */
function sandboxImage(config: string): string {
  const image = /^\s*sandbox_image = "(.+)"$/m.exec(config)?.[1];
  if (image === undefined) throw new Error("Kind's containerd configuration names no sandbox_image.");
  return image;
}
