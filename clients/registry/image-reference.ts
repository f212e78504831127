/*
 * Names of registries and images, as Docker, containerd and go-containerregistry accept them.
 * Source: https://github.com/distribution/reference/blob/main/reference.go
 */

/** Whether a text is the host of a registry, `host[:port]`. */
export function isRegistryHost(text: string): boolean {
  const label = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?";
  const [host, port = "1"] = new RegExp(`^${label}(?:\\.${label})*(?::(\\d{1,5}))?$`).exec(text) ?? [];
  return host !== undefined && Number(port) >= 1 && Number(port) <= 65_535;
}

/** Whether a text is a host and a path, `host[:port]/path`, without scheme, tag and digest. */
export function isRepository(text: string): boolean {
  const [host = "", ...path] = text.split("/");
  // Docker treats a first part without one of these characters as part of a path on Docker Hub.
  const named = /[.:]/.test(host) || host === "localhost";
  return named && isRegistryHost(host) && isPath(path.join("/")) && text.length <= 255;
}

/** Whether a text is an image, `[host[:port]/]path[:tag][@sha256:…]`. */
export function isImageReference(text: string): boolean {
  const [, name = ""] = /^(.+?)(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$/.exec(text) ?? [];
  return isRepository(name) || (isPath(name) && name.length <= 255);
}

function isPath(text: string): boolean {
  return text.split("/").every((part) => /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/.test(part));
}
