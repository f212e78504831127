import { execFile, spawn, type ChildProcess } from "node:child_process";
import { existsSync, fstatSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, join } from "node:path";
import type { Writable } from "node:stream";
import { cacheDirectory } from "../tools/cache";

/** How a command is run. */
export interface RunOptions {
  /** Text for standard input: the way for secrets, which must never be arguments. */
  readonly input?: string;
  /** Working directory. @default the process's own */
  readonly cwd?: string;
  /** Variables added to the process's environment; undefined takes one away. @default none */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Deadline in milliseconds. @default 120 000 */
  readonly timeout?: number;
}

/** A program in Go that holds secrets dumps its core on no signal, unless this variable asks it to. */
const noCore = { GOTRACEBACK: undefined };

/**
 * Runs an official tool and returns its standard output.
 *
 * The pinned tools that `tools/` builds come first on PATH. The arguments are an array: no shell reads them.
 *
 * Plain `Error`s only: a subclass of a built-in loses its message when Pulumi serialises a provider.
 *
 * @throws Error with one sentence: the command, why it failed, what to do when it is missing. Its `cause` is
 *   what the command wrote to standard error, whole.
 */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const running = endWithEngine();
  const path = [join(cacheDirectory(process.env), "bin"), process.env.PATH ?? ""].join(delimiter);
  return new Promise((resolve, reject) => {
    const child = execFile(
      command,
      [...args],
      {
        cwd: options.cwd,
        env: { ...process.env, ...noCore, ...options.env, PATH: path },
        timeout: options.timeout ?? 120_000,
        maxBuffer: 256 * 1024 * 1024,
      },
      (error, stdout, stderr) => {
        running.delete(child);
        if (error === null) {
          resolve(stdout);
          return;
        }
        const subject = [command, ...args.slice(0, 2)].join(" ");
        if (options.cwd !== undefined && !existsSync(options.cwd)) {
          reject(new Error(`"${subject}" failed: its working directory ${options.cwd} does not exist.`));
        } else if ((error as NodeJS.ErrnoException).code === "ENOENT") {
          reject(
            new Error(
              `Unable to execute "${command}": it is not on PATH. Run "npm run tools", or install it.`,
            ),
          );
        } else if (error.killed === true) {
          reject(new Error(`"${subject}" was stopped: it took longer than its deadline.`, { cause: stderr }));
        } else {
          const said = (stderr.trim() || stdout.trim() || error.message).split("\n").slice(-6).join(" ");
          reject(new Error(`"${subject}" failed: ${said}`, { cause: stderr }));
        }
      },
    );
    running.add(child);
    // A tool that exits before it has read its input closes the pipe; its exit code tells the story.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(options.input ?? "");
  });
}

/**
 * Ends this process, and the commands that it runs, as soon as Pulumi's engine is gone: a provider whose engine was
 * killed would go on, and undo behind the back of the next run what that run does.
 *
 * The engine holds the other end of a provider's standard input. Providers are serialised, so what is kept for the
 * process is kept in `globalThis`.
 *
 * @returns the commands that run
 */
function endWithEngine(): Set<ChildProcess> {
  const shared = globalThis as { platformCommands?: Set<ChildProcess> };
  if (shared.platformCommands !== undefined) return shared.platformCommands;
  const running = (shared.platformCommands = new Set<ChildProcess>());
  if ((process.argv[1] ?? "").includes("dynamic-provider") && fstatSync(0).isFIFO()) {
    process.stdin.resume().once("end", () => {
      for (const child of running) child.kill("SIGKILL");
      process.exit(1);
    });
  }
  return running;
}

/** How a command is run on a terminal. */
export interface TerminalOptions {
  /** Working directory. @default the process's own */
  readonly cwd?: string;
  /** Its whole environment. */
  readonly env: NodeJS.ProcessEnv;
  /** A pipe that the command holds an end of. @default none */
  readonly lifeline?: Writable;
}

/**
 * Runs a command on this terminal; resolves with its exit code when it has ended, 128 and the signal's number after a
 * signal.
 */
export function onTerminal(
  command: string,
  args: readonly string[],
  { lifeline, ...options }: TerminalOptions,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, [...args], {
      ...options,
      env: { ...options.env, ...noCore },
      stdio: ["inherit", "inherit", "inherit", ...(lifeline === undefined ? [] : [lifeline])],
    });
    // Ctrl-C reaches the child too, which ends in its own time. Other signals are sent to this process alone.
    const ignore = () => undefined;
    const forward = (signal: NodeJS.Signals) => child.kill(signal);
    process.on("SIGINT", ignore).on("SIGTERM", forward).on("SIGHUP", forward);
    const settle = () => {
      process.off("SIGINT", ignore).off("SIGTERM", forward).off("SIGHUP", forward);
    };
    child.once("error", (error) => {
      settle();
      reject(error);
    });
    child.once("exit", (code, signal) => {
      settle();
      resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal]));
    });
  });
}
