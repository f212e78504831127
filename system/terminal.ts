import { spawn } from "node:child_process";
import { constants } from "node:os";

/** A Go program that holds secrets dumps its core on no signal, unless this variable tells it to. */
export const noCore = { GOTRACEBACK: undefined };

/** Options of a command on a terminal. */
export interface TerminalOptions {
  /** Working directory. @default the process's own */
  readonly cwd?: string;
  /** Its whole environment. */
  readonly env: NodeJS.ProcessEnv;
  /** Receives the command's process id. */
  readonly onStart?: (pid: number) => void;
}

/**
 * Runs a command on this terminal; resolves with its exit code when it has ended, 128 and the signal's number after a
 * signal.
 */
export function onTerminal(
  command: string,
  args: readonly string[],
  { onStart, ...options }: TerminalOptions,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, [...args], {
      ...options,
      env: { ...options.env, ...noCore },
      stdio: "inherit",
    });
    if (child.pid !== undefined) onStart?.(child.pid);
    // Ctrl-C reaches the child too, which ends in its own time. Other signals reach only this process.
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
