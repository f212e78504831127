import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import { run } from "../command";
import type { Manifest } from "../kubernetes";
import { sentence } from "../sentence";

/** One Flux Kustomization of a cluster and what it applies, before Flux substitutes variables. */
export interface Layer {
  readonly name: string;
  /** Path inside the tree, as the Flux Kustomization gives it. */
  readonly path: string;
  readonly dependsOn: readonly string[];
  readonly manifests: readonly Manifest[];
}

/** A cluster's part of the tree, built with kustomize. */
export interface Rendered {
  /** What the root Kustomization applies: variables and the Flux Kustomizations. */
  readonly root: readonly Manifest[];
  /** In the order of the tree, not of `dependsOn`. */
  readonly layers: readonly Layer[];
}

/**
 * Builds `clusters/<cluster>` and every layer that it names, with the `kustomize` program.
 *
 * @param tree absolute path of the gitops tree
 * @param only what is asked for: one layer, or the manifests whose text is wanted. @default everything
 * @throws Error naming the layer and what kustomize said
 */
export async function renderCluster(
  tree: string,
  cluster: string,
  only: { readonly layer?: string; readonly wanted?: (manifest: string) => boolean } = {},
): Promise<Rendered> {
  const root = await build(tree, join("clusters", cluster), `cluster "${cluster}"`);
  const wanted = root.filter(
    (object) =>
      isFluxKustomization(object) && (only.layer === undefined || object.metadata.name === only.layer),
  );
  const layers = wanted.map(async (kustomization): Promise<Layer> => {
    const { path = "", dependsOn = [] } = kustomization.spec as {
      path?: string;
      dependsOn?: readonly { name: string }[];
    };
    const { name } = kustomization.metadata;
    return {
      name,
      path,
      dependsOn: dependsOn.map((dependency) => dependency.name),
      manifests: await build(tree, path, `layer "${name}" of cluster "${cluster}"`, only.wanted),
    };
  });
  return { root, layers: await Promise.all(layers) };
}

/** Whether an object is a Flux Kustomization (not kustomize's own file format). */
export function isFluxKustomization(object: Manifest): boolean {
  return object.kind === "Kustomization" && object.apiVersion.startsWith("kustomize.toolkit.fluxcd.io/");
}

/**
 * One `kustomize build`, parsed.
 *
 * @param wanted parsing a megabyte of CRDs takes longer than building it: what nobody wants is not parsed
 */
async function build(
  tree: string,
  path: string,
  subject: string,
  wanted: (manifest: string) => boolean = () => true,
): Promise<Manifest[]> {
  let text: string;
  try {
    text = await run("kustomize", ["build", join(tree, path)]);
  } catch (error) {
    const said = (error as Error).message.replaceAll(`${tree}/`, "");
    throw new Error(`Building ${subject} failed: ${sentence(said)} Nothing was released.`, { cause: error });
  }
  const manifests = text.split(/^---\n/m).filter(wanted);
  // kustomize writes no key twice.
  const documents = parseAllDocuments(manifests.join("---\n"), { uniqueKeys: false, prettyErrors: false });
  return documents.map((document) => document.toJS() as Manifest);
}
