import { realpath } from "node:fs/promises";
import { relative } from "node:path";
import { findingsOf, mergeFindings, type Finding } from "../findings/finding";
import { checkCluster, readTree } from "../tree/tree";
import { run } from "../../tools/command";
import { repositoryOf } from "../../clients/git/repository";
import { fileFinding, isGenerated, readSecretFiles } from "./files";
import { mergeBase, scanFiles, scanHistory, uncommitted } from "./history";
import { checkSecretFiles, readersOf } from "./place";
import { checkChanges } from "./rewrite";
import { isSecretPath, secretsIn } from "../../clients/sops/secret-file";
import type { SecretStore } from "./store";

/** The result of a check: its subjects and its findings. */
export interface SecretsCheck {
  /** An empty list means that nothing is wrong. */
  readonly findings: readonly Finding[];
  /** The checked subjects, and the subjects that could not be checked. */
  readonly notes: readonly string[];
}

/** The result of the checks in Git for a tree and the rest of its repository. */
export interface RepositoryCheck extends SecretsCheck {
  /** Encrypted files of the tree that another program than SOPS changed. */
  readonly changed: readonly Finding[];
}

/** Options of the check of a repository. */
export interface RepositoryOptions {
  /** A branch or commit to compare with. @default where the branch left the default branch */
  readonly base?: string;
  /** Also compare encrypted files with their versions in Git, byte by byte. @default false */
  readonly strict?: boolean;
}

function isBelow(path: string, directory: string): boolean {
  return directory === "" || path.startsWith(`${directory}/`);
}

/** Keys that tests expect to be found: they open nothing. */
function isExample(path: string): boolean {
  return /(^|\/)test\/gitops\/invalid\//.test(path);
}

/**
 * Checks everything that is known about the secrets of stacks: rules, recipients, form and encryption. If the identity
 * of a stack is here, it must open every file of the stack, and the MACs must hold. Once for each tree, the check looks
 * for secrets in plain text: in the artifact, in the objects of its clusters, in the repository, and in its history
 * since a base. A stack or a history that cannot be read is a finding.
 *
 * @param open returns the secrets of a stack
 */
export async function checkSecrets(
  names: readonly string[],
  open: (stack: string) => Promise<SecretStore>,
  options: RepositoryOptions = {},
): Promise<SecretsCheck> {
  const unreadable: Finding[] = [];
  const stacks: StackCheck[] = [];
  // One stack after another: each check starts a process for each file.
  for (const name of names) {
    try {
      stacks.push(await checkStack(await open(name)));
    } catch (error) {
      unreadable.push(...findingsOf(error, "stack"));
    }
  }
  const checkOf = (tree: string) => {
    const ofTree = stacks.filter((stack) => stack.tree === tree);
    return checkTree(tree, ofTree, options);
  };
  const checks = await Promise.all([...new Set(stacks.map(({ tree }) => tree))].map(checkOf));
  return {
    findings: mergeFindings(
      [...unreadable, ...stacks.flatMap(({ visible }) => visible)],
      checks.flatMap(({ changed }) => changed),
      stacks.flatMap(({ unopened }) => unopened),
      checks.flatMap(({ findings }) => findings),
    ),
    notes: [...stacks, ...checks].flatMap(({ notes }) => notes),
  };
}

interface StackCheck {
  /** Absolute path. */
  readonly tree: string;
  readonly cluster: string;
  /** The encrypted files of the stack and the files that it generates. */
  readonly files: ReadonlyMap<string, string>;
  /** The faults in its files that are visible without the identity. */
  readonly visible: readonly Finding[];
  /** The files that its identity does not open. */
  readonly unopened: readonly Finding[];
  readonly notes: readonly string[];
}

async function checkStack(store: SecretStore): Promise<StackCheck> {
  const config = await store.config();
  const { tree, cluster } = config.gitops;
  const files = await readSecretFiles(tree, cluster);
  const count = [...files.values()].filter((content) => !isGenerated(content, config.sops.generate)).length;
  const isHere = count > 0 && (await store.identity()) !== undefined;
  const [visible, unopened] = await Promise.all([
    checkSecretFiles(tree, readersOf(config), files),
    isHere ? store.unopened() : [],
  ]);
  const checked = `Checked rules, recipients, form and encryption of ${count} secret files of stack "${store.stack}"`;
  const those = unopened.length === 0 ? "them" : `${Math.max(count - unopened.length, 0)} of them`;
  const opened = isHere
    ? `${checked}, and opened ${those} with its identity, their MACs included.`
    : `${checked}. Its identity is not here: whether they open was not checked.`;
  return { tree, cluster, files, visible, unopened, notes: [count === 0 ? `${checked}.` : opened] };
}

