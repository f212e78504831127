import { randomUUID } from "node:crypto";
import { lstat, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Finding } from "../findings/finding";
import { leaksIn } from "../tree/build";
import { checkFile, leakFindings } from "../tree/check";
import { run } from "../../tools/command";
import { trackedFiles } from "../tree/source";
import { notASecret } from "../tree/public-values";
import type { Change, Version } from "./rewrite";

/** Files larger than this hold no text of a human author, in bytes. */
const largest = 5 * 1024 ** 2;

/** The number of open files, and of blobs that one process reads: as many of the largest as `run` takes. */
const atOnce = 50;

/** The result of the check of a repository: findings, whose paths are relative to it, and subjects. */
export interface Scan {
  readonly findings: readonly Finding[];
  /** The number of files, or versions of files, that the check read. */
  readonly files: number;
}

/**
 * Looks for plain Secrets, keys and tokens in every file of a repository that Git has or would take.
 *
 * @param repository absolute path
 * @param expected whether a path holds secrets of tests, which may be found
 */
export async function scanFiles(repository: string, expected: (path: string) => boolean): Promise<Scan> {
  const paths = ((await trackedFiles(repository)) ?? []).filter((path) => !expected(path)).sort();
  const findings: Finding[] = [];
  for (const some of batches(paths)) {
    const texts = await Promise.all(some.map((path) => readText(join(repository, path))));
    findings.push(...(await checkFiles(some.map((path, index) => ({ path, text: texts[index] ?? "" })))));
  }
  return { findings, files: paths.length };
}

async function checkFiles(
  files: readonly { path: string; text: string; commit?: string }[],
): Promise<Finding[]> {
  const leaks = await leaksIn(files.map(({ text }) => text));
  return files.flatMap(({ commit, ...file }, index) =>
    checkFile({ ...file, leaks: leaks[index] ?? [] }, commit),
  );
}

/** A deleted file that no commit records is only in the history; Git does not have the target of a link. */
async function readText(file: string): Promise<string> {
  try {
    const entry = await lstat(file);
    return entry.isFile() && entry.size <= largest ? await readFile(file, "utf8") : "";
  } catch {
    return "";
  }
}

/**
 * The commit at which a branch left the default branch.
 *
 * @param base the branch to compare with. @default the remote's default branch, or `main` or `master`
 * @returns undefined when `base` is not set and there is no default branch
 * @throws Error when `base` is named and not available
 */
export async function mergeBase(repository: string, base?: string): Promise<string | undefined> {
  const git = (...args: string[]) => run("git", args, { cwd: repository });
  for (const candidate of base === undefined ? await defaultBranches(git) : [base]) {
    try {
      return (await git("merge-base", "--end-of-options", candidate, "HEAD")).trim();
    } catch (error) {
      if (base === undefined) continue;
      throw new Error(
        `Reading the history since ${base} failed: ${base} and HEAD have no common commit in this clone. Fetch the history with "git fetch --unshallow origin", or correct --base.`,
        { cause: error },
      );
    }
  }
  return undefined;
}

/** Possible default branches, of those that exist. */
async function defaultBranches(git: (...args: string[]) => Promise<string>): Promise<string[]> {
  const names = ["remotes/origin/HEAD", "remotes/origin/main", "heads/main", "heads/master"];
  const refs = names.map((name) => `refs/${name}`);
  const there = (await git("for-each-ref", "--format=%(refname)", ...refs)).split("\n");
  return refs.filter((ref) => there.includes(ref));
}

/** A file in a commit, as Git prints it: `older` and `newer` are names of blobs. */
interface Row {
  readonly path: string;
  readonly older: string;
  readonly newer: string;
}

/** A commit, and its difference to each of its parents that it differs from. */
interface Commit {
  readonly hash: string;
  readonly parents: readonly string[];
  readonly message: string;
  readonly rows: Row[];
}

/**
 * Looks for plain Secrets, keys and tokens in every version of a file, and every message, of the commits since `base`,
 * and collects the changes of encrypted files, from first to last.
 *
 * @param base a commit that is trusted
 * @param expected as for `scanFiles`
 * @param encrypted whether a path belongs to an encrypted file
 */
