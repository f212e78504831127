import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { appendFileSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parse } from "yaml";
import { removeStaleLocks } from "../../commands/cli/backend";
import { filesBelow, readNow, Search } from "../e2e/leak-search";
import { nodeName, Platform, registryName, stack } from "./platform";

describe("the real engine", function () {
  this.timeout(300_000);
  let platform: Platform;
  const machine = () => platform.engine.machine;
  const volume = `volume ${registryName}`;

  before(async () => {
    platform = await Platform.start();
  });

  after(async () => {
    await platform.stop();
  });

  /**
   * The run does what its preview shows.
   *
   * @param hidden the operations that the preview shows and the run may find needless, each as a pattern
   * @returns the operations of the run
   */
  async function truthfully(hidden: readonly RegExp[] = []): Promise<readonly string[]> {
    const shown = await platform.preview();
    const { operations } = await platform.up();
    const needless = shown.filter((operation) => !operations.includes(operation));
    deepEqual(
      operations,
      shown.filter((operation) => !needless.includes(operation)),
    );
    deepEqual(
      needless.filter((operation) => !hidden.some((pattern) => pattern.test(operation))),
      [],
    );
    return operations;
  }

  describe("from nothing", () => {
    it("does what the preview shows, and every layer is Ready", async () => {
      const done = await truthfully();
      ok(done.includes("create platform-cluster-kind"), done.join("\n"));
      ok(done.includes("create platform-release-gate"), done.join("\n"));
    });

    it("has nothing to do the next time, and the preview says so", async () => {
      deepEqual(await truthfully(), []);
    });
  });

  describe("a change", () => {
    it("of a file is shown, and released", async () => {
      appendFileSync(join(platform.tree, "bases/apps/whoami/service.yaml"), "# changed\n");
      deepEqual(await truthfully(), [
        "update platform-registry-garbage",
        "update platform-release-artifact",
        "update platform-release-gate",
      ]);
    });

    it("of a setting is shown, and released without the loss of an object", async () => {
      platform.engine.configure({ "platform:domain": "other.localhost" });
      const done = await truthfully();
      ok(done.includes("update platform-runtime"), done.join("\n"));
      deepEqual(
        done.filter((operation) => !operation.startsWith("update ")),
        [],
      );
    });
  });

  describe("after the loss of", () => {
    const removeRegistry = async () => {
      await machine().run("docker", "rm", "--force", registryName);
      await machine().run("docker", "volume", "rm", registryName);
    };
    const inFlux = (kind: string, name: string) => ({
      apiVersion: "v1",
      kind,
      name,
      namespace: "flux-system",
    });
    /** A preview does not know the digest of an artifact that is pushed again. */
    const digest = /^update platform-registry-garbage$/;
    /** A preview does not know the kubeconfig of a cluster that changes. */
    const kubeconfig =
      /^(create-replacement|delete-replaced|replace|update) platform-(kubernetes|runtime|sops-age-secret|flux-system|release-gate|seed-flux|seed-flux-operator)$/;

    const losses: Record<string, { lose: () => unknown; makes: string; hidden?: RegExp }> = {
      "the cluster": {
        lose: () => machine().run("kind", "delete", "cluster", "--name", stack),
        makes: "create platform-cluster-kind",
      },
      "the registry": {
        lose: () => machine().run("docker", "rm", "--force", registryName),
        makes: "create platform-registry-container",
        hidden: digest,
      },
      "the registry and its volume": {
        lose: removeRegistry,
        makes: "create platform-registry-volume",
        hidden: digest,
      },
      "Secret sops-age": {
        lose: () => platform.api.delete(inFlux("Secret", "sops-age")),
        makes: "create platform-sops-age-secret",
      },
      "namespace flux-system": {
        lose: async () => {
          await platform.api.delete({ apiVersion: "v1", kind: "Namespace", name: "flux-system" });
          // Its content goes first.
          while ((await platform.api.get(inFlux("ConfigMap", "platform-runtime"))) !== undefined)
            await sleep(100);
        },
        makes: "create platform-flux-system",
      },
      "the running of the registry": {
        lose: () => machine().run("docker", "stop", registryName),
        makes: "update platform-registry-container",
        hidden: digest,
      },
      "the description of the cluster in its node": {
        lose: () => machine().run("docker", "exec", nodeName, "rm", "-rf", "/kind/platform"),
        makes: "update platform-cluster-kind",
        hidden: kubeconfig,
      },
      "Pulumi's state": {
        lose: () => {
          rmSync(join(platform.engine.stateDirectory, ".pulumi"), { recursive: true });
        },
        makes: "create platform-cluster-kind",
      },
      "everything except Git, the age identity and the settings": {
        lose: async () => {
          await machine().run("kind", "delete", "cluster", "--name", stack);
          await removeRegistry();
          await machine().run("docker", "network", "rm", `platform-${stack}`);
          rmSync(join(platform.engine.stateDirectory, ".pulumi"), { recursive: true });
        },
        makes: "create platform-network",
      },
    };
    for (const [what, { lose, makes, hidden }] of Object.entries(losses)) {
      it(`${what}, the same command does what the preview shows`, async () => {
        await lose();
        const done = await truthfully(hidden === undefined ? [] : [hidden]);
        ok(done.includes(makes), done.join("\n"));
      });
    }

    it("a Secret, refresh takes it out of the state, and the preview shows that it comes back", async () => {
      await platform.api.delete(inFlux("Secret", "sops-age"));
      const { failure, output } = await platform.engine.run("refresh");
      equal(failure, undefined, output);
      const state = platform.state().resources.map(({ urn }) => urn.split("::").at(-1));
      ok(!state.includes("platform-sops-age-secret"), state.join("\n"));
      const done = await truthfully();
      ok(done.includes("create platform-sops-age-secret"), done.join("\n"));
    });

    it("all of these, nothing is left to do", async () => {
      deepEqual(await truthfully(), []);
    });
  });

  describe("the value of a secret", () => {
    it("is in no file of the state, and in nothing that Pulumi printed or reported", async () => {
      const search = new Search();
      const { engine, api } = platform;
      const [key = ""] =
        /AGE-SECRET-KEY-\S+/.exec(readFileSync(join(engine.directory, "rehearsal.agekey"), "utf8")) ?? [];
      search.add({ what: "the age identity", value: key });
      const { users } = parse(machine().kubeconfig(stack) ?? "") as { users: { user: { token: string } }[] };
      search.add({ what: "the token of the kubeconfig", value: users[0]?.user.token ?? "" });
      const whoami = await api.get({ apiVersion: "v1", kind: "Secret", name: "whoami", namespace: "whoami" });
      const { WHOAMI_NAME = "" } = (whoami as unknown as { data: Record<string, string> }).data;
      search.add({ what: "a generated value", value: Buffer.from(WHOAMI_NAME, "base64").toString() });
      for (const { what, value } of search.markers)
        ok(value.length >= 20, `${what} is too short to be searched for`);
      equal(search.markers.length, 3);

      const files = filesBelow(engine.stateDirectory);
      ok(
        files.some((file) => file.endsWith(`${stack}.json`)),
        files.join("\n"),
      );
      for (const file of files) deepEqual(search.in(readNow(file)), [], file);
      ok(platform.said.length > 20);
      for (const text of platform.said) deepEqual(search.in(text), [], text.slice(0, 200));
      // The search can find it.
      equal(search.in(`x${key}`).length, 1);
    });
  });

  describe("two runs at once", () => {
    it("the second is refused, names the lock of the first, and the first is undisturbed", async () => {
      const first = platform.engine.start("up");
      while (platform.locks().length === 0) await sleep(20);
      const second = await platform.engine.run("up");
      match(second.failure ?? "", /the stack is currently locked by 1 lock\(s\)/);
      await rejects(
        removeStaleLocks(platform.engine.stateDirectory, "platform", stack),
        /^Error: Running Pulumi on stack "local" was refused: process \d+ of \S+, since \S+, holds its lock\. /,
      );
      equal((await first.ended).failure, undefined);
      deepEqual(platform.locks(), []);
    });
  });

  describe("killed", () => {
    /** Milliseconds of a whole run, from its first change on. */
    const whole = { up: 0, destroy: 0 };
    let staleLocks = 0;

    async function timed(command: "up" | "destroy"): Promise<void> {
      const run = platform.engine.start(command);
      await run.changes;
      const start = Date.now();
      const { failure, output } = await run.ended;
      equal(failure, undefined, output);
      whole[command] = Date.now() - start;
    }

    /** Kills a run at a part of its way: itself, the program and nothing else. */
    async function kill(command: "up" | "destroy", part: number): Promise<void> {
      const run = platform.engine.start(command);
      await run.changes;
      await sleep(whole[command] * part);
      run.kill();
      await run.ended;
      const removed = await removeStaleLocks(platform.engine.stateDirectory, "platform", stack);
      // A run that was faster than the first one has let go of its lock.
      for (const sentence of removed) match(sentence, /^Removed a stale lock of stack "local": /);
      staleLocks += removed.length;
    }

    before(async () => {
      await timed("destroy");
      deepEqual(machine().holdings(), []);
      await timed("up");
      await platform.gone();
    });

    const moments = Number(process.env.ENGINE_KILLS ?? 10);
    for (let number = 1; number <= moments; number++) {
      // The golden ratio spreads the moments evenly, however many of them there are.
      const part = (number * 0.618034) % 1;
      const at = `after ${Math.round(part * 100)} % (${number} of ${moments})`;

      it(`up, ${at}: the next run converges`, async () => {
        await kill("up", part);
        await platform.up();
      });

      it(`destroy, ${at}: repeated, it leaves nothing`, async () => {
        await kill("destroy", part);
        await platform.gone();
      });
    }

    it("a run leaves its lock behind", () => {
      ok(staleLocks > 0);
    });
  });

  /** State files of earlier versions: commit → what its providers look like in it. */
  const versions = readdirSync(join(__dirname, "states")).map((file) => file.replace(".json", ""));
  for (const version of versions) {
    describe(`the state that commit ${version} left`, () => {
      it("is refreshed when nothing of it exists any more, and the next run makes everything", async () => {
        deepEqual(machine().holdings(), []);
        platform.restore(version);
        const { failure, output } = await platform.engine.run("refresh");
        equal(failure, undefined, output);
        await platform.up();
      });

      it("takes over what exists: nothing is made again, and nothing is left to do", async () => {
        const before = machine().holdings();
        const id = await machine().run("docker", "ps", "--quiet");
        platform.restore(version);
        const { operations } = await platform.up();
        deepEqual(machine().holdings(), before);
        equal(await machine().run("docker", "ps", "--quiet"), id);
        for (const name of ["platform-cluster-kind", "platform-registry-container", "platform-network"])
          ok(
            !operations.some(
              (operation) => /^(create|delete|replace)/.test(operation) && operation.endsWith(` ${name}`),
            ),
            operations.join("\n"),
          );
        deepEqual(await truthfully(), []);
      });

      it("is enough to delete everything", async () => {
        platform.restore(version);
        await platform.gone();
      });
    });
  }

  describe("destroy", () => {
    it(`keeps the registry's ${volume} when the settings say so`, async () => {
      const registry = { kind: "local", port: platform.engine.port, retain: true };
      platform.engine.configure({ "platform:registry": registry });
      await platform.up();
      const { failure, output } = await platform.engine.run("destroy");
      equal(failure, undefined, output);
      deepEqual(machine().holdings(), [volume]);
    });
  });
});
