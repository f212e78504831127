import { spawn, type ChildProcess } from "node:child_process";
import { mkdirSync } from "node:fs";
import { rm } from "node:fs/promises";

/**
 * A directory for this user alone that does not outlive this process, nor the program that uses it, however they end,
 * SIGKILL included.
 *
 * A shell (1 MB) waits on a pipe from this process. When the pipe closes without the word "done", this process is gone.
 * The shell waits until the program is gone too, and removes the directory. The program itself holds no end of the
 * pipe: its children would inherit that, and some of Pulumi's plugins outlive a Pulumi that was killed.
 */
export class ScratchDirectory {
  private readonly guard: ChildProcess;

  /** @param path absolute, and nobody else's: what comes there within seconds after a kill is removed too */
  constructor(readonly path: string) {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    this.guard = spawn("/bin/sh", ["-c", removeOnEof, "sh", path], {
      ...{ cwd: "/", detached: true, stdio: ["pipe", "ignore", "ignore"] },
    });
    // A guard that was killed, as when memory ran out, reads no word.
    this.guard.once("error", () => undefined).stdin?.on("error", () => undefined);
    this.guard.unref();
  }

  /** Names the program that uses the directory, by its process id: the last one that was named counts. */
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

// A process id may be given to another program: the time of its start tells them apart. What is written while the
// directory is removed is removed again.
const removeOnEof = `
started() { ps -o stat=,lstart= -p "$1" 2>/dev/null | sed -n 's/^[^Z ][^ ]* *//p'; }
while read -r word; do
  [ "$word" = done ] && exit
  pid=$word since=$(started "$word")
done
while [ -n "$since" ] && [ "$(started "$pid")" = "$since" ]; do sleep 0.2; done
n=0
while sleep 0.1; rm -rf -- "$1"; sleep 0.2; [ -e "$1" ] && [ $n -lt 50 ]; do n=$((n + 1)); done`;
