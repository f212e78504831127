import { lstat, realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import { run } from "../../tools/command";
import { sentence } from "../../system/sentence";

/**
 * The top of the Git work tree that holds a directory.
 *
 * @param directory absolute path
 * @returns an absolute path without links; undefined outside any repository: no directory above it has a `.git`
 * @throws Error with Git's message, if there is a repository and Git does not answer: it belongs to another user, is
 *   damaged, or `git` is missing
 */
export async function repositoryOf(directory: string): Promise<string | undefined> {
  return (await askGit(directory, "rev-parse", "--show-toplevel"))?.replace(/\n$/, "");
}

/**
 * The output of Git in a directory.
 *
 * @returns undefined outside any repository
 * @throws Error as `repositoryOf` does
 */
export async function askGit(directory: string, ...args: readonly string[]): Promise<string | undefined> {
  if (!(await isBelowGit(await realpath(directory)))) return undefined;
  try {
    return await run("git", args, { cwd: directory });
  } catch (error) {
    throw new Error(`Asking Git about ${directory} failed: ${sentence((error as Error).message)}`, {
      cause: error,
    });
  }
}

async function isBelowGit(directory: string): Promise<boolean> {
  const isHere = await lstat(join(directory, ".git")).then(
    () => true,
    () => false,
  );
  const above = dirname(directory);
  return isHere || (above !== directory && isBelowGit(above));
}
