import { spawn, type ChildProcess } from "node:child_process";
import { mkdirSync } from "node:fs";
import { rm } from "node:fs/promises";

/**
 * A directory for this user alone. It outlives neither this process nor the program that uses it, even after a SIGKILL.
 *
 * A shell (1 MB) waits on a pipe from this process. When the pipe closes without the word "done", this process is gone.
 * The shell waits until the program is gone too, and removes the directory. The program itself holds no end of the
 * pipe: its children would inherit that end, and some of Pulumi's plugins outlive a killed Pulumi.
 */
export class ScratchDirectory {
  private readonly guard: ChildProcess;

  /** @param path absolute, and of no other program: the shell also removes files that appear seconds after a kill */
  constructor(readonly path: string) {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    this.guard = spawn("/bin/sh", ["-c", removeOnEof, "sh", path], {
      ...{ cwd: "/", detached: true, stdio: ["pipe", "ignore", "ignore"] },
    });
    // A killed guard, for example after the system ran out of memory, reads no word.
    this.guard.once("error", () => undefined).stdin?.on("error", () => undefined);
    this.guard.unref();
  }

  /** Names the program that uses the directory, by its process id: the last named program counts. */
  usedBy(pid: number): void {
    this.tell(String(pid));
  }

  /** Removes the directory; safe to call twice. */
  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
    this.tell("done");
    this.guard.stdin?.end();
  }

  private tell(word: string): void {
    if (this.guard.stdin?.writable === true) this.guard.stdin.write(`${word}\n`);
  }
}

// Another program may get the process id: the start time tells them apart. The shell removes the directory again if a
// file appears during the removal.
const removeOnEof = `
started() { ps -o stat=,lstart= -p "$1" 2>/dev/null | sed -n 's/^[^Z ][^ ]* *//p'; }
while read -r word; do
  [ "$word" = done ] && exit
  pid=$word since=$(started "$word")
done
while [ -n "$since" ] && [ "$(started "$pid")" = "$since" ]; do sleep 0.2; done
n=0
while sleep 0.1; rm -rf -- "$1"; sleep 0.2; [ -e "$1" ] && [ $n -lt 50 ]; do n=$((n + 1)); done`;
