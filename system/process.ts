import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";
import type { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { slowdown } from "./load";
import { directLoopback } from "./proxy";
import { ScratchDirectory } from "./scratch-directory";

/** A program to run as part of a {@link ProcessGroup}. */
export interface ProcessArgs {
  /** Names it in errors and its log file, such as `etcd`. */
  readonly name: string;
  /** Absolute path of the program. */
  readonly command: string;
  readonly args: readonly string[];
  /** Its whole environment, except PATH, proxies and certificates, which come from this process. @default {} */
  readonly env?: Readonly<Record<string, string>>;
}

/** Says whether a process is ready; a probe that throws is not ready yet. */
export type Probe = () => Promise<boolean>;

/** Options of {@link SupervisedProcess.ready}. */
export interface ReadyOptions {
  /** Milliseconds until it must be ready. @default 180000, and longer on a busy machine ({@link slowdown}) */
  readonly deadline?: number;
  /** Milliseconds between two probes. @default 20 */
  readonly interval?: number;
}

/** A process that ended before it was ready. */
export class ProcessDied extends Error {
  override readonly name = "ProcessDied";

  constructor(
    message: string,
    /** The last lines it wrote. */
    readonly log: string,
  ) {
    super(message);
  }
}

/**
 * Processes that share a directory and an end: neither they nor the directory outlive this process, even after a
 * SIGKILL.
 *
 * Each program runs in a process group of its own, next to a shell (1 MB) that waits on a pipe from this process. When
 * the pipe closes without a word, the kernel says that this process is gone, and the shell kills its own group: no list
 * of ids can be incomplete or name a later process. The shell needs only POSIX sh. The alternatives cost more: `setpriv
 * --pdeathsig` needs Linux and removes no directory, and a watchdog in Node takes 45 MB and needs a message for every
 * child.
 */
export class ProcessGroup {
  readonly #processes = new Map<string, SupervisedProcess>();
  readonly #scratch: ScratchDirectory;
  #stopped = false;

  /** @param directory holds logs and all other files of the group; made here, for this user only. */
  constructor(readonly directory: string) {
    this.#scratch = new ScratchDirectory(directory);
  }

  /** The processes started last under each name. */
  get processes(): readonly SupervisedProcess[] {
    return [...this.#processes.values()];
  }

  /** Starts a program; its output goes to `<directory>/<name>.log`. */
  start(args: ProcessArgs): SupervisedProcess {
    const supervised = new SupervisedProcess(args, this.directory);
    this.#processes.set(args.name, supervised);
    return supervised;
  }

  /**
   * Starts a program, and restarts it when it ends unexpectedly; its log continues.
   *
   * @param restarts the highest number of restarts
   * @param ended takes a sentence with the last lines of the program, and whether it is started again
   * @param pause milliseconds before it is started again
   */
  keep(
    args: ProcessArgs,
    restarts: number,
    ended: (sentence: string, again: boolean) => void,
    pause = 500,
  ): void {
    this.start(args).onUnexpectedEnd((sentence) => {
      ended(sentence, restarts > 0);
      if (restarts === 0) return;
      setTimeout(() => {
        if (!this.#stopped) this.keep(args, restarts - 1, ended, pause);
      }, pause);
    });
  }

  /** Stops every process and removes the directory; safe to call twice. @param grace milliseconds between SIGTERM and SIGKILL */
  async stop(grace = 2_000): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.processes.map((supervised) => supervised.stop(grace)));
    await this.#scratch.remove();
  }
}

/** A running program of a {@link ProcessGroup}, in a process group of its own. */
export class SupervisedProcess {
  readonly name: string;
  /** Absolute path of the file its output goes to. */
  readonly logPath: string;
  readonly pid: number;
  /** Resolves when the program has ended, with the kind of end: `code 1` or `SIGTERM`. */
  readonly ended: Promise<string>;
  readonly #child: ChildProcess;
  readonly #lifeline: Writable;
  #end: string | undefined;
  #asked = false;

  /** @throws when no process can be made; a missing program ends with code 127. */
  constructor({ name, command, args, env = {} }: ProcessArgs, directory: string) {
    this.name = name;
    this.logPath = join(directory, `${name}.log`);
    const log = openSync(this.logPath, "a", 0o600);
    this.#child = spawnInGroup(command, args, {
      ...{ output: log, cwd: directory },
      env: { ...inheritedEnvironment(), HOME: directory, TMPDIR: directory, ...env },
    });
    closeSync(log);
    this.#lifeline = this.#child.stdio[3] as Writable;
    this.ended = new Promise((resolve) => {
      const settle = (how: string) => {
        this.#end = how;
        this.#lifeline.destroy();
        resolve(how);
      };
      this.#child.once("error", (error) => {
        settle(error.message);
      });
      this.#child.once("exit", (code, signalName) => {
        settle(signalName ?? `code ${String(code)}`);
      });
    });
    const { pid } = this.#child;
    if (pid === undefined)
      throw new Error(
        `Starting ${name}: this machine could not start another process. Free memory or end other processes.`,
      );
    this.pid = pid;
  }

  /**
   * Waits until the probe says yes.
   * @throws {ProcessDied} as soon as the process ends, with its last output.
   * @throws when the deadline passes first.
   */
  async ready(
    probe: Probe,
    { deadline = 180_000 * slowdown(), interval = 20 }: ReadyOptions = {},
  ): Promise<void> {
    const end = Date.now() + deadline;
    while (!(await isSatisfied(probe))) {
      if (this.#end !== undefined) {
        const log = lastLines(this.logPath);
        throw new ProcessDied(
          `Starting ${this.name}: it ended with ${this.#end} before it was ready. Its last output: ${log || "none"}`,
          log,
        );
      }
      if (Date.now() > end)
        throw new Error(
          `Starting ${this.name}: not ready after ${Number((deadline / 1000).toFixed(1))} s. Is the machine short of CPU or memory? ` +
            `Its last output: ${lastLines(this.logPath) || "none"}`,
        );
      await sleep(interval);
    }
  }

  /** Calls back when the program ends, or has ended, without `stop`: a sentence with its last lines. */
  onUnexpectedEnd(callback: (sentence: string) => void): void {
    void this.ended.then((how) => {
      if (this.#asked) return;
      const output = lastLines(this.logPath) || "none";
      callback(`${this.name} ended unexpectedly with ${how}. Its last output: ${output}`);
    });
  }

  /** Ends the program and all its children: SIGTERM, then SIGKILL. @param grace milliseconds between the two */
  async stop(grace = 2_000): Promise<void> {
    this.#asked = true;
    if (this.#end === undefined) {
      this.#child.kill("SIGTERM");
      const timer = setTimeout(() => {
        killGroup(this.pid);
      }, grace);
      await this.ended;
      clearTimeout(timer);
    }
  }
}

