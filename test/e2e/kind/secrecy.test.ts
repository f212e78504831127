import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { execFile, execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { parse } from "yaml";
import { KubernetesClient, nameOf, refOf, type ManifestRef } from "../../../clients/kubernetes/client";
import { SopsCli } from "../../../clients/sops/client";
import { filesBelow, objectsOf, readNow, Search, unpacked, Watch } from "../leak-search";
import { registryName, registryPort, stackName, type Machine } from "./machine";
import { suiteOnKind } from "./suite";

const execute = promisify(execFile);
const secret = (name: string, namespace = name): ManifestRef => ({
  ...{ apiVersion: "v1", kind: "Secret", name, namespace },
});
const sopsAge = secret("sops-age", "flux-system");

suiteOnKind("pulumi up on Kind, kept to itself", (prepared) => {
  const search = new Search();
  let machine: Machine;
  let watch: Watch;
  /** What the commands printed. */
  let printed = "";
  /** What a reader of Secret `planted` saw during a rotation. */
  let reads: { done: number; failed: string[] };

  before(async () => {
    machine = prepared();
    machine.configure({ sops: { generate: "empty" } });
    watch = new Watch(search, [join(machine.directory, "tmp"), join(machine.directory, "state"), "/dev/shm"]);
    watch.start();
    const init = await machine.run("commands/platform", "secrets", "init", "--recovery", ...onStack);
    search.add({ what: "the recovery key", value: keysIn(init)[0] ?? "" });
    const value = `m${randomBytes(16).toString("hex")}`;
    search.add({ what: "an added value", value, home: secret("planted", "whoami") });
    await feed(
      `PLANTED=${value}\n`,
      "commands/platform",
      "secrets",
      "add",
      "planted",
      "--namespace",
      "whoami",
      ...onStack,
    );
    noteIdentities();

    const preview = () => platform("preview", ...onStack, "--diff", "--color", "never");
    await preview();
    await platform("up", ...onStack, "--yes", "--skip-preview", "--diff", "--color", "never");
    await noteCluster();
    const reading = readThroughout(value);
    await platform("secrets", "rotate", "--values", "--yes", ...onStack);
    reads = await reading();
    noteIdentities();
    await noteCluster();
    await preview();
    watch.stop();
  });

  const onStack = ["--stack", stackName];
  const keysIn = (text: string): string[] => [...(text.match(/AGE-SECRET-KEY-\S+/g) ?? [])];

  /** Runs one of the project's commands, and keeps what it prints. */
  async function platform(...args: string[]): Promise<void> {
    const running = execute("commands/platform", args, {
      ...{ cwd: machine.project, env: machine.env, maxBuffer: 256 * 1024 * 1024 },
    });
    const { stdout, stderr } = await running.catch((error: unknown) => {
      throw new Error(Object.values(error as object).join("\n"), { cause: error });
    });
    printed += stdout + stderr;
  }

  async function feed(input: string, command: string, ...args: string[]): Promise<void> {
    const running = execute(command, args, { cwd: machine.project, env: machine.env });
    running.child.stdin?.end(input);
    const { stdout, stderr } = await running;
    printed += stdout + stderr;
  }

  /** Reads Secret `planted` again and again, until the function that it returns is called. */
  function readThroughout(value: string): () => Promise<typeof reads> {
    const seen: typeof reads = { done: 0, failed: [] };
    const reading = new AbortController();
    const reader = (async () => {
      const api = new KubernetesClient(await kubeconfig());
      while (!reading.signal.aborted) {
        const found = await api.get(secret("planted", "whoami")).then(
          (object) => Buffer.from((object?.data as { PLANTED: string }).PLANTED, "base64").toString(),
          (error: unknown) => (error as Error).message,
        );
        seen.done++;
        if (found !== value) seen.failed.push(found);
        await sleep(50);
      }
    })();
    return async () => {
      reading.abort();
      await reader;
      return seen;
    };
  }

  function noteIdentities(): void {
    for (const value of keysIn(readFileSync(join(machine.directory, `${stackName}.agekey`), "utf8"))) {
      search.add({ what: "an identity", value, home: sopsAge });
    }
  }

  async function kubeconfig(): Promise<string> {
    return machine.run("kind", "get", "kubeconfig", "--name", stackName);
  }

  /** What nobody may know of the cluster: the value that the stack made up, and the key of the kubeconfig. */
  async function noteCluster(): Promise<void> {
    const password = await machine.kubectl(
      ...["-n", "whoami", "get", "secret", "whoami", "-o", "jsonpath={.data.WHOAMI_NAME}"],
    );
    search.add({
      ...{ what: "a generated value", home: secret("whoami") },
      value: Buffer.from(password, "base64").toString(),
    });
    const { users } = parse(await kubeconfig()) as { users: [{ user: { "client-key-data": string } }] };
    const key = users[0].user["client-key-data"];
    search.add({ what: "the key of the kubeconfig", value: key.slice(200, 400) });
    search.add({
      what: "the same key, decoded",
      value: Buffer.from(key, "base64").toString().split("\n")[2] ?? "",
    });
  }

  it("every secret is known to the test", () => {
    deepEqual(
      search.markers.map(({ what }) => what),
      [
        ...[
          "the recovery key",
          "an added value",
          "an identity",
          "a generated value",
          "the key of the kubeconfig",
        ],
        ...["the same key, decoded", "an identity", "a generated value"],
      ],
    );
    for (const { what, value } of search.markers) ok(value.length > 20, what);
  });

  it("a rotation fails no read of a Secret, and its old identity opens nothing any more", async () => {
    deepEqual(reads.failed, []);
    ok(reads.done > 50, `${reads.done} reads`);
    const { value: old } = search.markers.find(({ what }) => what === "an identity") ?? { value: "" };
    const file = readFileSync(
      join(machine.project, "gitops/clusters", stackName, "apps/planted.enc.yaml"),
      "utf8",
    );
    await rejects(new SopsCli().decrypt(file, "planted.enc.yaml", `${old}\n`));
    console.log(`      ${reads.done} reads, none failed`);
  });

  it("no secret is in Pulumi's state, nor in its history and backups", () => {
    const state = filesBelow(join(machine.directory, "pulumi"));
    ok(state.length > 3);
    deepEqual(
      state.flatMap((path) => search.report(path, readNow(path))),
      [],
    );
  });

  it("no secret is in what the commands print, where they are called secret", () => {
    match(printed, /\[secret\]/);
    match(printed, /rotated: the identity of stack/);
    deepEqual(search.report("the output", printed), []);
  });

  it("no secret is an argument of a process, or in its environment, but for SOPS's", () => {
    for (const name of ["pulumi", "kind", "sops", "helm"]) ok(watch.seen.has(name), `no ${name} was seen`);
    deepEqual(watch.inProcesses(), []);
  });

  const scratch = () => join(machine.directory, "state", "platform", "tmp");
  /** Pulumi's Kubernetes plugin writes the kubeconfig for Helm, where `npx platform up` has it removed again. */
  const isForHelm = (finding: string) =>
    finding.startsWith(scratch()) &&
    /\/kubeconfig\d+ holds the (key of the kubeconfig|same key)/.test(finding);

  it("no secret is in temporary files, nor in what the stack leaves on this machine", () => {
    deepEqual(
      watch.inFiles().filter((finding) => !isForHelm(finding)),
      [],
    );
    deepEqual(filesBelow(scratch()), []);
  });

  it("no secret is in a blob of the artifact", async () => {
    const repository = `127.0.0.1:${registryPort}/platform`;
    const manifest = await machine.run("crane", "manifest", `${repository}:${stackName}`);
    const { config, layers } = JSON.parse(manifest) as { config: Blob; layers: Blob[] };
    let encrypted = 0;
    for (const { digest } of [config, ...layers]) {
      const content = execFileSync("crane", ["blob", `${repository}@${digest}`], { env: machine.env });
      encrypted +=
        unpacked(content)
          .join("")
          .match(/ENC\[AES256_GCM/g)?.length ?? 0;
      deepEqual(search.report(`blob ${digest}`, content), []);
    }
    ok(encrypted >= 4, `${encrypted} encrypted values`);
  });

  it("every secret is in its own Secret alone, in the cluster and in the logs of its pods", async () => {
    const objects = await objectsOf(await kubeconfig());
    const strangers = objects.flatMap((object) =>
      search
        .in(JSON.stringify(object))
        .filter(({ home }) => home === undefined || nameOf(home) !== nameOf(refOf(object)))
        .map(({ what }) => `${nameOf(refOf(object))} holds ${what}`),
    );
    deepEqual(strangers, []);
    const pods = objects.filter(
      ({ kind, metadata }) => kind === "Pod" && metadata.namespace === "flux-system",
    );
    ok(pods.length >= 3);
    for (const { metadata } of pods) {
      const log = await machine.kubectl("-n", "flux-system", "logs", metadata.name);
      deepEqual(search.report(`the log of ${metadata.name}`, log), []);
    }
  });

  it("no secret is on the disk, and no tool may dump its core, when a run is killed", async () => {
    await machine.kubectl("-n", "flux-system", "delete", "secret", "sops-age");
    const script = `ulimit -c unlimited; commands/platform up ${stackName} --yes --skip-preview`;
    const run = spawn("/bin/sh", ["-c", script], {
      ...{ cwd: machine.project, env: machine.env, detached: true, stdio: "ignore" },
    });
    const during = new Watch(search, [join(machine.directory, "state"), "/dev/shm"], run.pid);
    during.start();
    const left = () => filesBelow(scratch());
    // Pulumi's Kubernetes plugin has written the kubeconfig.
    for (let tries = 0; tries < 600 && !left().some((path) => readNow(path).includes("clusters:")); tries++) {
      await sleep(50);
    }
    const before = left();
    process.kill(-(run.pid ?? 0), "SIGKILL");
    during.stop();
    ok(before.length > 0, "nothing temporary was seen before the kill");
    for (let tries = 0; tries < 200 && left().length > 0; tries++) await sleep(50);
    deepEqual(left(), []);
    deepEqual(during.inProcesses(), []);
    deepEqual(
      during.inFiles().filter((finding) => !isForHelm(finding)),
      [],
    );
    ok(during.seen.has("pulumi"));
    deepEqual(
      [...during.cores].filter((limit) => !/^0 of |of sh$/.test(limit)),
      [],
    );
  });

  it("another host does not reach the registry", async function () {
    if (process.getuid?.() !== 0) {
      console.log("      skipped: a network namespace takes root");
      this.skip();
    }
    const space = "platform-kind-test";
    const [here, there] = ["10.231.77.1", "10.231.77.2"];
    const open = createServer((socket) => socket.end()).listen(0, "0.0.0.0");
    await new Promise((resolve) => open.once("listening", resolve));
    const connect = (port: number) =>
      execute("ip", [
        ...["netns", "exec", space, "timeout", "3"],
        ...["bash", "-c", `exec 3<>/dev/tcp/${here}/${port}`],
      ]);
    try {
      await execute("ip", ["netns", "add", space]);
      await execute("ip", ["link", "add", "pkt0", "type", "veth", "peer", "name", "pkt1", "netns", space]);
      await execute("ip", ["address", "add", `${here}/30`, "dev", "pkt0"]);
      await execute("ip", ["link", "set", "pkt0", "up"]);
      await execute("ip", ["-n", space, "address", "add", `${there}/30`, "dev", "pkt1"]);
      await execute("ip", ["-n", space, "link", "set", "pkt1", "up"]);
      // The way is open for what listens on every address; the registry does not.
      await connect((open.address() as AddressInfo).port);
      for (const port of [registryPort, registryPort + 1, registryPort + 2]) await rejects(connect(port));
      equal(
        (await machine.run("docker", "port", registryName)).trim(),
        `5000/tcp -> 127.0.0.1:${registryPort}`,
      );
    } finally {
      open.close();
      await execute("ip", ["netns", "delete", space]);
    }
  });
});

interface Blob {
  readonly digest: string;
}
