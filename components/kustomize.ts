import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseAllDocuments, stringify } from "yaml";
import { run } from "./command";
import type { Manifest } from "./kubernetes";

/**
 * `kustomize build` of a kustomization that is no file.
 *
 * @param kustomization is told the absolute path of its directory
 * @param files beside it: name → content
 */
export async function kustomize(
  kustomization: (directory: string) => object | Promise<object>,
  files: Readonly<Record<string, string>> = {},
): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "platform-kustomize-"));
  try {
    for (const [name, content] of Object.entries(files)) await writeFile(join(directory, name), content);
    await writeFile(join(directory, "kustomization.yaml"), stringify(await kustomization(directory)));
    return await run("kustomize", ["build", directory]);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/**
 * Objects as kustomize changes them.
 *
 * @param changes such as `{patches: […]}` or `{images: […]}`
 */
export async function kustomized(objects: readonly Manifest[], changes: object): Promise<Manifest[]> {
  const text = objects.map((object) => stringify(object)).join("---\n");
  return manifestsIn(
    await kustomize(() => ({ resources: ["objects.yaml"], ...changes }), { "objects.yaml": text }),
  );
}

/** What `kustomize build` printed; it writes no key twice. */
export function manifestsIn(text: string): Manifest[] {
  const documents = parseAllDocuments(text, { uniqueKeys: false, prettyErrors: false });
  return documents.map((document) => document.toJS() as Manifest);
}
