import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { checkFile, checkRendered, isChecked } from "./check";
import { publicValuesIn } from "../sops/public-values";
import { renderCluster } from "./render";

/** A gitops tree as it stands on the disk. */
export interface Tree {
  /** Paths relative to the tree, sorted. */
  readonly files: readonly string[];
  /** SHA-256 of the names and contents of all files. */
  readonly content: string;
  /** What forbids its release, one sentence each. */
  readonly findings: readonly string[];
  /** The values of Secrets that its files mark as public; see `publicValuesIn`. */
  readonly publicValues: readonly string[];
}

/**
 * Reads a tree; its findings are those of single files.
 *
 * @param tree absolute path
 * @throws Error when the tree cannot be read
 */
export async function readTree(tree: string): Promise<Tree> {
  const files = await fileNames(tree);
  const hash = createHash("sha256");
  const findings: string[] = [];
  const publicValues: string[] = [];
  for (const name of files) {
    const text = await readFile(join(tree, name), "utf8");
    findings.push(...checkFile(name, text));
    publicValues.push(...publicValuesIn(text));
    hash.update(JSON.stringify([name, text]));
  }
  return { files, content: hash.digest("hex"), findings, publicValues };
}

/** What a cluster makes of a tree. */
export interface ClusterCheck {
  /** What forbids its release, one sentence each. */
  readonly findings: readonly string[];
  /** The names of the Secrets that it applies; undefined when it does not build. */
  readonly secrets?: ReadonlySet<string>;
}

/**
 * Renders and checks a tree for one cluster.
 *
 * @param tree absolute path
 * @param publicValues those of its files. @default none
 */
export async function checkCluster(
  tree: string,
  cluster: string,
  publicValues: readonly string[] = [],
): Promise<ClusterCheck> {
  try {
    const rendered = await renderCluster(tree, cluster, { wanted: isChecked });
    const objects = [...rendered.root, ...rendered.layers.flatMap(({ manifests }) => manifests)];
    const secrets = objects.filter(({ kind }) => kind === "Secret").map(({ metadata }) => metadata.name);
    return { findings: checkRendered(rendered, publicValues), secrets: new Set(secrets) };
  } catch (error) {
    return { findings: [(error as Error).message] };
  }
}

/**
 * Reads, renders and checks a tree for one cluster, before anything is made of it.
 *
 * @param tree absolute path
 * @throws Error when the tree cannot be read
 */
export async function inspectTree(tree: string, cluster: string): Promise<Tree> {
  const { findings, ...read } = await readTree(tree);
  const ofCluster = await checkCluster(tree, cluster, read.publicValues);
  return { ...read, findings: eachOnce(findings, ofCluster.findings) };
}

/**
 * The findings of files and of what is rendered; what is said of a file is not said of the object in it, whose namespace
 * may be kustomize's.
 */
export function eachOnce(ofFiles: readonly string[], ofClusters: readonly string[]): string[] {
  const isTold = (finding: string) => ofFiles.some((told) => told.endsWith(`: ${finding}`));
  const fresh = ofClusters.filter(
    (finding) => !isTold(finding) && !isTold(finding.replace(/^Secret [^/\s]+/, "Secret default")),
  );
  return [...new Set([...ofFiles, ...fresh])];
}

async function fileNames(directory: string): Promise<string[]> {
  try {
    const entries = await readdir(directory, { recursive: true, withFileTypes: true });
    const files = entries.filter((entry) => entry.isFile());
    return files.map((entry) => join(entry.parentPath, entry.name).slice(directory.length + 1)).sort();
  } catch (error) {
    throw new Error(
      `Reading the gitops tree failed: ${(error as Error).message}. Set platform:gitops.tree to the directory that holds it.`,
      { cause: error },
    );
  }
}
