import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { checkFile, checkLeaks } from "../artifact/check";
import { run } from "../command";

/** Files larger than this hold no text that somebody wrote, in bytes. */
const largest = 5 * 1024 ** 2;

/** What a check of a repository found, and what it looked at. */
export interface Scan {
  readonly findings: readonly string[];
  /** How many files, or versions of files, were read. */
  readonly files: number;
}

/**
 * Looks for plain Secrets, keys and tokens in every file of a repository that Git has or would take.
 *
 * @param repository absolute path
 * @param expected whether a path holds made-up secrets, which are there to be found
 */
export async function scanFiles(repository: string, expected: (path: string) => boolean): Promise<Scan> {
  const listed = await run("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
    cwd: repository,
  });
  const paths = [...new Set(listed.split("\0"))].filter((path) => path !== "" && !expected(path)).sort();
  const findings: string[] = [];
  for (const path of paths) {
    // One that was deleted, and not yet in a commit, is in the history alone.
    const text = await readFile(join(repository, path), "utf8").catch(() => "");
    if (text.length <= largest) findings.push(...checkFile(path, text));
  }
  return { findings, files: paths.length };
}

/**
 * Where a branch left the default branch.
 *
 * @param base the branch to compare with. @default the remote's default branch, or `main` or `master`
 * @returns undefined when nothing is named and there is none
 * @throws Error when `base` is named and cannot be had
 */
export async function mergeBase(repository: string, base?: string): Promise<string | undefined> {
  const git = (...args: string[]) => run("git", args, { cwd: repository });
  const remote = async () =>
    (await git("symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD").catch(() => "")).trim();
  const named = base === undefined ? [await remote(), "origin/main", "main", "master"] : [base];
  for (const candidate of named.filter((name) => name !== "")) {
    try {
      return (await git("merge-base", "--end-of-options", candidate, "HEAD")).trim();
    } catch (error) {
      if (base === undefined) continue;
      throw new Error(
        `Reading the history since ${base} failed: Git knows no common commit of it and HEAD. Fetch it with its history ("git fetch --unshallow origin"), or correct --base.`,
        { cause: error },
      );
    }
  }
  return undefined;
}

/**
 * Looks for plain Secrets, keys and tokens in every version of a file, and every message, of the commits since `base`.
 *
 * @param base a commit that is trusted
 * @param expected as for `scanFiles`
 */
export async function scanHistory(
  repository: string,
  base: string,
  expected: (path: string) => boolean,
): Promise<Scan> {
  const git = (args: readonly string[], input = "") => run("git", args, { cwd: repository, input });
  const range = `${base}..HEAD`;
  const objects = await git(["rev-list", "--objects", "--no-object-names", range]);
  // Git lists what no commit up to the base has; only a diff says which files of a commit it is.
  const fresh = new Set(objects.split("\n"));
  const changes = await git([
    ...["log", "--format=commit %H", "--raw", "--no-abbrev", "--no-renames", "-z", "-m", "--root"],
    ...["--diff-filter=d", range],
  ]);
  const blobs = new Map<string, { commit: string; path: string }>();
  let commit = "";
  const parts = changes.split("\0");
  for (const [index, part] of parts.entries()) {
    commit = /^\s*commit (\w+)/.exec(part)?.[1] ?? commit;
    const [, id = ""] = /:\d+ \d+ [0-9a-f]+ ([0-9a-f]+) \w$/.exec(part) ?? [];
    const path = parts[index + 1] ?? "";
    // From last to first: the first commit that had it is the one that made it.
    if (id !== "" && fresh.has(id) && !expected(path)) blobs.set(id, { commit, path });
  }
  const findings: string[] = [];
  for (const [id, text] of await contents([...blobs.keys()], git)) {
    const { commit: made = "", path = "" } = blobs.get(id) ?? {};
    if (text.length <= largest) {
      findings.push(
        ...checkFile(path, text).map(
          (finding) => `${finding.replace(/\.$/, "")} (commit ${made.slice(0, 7)}).`,
        ),
      );
    }
  }
  const mark = randomUUID();
  for (const message of (await git(["log", `--format=${mark}%h %B`, range])).split(mark).slice(1)) {
    const [hash = ""] = message.split(" ", 1);
    findings.push(...checkLeaks(`The message of commit ${hash}`, message));
  }
  return { findings: [...new Set(findings)], files: blobs.size };
}

/** The content of blobs by id. A mark that nobody can know separates them, whatever is in them. */
async function contents(
  ids: readonly string[],
  git: (args: readonly string[], input: string) => Promise<string>,
): Promise<Map<string, string>> {
  if (ids.length === 0) return new Map();
  const mark = randomUUID();
  const text = await git(["cat-file", `--batch=${mark} %(objectname)`], ids.map((id) => `${id}\n`).join(""));
  return new Map(
    text
      .split(`${mark} `)
      .slice(1)
      .map((part) => {
        const newline = part.indexOf("\n");
        return [part.slice(0, newline), part.slice(newline + 1)];
      }),
  );
}
