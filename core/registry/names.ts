/** The container of a stack's registry and its volume; its host name in the network. */
export function registryName(stack: string): string {
  return `platform-${stack}-registry`;
}

/** The container of a mirror beside a registry. @param host of the registry that it mirrors, `host[:port]` */
export function mirrorName(registry: string, host: string): string {
  return `${registry}-${host.replaceAll(":", "-")}`;
}
