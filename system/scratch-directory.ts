import { spawn, type ChildProcess } from "node:child_process";
import { mkdirSync } from "node:fs";
import { rm } from "node:fs/promises";
import type { Writable } from "node:stream";

/**
 * A directory for this user alone that does not outlive this process, nor the programs that are given its `lifeline`,
 * however they end, SIGKILL included.
 *
 * A shell (1 MB) waits on a pipe from them. When the last end of the pipe closes without a word, the kernel says that
 * all of them are gone, and the shell removes the directory.
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

  /** One of the `stdio` of a program that uses the directory and may outlive this process. */
  get lifeline(): Writable {
    const { stdin } = this.guard;
    if (stdin === null) throw new Error(`Guarding ${this.path} failed: its guard has no standard input.`);
    return stdin;
  }

  /** Removes the directory; safe to call twice. */
  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
    // A word tells the shell that there is nothing left to remove.
    if (!this.lifeline.writableEnded) this.lifeline.end("done\n");
  }
}

// What is written while it is removed, by processes that die of the same end of file, is removed again.
const removeOnEof =
  'read -r word && exit; n=0; while sleep 0.1; rm -rf -- "$1"; sleep 0.2; [ -e "$1" ] && [ $n -lt 50 ]; do n=$((n + 1)); done';
