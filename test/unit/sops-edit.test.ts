import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { SopsCli } from "../../clients/sops/client";
import { editSecret } from "../../core/secrets/edit";
import { secretManifest } from "../../clients/sops/secret-file";
import { SecretStore } from "../../core/secrets/store";
import { binDirectory } from "../../tools/bin";
import { ensureTools } from "../../tools/tools";
import { temporaryDirectory, withEnvironment, writeFiles } from "./temporary";

const project = join(__dirname, "..", "..");
const sops = new SopsCli();
const file = "gitops/clusters/x/s.enc.yaml";
const marker = "the-value-that-nobody-may-find";

/** What `npx platform secrets edit` runs, of a project of its own. */
const edit = `
  const { editSecret } = require("${project}/core/secrets/edit");
  const { SecretStore } = require("${project}/core/secrets/store");
  const { SopsCli } = require("${project}/clients/sops/client");
  const store = new SecretStore({ stack: "x", project: process.env.EDITED, sops: new SopsCli(), env: process.env });
  editSecret(store, "clusters/x/s.enc.yaml").then(
    () => process.exit(0),
    (error) => { console.error(error.message); process.exit(1); },
  );`;

/** What the kernel allows a process; empty where it does not say. */
function limits(pid: number | "self"): string {
  return process.platform === "linux" ? readFileSync(`/proc/${pid}/limits`, "utf8") : "";
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (let attempt = 0; attempt < 400; attempt++) {
    if (holds()) return;
    await sleep(50);
  }
  throw new Error(`Timed out: ${what}.`);
}

