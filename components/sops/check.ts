import { realpath } from "node:fs/promises";
import { relative } from "node:path";
import { readTree } from "../artifact/tree";
import { run } from "../command";
import { mergeBase, scanFiles, scanHistory } from "./history";
import { checkSecretFiles, readersOf } from "./place";
import type { SecretStore } from "./store";

/** What was looked at, and what is wrong with it. */
export interface SecretsCheck {
  /** One sentence each; none means that nothing is wrong. */
  readonly findings: readonly string[];
  /** What was checked, and what could not be. */
  readonly notes: readonly string[];
}

/** Keys that were made up to be found: they open nothing. */
function isExample(path: string): boolean {
  return path.startsWith("test/gitops/invalid/");
}

/**
 * Checks all that is known of a stack's secrets: rules, recipients, form and encryption; that its identity opens every
 * file and that their MACs hold, where the identity is here; and that nothing that nobody may know is in the artifact,
 * in the repository, or in its history since a base.
 *
 * @param base a branch or commit to compare with. @default where the branch left the default branch
 */
export async function checkSecrets(store: SecretStore, base?: string): Promise<SecretsCheck> {
  const config = await store.config();
  const { tree } = config.gitops;
  const files = await store.files();
  const [visible, artifact, opened, repository] = await Promise.all([
    checkSecretFiles(tree, readersOf(config)),
    readTree(tree),
    opens(store, files.size),
    checkRepository(tree, base),
  ]);
  return {
    findings: [...new Set([...visible, ...opened.findings, ...artifact.findings, ...repository.findings])],
    notes: [
      `Checked rules, recipients, form and encryption of ${files.size} secret files of stack "${store.stack}".`,
      ...opened.notes,
      `Looked for plain Secrets, keys and tokens in ${artifact.files.length} files of the artifact.`,
      ...repository.notes,
    ],
  };
}

async function opens(store: SecretStore, files: number): Promise<SecretsCheck> {
  if (files === 0) return { findings: [], notes: [] };
  if ((await store.identity()) === undefined) {
    const note = `The identity of stack "${store.stack}" is not here: recipients, form and encryption were checked, not whether the files open.`;
    return { findings: [], notes: [note] };
  }
  const findings = await store.unopened();
  return { findings, notes: [`Opened ${files} of them with the stack's identity, their MACs included.`] };
}

/** The repository of the tree, beside the tree itself, which is checked as the artifact. */
async function checkRepository(tree: string, base: string | undefined): Promise<SecretsCheck> {
  const top = await run("git", ["rev-parse", "--show-toplevel"], { cwd: tree }).catch(() => undefined);
  if (top === undefined) {
    return { findings: [], notes: [`${tree} is in no Git repository: there is no history to check.`] };
  }
  const repository = top.trim();
  const inTree = `${relative(repository, await realpath(tree))}/`;
  const files = await scanFiles(repository, (path) => path.startsWith(inTree) || isExample(path));
  const beside = `Looked for them in ${files.files} files of the repository beside it.`;
  const since = await mergeBase(repository, base);
  if (since === undefined) {
    const note =
      "There is no default branch to compare with: the history was not checked. Name one with --base.";
    return { findings: files.findings, notes: [beside, note] };
  }
  const history = await scanHistory(repository, since, isExample);
  return {
    findings: [...files.findings, ...history.findings],
    notes: [
      beside,
      `Looked for them in ${history.files} versions of files, and the messages, since commit ${since.slice(0, 7)}.`,
    ],
  };
}
