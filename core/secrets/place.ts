import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import type { PlatformConfig } from "../settings/config";
import { readSecretFiles } from "./files";
import { checkEncryption, checkForm } from "./form";
import { checkRules, type Readers, type RuledFiles } from "./rules";
import { isSecretPath } from "../../clients/sops/secret-file";

/** The recipients of the secrets of a stack, by its settings. */
export function readersOf({ stack, gitops, sops }: PlatformConfig): Readers {
  const { generate, recipients = [], recoveryRecipient } = sops;
  return {
    ...{ stack, cluster: gitops.cluster, generate, recipients },
    ...(recoveryRecipient === undefined ? {} : { recoveryRecipient }),
  };
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

/** The facts in the rules about the files of a tree. */
export async function ruledFiles(
  tree: string,
  cluster: string,
  rules: string | undefined,
): Promise<RuledFiles> {
  const [own, all] = await Promise.all([readSecretFiles(tree, cluster), secretPaths(tree)]);
  return { own, all, tree: relative(dirname(rules ?? tree), tree) };
}

/**
 * The check of a stack's secret files in `pulumi up`, before the run makes anything: their form, which needs only the
 * tree.
 *
 * @param tree absolute path
 * @returns the findings; an empty list means that nothing visible without the identity is wrong
 * @throws Error when a file cannot be read or holds no Secret
 */
export async function checkForms(tree: string, config: PlatformConfig): Promise<string[]> {
  const files = await readSecretFiles(tree, config.gitops.cluster);
  return [...formsOf(files, readersOf(config)).values()].flat();
}

function formsOf(files: ReadonlyMap<string, string>, { generate, stack }: Readers): Map<string, string[]> {
  return new Map([...files].map(([path, content]) => [path, checkForm(path, content, generate, stack)]));
}

/**
 * The check of a stack's secrets that needs no identity: rules, recipients, form and encryption.
 *
 * @param tree absolute path
 * @returns the findings; an empty list means that nothing visible without the identity is wrong
 * @throws Error when a file cannot be read or holds no Secret
 */
export async function checkSecretFiles(tree: string, readers: Readers): Promise<string[]> {
  const rules = findRules(tree);
  const files = await ruledFiles(tree, readers.cluster, rules);
  const text = rules === undefined ? undefined : await readFile(rules, "utf8");
  const wrong = formsOf(files.own, readers);
  for (const [path, content] of files.own) {
    if (wrong.get(path)?.length === 0) wrong.set(path, checkEncryption(path, content));
  }
  const own = new Map([...files.own].filter(([path]) => wrong.get(path)?.length === 0));
  return [...[...wrong.values()].flat(), ...(await checkRules(text, readers, { ...files, own }))];
}
