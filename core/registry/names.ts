/** The container of a stack's registry and its volume; its host name in the network. */
export function registryName(stack: string): string {
  return `platform-${stack}-registry`;
}

/** Path of the repository in a local registry. */
export const repositoryPath = "platform";

/** The container of a registry's mirror. @param host of the upstream registry, `host[:port]` */
export function mirrorName(registry: string, host: string): string {
  return `${registry}-${host.replaceAll(":", "-")}`;
}
