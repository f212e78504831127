import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { readdir, readFile, rm } from "node:fs/promises";
import { homedir, hostname } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { readProjectFile, stateDirectory } from "../../core/settings/config";
import { cacheDirectory } from "../../system/cache";

/**
 * The place of Pulumi's state and the encryption of its secrets, when the user has chosen no backend: files of this
 * user and an empty passphrase, which is enough for a cluster on this machine. Any other backend keeps its own
 * passphrase.
 *
 * @param chosen the user's backend, as a URL; undefined when there is none
 */
export function pulumiDefaults(env: NodeJS.ProcessEnv, chosen: string | undefined): Record<string, string> {
  const own = stateDirectory(env);
  const hasToken = (env.PULUMI_ACCESS_TOKEN ?? "") !== "";
  if (chosen === undefined ? hasToken : directoryOf(chosen, "/") !== own) return {};
  const hasPassphrase =
    env.PULUMI_CONFIG_PASSPHRASE !== undefined || env.PULUMI_CONFIG_PASSPHRASE_FILE !== undefined;
  return {
    ...(chosen === undefined ? { PULUMI_BACKEND_URL: pathToFileURL(own).href } : {}),
    ...(hasPassphrase ? {} : { PULUMI_CONFIG_PASSPHRASE: "" }),
  };
}

/** The environment and the backend of Pulumi for this project. */
export interface PulumiEnvironment {
  readonly env: NodeJS.ProcessEnv;
  /** The directory of a file backend, absolute; undefined for any other backend. */
  readonly stateDirectory: string | undefined;
}

/**
 * The environment of Pulumi.
 *
 * @param project absolute path of the directory that holds Pulumi.yaml
 */
export async function pulumiEnvironment(env: NodeJS.ProcessEnv, project: string): Promise<PulumiEnvironment> {
  const chosen = await chosenBackend(env, project);
  // Node keeps compiled code: the program and its providers start 0.5 s sooner.
  const compiled = { NODE_COMPILE_CACHE: join(cacheDirectory(env), "node") };
  const complete: NodeJS.ProcessEnv = {
    ...{ ...compiled, ...env, ...pulumiDefaults(env, chosen) },
    ...(chosen === undefined ? {} : absoluteBackend(chosen, project)),
  };
  return { env: complete, stateDirectory: directoryOf(chosen ?? complete.PULUMI_BACKEND_URL ?? "", project) };
}

/**
 * The backend that the user chose: with a variable, in Pulumi.yaml, or with `pulumi login`.
 *
 * Source: `GetCurrentCloudURL` in pulumi/pulumi, pkg/workspace/creds.go
 */
async function chosenBackend(env: NodeJS.ProcessEnv, project: string): Promise<string | undefined> {
  const { backend } = await readProjectFile(project);
  return [env.PULUMI_BACKEND_URL, backend?.url, loggedInTo(env)].find((url) => (url ?? "") !== "");
}

/** The backend that `pulumi login` chose. */
function loggedInTo(env: NodeJS.ProcessEnv): string | undefined {
  try {
    const home = env.PULUMI_CREDENTIALS_PATH || env.PULUMI_HOME || join(homedir(), ".pulumi");
    return (JSON.parse(readFileSync(join(home, "credentials.json"), "utf8")) as { current?: string }).current;
  } catch {
    return undefined;
  }
}

/** The variable that names a file backend with a relative path from every directory. */
function absoluteBackend(backend: string, base: string): Record<string, string> {
  const [, path] = /^file:\/\/([^/~].*)$/.exec(backend) ?? [];
  return path === undefined ? {} : { PULUMI_BACKEND_URL: `${pathToFileURL(base).href}/${path}` };
}

/**
 * The directory of a file backend. Source: `massageBlobPath` in pulumi/pulumi, pkg/backend/diy/backend.go
 *
 * @param base the start of a relative path: Pulumi's working directory
 */
