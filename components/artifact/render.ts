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
 * @param only what is asked for: one layer, and of it the objects of some kinds. @default everything
 * @throws Error naming the layer and what kustomize said
 */
export async function renderCluster(
  tree: string,
  cluster: string,
  only?: { readonly layer: string; readonly kinds: readonly string[] },
): Promise<Rendered> {
  const root = await build(tree, join("clusters", cluster), `cluster "${cluster}"`);
  const wanted = root.filter(
    (object) => isFluxKustomization(object) && (only === undefined || object.metadata.name === only.layer),
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
      manifests: await build(tree, path, `layer "${name}" of cluster "${cluster}"`, only?.kinds),
    };
  });
  return { root, layers: await Promise.all(layers) };
}

/** Whether an object is a Flux Kustomization (not kustomize's own file format). */
export function isFluxKustomization(object: Manifest): boolean {
  return object.kind === "Kustomization" && object.apiVersion.startsWith("kustomize.toolkit.fluxcd.io/");
}

/** One `kustomize build`, parsed. */
async function build(
  tree: string,
  path: string,
  subject: string,
  kinds?: readonly string[],
): Promise<Manifest[]> {
  let text: string;
  try {
    text = await run("kustomize", ["build", join(tree, path)]);
  } catch (error) {
    const said = (error as Error).message.replaceAll(`${tree}/`, "");
    throw new Error(`Building ${subject} failed: ${sentence(said)} Nothing was released.`, { cause: error });
  }
  // Parsing a megabyte of CRDs takes longer than building it: what nobody asked for is not parsed, and duplicate
  // keys, which kustomize does not write, are not looked for.
  const asked = kinds && new RegExp(`^kind: (${kinds.join("|")})$`, "m");
  const wanted =
    asked === undefined
      ? text
      : text
          .split(/^---\n/m)
          .filter((part) => asked.test(part))
          .join("---\n");
  const documents = parseAllDocuments(wanted, { uniqueKeys: false, prettyErrors: false });
  return documents.map((document) => document.toJS() as Manifest);
}
