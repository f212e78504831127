import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";

/**
 * Makes a file or a directory unless it is there, and returns its path. `make` works on a draft beside it, so that
 * what a killed run left half done is never taken for whole.
 */
export async function once(path: string, make: (draft: string) => Promise<void>): Promise<string> {
  if (existsSync(path)) return path;
  const draft = `${path}.draft`;
  rmSync(draft, { recursive: true, force: true });
  mkdirSync(dirname(path), { recursive: true });
  await make(draft);
  renameSync(draft, path);
  return path;
}
