import { realpath } from "node:fs/promises";
import { join, relative } from "node:path";
import { run } from "../command";
import type { Manifest } from "../kubernetes";
import { kustomize, manifestsIn } from "../kustomize";
import { sentence } from "../sentence";

/** One Flux Kustomization of a cluster and what it applies: its patches done, its variables not substituted. */
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
  const root = await build(tree, join("clusters", cluster), `cluster "${cluster}"`, []);
  const wanted = root.filter(
    (object) =>
      isFluxKustomization(object) && (only.layer === undefined || object.metadata.name === only.layer),
  );
  const layers = wanted.map(async (kustomization): Promise<Layer> => {
    const {
      path = "",
      dependsOn = [],
      patches = [],
    } = kustomization.spec as {
      path?: string;
      dependsOn?: readonly { name: string }[];
      patches?: readonly unknown[];
    };
    const { name } = kustomization.metadata;
    return {
      name,
      path,
      dependsOn: dependsOn.map((dependency) => dependency.name),
      manifests: await build(tree, path, `layer "${name}" of cluster "${cluster}"`, patches, only.wanted),
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
 * @param patches of the Flux Kustomization, which Flux adds to the directory's own
 * @param wanted parsing a megabyte of CRDs takes longer than building it: what nobody wants is not parsed
 */
async function build(
  tree: string,
  path: string,
  subject: string,
  patches: readonly unknown[],
  wanted: (manifest: string) => boolean = () => true,
): Promise<Manifest[]> {
  let text: string;
  try {
    text = await buildPatched(join(tree, path), patches);
  } catch (error) {
    const said = (error as Error).message.replaceAll(`${tree}/`, "");
    throw new Error(`Building ${subject} failed: ${sentence(said)} Nothing was released.`, { cause: error });
  }
  return manifestsIn(
    text
      .split(/^---\n/m)
      .filter(wanted)
      .join("---\n"),
  );
}

async function buildPatched(directory: string, patches: readonly unknown[]): Promise<string> {
  const plain = () => run("kustomize", ["build", directory]);
  if (patches.length === 0) return plain();
  try {
    return await kustomize(async (at) => {
      // kustomize takes no absolute path, and resolves a relative one from where a link leads to.
      const resource = relative(await realpath(at), await realpath(directory).catch(() => directory));
      return { resources: [resource], patches };
    });
  } catch (error) {
    // What is wrong with the directory itself is said better without the patches around it.
    await plain();
    throw error;
  }
}