export async function scanHistory(
  repository: string,
  base: string,
  expected: (path: string) => boolean,
  encrypted: (path: string) => boolean = () => false,
): Promise<Scan & { readonly changes: readonly Change[] }> {
  const git = gitOf(repository);
  const range = `${base}..HEAD`;
  const mark = randomUUID();
  const onlyText = ["--no-object-names", `--filter=blob:limit=${largest}`];
  const objects = await git(["rev-list", "--objects", ...onlyText, range]);
  if (objects === "") return { findings: [], files: 0, changes: [] };
  const log = await git([
    ...["log", `--format=${mark}%H %P%n%B`, "--no-show-signature", "--reverse", "--topo-order", "-z"],
    ...["--raw", "--no-abbrev", "--no-renames", "--diff-merges=separate", "--root", range],
  ]);
  // Git lists the objects that no commit up to the base has; only a diff shows their commits and files.
  const fresh = new Set(objects.split("\n"));
  const commits = commitsOf(log, mark);
  const made = new Map<string, { id: string; path: string; commit: string }>();
  for (const { hash: commit, rows } of commits) {
    for (const { newer: id, path } of rows) {
      const version = `${id} ${path}`;
      // The first commit that has the blob is the commit that made it.
      if (fresh.has(id) && !expected(path) && !made.has(version)) made.set(version, { id, path, commit });
    }
  }
  const changes = commits.flatMap((commit) => changesOf(commit, encrypted));
  const texts = await contents([...[...made.values()].map(({ id }) => id), ...changes.flatMap(blobsOf)], git);
  const findings: Finding[] = [];
  const newest = new Map(commits.flatMap(({ rows }) => rows.map(({ path, newer }) => [path, newer])));
  for (const some of batches([...made.values()])) {
    const versions = some.map(({ id, path, commit }) => ({
      ...{ path, commit: short(commit) },
      text: markedAs(texts.get(newest.get(path) ?? "") ?? "", texts.get(id) ?? ""),
    }));
    findings.push(...(await checkFiles(versions)));
  }
  const inMessages = await leaksIn(commits.map(({ message }) => message));
  for (const [index, { hash }] of commits.entries()) {
    const found = leakFindings(`The message of commit ${short(hash)}`, inMessages[index] ?? []);
    findings.push(...found.map((finding) => ({ ...finding, commit: short(hash) })));
  }
  return { findings, files: made.size, changes: changes.map((change) => withTexts(change, texts)) };
}

