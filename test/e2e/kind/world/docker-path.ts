import { chmodSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { copy } from "./docker-image";
import { once } from "./once";

/** Number of CAP_SYS_RESOURCE; see capabilities(7). */
const sysResource = 24n;

/**
 * Directories to put first on PATH so that `docker run --privileged` works: none where it does anyway.
 *
 * @param directory where the wrapper `docker/docker` is put, executable whatever the checkout's modes are
 */
export async function dockerPath(directory: string): Promise<string[]> {
  const [, bounding] = /^CapBnd:\s*(\w+)$/m.exec(readFileSync("/proc/self/status", "utf8")) ?? [];
  if (bounding === undefined || (BigInt(`0x${bounding}`) >> sysResource) & 1n) return [];
  const path = await once(directory, (draft) => {
    copy(join(__dirname, "docker"), draft);
    chmodSync(join(draft, "docker"), 0o755);
    return Promise.resolve();
  });
  return [path];
}
