import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run } from "../../tools/command";
import type { Manifest } from "../../clients/kubernetes/client";
import { causeOf } from "../../system/file-error";
import { sentence } from "../../system/sentence";
import { archiveCommit, partsOf, trackedFiles, type Provenance, type TreeSource } from "./source";

/** Options of a build. */
export interface BuildOptions {
  /** ConfigMaps and Secrets that the cluster has in addition to the tree, such as ConfigMap `platform-runtime`. */
  readonly given?: readonly Manifest[];
  /** Files that replace files of the tree, or are added: path relative to it → content. @default none */
  readonly files?: Readonly<Record<string, string>>;
  /** Objects as Flux sends them to the API server, fields of built-in kinds normalised. @default false */
  readonly applied?: boolean;
  /** The names of the wanted Kustomizations. @default all */
  readonly only?: readonly string[];
  /** The namespace of the root Kustomization and of its source. @default Flux's own */
  readonly namespace?: string;
  /** Whether the result holds the texts of the files. @default false */
  readonly texts?: boolean;
}

/** The name of an object whose kind is known. */
export interface ObjectName {
  readonly namespace: string;
  readonly name: string;
}

/** A Flux Kustomization and its objects. */
export interface BuiltKustomization extends ObjectName {
  /** `spec.path`. */
  readonly path: string;
  readonly source: ObjectName & { readonly kind: string };
  readonly dependsOn: readonly ObjectName[];
  /** `namespace/name` of the Kustomization that brings it. @default the root brings it */
  readonly parent?: string;
  /** The objects that Flux applies, variables filled in, without owner labels; undefined with `error` or `notBuilt`. */
  readonly objects?: readonly Manifest[];
  /** Its Secrets as the tree has them, without values for variables. */
  readonly secrets: readonly Manifest[];
  /** The reason why it does not build: Flux's message. */
  readonly error?: string;
  /**
   * The reason why it is not built here: its source is not the release, it is suspended, or an encrypted patch hides
   * its target.
   */
  readonly notBuilt?: string;
  /** The variables without a default that nothing sets. */
  readonly unset: readonly { readonly kind: string; readonly name: string; readonly variable: string }[];
  /** The fields whose values have a type that the API server refuses, or for which Flux leaves all labels out. */
  readonly mistyped: readonly Mistyped[];
  /** The values that are not exactly known here, such as those of encrypted Secrets. */
  readonly notes: readonly string[];
}

/** A field with a value of the wrong type; the value is left out, because it may be secret. */
export interface Mistyped {
  readonly kind: string;
  /** Empty if the object names none. */
  readonly namespace: string;
  readonly name: string;
  /** In the form of the API server: `data.port`, `spec.containers[name="c"].args[0]`. */
  readonly field: string;
  /** `text`, `number`, `boolean`, `list` or `map`. */
  readonly expected: string;
  /** One of the types of `expected`, or `nothing`. */
  readonly got: string;
}

/** A file as text. */
export interface TextFile {
  /** Relative to the tree. */
  readonly path: string;
  readonly text: string;
  readonly leaks: readonly Leak[];
}

/** The place of a key, token or password that only its owner may know. */
export interface Leak {
  /** The rule of gitleaks, or of `tools/tree/leaks.toml`, that finds it: `github-pat`. */
  readonly kind: string;
  /** From 1. */
  readonly line: number;
  /** Whether it is a private key, which no comment excuses. */
  readonly key: boolean;
}

/** A tree as Flux gets it, and the objects of a cluster. */
export interface Built {
  /** The files that source-controller keeps, sorted by path; none unless `texts` is set. */
  readonly files: readonly TextFile[];
  /** SHA-256 of the names and bytes of those files. */
  readonly content: string;
  /** The files that source-controller leaves out: images, archives, symbolic links, the files of `.sourceignore`. */
  readonly leftOut: readonly string[];
  /** The Kustomization of the FluxInstance's sync: `clusters/<cluster>`. */
  readonly root: BuiltKustomization;
  /** Every Flux Kustomization below the root, nested ones included. */
  readonly kustomizations: readonly BuiltKustomization[];
}

/**
 * Builds everything that a cluster applies of a tree, as source-controller and kustomize-controller do.
 *
 * @throws Error when the tree cannot be read; `error` has the failures of builds
 */
export async function buildTree(
  source: TreeSource,
  cluster: string,
  options: BuildOptions = {},
): Promise<Built> {
  return (await askAbout(source, "build", { path: `./clusters/${cluster}`, ...options })) as Built;
}

/**
 * The files of a tree, as Flux gets them, without building them.
 *
 * @throws Error when the tree cannot be read
 */
export async function listTree(source: TreeSource): Promise<Pick<Built, "files" | "content" | "leftOut">> {
  return (await askAbout(source, "list", {})) as Built;
}

/** Options of packing. */
export interface PackOptions extends Provenance {
  /** `Built.content` of the checked tree. */
  readonly content: string;
  /** Files that replace files of the tree: path relative to it → content. */
  readonly files: Readonly<Record<string, string>>;
}

/**
 * Writes a tree as an OCI image layout with one Flux layer. The same files and provenance give the same digest.
 *
 * @param layout absolute path of a new directory for the layout
 * @returns the manifest's digest, `sha256:…`; undefined when the tree is not the checked tree
 * @throws Error when the tree cannot be read
 */
export async function packTree(
  source: TreeSource,
  layout: string,
  options: PackOptions,
): Promise<string | undefined> {
  const { digest } = (await askAbout(source, "pack", { layout, ...options })) as { digest: string };
  return digest === "" ? undefined : digest;
}

/** Asks `platform-tree` about the files of a tree. */
async function askAbout(source: TreeSource, command: string, request: object): Promise<unknown> {
  const { tree, commit } = partsOf(source);
  try {
    await readdir(tree);
  } catch (error) {
    throw new Error(
      `Reading the gitops tree failed: ${causeOf(error, tree)}. Set platform:gitops.tree to the directory of the tree.`,
      { cause: error },
    );
  }
  if (commit === undefined) {
    return platformTree(command, { tree, names: (await trackedFiles(tree)) ?? null, ...request });
  }
  const directory = await mkdtemp(join(tmpdir(), "platform-commit-"));
  try {
    const archive = join(directory, "commit.tar");
    await archiveCommit(tree, commit, archive);
    return await platformTree(command, { tree, archive, ...request });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/**
 * Changes objects with kustomize.
 *
 * @param changes such as `{patches: […]}` or `{images: […]}`
 */
export async function kustomized(objects: readonly Manifest[], changes: object): Promise<Manifest[]> {
  return ((await platformTree("kustomize", { objects, changes })) as { objects: Manifest[] }).objects;
}

/** The leaks in each text, the first of each kind and in each line. */
export async function leaksIn(texts: readonly string[]): Promise<readonly (readonly Leak[])[]> {
  return ((await platformTree("leaks", { texts })) as { leaks: Leak[][] }).leaks;
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
