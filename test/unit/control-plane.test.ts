import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ControlPlane, controlPlaneTools, type ControlPlaneTool } from "../../rehearsal/control-plane";
import { identify } from "../../system/process-identity";

describe("control plane", () => {
  let parent: string;
  let directory: string;

  beforeEach(() => {
    parent = mkdtempSync(join(tmpdir(), "control-plane-test-"));
    directory = join(parent, "state");
  });

  afterEach(() => {
    rmSync(parent, { recursive: true, force: true });
  });

  /** Programs that only sleep, but for one that does what the script says. */
  function tools(script: string, program: ControlPlaneTool = "etcd"): Record<ControlPlaneTool, string> {
    const bin = join(parent, "bin");
    mkdirSync(bin);
    const entries = controlPlaneTools.map((name) => {
      const does = name === program ? script : name === "etcd" ? fakeEtcd : "exec sleep 60";
      writeFileSync(join(bin, name), `#!/bin/sh\n${does}\n`, { mode: 0o755 });
      return [name, join(bin, name)];
    });
    return Object.fromEntries(entries) as Record<ControlPlaneTool, string>;
  }

  /** Says on its socket that it is ready. */
  const fakeEtcd = `exec "${process.execPath}" -e 'require("node:http").createServer((_, response) => response.end()).listen("etcd-socket")'`;

  const start = (etcd: string) => ControlPlane.start({ directory, tools: tools(etcd) });

  it("stops when it is told so while it starts, and leaves no process and no directory", async () => {
    const stop = new AbortController();
    const started = join(parent, "started");
    const starting = ControlPlane.start({
      ...{ directory, signal: stop.signal },
      tools: tools(`echo $$ >${started}.new; mv ${started}.new ${started}; exec sleep 60`),
    });
    const rejected = rejects(starting);
    while (!existsSync(started)) await sleep(20);
    stop.abort();
    await rejected;
    equal(identify(Number(readFileSync(started, "utf8"))), undefined);
    equal(existsSync(directory), false);
  });

  it("lets nobody else of this machine at its etcd, which asks nobody who they are", async () => {
    const [etcd, apiServer] = [join(parent, "etcd.args"), join(parent, "apiserver.args")];
    const programs = tools(`echo "$*" >"${apiServer}"; exit 9`, "kube-apiserver");
    writeFileSync(programs.etcd, `#!/bin/sh\necho "$*" >"${etcd}"; ls -ld . >>"${etcd}"; ${fakeEtcd}\n`);
    await rejects(ControlPlane.start({ directory, tools: programs }), /Starting kube-apiserver/);
    const told = readFileSync(etcd, "utf8");
    match(told, /^drwx------ /m);
    const urls = [
      ...told.matchAll(/--[a-z-]*urls=(\S+)/g),
      ...readFileSync(apiServer, "utf8").matchAll(/--etcd-servers=(\S+)/g),
    ];
    deepEqual(
      urls.map(([, url = ""]) => url.replace(/^unix:\/\/[\w-]+$/, "a socket in the directory")),
      Array(5).fill("a socket in the directory"),
    );
  });

  it("says which program failed and why, and leaves no process and no directory", async () => {
    await rejects(start("echo out of luck; exit 9"), /^ProcessDied: Starting etcd: .*code 9.*out of luck$/);
    equal(existsSync(directory), false);
  });

  it("tries other ports, twice, when one was taken in the meantime", async () => {
    const log = join(parent, "apiserver.args");
    const taken = `echo "$*" >>"${log}"; echo "listen tcp: bind: address already in use"; exit 1`;
    await rejects(
      ControlPlane.start({ directory, tools: tools(taken, "kube-apiserver") }),
      /Starting kube-apiserver: .*address already in use/,
    );
    const ports = readFileSync(log, "utf8")
      .trim()
      .split("\n")
      .map((args) => /--secure-port=(\d+)/.exec(args)?.[1]);
    equal(new Set(ports).size, 3);
    ok(ports.every((port) => Number(port) < 32_768));
    equal(existsSync(directory), false);
  });
});
