import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import type { PlatformConfig } from "../settings/config";
import type { Finding } from "../findings/finding";
import { checkEncryption, checkForm } from "./form";
import { checkRules, type Readers } from "./rules";
import { isSecretPath } from "../../clients/sops/secret-file";

/** The recipients of the secrets of a stack, by its settings. */
export function readersOf({ stack, gitops, sops }: PlatformConfig): Readers {
  const { generate, recipients = [], recoveryRecipient } = sops;
  return { stack, cluster: gitops.cluster, generate, recipients, recoveryRecipient };
}

/**
 * The place of the rules of a tree: the nearest `.sops.yaml` above it, up to the top of its Git repository or to the
 * project, whichever is higher. A file above both has another owner. A tree may be a repository of its own below the
 * project, or a deep directory of a repository that holds it.
 *
 * @param tree absolute path
 * @returns undefined when there is none
 */
export function findRules(tree: string): string | undefined {
  const above = directoriesAbove(tree);
  const holding = (name: string) => above.findIndex((directory) => existsSync(join(directory, name)));
  const top = Math.max(0, holding(".git"), holding("Pulumi.yaml"));
  return above
    .slice(0, top + 1)
    .map((directory) => join(directory, ".sops.yaml"))
    .find((file) => existsSync(file));
}

/** The nearest first. */
function directoriesAbove(path: string): string[] {
  const directory = dirname(path);
  return directory === path ? [] : [directory, ...directoriesAbove(directory)];
}

/** Every `*.enc.yaml` of all clusters, sorted, relative to the tree. */
export async function secretPaths(tree: string): Promise<string[]> {
  const paths = await readdir(join(tree, "clusters"), { recursive: true });
  return paths
    .filter(isSecretPath)
    .map((path) => join("clusters", path))
    .sort();
}

/**
 * The check of the form of a stack's secret files in `pulumi up`, before the run makes anything.
 *
 * @param files of the stack, by their paths relative to the tree
 */
export function checkForms(files: ReadonlyMap<string, string>, { stack, sops }: PlatformConfig): Finding[] {
  return [...files].flatMap(([path, content]) => checkForm(path, content, sops.generate, stack));
}

/**
 * The check of a stack's secrets that needs no identity: rules, recipients, form and encryption.
 *
 * @param tree absolute path
 * @param files of the stack, by their paths relative to the tree
 * @returns the findings; an empty list means that nothing visible without the identity is wrong
 */
export async function checkSecretFiles(
  tree: string,
  readers: Readers,
  files: ReadonlyMap<string, string>,
): Promise<Finding[]> {
  const rules = findRules(tree);
  const text = rules === undefined ? undefined : await readFile(rules, "utf8");
  const findings: Finding[] = [];
  const own = new Map<string, string>();
  for (const [path, content] of files) {
    const wrong = checkForm(path, content, readers.generate, readers.stack);
    if (wrong.length === 0) wrong.push(...checkEncryption(path, content));
    if (wrong.length === 0) own.set(path, content);
    findings.push(...wrong);
  }
  const ruled = { own, all: await secretPaths(tree), tree: relative(dirname(rules ?? tree), tree) };
  return [...findings, ...(await checkRules(text, readers, ruled))];
}
