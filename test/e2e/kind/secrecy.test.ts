import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { parse } from "yaml";
import { registryName, registryPort, stackName, type Machine } from "./machine";
import { suiteOnKind } from "./suite";

const execute = promisify(execFile);

suiteOnKind("pulumi up on Kind, kept to itself", (prepared) => {
  let machine: Machine;
  /** What the runs printed. */
  let printed = "";
  /** Files that `npm run up` left, with their content. */
  let left: [string, string][] = [];
  /** Arguments of every process that was seen while Pulumi ran. */
  const seen = new Set<string>();

  before(async () => {
    machine = prepared();
    const stack = await machine.stack();
    const watch = setInterval(lookAtProcesses, 20);
    const onOutput = (text: string) => (printed += text);
    await stack.preview({ color: "never", onOutput, onError: onOutput, diff: true });
    const command = ["--stack", stackName, "--yes", "--skip-preview", "--diff", "--color", "never"];
    printed += await machine.run("npm", "run", "-s", "up", "--", ...command);
    left = [...files(join(machine.directory, "tmp")), ...files(join(machine.directory, "state"))];
    await stack.preview({ color: "never", onOutput, onError: onOutput, diff: true });
    clearInterval(watch);
  });

  function lookAtProcesses(): void {
    for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
      try {
        seen.add(readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " "));
      } catch {
        // It ended meanwhile.
      }
    }
  }

  /** The secrets of the stack, by what they are. */
  async function secrets(): Promise<Record<string, string>> {
    const identity = /AGE-SECRET-KEY-\S+/.exec(
      readFileSync(join(machine.directory, "offline.agekey"), "utf8"),
    );
    const password = await machine.kubectl(
      ...["-n", "whoami", "get", "secret", "whoami", "-o", "jsonpath={.data.WHOAMI_NAME}"],
    );
    const kubeconfig = parse(await machine.run("kind", "get", "kubeconfig", "--name", stackName)) as {
      users: { user: { "client-key-data": string } }[];
    };
    const key = kubeconfig.users[0]?.user["client-key-data"] ?? "";
    const found = {
      "the age identity": identity?.[0] ?? "",
      "a generated password": Buffer.from(password, "base64").toString(),
      "the same password in base64": password,
      "the key of the kubeconfig": key,
      "the same key, decoded": Buffer.from(key, "base64").toString().split("\n")[1] ?? "",
    };
    for (const [what, value] of Object.entries(found)) ok(value.length > 20, `${what} is not there`);
    return found;
  }

  function holders(texts: Iterable<readonly [string, string]>, all: Record<string, string>): string[] {
    return [...texts].flatMap(([where, text]) =>
      Object.entries(all)
        .filter(([, value]) => text.includes(value))
        .map(([what]) => `${where} holds ${what}`),
    );
  }

  function files(directory: string): [string, string][] {
    if (!existsSync(directory)) return [];
    return readdirSync(directory, { recursive: true })
      .map((name) => join(directory, String(name)))
      .filter((path) => statSync(path).isFile())
      .map((path) => [path, readFileSync(path, "latin1")]);
  }

  it("no secret is in Pulumi's state, nor in its history and backups", async () => {
    const state = files(join(machine.directory, "pulumi"));
    ok(state.length > 1);
    deepEqual(holders(state, await secrets()), []);
  });

  it("no secret is in what preview and up print, where they are called secret", async () => {
    match(printed, /\[secret\]/);
    deepEqual(holders([["the output", printed]], await secrets()), []);
  });

  it("no secret is an argument of a process", async () => {
    ok(
      [...seen].some((command) => command.includes("kind create cluster")),
      "the processes were not seen",
    );
    deepEqual(holders([["the arguments", [...seen].join("\n")]], await secrets()), []);
  });

  it("no secret is in temporary files, nor in what the stack leaves on this machine", async () => {
    deepEqual(holders(left, await secrets()), []);
  });

  it("no secret is in the artifact", async () => {
    const directory = join(machine.directory, "artifact");
    mkdirSync(directory);
    const reference = `127.0.0.1:${registryPort}/platform:${stackName}`;
    const manifest = JSON.parse(await machine.run("crane", "manifest", reference)) as {
      layers: { digest: string }[];
    };
    for (const { digest } of manifest.layers) {
      const blob = join(directory, digest);
      const repository = `127.0.0.1:${registryPort}/platform`;
      await machine.run("sh", "-c", `crane blob ${repository}@${digest} > ${blob}`);
      await machine.run("tar", "--extract", "--file", blob, "--directory", directory);
    }
    const content = files(directory);
    ok(
      content.some(([, text]) => text.includes("ENC[AES256_GCM")),
      "the artifact holds no encrypted file",
    );
    deepEqual(holders(content, await secrets()), []);
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
