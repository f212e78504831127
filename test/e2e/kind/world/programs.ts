import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { run } from "../../../../tools/command";
import { upstreamFiles } from "../../../../tools/upstream";
import { readGoModule } from "../../../../tools/go-module";
import { operatorModule, operatorVersion } from "./flux";
import { goBuild, type GoBuild } from "./go-build";

const containerd = "github.com/containerd/containerd/v2/cmd";
const cniPlugins = "github.com/containernetworking/plugins/plugins";

/**
 * The programs of the world that are no tools of the project.
 *
 * @param kubernetes version of the control plane, which kubelet and the others must have too
 * @throws Error when `kubernetes/go.mod` pins another one
 */
export function worldPrograms(kubernetes: string): readonly GoBuild[] {
  const { directory, versions } = readGoModule(join(__dirname, "kubernetes"));
  const pinned = versions.get("k8s.io/kubernetes");
  if (pinned !== kubernetes)
    throw new Error(
      `${directory}/go.mod pins Kubernetes ${pinned ?? "nowhere"}, tools/go.mod ${kubernetes}. ` +
        `Copy the replacements from there, and run "go get k8s.io/kubernetes@${kubernetes} && go mod tidy".`,
    );
  const programs = { directory: join(__dirname, "programs") };
  return [
    {
      directory,
      packages: ["kubeadm", "kubectl", "kubelet", "kube-proxy"].map(
        (name) => `k8s.io/kubernetes/cmd/${name}`,
      ),
      variables: { "k8s.io/component-base/version.gitVersion": kubernetes },
    },
    {
      ...programs,
      packages: ["containerd", "containerd-shim-runc-v2", "ctr"].map((name) => `${containerd}/${name}`),
      // As in Kind's own build: snapshotters that it never chooses.
      args: ["-tags", "no_aufs no_zfs no_btrfs no_devmapper"],
    },
    {
      ...programs,
      packages: [
        ...["main/ptp", "main/loopback", "ipam/host-local", "meta/portmap"].map((p) => `${cniPlugins}/${p}`),
        "sigs.k8s.io/cri-tools/cmd/crictl",
        ...["./coredns", "./pause", "./whoami"],
      ],
    },
  ];
}

/**
 * Builds the real Flux Operator out of a copy of its module, which differs in what keeps it from being built: it asks
 * for Go 1.27, which nothing in it needs; it requires a version of a module that proxy.golang.org does not have; and
 * its web pages are not in the module.
 *
 * @param output directory for program `flux-operator`
 */
export async function buildOperator(output: string): Promise<void> {
  const source = join(output, "flux-operator.source");
  const files = await upstreamFiles(operatorModule, "source", (path) =>
    /^(api|cmd|internal)\/.*\.go$|^web\/embed\.go$|^go\.(mod|sum)$/.test(path),
  );
  for (const [path, content] of [...files, ["web/dist/index.html", "<!doctype html>\n"] as const]) {
    mkdirSync(dirname(join(source, path)), { recursive: true });
    writeFileSync(join(source, path), content);
  }
  const authn = "github.com/google/go-containerregistry/pkg/authn/kubernetes";
  const replace = `${authn}=${authn}@v0.0.0-20250225234217-098045d5e61f`;
  await run("go", ["mod", "edit", "-go=1.26.0", `-replace=${replace}`], { cwd: source });
  await goBuild(
    {
      directory: source,
      packages: ["./cmd/operator"],
      // The checksum of the replacement comes from sum.golang.org.
      args: ["-mod=mod", "-trimpath"],
      variables: { "main.VERSION": operatorVersion() },
      // As in its Dockerfile: it does not run without.
      env: { GOFIPS140: "latest" },
    },
    source,
  );
  renameSync(join(source, "operator"), join(output, "flux-operator"));
  rmSync(source, { recursive: true });
}
