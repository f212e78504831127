import { open, readFile, realpath, rename, rm } from "node:fs/promises";
import { causeOf } from "./file-error";

/**
 * Writes a file as a whole: a reader finds the old content or the new content, after a kill too. A kill may leave
 * `<path>.new` next to the file, with the same mode; the next write overwrites it. A symbolic link stays: the write
 * changes the file that it leads to.
 *
 * @param mode of the file. @default 0o644
 * @throws Error when the file cannot be written; the file then has its old content
 */
export async function writeWhole(path: string, content: string, mode = 0o644): Promise<void> {
  const real = await realpath(path).catch(() => path);
  const beside = `${real}.new`;
  try {
    const file = await open(beside, "w", mode);
    try {
      // Otherwise a file that a kill left there keeps its mode.
      await file.chmod(mode);
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, real);
  } catch (error) {
    await rm(beside, { force: true }).catch(() => undefined);
    throw notWritten(path, error as Error);
  }
}

/**
 * The text of a file; undefined if there is none.
 *
 * @param operation the start of the message: "Reading the rules"
 * @throws Error when this user cannot read the file
 */
export async function readIfThere(path: string, operation: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new Error(`${operation} failed: ${causeOf(error, path)}. Make ${path} readable for this user.`, {
      cause: error,
    });
  }
}

/** The sentence for a user whose file cannot be written. */
export function notWritten(path: string, error: Error): Error {
  const { code, path: failed = path } = error as NodeJS.ErrnoException;
  const isFull = code === "ENOSPC" || code === "EDQUOT";
  const remedy = isFull ? "Free some space on its disk" : "Make its directory writable for this user";
  return new Error(
    `Writing ${path} failed: ${causeOf(error, failed)}. ${remedy}, and run the same command again.`,
    {
      cause: error,
    },
  );
}
