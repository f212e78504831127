import { equal, ok, rejects } from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ControlPlane, controlPlaneTools, type ControlPlaneTool } from "../../rehearsal/control-plane";

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

  /** Programs that only sleep, but for an etcd that does what the script says. */
  function tools(etcd: string): Record<ControlPlaneTool, string> {
    const bin = join(parent, "bin");
    mkdirSync(bin);
    const entries = controlPlaneTools.map((name) => {
      const script = name === "etcd" ? etcd : "exec sleep 60";
      writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
      return [name, join(bin, name)];
    });
    return Object.fromEntries(entries) as Record<ControlPlaneTool, string>;
  }

  const start = (etcd: string) => ControlPlane.start({ directory, tools: tools(etcd) });

  it("says which program failed and why, and leaves no process and no directory", async () => {
    await rejects(start("echo out of luck; exit 9"), /^ProcessDied: Starting etcd: .*code 9.*out of luck$/);
    equal(existsSync(directory), false);
  });

  it("tries other ports, twice, when one was taken in the meantime", async () => {
    const log = join(parent, "etcd.args");
    await rejects(
      start(`echo "$*" >>"${log}"; echo "listen tcp: bind: address already in use"; exit 1`),
      /Starting etcd: .*address already in use/,
    );
    const ports = readFileSync(log, "utf8")
      .trim()
      .split("\n")
      .map((args) => /--listen-client-urls=http:\/\/127\.0\.0\.1:(\d+)/.exec(args)?.[1]);
    equal(new Set(ports).size, 3);
    ok(ports.every((port) => Number(port) < 32_768));
    equal(existsSync(directory), false);
  });
});
