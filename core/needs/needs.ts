import { readFile, statfs } from "node:fs/promises";
import { createServer } from "node:net";
import { run } from "../../tools/command";
import { isNotOf, isOwn, ownerLabel, type Labels } from "../../clients/docker/ownership";
import { KubernetesClient } from "../../clients/kubernetes/client";
import { isUnknown } from "../../clients/registry/oci";
import { sentence } from "../../system/sentence";
import { mirrorName, registryName } from "../registry/names";
import type { Finding } from "../findings/finding";
import type { PlatformConfig } from "../settings/config";

/** A requirement of a stack that this machine does not meet. */
export interface Need extends Finding {
  readonly remedy: string;
  /** Without it, a real cluster is not possible here, but a rehearsal is. */
  readonly rehearsable: boolean;
}

/** The calls of the checks to a machine. */
export interface Host {
  /** Runs a command and returns its output. @throws Error when the command is missing or fails */
  run(command: string, ...args: string[]): Promise<string>;
  /** The content of a file, or undefined. */
  read(path: string): Promise<string | undefined>;
  /** Whether something listens on 127.0.0.1. */
  portTaken(port: number): Promise<boolean>;
  /** Free bytes of the file system that holds a path. */
  freeBytes(path: string): Promise<number>;
  /** The API server behind a kubeconfig. */
  readonly kubernetes: (kubeconfig: string) => Pick<KubernetesClient, "ready" | "allows">;
  /** Runs `crane`, which reaches a registry in the same way as a release. @throws as `run` does */
  crane(...args: string[]): Promise<string>;
}

/** Limits below which Cilium and kubelet run out of watches. Source: https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files */
const inotify = { max_user_watches: 524_288, max_user_instances: 512 } as const;

/** Node image, container images of every layer, and room to work. */
const diskBytes = 12 * 1024 ** 3;

/**
 * Checks the requirements of `pulumi up` for a stack, before the run makes anything: this machine, an existing cluster,
 * and a remote registry. The pinned tools are not checked: the program builds them.
 *
 * @returns the missing requirements; empty when the stack can be made here
 */
export async function examine(config: PlatformConfig, host: Host): Promise<Need[]> {
  const { cluster, registry, stack, owner } = config;
  const local = cluster.kind === "kind" || registry.kind === "local";
  const docker = local ? await checkDocker(host) : [];
  // Without Docker, the other questions to Docker make no sense.
  const checks = [
    checkPulumi(host),
    ...(local && docker.length === 0 ? [checkDisk(host)] : []),
    ...(registry.kind === "local" && docker.length === 0
      ? [checkVolume(host, registryName(stack), owner)]
      : []),
    ...(cluster.kind === "existing" ? [checkCluster(host, cluster.kubeconfigFile)] : []),
    ...(registry.kind === "remote" ? [checkRegistry(host, registry)] : []),
    ...(cluster.kind === "kind"
      ? [
          checkInotify(host),
          ...(docker.length === 0 ? [checkOwner(host, cluster.name, owner)] : []),
          ...cluster.ports
            .filter(({ protocol }) => protocol === "TCP")
            .map(({ hostPort }) =>
              checkPort(host, hostPort, "platform:cluster.ports", `${cluster.name}-control-plane`),
            ),
        ]
      : []),
    ...(registry.kind === "local"
      ? [
          registryName(stack),
          ...registry.mirrors.map((mirror) => mirrorName(registryName(stack), mirror)),
        ].map((container, index) =>
          checkPort(host, registry.port + index, "platform:registry.port", container),
        )
      : []),
  ];
  return [docker, ...(await Promise.all(checks))].flat();
}

/** Whether the Pulumi CLI is installed. */
export async function checkPulumi(host: Host): Promise<Need[]> {
  try {
    await host.run("pulumi", "version");
    return [];
  } catch {
    return [
      {
        check: "pulumi",
        message:
          'The Pulumi CLI is not available: "pulumi version" fails, and the npm package "pulumi" could not install it.',
        remedy: "Install it from https://www.pulumi.com/docs/install/.",
        rehearsable: true,
      },
    ];
  }
}

async function checkDocker(host: Host): Promise<Need[]> {
  try {
    await host.run("docker", "info", "--format", "{{.ServerVersion}}");
    return [];
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    const fault = missing
      ? {
          message: 'Docker is missing: there is no "docker" on PATH.',
          remedy: "Install Docker Engine from https://docs.docker.com/engine/install/.",
        }
      : {
          message: 'Docker does not answer: "docker info" fails.',
          remedy: 'Start it, and let this user reach it ("docker" group).',
        };
    return [{ check: "docker", ...fault, rehearsable: true }];
  }
}

