import { existsSync } from "node:fs";
import { dirname } from "node:path";

/** The words for an error of the file system: what is wrong with a path, and what its user can do. */
const words: Readonly<Record<string, readonly [cause: (path: string) => string, remedy: string]>> = {
  ENOENT: [(path) => `${path} does not exist`, "Make it, or name another path."],
  ENOTDIR: [(path) => `${path} leads through a file, or is one itself`, "Name another path."],
  EISDIR: [(path) => `${path} is a directory`, "Name a file."],
  EEXIST: [(path) => `${path} exists already`, "Move it away."],
  EACCES: [(path) => `this user has no access to ${path}`, "Give this user access to it."],
  EPERM: [(path) => `this user has no access to ${path}`, "Give this user access to it."],
  EROFS: [(path) => `${path} is on a file system that is read-only`, "Name a directory that can be written."],
  ENOSPC: [(path) => `the disk of ${path} is full`, "Free some space."],
  EDQUOT: [(path) => `the disk of ${path} is full`, "Free some space."],
};

/**
 * The cause of an error in words, without a full stop: `/x is a directory`. Any other error keeps its message.
 *
 * @param named the path as the user knows it. @default the path of the error
 */
export function causeOf(error: unknown, named?: string): string {
  const { code, path = named, message } = error as NodeJS.ErrnoException;
  const [cause] = words[code ?? ""] ?? [];
  return cause === undefined || path === undefined ? message.replace(/\.$/, "") : cause(named ?? path);
}

/** The message of an error that reached the top: an error of the file system becomes a sentence. */
export function messageOf(error: unknown): string {
  const { code, path, message, syscall } = error as NodeJS.ErrnoException;
  // Node says ENOENT if the file system is read-only and it makes the directories above, too.
  if (
    syscall === "mkdir" &&
    path !== undefined &&
    ["ENOENT", "EACCES", "EPERM", "EROFS"].includes(code ?? "")
  ) {
    return `Making directory ${path} failed: this user cannot write to ${nearest(path)}. Give this user access to it, or choose other directories with XDG_STATE_HOME and XDG_CACHE_HOME.`;
  }
  const [cause, remedy] = words[code ?? ""] ?? [];
  if (cause === undefined || remedy === undefined || path === undefined || syscall === undefined)
    return message;
  return `Using a file failed: ${cause(path)}. ${remedy}`;
}

/** The nearest directory of a path that exists. */
function nearest(path: string): string {
  const above = dirname(path);
  return above === path || existsSync(above) ? above : nearest(above);
}
