import { readFile, statfs } from "node:fs/promises";
import { ownerLabel, type Labels } from "../../clients/docker/ownership";
import { KubernetesClient } from "../../clients/kubernetes/client";
import { run } from "../../tools/command";
import { isPortTaken } from "../../system/port";
import { isReachable } from "../../system/reach";
import type { Finding } from "../findings/finding";
import { isInstalled, pluginOf, type Plugin } from "./plugins";
import { programsNamed } from "../../system/programs";

/** A requirement of a stack that this machine does not meet. */
export interface Need extends Finding {
  readonly remedy: string;
  /** Without it, a real cluster is not possible here, but a rehearsal is. @default false */
  readonly rehearsable?: boolean;
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
  /** The programs of a name on PATH, absolute. */
  programs(name: string): readonly string[];
  /** Whether Pulumi's engine finds the plugin that an installed SDK asks for. @param name such as `kubernetes` */
  plugin(name: string): Promise<Plugin & { readonly isInstalled: boolean }>;
  /** Whether port 443 of a host answers, also through a proxy. */
  isReachable(host: string): Promise<boolean>;
  /** The user's variables. */
  readonly env: NodeJS.ProcessEnv;
  /** Runs `crane`, which reaches a registry in the same way as a release. @throws as `run` does */
  crane(...args: string[]): Promise<string>;
}

/** Checks that a TCP port of 127.0.0.1 is free, or that its own container of this project holds it. */
export async function checkPort(
  host: Host,
  port: number,
  setting: string,
  container: string,
): Promise<Need[]> {
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
    },
  ];
}

/** The owner's label as a template of Docker prints it: empty, or "<no value>", if there is none. */
export function labelled(printed: string): Labels {
  const label = printed.trim();
  return ["", "<no value>"].includes(label) ? {} : { [ownerLabel]: label };
}

/** This machine. */
export const thisHost: Host = {
  run: (command, ...args) => run(command, args),
  read: (path) => readFile(path, "utf8").catch(() => undefined),
  portTaken: isPortTaken,
  freeBytes: async (path) => {
    const { bavail, bsize } = await statfs(path);
    return bavail * bsize;
  },
  kubernetes: (kubeconfig) => new KubernetesClient(kubeconfig),
  programs: (name) => programsNamed(name, process.env.PATH ?? ""),
  plugin: async (name) => {
    const plugin = await pluginOf(name);
    return { ...plugin, isInstalled: await isInstalled(plugin, process.env) };
  },
  isReachable: (host) => isReachable(host, process.env),
  env: process.env,
  crane: (...args) => run("crane", args, { timeout: 60_000 }),
};