/** The objects that layer 0 applies to a cluster: verb, API group, resource, namespace. */
const needed = [
  ["create", "", "namespaces"],
  ["patch", "", "secrets", "flux-system"],
  ["patch", "", "configmaps", "flux-system"],
  ["patch", "apps", "deployments", "flux-system"],
  ["patch", "apiextensions.k8s.io", "customresourcedefinitions"],
  ["patch", "rbac.authorization.k8s.io", "clusterroles"],
  ["patch", "rbac.authorization.k8s.io", "clusterrolebindings"],
  // Only a user with the role's rights, or with these two verbs, may bind a role and give it rights.
  ["bind", "rbac.authorization.k8s.io", "clusterroles"],
  ["escalate", "rbac.authorization.k8s.io", "clusterroles"],
] as const;

/** An existing cluster: its kubeconfig, its API server, and the rights of its user. */
async function checkCluster(host: Host, file: string): Promise<Need[]> {
  const set = "et platform:cluster.kubeconfigFile to an admin kubeconfig of the cluster.";
  const finding = (message: string, remedy: string) => [
    { check: "cluster", message, remedy, rehearsable: true },
  ];
  const kubeconfig = await host.read(file);
  if (kubeconfig === undefined)
    return finding(`The kubeconfig ${file} is missing, or this user cannot read it.`, `S${set}`);
  const api = host.kubernetes(kubeconfig);
  try {
    await api.ready();
    if (await api.allows("*", "*", "*")) return [];
    const answers = await Promise.all(
      needed.map(async ([verb, group, resource, namespace]) =>
        (await api.allows(verb, group, resource, namespace)) ? [] : [`${verb} ${resource}`],
      ),
    );
    const refused = answers.flat();
    if (refused.length === 0) return [];
    return finding(
      `The user of kubeconfig ${file} may not ${refused.join(", ")}, which the first layer needs.`,
      `Bind it to the ClusterRole cluster-admin, or s${set}`,
    );
  } catch (error) {
    const reason = (error as Error).message.replace(/^[^:]* failed: /, "").replace(/\.$/, "");
    return finding(
      `The cluster of kubeconfig ${file} is out of reach: ${reason}.`,
      `Start the cluster or the VPN to it, or s${set}`,
    );
  }
}

/** A remote registry: whether it answers, and accepts this user's credentials. */
async function checkRegistry(
  host: Host,
  { repository, insecure }: Extract<PlatformConfig["registry"], { kind: "remote" }>,
): Promise<Need[]> {
  const [registry = ""] = repository.split("/");
  try {
    await host.crane(...(insecure ? ["--insecure"] : []), "ls", repository);
    return [];
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException;
    // crane is not built yet: the program builds it, and repeats this check before it makes anything.
    if (code === "ENOENT") return [];
    // The first release makes the repository.
    if (isUnknown(error)) return [];
    if (/UNAUTHORIZED|DENIED|401 Unauthorized|403 Forbidden/.test(message)) {
      return [
        {
          check: "registry",
          message: `The registry ${registry} refuses ${repository} to this user.`,
          remedy: `Run "docker login ${registry}" with an account that may push to it, or set platform:registry.repository.`,
          rehearsable: true,
        },
      ];
    }
    const reason = /(?:Error|error): (?:.*?": )?(.*)$/.exec(message)?.[1] ?? message;
    return [
      {
        check: "registry",
        message: `The registry ${registry} does not answer for ${repository}: ${sentence(reason)}`,
        remedy:
          "Correct platform:registry.repository or platform:registry.insecure, or see why this machine does not reach it.",
        rehearsable: true,
      },
    ];
  }
}

async function checkInotify(host: Host): Promise<Need[]> {
  const findings: Need[] = [];
  for (const [limit, least] of Object.entries(inotify)) {
    const text = await host.read(`/proc/sys/fs/inotify/${limit}`);
    if (text === undefined || Number(text) >= least) continue;
    findings.push({
      check: "inotify",
      message: `fs.inotify.${limit} is ${text.trim()}: Cilium and the kubelet need ${least}.`,
      remedy: `Run "sudo sysctl fs.inotify.${limit}=${least}".`,
      rehearsable: false,
    });
  }
  return findings;
}

async function checkDisk(host: Host): Promise<Need[]> {
  const root = await host.run("docker", "info", "--format", "{{.DockerRootDir}}").catch(() => "/");
  const free = await host.freeBytes(root.trim()).catch(() => host.freeBytes("/"));
  if (free >= diskBytes) return [];
  const gib = (bytes: number) => (bytes / 1024 ** 3).toFixed(1);
  return [
    {
      check: "disk",
      message: `The disk of Docker's images has ${gib(free)} GiB free: the cluster needs ${gib(diskBytes)} GiB.`,
      remedy: 'Free some, such as with "docker system prune".',
      rehearsable: false,
    },
  ];
}

/** A Kind cluster of that name with another owner would have to be deleted for this one. */
async function checkOwner(host: Host, cluster: string, owner: string): Promise<Need[]> {
  const nodes = await host.run(
    ...(["docker", "ps", "--all", "--filter", `label=io.x-k8s.kind.cluster=${cluster}`] as const),
    ...(["--format", `{{.Names}}={{.Label "${ownerLabel}"}}`] as const),
  );
  const stranger = nodes
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => ({
      node: line.slice(0, line.indexOf("=")),
      labels: labelled(line.slice(line.indexOf("=") + 1)),
    }))
    .find(({ labels }) => !isOwn(labels, owner));
  if (stranger === undefined) return [];
  return [
    {
      check: "kind-cluster",
      message: `A Kind cluster "${cluster}" is there and ${isNotOf(owner, `its node ${stranger.node}`, stranger.labels)}.`,
      remedy: `Set platform:cluster.name to another name, or delete it with "kind delete cluster --name ${cluster}".`,
      rehearsable: false,
    },
  ];
}

