import { homedir } from "node:os";
import { join } from "node:path";

/** This project's cache of the user: `$XDG_CACHE_HOME/platform`, or `~/.cache/platform`. */
export function cacheDirectory(env: NodeJS.ProcessEnv = process.env): string {
  return join(env["XDG_CACHE_HOME"] || join(env["HOME"] || homedir(), ".cache"), "platform");
}