async function checkTree(
  tree: string,
  stacks: readonly StackCheck[],
  options: RepositoryOptions,
): Promise<RepositoryCheck> {
  const artifact = await readTree(tree);
  const [applied, { findings, changed, notes }] = await Promise.all([
    Promise.all(stacks.map((stack) => checkApplied(stack, artifact.publicValues))),
    checkRepository(tree, options).catch((error: unknown): RepositoryCheck => {
      return { findings: findingsOf(error, "repository"), changed: [], notes: [] };
    }),
  ]);
  const looked = `Looked for plain Secrets, keys and tokens in ${artifact.files.length} files of the artifact.`;
  return {
    findings: [...artifact.findings, ...applied.flat(), ...findings],
    changed,
    notes: [looked, ...notes],
  };
}

/** The faults in the objects that a cluster applies: objects that may not be released, and missing Secrets. */
async function checkApplied(
  { tree, cluster, files }: StackCheck,
  publicValues: readonly string[],
): Promise<Finding[]> {
  const { findings, secrets } = await checkCluster(tree, cluster, publicValues);
  const unapplied = [...files].flatMap(([path, content]) =>
    secretsIn(content)
      .map(({ metadata }) => metadata.name)
      .filter((name) => secrets?.has(name) === false)
      .map((name) =>
        fileFinding(
          "secret-unapplied",
          path,
          `no kustomization applies its Secret "${name}"`,
          "List the file in the kustomization.yaml beside it, or remove it.",
        ),
      ),
  );
  return [...findings, ...unapplied];
}

/**
 * Checks the repository of a tree: no secret is in plain text in the history or in files outside the tree (the check of
 * the artifact covers the tree). With `strict`, only SOPS changed the tree's encrypted files, in the commits since a
 * base and in the work tree. `pulumi up` does not do this: a file outside the tree must not block the recovery of a
 * cluster. A tree without a repository has no finding.
 *
 * @param tree absolute path
 * @throws Error when `base` is named and not available, or when Git refuses to answer
 */
export async function checkRepository(
  tree: string,
  { base, strict = false }: RepositoryOptions = {},
): Promise<RepositoryCheck> {
  const repository = await repositoryOf(tree);
  if (repository === undefined) {
    const notes = [`${tree} is in no Git repository: there is no history to check.`];
    return { findings: [], changed: [], notes };
  }
  const place = relative(repository, await realpath(tree));
  const isInTree = (path: string) => isBelow(path, place);
  const isCompared = (path: string) => strict && isInTree(path) && isSecretPath(path);
  const since = await mergeBase(repository, base);
  const [files, { staged, unstaged }, history] = await Promise.all([
    scanFiles(repository, (path) => isInTree(path) || isExample(path)),
    strict ? uncommitted(repository, isCompared) : { staged: [], unstaged: [] },
    since === undefined ? undefined : scanHistory(repository, since, isExample, isCompared),
  ]);
  const committed = history?.changes ?? [];
  // The staged version may differ from the version in the work tree: either may be the wrong one.
  const changed = [[], staged].flatMap((more) => [
    ...checkChanges([...committed, ...unstaged, ...more]).values(),
  ]);
  const inTree = (finding: Finding): Finding =>
    finding.file === undefined ? finding : { ...finding, file: relative(place, finding.file) };
  const compared = committed.length + staged.length + unstaged.length;
  return {
    findings: [...files.findings, ...(history?.findings ?? [])].map(inTree),
    changed: mergeFindings(changed.map(inTree)),
    notes: [
      `Looked for keys and tokens in ${files.files} other files of the repository.`,
      ...(await notesOfHistory(repository, since, history?.files ?? 0, base)),
      ...(strict ? [`Compared ${compared} changes of encrypted files with what SOPS does.`] : []),
    ],
  };
}

/** The checked part of the history. Nobody can tell whether a shallow clone has all of it. */
async function notesOfHistory(
  repository: string,
  since: string | undefined,
  files: number,
  base: string | undefined,
): Promise<string[]> {
  const git = async (...args: string[]) => (await run("git", args, { cwd: repository })).trim();
  const looked =
    since === undefined
      ? "The history was not checked: the repository has no default branch. Name a branch with --base."
      : `Looked for keys and tokens in ${files} versions of files, and in the messages, since commit ${since.slice(0, 7)}.`;
  if ((await git("rev-parse", "--is-shallow-repository")) === "true") {
    const shallow = `Only ${await git("rev-list", "--count", "HEAD")} commits are in this clone. Fetch the history with "git fetch --unshallow" to check it.`;
    return files === 0 ? [shallow] : [looked, shallow];
  }
  if (since === undefined || base !== undefined || since !== (await git("rev-parse", "HEAD")))
    return [looked];
  return [
    `No commit is newer than the default branch (${since.slice(0, 7)}): no history was checked. Name an older commit with --base to check the commits after it.`,
  ];
}
