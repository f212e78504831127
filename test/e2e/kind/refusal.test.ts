import { equal, match, ok } from "node:assert/strict";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import type { Stack } from "@pulumi/pulumi/automation";
import { ownerLabel } from "../../../clients/docker/ownership";
import { nodeName, owner, registryName, registryPort, stackName, type Machine } from "./machine";
import { suiteOnKind } from "./suite";

suiteOnKind("pulumi up on Kind, of something bad", (prepared) => {
  let machine: Machine;
  let stack: Stack;

  before(async () => {
    machine = prepared();
    stack = await machine.stack();
  });

  /** Runs `pulumi up`, which must fail, and returns the sentences that it told. */
  async function refused(): Promise<string> {
    try {
      await stack.up({ color: "never" });
    } catch (error) {
      const { message } = error as Error;
      ok(!/^\s+at .*\.(ts|js):\d+/m.test(message.replace(/\n {4}at .*automation[^]*/, "")), message);
      return message;
    }
    throw new Error("The run succeeded.");
  }

  async function converges(): Promise<void> {
    const { outputs } = await stack.up({ color: "never" });
    equal(outputs.ready?.value, true);
  }

  async function nothingWasMade(): Promise<void> {
    const filter = ["--filter", `label=${ownerLabel}=${owner}`];
    equal(await machine.run("docker", "ps", "--all", "--quiet", ...filter), "");
  }

  describe("before anything is made", () => {
    it("a port that is taken", async () => {
      const server = createServer().listen(registryPort, "127.0.0.1");
      try {
        match(
          await refused(),
          /error: Port 5070 on 127\.0\.0\.1 is in use: platform-offline-registry needs it\. Stop the program that listens there, or set platform:registry\.port\.$/m,
        );
      } finally {
        server.close();
      }
      await nothingWasMade();
    });

    it("a cluster of that name which somebody else made", async () => {
      const label = `io.x-k8s.kind.cluster=${stackName}`;
      await machine.run(
        ...(["docker", "create", "--name", nodeName, "--label", label] as const),
        machine.world.registryImage,
      );
      try {
        match(
          await refused(),
          /error: A Kind cluster "offline" is there and is not of "platform\/offline" \(its node offline-control-plane lacks the label platform\.pulumi\.com\/owner\)\. Set platform:cluster\.name to another name, or delete it with "kind delete cluster --name offline"\.$/m,
        );
      } finally {
        await machine.run("docker", "rm", nodeName);
      }
      await nothingWasMade();
    });

    it("limits of inotify that are too low", async () => {
      const file = "/proc/sys/fs/inotify/max_user_instances";
      const before = readFileSync(file, "utf8");
      writeFileSync(file, "128");
      try {
        match(
          await refused(),
          /error: fs\.inotify\.max_user_instances is 128: Cilium and the kubelet need 512\. Run "sudo sysctl fs\.inotify\.max_user_instances=512"\.$/m,
        );
      } finally {
        writeFileSync(file, before);
      }
      await nothingWasMade();
    });

    it("a volume of that name which somebody else made", async () => {
      await machine.run("docker", "volume", "rm", registryName);
      await machine.run("docker", "volume", "create", registryName);
      try {
        match(
          await refused(),
          /error: A volume "platform-offline-registry" is there and is not of "platform\/offline"/,
        );
      } finally {
        await machine.run("docker", "volume", "rm", registryName);
        await machine.fillRegistry();
      }
      await nothingWasMade();
    });
  });

  describe("while it is made", () => {
    it("a node image that does not exist, and the next good run converges", async () => {
      machine.configure({ cluster: { nodeImage: "platform.test/none:1" } });
      match(
        await refused(),
        /error: Creating Kind cluster "offline" failed: .*platform\.test\/none:1.* Load "platform\.test\/none:1" into the Docker Engine \("docker load"\): platform:registry\.airGapped forbids to pull it\.$/m,
      );
      machine.configure();
      await converges();
    });

    it("a volume of the registry that is full, and the next good run converges", async () => {
      // The cluster has its images by now; only what is released has to find room.
      await machine.removeRegistry();
      await machine.run(
        ...([
          "docker",
          "volume",
          "create",
          "--label",
          `${ownerLabel}=${owner}`,
          "--driver",
          "local",
        ] as const),
        ...["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=16k", registryName],
      );
      match(
        await refused(),
        /error: Pushing sha256:[0-9a-f]{64} to 127\.0\.0\.1:5070\/platform failed: the registry (?:has no space left|kept only a part of a blob, as a registry without space does)\. Free space on the disk that holds its volume, such as with "docker system prune", and run again\.$/m,
      );
      await machine.removeRegistry();
      await machine.fillRegistry();
      await converges();
    });
  });

  describe("while it is there", () => {
    it("a Docker Engine that does not run, and the next good run converges", async () => {
      const { DOCKER_HOST } = machine.env;
      machine.env.DOCKER_HOST = "unix:///nonexistent/docker.sock";
      stack = await machine.stack();
      match(
        await refused(),
        /the engine does not answer \(.*\)\. Start it, let this user reach it, and run again\./,
      );
      if (DOCKER_HOST === undefined) delete machine.env.DOCKER_HOST;
      else machine.env.DOCKER_HOST = DOCKER_HOST;
      stack = await machine.stack();
      await converges();
    });

    it("a cluster that is paused while the gate waits, and the next good run converges", async () => {
      await converges();
      appendFileSync(join(machine.project, "gitops/bases/apps/whoami/service.yaml"), "# changed\n");
      let paused: Promise<unknown> | undefined;
      const failure = stack
        .up({
          color: "never",
          onOutput: (text) => {
            if (/release-gate updating/.test(text)) paused ??= machine.run("docker", "pause", nodeName);
          },
        })
        .then(
          () => "",
          (error: unknown) => (error as Error).message,
        );
      match(
        await failure,
        /error: Releasing sha256:[0-9a-f]{64} to channel "offline" failed: .*the API server at \S+ does not answer \(.*\)/,
      );
      await paused;
      await machine.run("docker", "unpause", nodeName);
      await converges();
    });
  });
});