/** Docker returns an existing volume of that name, of any owner, and Pulumi would delete it with the stack. */
async function checkVolume(host: Host, volume: string, owner: string): Promise<Need[]> {
  const format = `{{index .Labels "${ownerLabel}"}}`;
  const label = await host
    .run("docker", "volume", "inspect", "--format", format, volume)
    .catch(() => undefined);
  if (label === undefined || isOwn(labelled(label), owner)) return [];
  return [
    {
      check: "volume",
      message: `A volume "${volume}" is there and ${isNotOf(owner, "it", labelled(label))}.`,
      remedy: `Copy its data to another place, remove it with "docker volume rm ${volume}", and run again.`,
      rehearsable: false,
    },
  ];
}

/** The owner's label as a template of Docker prints it: empty, or "<no value>", if there is none. */
function labelled(printed: string): Labels {
  const label = printed.trim();
  return ["", "<no value>"].includes(label) ? {} : { [ownerLabel]: label };
}

/** @param container the container of this project that may hold the port */
async function checkPort(host: Host, port: number, setting: string, container: string): Promise<Need[]> {
  if (!(await host.portTaken(port))) return [];
  // The ports in the container's configuration: a starting container holds a port before it shows the port.
  const format = "{{range .HostConfig.PortBindings}}{{range .}}{{.HostPort}} {{end}}{{end}}";
  const own = await host
    .run("docker", "inspect", "--type", "container", "--format", format, container)
    .then((ports) => ports.trim().split(" ").includes(String(port)))
    .catch(() => false);
  if (own) return [];
  return [
    {
      check: "port",
      message: `Port ${port} on 127.0.0.1 is in use: ${container} needs it.`,
      remedy: `Stop the program that listens there, or set ${setting}.`,
      rehearsable: false,
    },
  ];
}

/** This machine. */
export const thisHost: Host = {
  run: (command, ...args) => run(command, args),
  read: (path) => readFile(path, "utf8").catch(() => undefined),
  portTaken: (port) =>
    new Promise((resolve) => {
      const server = createServer()
        // An ordinary user may not listen below 1024, but Docker may.
        .once("error", ({ code }: NodeJS.ErrnoException) => {
          resolve(code === "EADDRINUSE");
        })
        .once("listening", () => {
          server.close(() => {
            resolve(false);
          });
        })
        .listen(port, "127.0.0.1");
    }),
  freeBytes: async (path) => {
    const { bavail, bsize } = await statfs(path);
    return bavail * bsize;
  },
  kubernetes: (kubeconfig) => new KubernetesClient(kubeconfig),
  crane: (...args) => run("crane", args, { timeout: 60_000 }),
};
