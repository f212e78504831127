import { equal, match } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { KubernetesClient } from "../../clients/kubernetes/client";
import { ControlPlane, controlPlaneTools } from "../../rehearsal/control-plane";
import { ensureTools } from "../../tools/tools";

describe("control plane whose processes end unexpectedly", function () {
  this.timeout(300_000);
  const parent = mkdtempSync(join(tmpdir(), "control-plane-"));
  const lines: string[] = [];
  let controlPlane: ControlPlane;

  before(async () => {
    const paths = await ensureTools(controlPlaneTools, { report: console.error });
    // As on a first run: these tools are built while the API server starts.
    const answers = Promise.withResolvers<undefined>();
    const late = (["kube-controller-manager", "kube-scheduler", "kwok"] as const).map(
      (name) => [name, answers.promise.then(() => paths[name])] as const,
    );
    controlPlane = await ControlPlane.start({
      directory: join(parent, "state"),
      tools: { ...paths, ...Object.fromEntries(late) },
      report: (line) => {
        lines.push(line);
        if (line.startsWith("API server answers")) answers.resolve(undefined);
      },
    });
    await controlPlane.ready();
  });

  after(async () => {
    await controlPlane.stop();
    equal(existsSync(join(parent, "state")), false);
    rmSync(parent, { recursive: true });
  });

  /** The ids of a program of this control plane: its arguments name the directory. */
  const pids = (program: string) =>
    execFileSync("ps", ["-eo", "pid=,args="], { encoding: "utf8" })
      .split("\n")
      .filter(
        (line) => line.includes(parent) && line.trim().split(/\s+/)[1]?.endsWith(`/${program}`) === true,
      )
      .map((line) => Number(line.trim().split(/\s+/)[0]));

  it("starts the controller-manager again, which does its work", async () => {
    const [pid = 0] = pids("kube-controller-manager");
    process.kill(pid, "SIGKILL");
    const api = new KubernetesClient(controlPlane.kubeconfig);
    await api.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: "later" } }, "test");
    const account = { apiVersion: "v1", kind: "ServiceAccount", name: "default", namespace: "later" };
    const end = Date.now() + 120_000;
    while ((await api.get(account)) === undefined) {
      if (Date.now() > end) throw new Error(`no ServiceAccount; told: ${lines.join("\n")}`);
      await sleep(100);
    }
    match(
      lines.find((line) => line.startsWith("kube-controller-manager")) ?? "",
      /^kube-controller-manager ended unexpectedly with SIGKILL\. Its last output: .* It is started again\.$/,
    );
    equal(pids("kube-controller-manager").includes(pid), false);
  });

  it("is broken without its etcd, and says so with its last output", async () => {
    for (const pid of pids("etcd")) process.kill(pid, "SIGTERM");
    match(
      (await controlPlane.broken).message,
      /^Rehearsing failed: etcd ended unexpectedly with .* Its last output: /,
    );
  });
});
