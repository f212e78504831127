import { equal } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ScratchDirectory } from "../../system/scratch-directory";
import { temporaryDirectory } from "./temporary";

describe("scratch directory", () => {
  it("is removed though its guard was killed, as when memory runs out", async () => {
    const directory = new ScratchDirectory(join(temporaryDirectory(), "scratch"));
    const guard = Number(execFileSync("pgrep", ["-f", `sh ${directory.path}$`], { encoding: "utf8" }));
    process.kill(guard, "SIGKILL");
    // It is gone before this process hears of it, and what is written now breaks the pipe.
    execFileSync("sleep", ["0.2"]);
    directory.usedBy(1);
    await directory.remove();
    await sleep(100);
    equal(existsSync(directory.path), false);
  });
});
