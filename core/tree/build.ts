import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run } from "../../tools/command";
import type { Manifest } from "../../clients/kubernetes/client";
import { sentence } from "../../system/sentence";
import { archiveCommit, trackedFiles, type Provenance } from "./source";

/** What a build is told beside the tree. */
export interface BuildOptions {
  /** ConfigMaps and Secrets that the tree does not bring but the cluster has, such as ConfigMap `platform-runtime`. */
  readonly given?: readonly Manifest[];
  /** Files that replace those of the tree, or are added: path relative to it → content. @default none */
  readonly files?: Readonly<Record<string, string>>;
  /** Objects as Flux sends them to the API server, fields of built-in kinds normalised. @default false */
  readonly applied?: boolean;
  /** The names of the Kustomizations whose objects are wanted. @default all */
  readonly only?: readonly string[];
  /** The namespace of the root Kustomization and of its source. @default Flux's own */
  readonly namespace?: string;
  /** Build from the last commit, whatever is on the disk. @default false */
  readonly requireClean?: boolean;
  /** Whether the texts of the files are wanted. @default false */
  readonly texts?: boolean;
}

/** Names an object whose kind is known. */
export interface ObjectName {
  readonly namespace: string;
  readonly name: string;
}

/** A Flux Kustomization and what it applies. */
export interface BuiltKustomization extends ObjectName {
  /** `spec.path`. */
  readonly path: string;
  readonly source: ObjectName & { readonly kind: string };
  readonly dependsOn: readonly ObjectName[];
  /** `namespace/name` of the Kustomization that brings it. @default the root brings it */
  readonly parent?: string;
  /** What Flux applies, variables filled in, without owner labels; undefined with `error` or `notBuilt`. */
  readonly objects?: readonly Manifest[];
  /** Its Secrets as they stand in the tree, variables not filled in. */
  readonly secrets: readonly Manifest[];
  /** Why it does not build, in Flux's words. */
  readonly error?: string;
  /** Why it is not built here: its source is not the release, it is suspended, or an encrypted patch hides what it changes. */
  readonly notBuilt?: string;
  /** The variables without a default that nothing sets. */
  readonly unset: readonly { readonly kind: string; readonly name: string; readonly variable: string }[];
  /** The fields whose values have a type that the API server refuses, or for which Flux leaves all labels out. */
  readonly mistyped: readonly Mistyped[];
  /** What is not exactly known here, such as the values of encrypted Secrets. */
  readonly notes: readonly string[];
}

/** A field with a value of the wrong type; the value is not told, it may be secret. */
export interface Mistyped {
  readonly kind: string;
  /** Empty where the object names none. */
  readonly namespace: string;
  readonly name: string;
  /** As the API server writes it: `data.port`, `spec.containers[name="c"].args[0]`. */
  readonly field: string;
  /** `text`, `number`, `boolean`, `list` or `map`. */
  readonly expected: string;
  /** One of those, or `nothing`. */
  readonly got: string;
}

/** A tree as Flux gets it, and what a cluster makes of it. */
export interface Built {
  /** The files that source-controller keeps, sorted by path; none unless `texts` is set. */
  readonly files: readonly { readonly path: string; readonly text: string }[];
  /** SHA-256 of the names and bytes of those files. */
  readonly content: string;
  /** The files that source-controller leaves out: images, archives, symbolic links, what `.sourceignore` names. */
  readonly leftOut: readonly string[];
  /** What the FluxInstance's sync applies: `clusters/<cluster>`. */
  readonly root: BuiltKustomization;
  /** Every Flux Kustomization below the root, nested ones included. */
  readonly kustomizations: readonly BuiltKustomization[];
}

/**
 * Builds everything that a cluster applies of a tree, as source-controller and kustomize-controller do.
 *
 * @param tree absolute path of the gitops tree
 * @throws Error when the tree cannot be read; what does not build is in `error`
 */
export async function buildTree(
  tree: string,
  cluster: string,
  { requireClean, ...options }: BuildOptions = {},
): Promise<Built> {
  const request = { path: `./clusters/${cluster}`, ...options };
  return (await ofTree("build", tree, requireClean, request)) as Built;
}

/**
 * The files of a tree, as Flux gets them, without building them.
 *
 * @param tree absolute path
 * @throws Error when the tree cannot be read
 */
export async function listTree(tree: string): Promise<Pick<Built, "files" | "content" | "leftOut">> {
  return (await ofTree("list", tree, false, {})) as Built;
}

/** What packing is told beside the tree. */
export interface PackOptions extends Provenance {
  /** `Built.content` of the tree that was checked. */
  readonly content: string;
  /** Files that replace those of the tree: path relative to it → content. */
  readonly files: Readonly<Record<string, string>>;
  /** Build from the last commit. @default false */
  readonly requireClean?: boolean;
}

/**
 * Writes a tree as an OCI image layout with one Flux layer. The same files and provenance give the same digest.
 *
 * @param tree absolute path
 * @param layout absolute path of a new directory for the layout
 * @returns the manifest's digest, `sha256:…`; undefined when the tree is not the one that was checked
 * @throws Error when the tree cannot be read
 */
export async function packTree(
  tree: string,
  layout: string,
  { requireClean, ...options }: PackOptions,
): Promise<string | undefined> {
  const { digest } = (await ofTree("pack", tree, requireClean, { layout, ...options })) as {
    digest: string;
  };
  return digest === "" ? undefined : digest;
}

/**
 * Asks `platform-tree` of the files that may be released: those that Git tracks, or would track; with `requireClean`
 * those of the last commit; of a tree outside Git every file.
 */
async function ofTree(
  command: string,
  tree: string,
  requireClean: boolean | undefined,
  request: object,
): Promise<unknown> {
  try {
    await readdir(tree);
  } catch (error) {
    throw new Error(
      `Reading the gitops tree failed: ${(error as Error).message}. Set platform:gitops.tree to the directory that holds it.`,
      { cause: error },
    );
  }
  if (requireClean !== true) {
    return platformTree(command, { tree, names: (await trackedFiles(tree)) ?? null, ...request });
  }
  const directory = await mkdtemp(join(tmpdir(), "platform-commit-"));
  try {
    const archive = join(directory, "commit.tar");
    await archiveCommit(tree, archive);
    return await platformTree(command, { tree, archive, ...request });
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
  return ((await platformTree("kustomize", { objects, changes })) as { objects: Manifest[] }).objects;
}

/** One run of `platform-tree`, this project's program on Flux's own libraries; see `tools/tree`. */
async function platformTree(command: string, request: object): Promise<unknown> {
  try {
    return JSON.parse(await run("platform-tree", [command], { input: JSON.stringify(request) })) as unknown;
  } catch (error) {
    const { message, cause } = error as Error;
    if (typeof cause !== "string" || cause.trim() === "") throw error;
    throw new Error(`Reading the gitops tree failed: ${sentence(cause)}`, { cause: message });
  }
}
