import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Stack } from "@pulumi/pulumi/automation";
import { ownerLabel } from "../../../clients/docker/ownership";
import { Figures } from "./figures";
import { nodeName, owner, registryName, stackName, type Machine } from "./machine";
import { faults, remains } from "./platform-check";
import { suiteOnKind } from "./suite";

/** How often each loss is suffered: three give a minimum, a median and a maximum. */
const rounds = Number(process.env.KIND_ROUNDS ?? 3);

suiteOnKind("pulumi up on Kind", (prepared) => {
  const figures = new Figures();
  let machine: Machine;
  let stack: Stack;

  before(async () => {
    machine = prepared();
    machine.configure({ hooks: { afterReady: ['echo "$PLATFORM_STACK $PLATFORM_DIGEST" >> hooks.log'] } });
    stack = await machine.stack();
  });

  after(() => {
    if (figures.taken) console.log(figures.table());
  });

  /** Runs `pulumi up` once, without flags, and checks that the platform is whole. */
  async function up(what: string): Promise<Record<string, number>> {
    const { outputs, summary } = await figures.time(what, () => stack.up({ color: "never" }));
    equal(outputs.ready?.value, true);
    deepEqual(await faults(machine, outputs.digest?.value as string), []);
    return summary.resourceChanges ?? {};
  }

  /** Seconds from the start of the node's container until Kubernetes called the node Ready, to the second. */
  async function secondsToNodeReady(): Promise<number> {
    const made = await machine.run("docker", "inspect", "--format", "{{.Created}}", nodeName);
    const ready = await machine.kubectl(
      ...["get", "node", nodeName, "-o"],
      'jsonpath={.status.conditions[?(@.type=="Ready")].lastTransitionTime}',
    );
    return (Date.parse(ready) - Date.parse(made.trim())) / 1000;
  }

  describe("from nothing", () => {
    for (let round = 1; round <= rounds; round++) {
      it(`brings every layer to Ready (${round} of ${rounds})`, async () => {
        if (round > 1) {
          await stack.destroy();
        }
        await up("up from nothing");
        figures.add("of which Kind: container made to node Ready", await secondsToNodeReady());
      });
    }

    // The CLI itself: the Automation API asks for outputs and history after each run.
    for (const [what, command, ...args] of [
      ["pulumi up --skip-preview", "pulumi", "up", "--yes", "--skip-preview"],
      ["pulumi up, its preview included", "pulumi", "up", "--yes"],
      [
        "npx platform up, the doctor and a preview included",
        "node",
        ...["-r", "ts-node/register/transpile-only", "commands/main.ts", "up", "--yes"],
      ],
    ] as const) {
      it(`finds nothing to do the next time, with ${what}`, async () => {
        for (let round = 1; round <= rounds; round++) {
          const printed = await figures.time(`nothing to do: ${what}`, () =>
            machine.run(command, ...args, "--stack", stackName, "--color", "never"),
          );
          match(printed, /\nResources:\n +\d+ unchanged\n\nDuration: \w+\n*$/);
        }
      });
    }

    it("runs a hook once for each release", async () => {
      const lines = (await readFile(join(machine.project, "hooks.log"), "utf8")).trim().split("\n");
      equal(lines.length, rounds);
      for (const line of lines) match(line, /^offline sha256:[0-9a-f]{64}$/);
    });

    it("previews no change", async () => {
      for (let round = 1; round <= rounds; round++) {
        const { changeSummary } = await figures.time("preview with nothing to do", () =>
          stack.preview({ color: "never" }),
        );
        deepEqual(Object.keys(changeSummary), ["same"]);
      }
    });
  });

  describe("on this machine", () => {
    it("shows its ports on 127.0.0.1 only", async () => {
      const ports = await machine.run("docker", "ps", "--format", "{{.Names}} {{.Ports}}");
      const own = ports.split("\n").filter((line) => line.includes(stackName));
      ok(own.length >= 4, ports);
      for (const line of own) match(line, /^\S+ (127\.0\.0\.1:\d+->\d+\/tcp(, )?)+(, 5000\/tcp)?$/);
    });

    it("labels every container, the network and the volume as its own", async () => {
      const filter = ["--filter", `label=${ownerLabel}=${owner}`, "--format", "{{.Names}}"];
      const names = (await machine.run("docker", "ps", ...filter)).trim().split("\n").sort();
      deepEqual(names, [nodeName, registryName, `${registryName}-docker.io`, `${registryName}-ghcr.io`]);
      for (const [kind, name] of [
        ["network", `platform-${stackName}`],
        ["volume", registryName],
      ] as const) {
        const label = `{{index .Labels "${ownerLabel}"}}`;
        equal((await machine.run("docker", kind, "inspect", "--format", label, name)).trim(), owner);
      }
    });

    it("leaves the user's own kubeconfig alone", async () => {
      await rejects(machine.run("cat", machine.env.KUBECONFIG ?? ""), /No such file/);
    });

    it("writes who changed what into the audit log, without the values of Secrets", async () => {
      const log = await machine.run(
        "cat",
        join(machine.directory, "state", "platform", stackName, "audit", "audit.log"),
      );
      match(log, /"resource":"secrets".*"name":"sops-age"/);
      ok(!log.includes("requestObject"), "the audit log holds the bodies of requests");
    });

    it("refuses a pod of a namespace without a level that baseline forbids", async () => {
      await machine.kubectl("create", "namespace", "unlabelled");
      const privileged = '{"spec":{"hostNetwork":true}}';
      await rejects(
        machine.kubectl("-n", "unlabelled", "run", "bad", "--image=x", `--overrides=${privileged}`),
        /violates PodSecurity "baseline:latest"/,
      );
      await machine.kubectl("delete", "namespace", "unlabelled");
    });
  });

  describe("after the loss of", () => {
    const losses: Record<string, () => Promise<unknown>> = {
      "the cluster": () => machine.run("kind", "delete", "cluster", "--name", stackName),
      "the registry": () => machine.run("docker", "rm", "--force", registryName),
      "the registry and its volume": async () => {
        await machine.removeRegistry();
        await machine.fillRegistry();
      },
      "namespace flux-system": () => machine.kubectl("delete", "namespace", "flux-system", "--wait=false"),
      "secret sops-age": () => machine.kubectl("-n", "flux-system", "delete", "secret", "sops-age"),
      "the running of its containers": () => machine.run("docker", "stop", nodeName, registryName),
      "Pulumi's state": async () => {
        rmSync(join(machine.directory, "pulumi", ".pulumi"), { recursive: true });
        stack = await machine.stack();
      },
      "all but Git, the identity and the stack's config": async () => {
        await machine.wipe();
        rmSync(join(machine.directory, "pulumi", ".pulumi"), { recursive: true });
        await machine.fillRegistry();
        stack = await machine.stack();
      },
    };
    for (const [what, lose] of Object.entries(losses)) {
      it(`${what}, the same command restores every layer`, async () => {
        for (let round = 1; round <= rounds; round++) {
          await lose();
          await up(`up after the loss of ${what}`);
        }
      });
    }
  });

  describe("changes of the cluster's settings", () => {
    const contexts = () => machine.run("kubectl", "config", "get-contexts", "--output", "name");

    it("adds the cluster to the user's own kubeconfig, in place", async () => {
      machine.configure({ cluster: { kubeconfig: "merge" } });
      const changes = await up("up with another setting");
      equal(changes.update, 1);
      equal(changes.replace ?? changes["create-replacement"], undefined);
      match(await contexts(), /^kind-offline$/m);
    });

    it("refuses in a preview to replace the cluster for another subnet, and says why it would when it may", async () => {
      const another = { kubeconfig: "merge", serviceSubnet: "10.97.0.0/16" };
      machine.configure({ cluster: another });
      await rejects(
        stack.preview({ color: "never" }),
        /Replacing Kind cluster "offline" was refused: all that its volumes hold would be lost, because Kind cannot change in place networking\.serviceSubnet: "10\.96\.0\.0\/16" → "10\.97\.0\.0\/16"\./,
      );
      machine.configure({ cluster: { ...another, allowReplace: true } });
      const { stdout, stderr } = await stack.preview({ color: "never" });
      match(
        stdout + stderr,
        /Kind cluster "offline" is replaced, with all that its volumes hold: Kind cannot change in place networking\.serviceSubnet: "10\.96\.0\.0\/16" → "10\.97\.0\.0\/16"\./,
      );
      machine.configure({ cluster: { kubeconfig: "merge" } });
    });
  });

  describe("destroy", () => {
    it("leaves nothing but the volume that is to be retained", async () => {
      await figures.time("destroy", () => stack.destroy({ color: "never" }));
      deepEqual(await remains(machine), [`volume ${registryName}`]);
      const contexts = await machine.run("kubectl", "config", "get-contexts", "--output", "name");
      ok(!contexts.includes("offline"), contexts);
    });

    it("leaves no volume when none is to be retained", async () => {
      machine.configure({ registry: { retain: false } });
      await up("up from nothing");
      await figures.time("destroy", () => stack.destroy({ color: "never" }));
      deepEqual(await remains(machine), []);
    });
  });
});
