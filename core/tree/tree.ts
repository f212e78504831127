import { isDeepStrictEqual } from "node:util";
import { findingsOf, mergeFindings, type Finding } from "../findings/finding";
import { buildTree, listTree, type BuildOptions, type Built } from "./build";
import { publicValuesIn } from "./public-values";
import { checkFile, checkOrder, checkSecrets } from "./check";
import { failuresOf, labelOf, notesOf, runtimeConfig } from "./render";
import type { TreeSource } from "./source";

/** A gitops tree as Flux gets it. */
export interface Tree {
  /** Paths relative to the tree, sorted. */
  readonly files: readonly string[];
  /** SHA-256 of the names and contents of all files. */
  readonly content: string;
  /** The findings that forbid its release. */
  readonly findings: readonly Finding[];
  /** The values of Secrets that its files mark as public; see `publicValuesIn`. */
  readonly publicValues: readonly string[];
}

/** A tree, and the objects that a cluster gets from it. */
export interface InspectedTree extends Tree {
  /** The parts that are not built here, or not exactly known; one sentence each. */
  readonly notes: readonly string[];
  /** Path relative to the tree → content. */
  readonly texts: ReadonlyMap<string, string>;
}

/**
 * Reads a tree; its findings are about single files.
 *
 * @throws Error when the tree cannot be read
 */
export async function readTree(source: TreeSource): Promise<Tree> {
  return treeOf(await listTree(source));
}

function treeOf({ files, content }: Pick<Built, "files" | "content">): Tree {
  return {
    files: files.map(({ path }) => path),
    content,
    findings: files.flatMap((file) => checkFile(file)),
    publicValues: files.flatMap(({ text }) => publicValuesIn(text)),
  };
}

/** The result of the check of a tree for one cluster. */
export interface ClusterCheck {
  /** The findings that forbid its release. */
  readonly findings: readonly Finding[];
  /** The names of the Secrets that the cluster applies; undefined when a part does not build, or is not built here. */
  readonly secrets?: ReadonlySet<string>;
}

/**
 * Renders and checks a tree for one cluster.
 *
 * @param publicValues of the tree's files. @default none
 */
export async function checkCluster(
  source: TreeSource,
  cluster: string,
  publicValues: readonly string[] = [],
): Promise<ClusterCheck> {
  try {
    const built = await buildTree(source, cluster, checked);
    return checkBuilt(built, cluster, publicValues);
  } catch (error) {
    return { findings: findingsOf(error, "build") };
  }
}

/** The options of a build for checks: of the objects it needs only Secrets, which the result lists separately. */
const checked: BuildOptions = { given: [runtimeConfig()], only: [] };

function checkBuilt(built: Built, cluster: string, publicValues: readonly string[]): ClusterCheck {
  const failures = failuresOf(built, cluster);
  const secrets = [built.root, ...built.kustomizations].flatMap((each) => each.secrets);
  const layers = built.kustomizations.map((each) => ({
    name: labelOf(each),
    dependsOn: each.dependsOn.map(labelOf),
  }));
  const findings = [...failures, ...checkOrder(layers), ...checkSecrets(secrets, publicValues)];
  const isLeftOut = built.kustomizations.some(
    ({ notBuilt, source }) => notBuilt !== undefined && isDeepStrictEqual(source, built.root.source),
  );
  if (failures.length > 0 || isLeftOut) return { findings };
  return { findings, secrets: new Set(secrets.map(({ metadata }) => metadata.name)) };
}

/**
 * Reads, renders and checks a tree for one cluster, before the run makes anything.
 *
 * @throws Error when the tree cannot be read
 */
export async function inspectTree(source: TreeSource, cluster: string): Promise<InspectedTree> {
  const built = await buildTree(source, cluster, { ...checked, texts: true });
  const { findings, ...read } = treeOf(built);
  return {
    ...read,
    findings: mergeFindings(findings, checkBuilt(built, cluster, read.publicValues).findings),
    notes: notesOf(built),
    texts: new Map(built.files.map(({ path, text }) => [path, text])),
  };
}
