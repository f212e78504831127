import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { httpProbe, ProcessDied, ProcessGroup } from "../../system/process";
import { identify } from "../../system/process-identity";

const root = join(__dirname, "../..");

describe("process group", function () {
  this.timeout(10_000);
  let parent: string;
  let directory: string;
  let group: ProcessGroup | undefined;

  beforeEach(() => {
    parent = mkdtempSync(join(tmpdir(), "process-test-"));
    directory = join(parent, "group");
    group = undefined;
  });

  afterEach(async () => {
    await group?.stop(0);
    rmSync(parent, { recursive: true, force: true });
  });

  const shell = (name: string, script: string) => ({ name, command: "/bin/sh", args: ["-c", script] });
  const alive = (pid: number) => identify(pid) !== undefined;
  /** A process that writes the id of a child of its own to a file. */
  const family = 'sleep 60 & echo $! >"$1"; wait';

  async function until(what: string, condition: () => boolean): Promise<void> {
    const end = Date.now() + 5_000;
    while (!condition()) {
      if (Date.now() > end) throw new Error(`not ${what}`);
      await sleep(10);
    }
  }

  async function read(path: string): Promise<string> {
    await until(`written: ${path}`, () => existsSync(path) && readFileSync(path, "utf8").endsWith("\n"));
    return readFileSync(path, "utf8").trim();
  }

  /** Another Node process that starts a group with a family in it and then runs `then`; its ids are [own, parent's, child's]. */
  async function supervisor(
    then: string,
  ): Promise<{ kill: (signal: NodeJS.Signals) => void; pids: [number, number]; exited: Promise<unknown> }> {
    const script = `
      const { ProcessGroup } = require(${JSON.stringify(join(root, "system/process"))});
      const group = new ProcessGroup(${JSON.stringify(directory)});
      const args = ["-c", ${JSON.stringify(family)}, "sh", ${JSON.stringify(join(parent, "child"))}];
      const started = group.start({ name: "family", command: "/bin/sh", args });
      require("node:fs").writeFileSync(${JSON.stringify(join(parent, "parent"))}, started.pid + "\\n");
      ${then}`;
    const node = spawn(process.execPath, ["-r", "ts-node/register/transpile-only", "-e", script], {
      cwd: root,
    });
    const exited = once(node, "exit");
    const pids: [number, number] = [
      Number(await read(join(parent, "parent"))),
      Number(await read(join(parent, "child"))),
    ];
    return { kill: (signal) => void node.kill(signal), pids, exited };
  }

  for (const signal of ["SIGKILL", "SIGINT", "SIGTERM"] as const)
    it(`dies with its parent, children's children and directory too, on ${signal}`, async () => {
      const { kill, pids } = await supervisor("");
      ok(pids.every(alive));
      kill(signal);
      await until("all dead", () => !pids.some(alive));
      await until("removed", () => !existsSync(directory));
    });

  it("dies with a parent that throws", async () => {
    const { pids } = await supervisor("setTimeout(() => { throw new Error('x') }, 300)");
    await until("all dead", () => !pids.some(alive));
    await until("removed", () => !existsSync(directory));
  });

  it("dies with a parent that is killed while it starts a program", async () => {
    const { pids } = await supervisor("process.kill(process.pid, 'SIGKILL')").catch(() => ({ pids: [] }));
    await until("all dead", () => !pids.some(alive) && !existsSync(directory));
  });

  it("is stopped with its directory, and what its programs started", async () => {
    group = new ProcessGroup(directory);
    equal(statSync(directory).mode & 0o777, 0o700);
    const child = join(parent, "child");
    const { pid } = group.start({ name: "family", command: "/bin/sh", args: ["-c", family, "sh", child] });
    const pids = [pid, Number(await read(child))];
    await group.stop();
    await until("all dead", () => !pids.some(alive));
    equal(existsSync(directory), false);
  });

  it("kills a program that ignores SIGTERM", async () => {
    group = new ProcessGroup(directory);
    const stubborn = group.start(shell("stubborn", 'trap "" TERM; echo up; while :; do sleep 1; done'));
    await stubborn.ready(() => Promise.resolve(readFileSync(stubborn.logPath, "utf8") === "up\n"));
    await stubborn.stop(50);
    equal(await stubborn.ended, "SIGKILL");
  });

  it("lets a program end in its own way within the grace", async () => {
    group = new ProcessGroup(directory);
    const polite = group.start(shell("polite", 'trap "exit 7" TERM; echo up; while :; do sleep 0.02; done'));
    await polite.ready(() => Promise.resolve(readFileSync(polite.logPath, "utf8") === "up\n"));
    await polite.stop();
    equal(await polite.ended, "code 7");
  });

  it("says why a program ended before it was ready, with its last output", async () => {
    group = new ProcessGroup(directory);
    const broken = group.start(shell("broken", "echo first; echo bind: address already in use >&2; exit 3"));
    await rejects(
      broken.ready(() => Promise.reject(new Error("refused"))),
      (error: unknown) => {
        ok(error instanceof ProcessDied);
        match(
          error.message,
          /^Starting broken: it ended with code 3 .*first \| bind: address already in use$/,
        );
        match(error.log, /address already in use/);
        return true;
      },
    );
  });

  it("says that a program is not there", async () => {
    group = new ProcessGroup(directory);
    const absent = group.start({ name: "absent", command: "/does/not/exist", args: [] });
    await rejects(
      absent.ready(() => Promise.resolve(false)),
      /^ProcessDied: Starting absent: it ended with code 127 .*\/does\/not\/exist/,
    );
  });

  it("gives up on a program that is never ready", async () => {
    group = new ProcessGroup(directory);
    const slow = group.start(shell("slow", "echo still busy; exec sleep 60"));
    await rejects(
      slow.ready(() => Promise.resolve(false), { deadline: 100 }),
      /^Error: Starting slow: not ready after 0\.1 s\..*still busy/,
    );
  });

  it("starts a program again that ends unexpectedly, and gives up with its last output", async () => {
    group = new ProcessGroup(directory);
    const told: [string, boolean][] = [];
    group.keep(
      shell("fickle", 'echo "no API server"; exit 1'),
      2,
      (sentence, again) => told.push([sentence, again]),
      10,
    );
    await until("given up", () => told.at(-1)?.[1] === false);
    await sleep(100);
    deepEqual(
      told.map(([, again]) => again),
      [true, true, false],
    );
    match(told[0]?.[0] ?? "", /^fickle ended unexpectedly with code 1\. Its last output: no API server$/);
    equal(readFileSync(join(directory, "fickle.log"), "utf8"), "no API server\n".repeat(3));
  });

  it("starts nothing again, and tells nothing, once it is stopped", async () => {
    group = new ProcessGroup(directory);
    const told: string[] = [];
    group.keep(shell("kept", "exec sleep 60"), 5, (sentence) => told.push(sentence), 10);
    group.keep(shell("dead", "exit 1"), 5, () => undefined, 200);
    const [kept] = group.processes;
    await sleep(50);
    await group.stop();
    await sleep(300);
    deepEqual(told, []);
    equal(
      group.processes.find(({ name }) => name === "kept"),
      kept,
    );
    equal(existsSync(directory), false);
  });

  it("passes on no environment but what it needs", async () => {
    group = new ProcessGroup(directory);
    process.env["REHEARSAL_TEST_SECRET"] = "secret";
    try {
      const printer = group.start({ ...shell("printer", "env"), env: { OWN: "value" } });
      await printer.ended;
      const log = readFileSync(printer.logPath, "utf8");
      match(log, /^OWN=value$/m);
      match(log, new RegExp(`^HOME=${directory}$`, "m"));
      equal(log.includes("REHEARSAL_TEST_SECRET"), false);
    } finally {
      delete process.env["REHEARSAL_TEST_SECRET"];
    }
  });

  it("is ready over HTTP when the answer is no error", async () => {
    let status = 503;
    const server = createServer((_, response) => response.writeHead(status).end());
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      const probe = httpProbe({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/readyz` });
      equal(await probe(), false);
      status = 200;
      equal(await probe(), true);
    } finally {
      server.close();
    }
  });
});
