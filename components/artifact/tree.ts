import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { checkFile, checkRendered, isChecked } from "./check";
import { renderCluster } from "./render";

/** A gitops tree as it stands on the disk. */
export interface Tree {
  /** Paths relative to the tree, sorted. */
  readonly files: readonly string[];
  /** SHA-256 of the names and contents of all files. */
  readonly content: string;
  /** What forbids its release, one sentence each. */
  readonly findings: readonly string[];
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
  for (const name of files) {
    const text = await readFile(join(tree, name), "utf8");
    findings.push(...checkFile(name, text));
    hash.update(JSON.stringify([name, text]));
  }
  return { files, content: hash.digest("hex"), findings };
}

/**
 * Reads, renders and checks a tree for one cluster, before anything is made of it.
 *
 * @param tree absolute path
 * @throws Error when the tree cannot be read
 */
export async function inspectTree(tree: string, cluster: string): Promise<Tree> {
  const { findings: ofFiles, ...read } = await readTree(tree);
  const findings = [...ofFiles];
  try {
    findings.push(...checkRendered(await renderCluster(tree, cluster, { wanted: isChecked })));
  } catch (error) {
    findings.push((error as Error).message);
  }
  return { ...read, findings: [...new Set(findings)] };
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
