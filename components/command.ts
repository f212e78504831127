import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
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
  const path = [join(cacheDirectory(process.env), "bin"), process.env.PATH ?? ""].join(delimiter);
  return new Promise((resolve, reject) => {
    const child = execFile(
      command,
      [...args],
      {
        cwd: options.cwd,
        env: { ...process.env, ...options.env, PATH: path },
        timeout: options.timeout ?? 120_000,
        maxBuffer: 256 * 1024 * 1024,
      },
      (error, stdout, stderr) => {
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
    // A tool that exits before it has read its input closes the pipe; its exit code tells the story.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(options.input ?? "");
  });
}
