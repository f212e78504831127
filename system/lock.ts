import { randomUUID } from "node:crypto";
import { linkSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { identify, isRunning, type ProcessIdentity } from "./process-identity";

/** Options of {@link withLock}. */
export interface LockOptions {
  /** Called once if another process holds the lock, with its id. */
  readonly onWait?: (pid: number) => void;
  /** Milliseconds between two checks of a held lock. @default 200 */
  readonly interval?: number;
  /** Ends the wait. @default never */
  readonly signal?: AbortSignal;
}

/**
 * Runs `work` while no other process runs under a lock of the same directory. It takes over the lock of a dead process.
 *
 * A lock is a file `lock.<n>` that names its holder; the highest `n` counts. A process that finds it released, or its
 * holder dead, links `lock.<n + 1>`, which only one process can do. Numbers never go down. So two processes that find
 * the same dead holder cannot both take over, as they could by deleting its file.
 */
export async function withLock<T>(
  directory: string,
  work: () => Promise<T>,
  { onWait, interval = 200, signal }: LockOptions = {},
): Promise<T> {
  mkdirSync(directory, { recursive: true });
  for (let told = false; ;) {
    const last = highest(directory);
    const holder = last > 0 ? readHolder(lockFile(directory, last)) : undefined;
    if (holder && isRunning(holder)) {
      if (!told) onWait?.(holder.pid);
      told = true;
      await sleep(interval, undefined, { signal });
      continue;
    }
    const mine = last + 1;
    if (!place(directory, mine)) continue;
    try {
      return await work();
    } finally {
      release(lockFile(directory, mine));
    }
  }
}

/** Takes number `n`; false if another process has that number or a higher one. */
function place(directory: string, n: number): boolean {
  const draft = join(directory, `draft-${randomUUID()}`);
  writeFileSync(draft, JSON.stringify(identify(process.pid)));
  try {
    linkSync(draft, lockFile(directory, n));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  } finally {
    rmSync(draft, { force: true });
  }
  // Only a process with an old listing finds a higher number: the files below that number may be gone already.
  if (highest(directory) > n) {
    rmSync(lockFile(directory, n), { force: true });
    return false;
  }
  for (const older of numbers(directory).filter((number) => number < n))
    rmSync(lockFile(directory, older), { force: true });
  return true;
}

function release(file: string): void {
  const draft = `${file}.released`;
  writeFileSync(draft, "");
  renameSync(draft, file);
}

function readHolder(file: string): ProcessIdentity | undefined {
  try {
    const text = readFileSync(file, "utf8");
    return text === "" ? undefined : (JSON.parse(text) as ProcessIdentity);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function numbers(directory: string): number[] {
  return readdirSync(directory).flatMap((name) => {
    const match = /^lock\.(\d+)$/.exec(name);
    return match ? [Number(match[1])] : [];
  });
}

function highest(directory: string): number {
  return Math.max(0, ...numbers(directory));
}

function lockFile(directory: string, n: number): string {
  return join(directory, `lock.${n}`);
}
