import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";

/** The programs of a name on PATH, absolute, in the order of PATH. */
export function programsNamed(name: string, path: string): string[] {
  return path
    .split(delimiter)
    .filter((directory) => directory !== "")
    .map((directory) => join(directory, name))
    .filter((file) => isProgram(file));
}

/** Whether a path is a file that this user may run. */
export function isProgram(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

/** A word of a shell command, for any content. */
export function quoted(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
