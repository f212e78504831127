import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** The identity of a process, which a later process with the same id does not have. */
export interface ProcessIdentity {
  readonly pid: number;
  /** The start time of the process, from the operating system: clock ticks since boot on Linux, a date elsewhere. */
  readonly started: string;
}

/** The identity of a running process; `undefined` when there is none with this id, or it is a zombie. */
export function identify(pid: number): ProcessIdentity | undefined {
  const started = process.platform === "linux" ? startFromProc(pid) : startFromPs(pid);
  return started === undefined ? undefined : { pid, started };
}

/** Whether exactly this process still runs. */
export function isRunning({ pid, started }: ProcessIdentity): boolean {
  return identify(pid)?.started === started;
}

function startFromProc(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // proc_pid_stat(5): the command, in parentheses, may hold spaces; after it come field 3 (state) and on.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? undefined : fields[22 - 3];
  } catch {
    return undefined;
  }
}

function startFromPs(pid: number): string | undefined {
  try {
    return execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8" }).trim() || undefined;
  } catch {
    return undefined;
  }
}