/** A version of a file with the marks of its newest version: a user cannot add marks to a version in a commit. */
function markedAs(newest: string, text: string): string {
  if (!newest.includes(notASecret)) return text;
  const marked = newest.split("\n").filter((line) => line.includes(notASecret));
  const marks = new Map(
    marked.map((line) => [line.replace(/\s*(?:#|\/\/|\/\*|<!--)\s*platform:.*$/, "").trim(), line]),
  );
  return text
    .split("\n")
    .map((line) => marks.get(line.trim()) ?? line)
    .join("\n");
}

/**
 * The uncommitted changes of encrypted files: staged files that were changed again, and files in the work tree, each
 * compared with HEAD.
 *
 * @param encrypted whether a path belongs to an encrypted file
 */
export async function uncommitted(
  repository: string,
  encrypted: (path: string) => boolean,
): Promise<{ staged: Change[]; unstaged: Change[] }> {
  const git = gitOf(repository);
  const status = await git([
    ...["--no-optional-locks", "status", "--porcelain=v2", "--branch", "--no-renames", "-z"],
    ...["--untracked-files=all", "--", "*.enc.yaml"],
  ]);
  const [, head = ""] = /^# branch\.oid (\S+)$/m.exec(status.replaceAll("\0", "\n")) ?? [];
  const staged: Change[] = [];
  const unstaged: Change[] = [];
  // Source: git-status(1), "Porcelain Format Version 2": a changed entry, an unmerged entry, an untracked file.
  const form = /^(?:1 (..) \S+ (?:\d+ ){3}(\w+) (\w+)|u .. \S+ (?:\d+ ){4}\w+ (\w+) (\w+)|\?) ([^]+)$/;
  for (const entry of status.split("\0")) {
    const [, state = "", old = "", index = "", ours = "", theirs = "", path = ""] = form.exec(entry) ?? [];
    if (path === "" || !encrypted(path)) continue;
    const olders = [old, ours, theirs].filter(isBlob).map((text) => ({ text, path, commit: short(head) }));
    if (/^[^.][^.]$/.test(state) && isBlob(index)) staged.push({ path, olders, newer: index });
    unstaged.push({ path, olders });
  }
  const texts = await contents([...staged, ...unstaged].flatMap(blobsOf), git);
  const inTree = unstaged.map(async (change) => {
    const text = await readFile(join(repository, change.path), "utf8").catch(() => undefined);
    return { ...withTexts(change, texts), ...(text === undefined ? {} : { newer: text }) };
  });
  return { staged: staged.map((change) => withTexts(change, texts)), unstaged: await Promise.all(inTree) };
}

type Git = (args: readonly string[], input?: string) => Promise<string>;

function gitOf(repository: string): Git {
  return (args, input = "") => run("git", args, { cwd: repository, input });
}

/** Git lists a merge once for each parent that it differs from. */
function commitsOf(log: string, mark: string): Commit[] {
  const commits = new Map<string, Commit>();
  for (const told of log.split(mark).slice(1)) {
    const [head = "", ...parts] = told.split("\0");
    const [names = "", ...lines] = head.split("\n");
    const [hash = "", ...parents] = names.trim().split(" ");
    const commit = commits.get(hash) ?? { hash, parents, message: lines.join("\n"), rows: [] };
    commits.set(hash, commit);
    for (const [index, part] of parts.entries()) {
      const [, older, newer] = /^\s*:\d+ \d+ ([0-9a-f]+) ([0-9a-f]+) \w$/.exec(part) ?? [];
      const path = parts[index + 1];
      if (older === undefined || newer === undefined || path === undefined) continue;
      commit.rows.push({ path, older, newer });
    }
  }
  return [...commits.values()];
}

/**
 * The changes of encrypted files in a commit; their texts are names of blobs.
 *
 * A merge is compared with all of its parents (`--diff-merges=separate`). A file that is the same as in one parent came
 * from there, and was checked there. Compared with the other parents it may be anything, such as an earlier version
 * that was restored. A file that differs from every parent was made by the merge, and must follow from each parent: it
 * does if Git joined the values of one parent with the recipients of the other.
 */
function changesOf({ hash, parents, rows }: Commit, encrypted: (path: string) => boolean): Change[] {
  const paths = [...new Set(rows.map(({ path }) => path))].filter(encrypted);
  return paths.map((path) => {
    const own = rows.filter((row) => row.path === path);
    const newer = own[0]?.newer ?? "";
    if (!isBlob(newer)) return { path, olders: versions(own, parents) };
    const olders =
      own.length < parents.length ? [{ text: newer, path, commit: short(hash) }] : versions(own, parents);
    return { path, olders, newer };
  });
}

function versions(rows: readonly Row[], parents: readonly string[]): Version[] {
  return rows
    .map(({ path, older }, index) => ({ text: older, path, commit: short(parents[index] ?? "") }))
    .filter(({ text }) => isBlob(text));
}

function blobsOf({ olders, newer }: Change): string[] {
  return [...olders.map(({ text }) => text), ...(newer === undefined ? [] : [newer])];
}

function withTexts({ path, olders, newer }: Change, texts: ReadonlyMap<string, string>): Change {
  return {
    path,
    // A shallow clone cannot compare versions that it does not have.
    olders: olders.flatMap((version) => {
      const text = texts.get(version.text);
      return text === undefined ? [] : [{ ...version, text }];
    }),
    ...(newer === undefined ? {} : { newer: texts.get(newer) ?? "" }),
  };
}

/** The blob of a missing file is all zeros. */
function isBlob(id: string): boolean {
  return /[^0]/.test(id);
}

function short(hash: string): string {
  return hash.slice(0, 7);
}

/** The content of blobs by id. A random mark separates them, because they may hold any text. */
async function contents(ids: readonly string[], git: Git): Promise<Map<string, string>> {
  const texts = new Map<string, string>();
  const mark = randomUUID();
  for (const some of batches([...new Set(ids)])) {
    const text = await git(
      ["cat-file", `--batch=${mark} %(objectname)`],
      some.map((id) => `${id}\n`).join(""),
    );
    for (const part of text.split(`${mark} `).slice(1)) {
      const newline = part.indexOf("\n");
      // Git ends each blob with a line break of its own.
      texts.set(part.slice(0, newline), part.slice(newline + 1, -1));
    }
  }
  return texts;
}

function* batches<T>(entries: readonly T[]): Generator<readonly T[]> {
  for (let start = 0; start < entries.length; start += atOnce) yield entries.slice(start, start + atOnce);
}
