import { createHash } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { cacheDirectory } from "../system/cache";
import { readGoModule } from "./go-module";

/**
 * Hash of every go.mod of this folder and the folders in it, 12 hex digits: checkouts with different pins have separate tools.
 * Providers keep it in state, as text.
 */
const pins = pinsOfModules();

function pinsOfModules(): string {
  const modules = [".", ...readdirSync(__dirname)]
    .map((name) => join(__dirname, name))
    .filter((path) => existsSync(join(path, "go.mod")));
  const hashes = modules.sort().map((path) => readGoModule(path).hash);
  return createHash("sha256").update(hashes.join("")).digest("hex").slice(0, 12);
}

/** The directory where every tool is linked by its plain name. */
export function binDirectory(env: NodeJS.ProcessEnv = process.env): string {
  return join(sharedBinDirectory(env), pins);
}

/**
 * The directory of links to the tools of the last run of any checkout: `read` and `delete` of older code in state look
 * for their tools here, and the user may put tools here.
 */
export function sharedBinDirectory(env: NodeJS.ProcessEnv = process.env): string {
  return join(cacheDirectory(env), "bin");
}