describe("an editor of a secret", function () {
  this.timeout(60_000);
  let directory: string;
  let key: string;
  let running: ChildProcess | undefined;

  before(async function () {
    this.timeout(600_000);
    await ensureTools(["age-keygen", "sops"], { report: console.error });
  });

  beforeEach(async () => {
    directory = temporaryDirectory();
    key = await sops.keygen();
    const [recipient = ""] = await sops.recipients(key);
    const secret = secretManifest({ name: "s", namespace: "team", values: { A: marker } });
    writeFiles(directory, {
      "Pulumi.yaml": "name: platform\nruntime: nodejs\n",
      "Pulumi.x.yaml": `config:\n  platform:cluster: {kind: kind}\n  platform:registry: {kind: local}\n  platform:domain: x\n  platform:sops: {identityFile: ${directory}/x.agekey, recipients: [${recipient}]}\n`,
      "x.agekey": key,
      [file]: await sops.encrypt(secret, "s.enc.yaml", [recipient]),
      // Says who it is and what it edits, waits for a word, and changes the value.
      editor: `#!/bin/sh\necho "$$ $PPID $1" > ${directory}/seen.new\nmv ${directory}/seen.new ${directory}/seen\nwhile [ ! -e ${directory}/word ]; do sleep 0.1; done\nsed -i 's/${marker}/another/' "$1"\n`,
    });
    chmodSync(join(directory, "editor"), 0o755);
  });

  afterEach(() => {
    if (running?.pid !== undefined && running.exitCode === null) running.kill("SIGKILL");
  });

  /** Starts it, and waits until the editor runs. */
  async function open(
    core = "0",
  ): Promise<{ node: ChildProcess; editor: number; sops: number; plain: string }> {
    const args = ["-r", require.resolve("ts-node/register/transpile-only"), "-e", edit];
    const node = spawn("/bin/sh", ["-c", `ulimit -c ${core}; exec "$0" "$@"`, process.execPath, ...args], {
      ...{ cwd: directory, stdio: ["ignore", "ignore", "pipe"] },
      env: {
        ...process.env,
        TS_NODE_PROJECT: join(project, "tsconfig.json"),
        PATH: [binDirectory(), process.env.PATH ?? ""].join(delimiter),
        EDITED: directory,
        EDITOR: join(directory, "editor"),
        SOPS_EDITOR: "",
        GOTRACEBACK: "crash",
      },
    });
    running = node;
    const seen = join(directory, "seen");
    await until("the editor starts", () => existsSync(seen));
    const [editor = "", parent = "", plain = ""] = readFileSync(seen, "utf8").trim().split(" ");
    return { node, editor: Number(editor), sops: Number(parent), plain };
  }

  it("is given a file by its path in the tree, or from anywhere, and may leave it as it is", async () => {
    const store = new SecretStore({ stack: "x", project: directory, sops, env: {} });
    const PATH = [binDirectory(), process.env.PATH ?? ""].join(delimiter);
    const before = readFileSync(join(directory, file), "utf8");
    await withEnvironment({ PATH }, async () => {
      const env = { ...process.env, SOPS_EDITOR: "true" };
      for (const named of ["clusters/x/s.enc.yaml", join(directory, file)]) {
        equal(await editSecret(store, named, env), "clusters/x/s.enc.yaml");
      }
      await rejects(editSecret(store, "clusters/x/t.enc.yaml", env), {
        message:
          'Editing clusters/x/t.enc.yaml failed: it is not an encrypted file of stack "x". Its encrypted files: clusters/x/s.enc.yaml.',
      });
    });
    equal(readFileSync(join(directory, file), "utf8"), before);
  });

  it("gets the user's variables, and none of those that SOPS reads", async () => {
    const store = new SecretStore({ stack: "x", project: directory, sops, env: {} });
    const seen = join(directory, "variables");
    const editor = join(directory, "editor-of-mine");
    writeFileSync(editor, `#!/bin/sh\nenv > ${seen}\n`, { mode: 0o755 });
    const own = {
      PLATFORM_TEST: "1",
      SOPS_KMS_ARN: "arn",
      SOPS_AGE_KEY_CMD: "false",
      SOPS_KEYSERVICE: "tcp://x",
    };
    await editSecret(store, "clusters/x/s.enc.yaml", { ...process.env, ...own, SOPS_EDITOR: editor });
    const variables = readFileSync(seen, "utf8").split("\n");
    equal(variables.includes("PLATFORM_TEST=1"), true);
    deepEqual(
      variables.filter((line) => line.startsWith("SOPS_")).map((line) => line.split("=")[0]),
      ["SOPS_EDITOR"],
    );
  });

  it("is not started where the identity does not open the file", async () => {
    writeFiles(directory, { ".sops.yaml": "<<<<<<< HEAD\n" });
    equal(
      (await sops.decrypt(readFileSync(join(directory, file), "utf8"), file, key)).includes(marker),
      true,
    );
    const other = await sops.keygen();
    const [own = ""] = await sops.recipients(key);
    const [recipient = ""] = await sops.recipients(other);
    writeFiles(directory, { "x.agekey": other });
    const store = new SecretStore({ stack: "x", project: directory, sops, env: {} });
    await rejects(editSecret(store, "clusters/x/s.enc.yaml", { EDITOR: "false" }), {
      message: `Decrypting clusters/x/s.enc.yaml with the identity of stack "x" failed: it is encrypted for ${own}, the identity is ${recipient}. Set SOPS_AGE_KEY_FILE to the right identity, ask a person whose identity opens it to run "npx platform secrets init x --recipient ${recipient}", or replace the file with a Secret of your own.`,
    });
  });

  it("sees the plain text in memory, of this user alone, and no identity", async () => {
    const { node, editor, plain } = await open();
    match(readFileSync(plain, "utf8"), new RegExp(marker));
    const root = /^.*platform-secrets-[^/]+/.exec(plain)?.[0] ?? "";
    equal(statSync(root).mode & 0o777, 0o700);
    if (process.platform === "linux") {
      const environment = readFileSync(`/proc/${editor}/environ`, "latin1");
      ok(environment.includes("EDITED="));
      equal(environment.includes("AGE-SECRET-KEY-"), false);
    }
    writeFiles(directory, { word: "" });
    await new Promise((resolve) => node.once("exit", resolve));
    equal(node.exitCode, 0);
    equal(existsSync(root), false);
    match(await sops.decrypt(readFileSync(join(directory, file), "utf8"), "s.enc.yaml", key), /A: another/);
  });

  it("goes on when who started it is killed, and leaves nothing when all of them are", async () => {
    const { node, editor, sops: parent, plain } = await open();
    node.kill("SIGKILL");
    await new Promise((resolve) => node.once("exit", resolve));
    await sleep(1_000);
    match(readFileSync(plain, "utf8"), new RegExp(marker));
    process.kill(parent, "SIGKILL");
    process.kill(editor, "SIGKILL");
    const root = dirname(plain.replace(/(platform-secrets-[^/]+).*/, "$1/x"));
    await until(`${root} is removed`, () => !existsSync(root));
    match(readFileSync(join(directory, file), "utf8"), /ENC\[AES256_GCM/);
    equal(readdirSync(join(directory, "gitops/clusters/x")).join(), "s.enc.yaml");
  });

  it("leaves no core of SOPS, where cores of any size are asked for", async function () {
    const [, hard = ""] = /Max core file size\s+\S+\s+(\S+)/.exec(limits("self")) ?? [];
    if (hard !== "unlimited") {
      console.error(`      no cores can be had here: at most ${hard || "unknown"} bytes`);
      this.skip();
    }
    for (const signal of ["SIGABRT", "SIGSEGV", "SIGQUIT"] as const) {
      const { node, sops: parent, editor } = await open("unlimited");
      match(limits(parent), /Max core file size\s+unlimited/);
      process.kill(parent, signal);
      await new Promise((resolve) => node.once("exit", resolve));
      process.kill(editor, "SIGKILL");
      equal(node.exitCode, 1);
      deepEqual(
        readdirSync(directory).filter((name) => name.includes("core")),
        [],
      );
      rmSync(join(directory, "seen"));
    }
  });
});
