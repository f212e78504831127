import { parseAllDocuments } from "yaml";
import type { Manifest } from "../../clients/kubernetes/client";

/** The namespaces that a file of a tree makes. */
export function namespacesIn(text: string): string[] {
  if (!/\bkind["']?:\s*["']?Namespace\b/.test(text)) return [];
  return parseAllDocuments(text, { logLevel: "silent" }).flatMap((document) => {
    const object = document.toJS() as Partial<Manifest> | null;
    return object?.kind === "Namespace" && object.metadata !== undefined ? [object.metadata.name] : [];
  });
}