/** Options of {@link spawnInGroup}. */
interface GroupOptions {
  readonly cwd: string;
  readonly env: NodeJS.ProcessEnv;
  /** Receives standard output and standard error: a file, or a pipe each. */
  readonly output: number | "pipe";
}

/**
 * Starts a program in a process group of its own. The group ends when this process ends, even after a SIGKILL, and when
 * the fourth stream of `stdio` is destroyed, which is due when the program has ended.
 *
 * @returns the program; a missing program ends with code 127
 */
export function spawnInGroup(command: string, args: readonly string[], options: GroupOptions): ChildProcess {
  const { output, ...place } = options;
  const child = spawn("/bin/sh", ["-c", killGroupOnEof, "sh", command, ...args], {
    ...{ ...place, detached: true, stdio: ["ignore", output, output, "pipe"] },
  });
  child.stdio[3]?.on("error", () => undefined); // its other end is gone already
  return child;
}

/**
 * A probe that is satisfied by any answer with a status below 400.
 *
 * @param url `http://…`
 * @param socketPath absolute path of the socket that listens, instead of a port
 */
export function httpProbe({ url, socketPath }: { url: string; socketPath?: string }): Probe {
  return () =>
    new Promise((resolve, reject) => {
      // An agent of its own: the global agent takes a proxy of the environment (NODE_USE_ENV_PROXY).
      const request = get(url, { socketPath, timeout: 2_000, agent: false }, (response) => {
        response.resume();
        resolve((response.statusCode ?? 500) < 400);
      });
      request.on("timeout", () => request.destroy(new Error("timeout"))).on("error", reject);
    });
}

async function isSatisfied(probe: Probe): Promise<boolean> {
  try {
    return await probe();
  } catch {
    return false;
  }
}

/** The last lines of a log, as one line of at most 1,000 characters; empty when there are none. */
export function lastLines(path: string, count = 5): string {
  try {
    return readFileSync(path, "utf8").trimEnd().split("\n").slice(-count).join(" | ").slice(-1_000);
  } catch {
    return "";
  }
}

// `exec` makes the program the direct child of this process: its id, signals and exit code are its own.
// A word on the pipe means "let it live"; end of file without a word means that this process is gone or done with it.
const killGroupOnEof =
  '{ trap "" HUP INT TERM; read -r word || kill -KILL 0; } <&3 >/dev/null 2>&1 & exec "$@" 3<&-';

/** Ends every process of a group; a missing group is no error. */
export function killGroup(group: number): void {
  try {
    process.kill(-group, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

function inheritedEnvironment(): Record<string, string> {
  const wanted = /^(PATH|SSL_CERT_(FILE|DIR)|(HTTPS?|NO|ALL)_PROXY)$/i;
  return Object.fromEntries(
    Object.entries(directLoopback(process.env)).flatMap(([key, value]) =>
      wanted.test(key) && value !== undefined ? [[key, value]] : [],
    ),
  );
}
