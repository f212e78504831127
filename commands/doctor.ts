import { readFile, statfs } from "node:fs/promises";
import { createServer } from "node:net";
import { run } from "../components/command";
import type { PlatformConfig } from "../config";

/** Something that a stack needs and this machine lacks. */
export interface Finding {
  /** What is missing, why it matters, and how to get it: one sentence each. */
  readonly message: string;
  /** Without it there can be no real cluster here, but a rehearsal still can. */
  readonly rehearsable: boolean;
}

/** What the checks ask of a machine. */
export interface Host {
  /** Runs a command and returns its output. @throws Error when it is missing or fails */
  run(command: string, ...args: string[]): Promise<string>;
  /** The content of a file, or undefined. */
  read(path: string): Promise<string | undefined>;
  /** Whether something listens on 127.0.0.1. */
  portTaken(port: number): Promise<boolean>;
  /** Free bytes of the file system that holds a path. */
  freeBytes(path: string): Promise<number>;
}

/** Limits below which Cilium and kubelet run out of watches. Source: https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files */
const inotify = { max_user_watches: 524_288, max_user_instances: 512 } as const;

/** Node image, container images of every layer, and room to work. */
const diskBytes = 12 * 1024 ** 3;

/**
 * Checks what `pulumi up` of a stack needs, before anything is made. The pinned tools are not among it: the program
 * builds them.
 *
 * @returns what is missing; nothing when the stack can be made here
 */
export async function examine(config: PlatformConfig, host: Host): Promise<Finding[]> {
  const local = config.cluster.kind === "kind" || config.registry.kind === "local";
  const checks = [
    checkPulumi(host),
    ...(local ? [checkDocker(host), checkDisk(host)] : []),
    ...(config.cluster.kind === "kind" ? [checkInotify(host)] : []),
    ...(config.registry.kind === "local" ? [checkPort(host, config.registry.port, config.stack)] : []),
  ];
  return (await Promise.all(checks)).flat();
}

async function checkPulumi(host: Host): Promise<Finding[]> {
  try {
    await host.run("pulumi", "version");
    return [];
  } catch {
    return [
      {
        message:
          'The Pulumi CLI cannot be had: "pulumi version" fails, and the npm package "pulumi" could not install it. Install it from https://www.pulumi.com/docs/install/.',
        rehearsable: true,
      },
    ];
  }
}

async function checkDocker(host: Host): Promise<Finding[]> {
  try {
    await host.run("docker", "info", "--format", "{{.ServerVersion}}");
    return [];
  } catch (error) {
    const missing = (error as Error).message.startsWith("Unable to execute");
    const message = missing
      ? 'Docker is missing: there is no "docker" on PATH. Install Docker Engine from https://docs.docker.com/engine/install/.'
      : 'Docker does not answer: "docker info" fails. Start it, and let this user reach it ("docker" group).';
    return [{ message, rehearsable: true }];
  }
}

async function checkInotify(host: Host): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const [limit, least] of Object.entries(inotify)) {
    const text = await host.read(`/proc/sys/fs/inotify/${limit}`);
    if (text === undefined || Number(text) >= least) continue;
    findings.push({
      message: `fs.inotify.${limit} is ${text.trim()}: Cilium and the kubelet need ${least}. Run "sudo sysctl fs.inotify.${limit}=${least}".`,
      rehearsable: false,
    });
  }
  return findings;
}

async function checkDisk(host: Host): Promise<Finding[]> {
  const root = await host.run("docker", "info", "--format", "{{.DockerRootDir}}").catch(() => "/");
  const free = await host.freeBytes(root.trim()).catch(() => host.freeBytes("/"));
  if (free >= diskBytes) return [];
  const gib = (bytes: number) => (bytes / 1024 ** 3).toFixed(1);
  return [
    {
      message: `The disk of Docker's images has ${gib(free)} GiB free: the cluster needs ${gib(diskBytes)} GiB. Free some, such as with "docker system prune".`,
      rehearsable: false,
    },
  ];
}

async function checkPort(host: Host, port: number, stack: string): Promise<Finding[]> {
  if (!(await host.portTaken(port))) return [];
  const own = await host
    .run("docker", "port", `platform-${stack}-registry`)
    .then((ports) => ports.includes(`127.0.0.1:${port}`))
    .catch(() => false);
  if (own) return [];
  return [
    {
      message: `Port ${port} on 127.0.0.1 is taken: the registry of stack "${stack}" needs it. Stop what listens there, or set platform:registry.port.`,
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
        .once("error", () => {
          resolve(true);
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
};