function directoryOf(backend: string, base: string): string | undefined {
  if (!backend.startsWith("file://")) return undefined;
  // Options such as "no_tmp_dir=true" come after the path.
  const [path = ""] = backend.slice("file://".length).split(/[?#]/);
  const plain = decodeURIComponent(path);
  return plain.startsWith("~") ? join(homedir(), plain.slice("~/".length)) : resolve(base, plain);
}

/** A lock of Pulumi's file backend. Source: `lockContent` in pulumi/pulumi, pkg/backend/diy/lock.go */
interface Lock {
  readonly pid: number;
  readonly username: string;
  readonly hostname: string;
  readonly timestamp: string;
}

/**
 * Removes the locks that killed runs left on a stack of a file backend.
 *
 * @param directory of the file backend, absolute
 * @returns a sentence for each lock that was removed
 * @throws Error naming the process that holds a live lock, or a lock whose holder is unknown
 */
export async function removeStaleLocks(directory: string, project: string, stack: string): Promise<string[]> {
  const locks = join(directory, ".pulumi", "locks", "organization", project, stack);
  const files = await readdir(locks).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  });
  return Promise.all(
    files
      .filter((file) => file.endsWith(".json"))
      .map(async (file) => {
        const path = join(locks, file);
        const lock = parseLock(await readFile(path, "utf8"));
        const subject = `lock of stack "${stack}"`;
        if (lock === undefined) {
          await rm(path, { force: true });
          return `Removed a stale ${subject}: the run that wrote it was killed meanwhile.`;
        }
        const holder = `process ${lock.pid} of ${lock.username}@${lock.hostname}, since ${lock.timestamp}`;
        if (lock.hostname !== hostname() || mayHold(lock.pid, directory)) {
          throw new Error(
            `Running Pulumi on stack "${stack}" was refused: ${holder}, holds its lock. Wait until it ends, or, if it is gone for sure, run "pulumi cancel --stack ${stack}".`,
          );
        }
        await rm(path, { force: true });
        return `Removed a stale ${subject}: ${holder}, has ended.`;
      }),
  );
}

/** An incomplete lock counts as no lock: its run died while it wrote the lock. */
function parseLock(text: string): Lock | undefined {
  try {
    return JSON.parse(text) as Lock;
  } catch {
    return undefined;
  }
}

/**
 * Whether the holder of a lock with this host's name may still run: as a process here, in a container below this
 * system, or next to this container. Times do not help: users set clocks, and clocks stop while a machine sleeps.
 */
function mayHold(pid: number, directory: string): boolean {
  if (isAlive(pid) && isPulumi(processStatus(pid))) return true;
  return isInContainer(pid) || isSharedBetweenContainers(directory);
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** The facts of the system about a process: its program, its state, its id in each container that it is in. */
interface ProcessStatus {
  readonly program: string;
  readonly isZombie: boolean;
  /** From the id in this system to the id in the innermost container. Empty if the system knows no containers. */
  readonly pids: readonly number[];
}

/** Undefined if the system does not say. Source: proc_pid_status(5) */
function processStatus(pid: number): ProcessStatus | undefined {
  try {
    if (process.platform === "linux") {
      const text = readFileSync(`/proc/${pid}/status`, "utf8");
      const field = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(text)?.[1] ?? "";
      return {
        program: field("Name"),
        isZombie: field("State").startsWith("Z"),
        pids: field("NSpid").split("\t").map(Number),
      };
    }
    const text = execFileSync("ps", ["-o", "stat=", "-o", "comm=", "-p", String(pid)], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    const [, state = "", program = ""] = /^\s*(\S+)\s+(.*?)\s*$/.exec(text) ?? [];
    return { program, isZombie: state.startsWith("Z"), pids: [] };
  } catch {
    return undefined;
  }
}

/** Whether a process may be Pulumi; another program only has the id of a process that ended. */
function isPulumi(status: ProcessStatus | undefined): boolean {
  return status === undefined || (!status.isZombie && /pulumi/i.test(status.program));
}

/** Whether Pulumi runs under this id in a container of this system, which may have its host name. */
function isInContainer(pid: number): boolean {
  if (process.platform !== "linux") return false;
  const ids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return ids
    .map((id) => processStatus(Number(id)))
    .some((status) => status !== undefined && status.pids.at(-1) === pid && isPulumi(status));
}

/**
 * Whether this is a container whose directory comes from outside: this process cannot see the processes outside.
 *
 * Source of the number of the first PID namespace: PROC_PID_INIT_INO (0xeffffffc) in linux/proc_ns.h
 */
function isSharedBetweenContainers(directory: string): boolean {
  if (process.platform !== "linux") return false;
  const isContainer = readlinkSync("/proc/self/ns/pid") !== "pid:[4026531836]";
  return isContainer && statSync(directory).dev !== statSync("/").dev;
}
