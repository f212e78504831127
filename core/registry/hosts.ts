import { mirrorName } from "./names";

/** Port of every registry inside its container. */
export const internalPort = 5000;

/** Hosts whose images have another address than their name. */
export const upstreams: Readonly<Record<string, string>> = { "docker.io": "registry-1.docker.io" };

/** The facts about the registry and its mirrors that the nodes of a cluster need. */
export interface RegistryHostsArgs {
  /** Host name of the registry in the network of the nodes. */
  readonly containerName: string;
  /** Registries whose images the volume keeps, by host: `ghcr.io`. @default none */
  readonly mirrors?: readonly string[];
  /** Mirrors serve only the images that they hold, and no request goes to any other registry. @default false */
  readonly airGapped?: boolean;
}

/**
 * The way of the nodes' containerd to images: `hosts.toml` by registry host. The stack's own registry speaks plain
 * HTTP. containerd asks a mirror before its upstream. Air-gapped, it asks only the mirror, and asks no other registry.
 *
 * Source: https://github.com/containerd/containerd/blob/main/docs/hosts.md
 */
export function registryHosts(args: RegistryHostsArgs): Record<string, string> {
  const address = (name: string) => `http://${name}:${internalPort}`;
  const host = (server: string, at: string) =>
    `server = "${server}"\n\n[host."${at}"]\n  capabilities = ["pull", "resolve"]\n`;
  const { containerName, mirrors = [], airGapped = false } = args;
  const own = address(containerName);
  const mirrored = mirrors.map((name) => {
    const at = address(mirrorName(containerName, name));
    return [name, host(airGapped ? at : `https://${upstreams[name] ?? name}`, at)] as const;
  });
  return {
    [`${containerName}:${internalPort}`]: host(own, own),
    ...Object.fromEntries(mirrored),
    ...(airGapped ? { _default: host(own, own) } : {}),
  };
}
