import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { homedir, hostname } from "node:os";
import { join } from "node:path";
import { stateDirectory } from "../config";
import { cacheDirectory } from "../tools/cache";

/**
 * Where Pulumi keeps state and how it encrypts secrets, when the user has not said so: files of this user and an
 * empty passphrase, which is enough for a cluster on this machine.
 *
 * @param current the backend that `pulumi login` chose, as a URL
 */
export function pulumiDefaults(env: NodeJS.ProcessEnv, current: string | undefined): Record<string, string> {
  const passphrase =
    env.PULUMI_CONFIG_PASSPHRASE !== undefined || env.PULUMI_CONFIG_PASSPHRASE_FILE !== undefined;
  const chosen =
    current !== undefined || env.PULUMI_BACKEND_URL !== undefined || env.PULUMI_ACCESS_TOKEN !== undefined;
  return {
    ...(!chosen ? { PULUMI_BACKEND_URL: `file://${stateDirectory(env)}` } : {}),
    ...(passphrase ? {} : { PULUMI_CONFIG_PASSPHRASE: "" }),
  };
}

/** The environment of Pulumi, whose backend exists, and the backend's URL where it is known. */
export async function pulumiEnvironment(
  env: NodeJS.ProcessEnv,
): Promise<{ env: NodeJS.ProcessEnv; backend: string | undefined }> {
  const current = loggedInTo(env);
  // Node keeps what it compiled: the program and its providers start 0.5 s sooner.
  const compiled = { NODE_COMPILE_CACHE: join(cacheDirectory(env), "node") };
  const complete: NodeJS.ProcessEnv = { ...compiled, ...env, ...pulumiDefaults(env, current) };
  const backend = complete.PULUMI_BACKEND_URL ?? current;
  const directory = directoryOf(backend);
  if (directory !== undefined) await mkdir(directory, { recursive: true, mode: 0o700 });
  return { env: complete, backend };
}

/** The backend that `pulumi login` chose. */
function loggedInTo(env: NodeJS.ProcessEnv): string | undefined {
  try {
    const file = join(env.PULUMI_HOME ?? join(homedir(), ".pulumi"), "credentials.json");
    const { current = "" } = JSON.parse(readFileSync(file, "utf8")) as { current?: string };
    return current === "" ? undefined : current;
  } catch {
    return undefined;
  }
}

/** The directory of a file backend. */
function directoryOf(backend: string | undefined): string | undefined {
  if (backend?.startsWith("file://") !== true) return undefined;
  const path = backend.slice("file://".length);
  return path.startsWith("~") ? join(homedir(), path.slice(1)) : path;
}

/** A lock of Pulumi's file backend. Source: `lockContent` in pulumi/pulumi, pkg/backend/diy/lock.go */
interface Lock {
  readonly pid: number;
  readonly username: string;
  readonly hostname: string;
  readonly timestamp: string;
}

/**
 * Removes the locks that killed runs left on a stack of a file backend; other backends have no such files.
 *
 * @returns a sentence for each lock that was removed
 * @throws Error naming the process that holds a live lock, or one of another machine
 */
export async function removeStaleLocks(
  backend: string | undefined,
  project: string,
  stack: string,
): Promise<string[]> {
  const root = directoryOf(backend);
  if (root === undefined) return [];
  const directory = join(root, ".pulumi", "locks", "organization", project, stack);
  const files = (await readdir(directory).catch(() => [])).filter((file) => file.endsWith(".json"));
  return Promise.all(
    files.map(async (file) => {
      const path = join(directory, file);
      const lock = parseLock(await readFile(path, "utf8"));
      const holder =
        lock && `process ${lock.pid} of ${lock.username}@${lock.hostname}, since ${lock.timestamp}`;
      if (lock !== undefined && (lock.hostname !== hostname() || holds(lock))) {
        throw new Error(
          `Running Pulumi on stack "${stack}" was refused: ${holder ?? ""} holds its lock. Wait until it ends, or, if it is gone for sure, run "pulumi cancel --stack ${stack}".`,
        );
      }
      await rm(path, { force: true });
      return `A stale lock of stack "${stack}" is removed: ${holder ?? "it was cut off while it was written"}; it runs no more.`;
    }),
  );
}

/** A lock that was cut off while it was written, by a run that died then, is none. */
function parseLock(text: string): Lock | undefined {
  try {
    return JSON.parse(text) as Lock;
  } catch {
    return undefined;
  }
}

/** Whether the process that wrote a lock still runs: one that started later only has its id. */
function holds({ pid, timestamp }: Lock): boolean {
  if (!isAlive(pid)) return false;
  try {
    const started = execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], {
      encoding: "utf8",
      env: { ...process.env, LC_ALL: "C" },
      stdio: ["ignore", "pipe", "ignore"],
    });
    return !(Date.parse(started.trim()) > Date.parse(timestamp));
  } catch {
    // A `ps` that is missing or knows no start times, as busybox's: the lock is respected.
    return true;
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
