import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, existsSync, readdirSync, watch } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { keep, stopKept } from "../../rehearsal/kept";
import { Rehearsal } from "../../rehearsal/rehearsal";
import { fakeGo, fakeTools, temporaryDirectory, withEnvironment } from "./temporary";

const project = join(__dirname, "..", "..");

/** An environment in which every tool sleeps, and a Go that builds such tools and answers for modules as it is told. */
function surroundings({ build = "", modules = "exec sleep 60" }) {
  const script = `if [ "$1" = mod ]; then ${modules}; fi
${fakeGo("#!/bin/sh\\nexec sleep 60\\n", build)}`;
  return { ...fakeTools({ go: script }), TMPDIR: temporaryDirectory(), PLATFORM_BUILD_TOOLS: "true" };
}

/** What is in a temporary directory, but for what Node keeps compiled. */
const leftIn = (directory: string) => readdirSync(directory).filter((name) => !name.startsWith("v8-compile"));

async function until(what: string, condition: () => boolean): Promise<void> {
  const end = Date.now() + 20_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`not ${what}`);
    await sleep(20);
  }
}

describe("rehearsal that is starting", function () {
  this.timeout(60_000);

  for (const [signal, delay] of [
    ["SIGINT", 0],
    ["SIGTERM", 300],
    ["SIGINT", 1_000],
  ] as const) {
    it(`leaves no directory behind on ${signal} after ${delay} ms`, async () => {
      const env = surroundings({});
      const watcher = watch(env.TMPDIR);
      const child = spawn(
        process.execPath,
        ["-r", "ts-node/register/transpile-only", join("commands", "main.ts"), "rehearse", "local"],
        { cwd: project, env: { ...process.env, ...env }, stdio: "ignore" },
      );
      const exited = once(child, "exit");
      watcher.on("change", (_, name) => {
        if (String(name).startsWith("platform-rehearsal-")) setTimeout(() => child.kill(signal), delay);
      });
      deepEqual(await exited, [signal === "SIGINT" ? 130 : 143, null]);
      watcher.close();
      await until("empty", () => leftIn(env.TMPDIR).length === 0);
      // What the program writes while it loads would come back.
      await sleep(4_000);
      deepEqual(leftIn(env.TMPDIR), []);
    });
  }

  it("leaves no build behind on SIGTERM", async () => {
    const cache = temporaryDirectory();
    const env = { ...surroundings({ build: `echo $$ > ${cache}/go; exec sleep 60` }), XDG_CACHE_HOME: cache };
    const child = spawn(
      process.execPath,
      ["-r", "ts-node/register/transpile-only", join("commands", "main.ts"), "rehearse", "local"],
      { cwd: project, env: { ...process.env, ...env }, stdio: "ignore" },
    );
    const exited = once(child, "exit");
    await until("building", () => existsSync(join(cache, "go")));
    child.kill("SIGTERM");
    await exited;
    equal(existsSync(join(cache, "platform", "tools", "building")), false);
    deepEqual(leftIn(env.TMPDIR), []);
  });

  it("leaves no process and no directory behind when its charts are not available", async () => {
    const env = surroundings({ modules: "sleep 1; echo no >&2; exit 1" });
    await withEnvironment(env, () =>
      rejects(
        Rehearsal.start({ stack: "local", project, report: () => undefined }),
        /^Error: Downloading module/,
      ),
    );
    deepEqual(leftIn(env.TMPDIR), []);
    // The shell that watches the directory ends a moment later.
    await until(
      "without processes",
      () => !execFileSync("ps", ["-eo", "args="], { encoding: "utf8" }).includes(env.TMPDIR),
    );
  });
});

describe("rehearsals that are kept", function () {
  this.timeout(60_000);

  it("are one for each checkout, each with an end of its own", async () => {
    const other = temporaryDirectory();
    for (const file of ["Pulumi.yaml", "Pulumi.local.yaml"])
      copyFileSync(join(project, file), join(other, file));
    await mkdir(join(other, "gitops"));
    await withEnvironment(surroundings({ build: "exec sleep 60" }), async () => {
      const begin = (of: string) =>
        keep({ stack: "local", project: of }, { report: () => undefined }, () => undefined).then(
          () => "Ready",
          (error: unknown) => (error as Error).message,
        );
      const kept = [begin(project), begin(project), begin(other)];
      match(
        await Promise.race(kept),
        /^Rehearsing stack "local" failed: the rehearsal of stack "local" is kept running \(pid \d+\)\./,
      );
      match(await stopKept(other), /is stopped/);
      equal(await stopKept(other), "Nothing is running.\n");
      match(await stopKept(project), /is stopped/);
      equal(await stopKept(project), "Nothing is running.\n");
      const ends = (await Promise.all(kept)).filter((end) => !end.includes("kept running"));
      deepEqual(
        ends.map((end) => /^Rehearsing stack "local" ended with (SIGTERM|exit code 143)\.$/.test(end)),
        [true, true],
      );
    });
  });
});
