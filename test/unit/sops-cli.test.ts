import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes, randomInt } from "node:crypto";
import { chmodSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { parse, parseDocument } from "yaml";
import { SopsCli } from "../../components/sops/client";
import { editSecret } from "../../components/sops/edit";
import { checkForm } from "../../components/sops/form";
import { recipientsOf, secretManifest, withValues } from "../../components/sops/secret-file";
import { SecretStore } from "../../components/sops/store";
import { binDirectory, ensureTools, pinnedVersion } from "../../tools/tools";
import { temporaryDirectory, withEnvironment, writeFiles } from "./temporary";

const sops = new SopsCli();
const path = "clusters/x/apps/s.enc.yaml";

before("sops and age", async function () {
  this.timeout(600_000);
  await ensureTools(["age-keygen", "sops"], { report: console.error });
});

async function identity(): Promise<{ key: string; recipient: string }> {
  const key = await sops.keygen();
  const [recipient = ""] = await sops.recipients(key);
  return { key, recipient };
}

/** Runs the official program as its user does: by its own configuration, on files. */
function official(
  program: string,
  args: readonly string[],
  cwd: string,
  env: NodeJS.ProcessEnv = {},
): string {
  return execFileSync(join(binDirectory(), program), [...args], {
    ...{ cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] },
    env: { PATH: process.env.PATH, HOME: cwd, ...env },
  });
}

const secretOf = (values: Readonly<Record<string, string>>) =>
  secretManifest({ name: "s", namespace: "team", type: "Opaque", values });

/** Texts that YAML takes for something else, that end oddly, or that few expect. */
const awkward = [
  ...[
    "",
    " ",
    "\n",
    "\t",
    "on",
    "Yes",
    "null",
    "~",
    "true",
    "1_000",
    "0o17",
    "017",
    "1e3",
    "0x1F",
    "-",
    ".inf",
  ],
  ...[
    "2026-01-01",
    "2026-01-01T00:00:00Z",
    "12:30:45",
    "1.50",
    "+1",
    "<<",
    "=",
    "!!str x",
    "&a",
    "*a",
    "@x",
    "`x`",
  ],
  ...[
    "# no comment",
    "a # b",
    "a: b",
    "- a",
    "? a",
    "{a: b}",
    "[a]",
    "'",
    '"',
    "\\",
    "\\n",
    "%",
    "|",
    ">",
    "---",
    "...",
  ],
  ...[
    "a\n",
    "a\n\n",
    "\na",
    " a",
    "a ",
    "a\n b\n  c\n",
    "a\r\nb",
    "a\tb",
    "line\n# not a comment\n",
    "ENC[x]",
  ],
  ...[
    "ENC[AES256_GCM,data:eA==,iv:eA==,tag:eA==,type:str]",
    "é",
    "日本語",
    "🔑",
    "\u00a0",
    "\u2028",
    "\u0085",
    "\ufeff",
  ],
  ...["-----BEGIN X-----\nabc\n-----END X-----\n", "x".repeat(200), '{"auths":{"r":{"auth":"eA=="}}}'],
];

/** Any text that a Secret may hold: valid Unicode without what YAML has no form for. */
function anyText(): string {
  const alphabet = [
    ...awkward,
    "a",
    "b",
    ":",
    " ",
    "\n",
    "#",
    "-",
    "'",
    '"',
    "0",
    "\u0007",
    "\u001b",
    "\ud83d\ude00",
  ];
  return Array.from({ length: randomInt(12) }, () => alphabet[randomInt(alphabet.length)] ?? "").join("");
}

/** The keys that Kubernetes allows. */
function anyKey(index: number): string {
  const odd = ["on", "y", "2026-01-01", "1e3", "null", ".", "-", "_", "0", "true", "1.5", "sops", "data"];
  return odd[index] ?? `${"-._aZ9"[randomInt(6)] ?? ""}k${index}`;
}

/** The values that Kubernetes makes of a Secret. */
function valuesOf(manifest: string): Record<string, unknown> {
  const { data = {}, stringData = {} } = parse(manifest) as Record<
    string,
    Record<string, string> | undefined
  >;
  const decoded = Object.entries(data).map(([key, value]) => [key, Buffer.from(value, "base64").toString()]);
  return { ...(Object.fromEntries(decoded) as Record<string, unknown>), ...stringData };
}

describe("a Secret through SOPS", function () {
  this.timeout(60_000);

  it("is the same whatever its values and keys are", async () => {
    const { key, recipient } = await identity();
    for (let round = 0; round < 6; round++) {
      const texts = round === 0 ? awkward : Array.from({ length: 150 }, anyText);
      const values = Object.fromEntries(texts.map((text, index) => [anyKey(index), text]));
      const manifest = secretOf(values);
      const encrypted = await sops.encrypt(manifest, path, [recipient]);
      deepEqual(checkForm(path, encrypted, "none"), []);
      const decrypted = await sops.decrypt(encrypted, path, key);
      deepEqual(
        Object.entries(values).filter(([name, text]) => valuesOf(decrypted)[name] !== text),
        [],
      );
      equal(Object.keys(valuesOf(decrypted)).length, Object.keys(values).length);
      // What is encrypted anew, as a rotation does, is the same too.
      const again = await sops.decrypt(await sops.encrypt(decrypted, path, [recipient]), path, key);
      equal(again, decrypted);
    }
  });

  it("is the same where generated values are filled in, base64 or not", async () => {
    const { key, recipient } = await identity();
    const shape = 'apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {A: ""}\nstringData: {B: ""}\n';
    for (const text of ["2026-01-01", "on", "1e10", "017", "0x1F", "0o17", "1_000", "y", "AbC123"]) {
      const encrypted = await sops.encrypt(withValues(shape, { A: text, B: text }), path, [recipient]);
      const { data, stringData } = parse(await sops.decrypt(encrypted, path, key)) as {
        data: { A: string };
        stringData: { B: string };
      };
      deepEqual([Buffer.from(data.A, "base64").toString(), stringData.B], [text, text]);
    }
  });

  it("shows no value, no matter which, and nothing of what it was encrypted with before", async () => {
    const { key, recipient } = await identity();
    const marker = randomBytes(12).toString("hex");
    const first = await sops.encrypt(secretOf({ A: marker }), path, [recipient]);
    const second = await sops.encrypt(await sops.decrypt(first, path, key), path, [recipient]);
    equal(`${first}${second}`.includes(marker), false);
    const sealed = (text: string): string[] => [...(text.match(/ENC\[[^\]]*\]/g) ?? [])];
    deepEqual(
      sealed(first).filter((part) => sealed(second).includes(part)),
      [],
    );
  });
});

describe("one changed byte of an encrypted file", function () {
  this.timeout(120_000);

  it("is refused, or changes nothing that Flux would apply", async () => {
    const { key, recipient } = await identity();
    const original = await sops.encrypt(secretOf({ TOKEN: "hunter2", PIN: "1234" }), path, [recipient]);
    const applied = (text: string) => JSON.stringify(parse(text));
    const expected = applied(await sops.decrypt(original, path, key));
    const bytes = Buffer.from(original);
    let accepted = 0;
    let opened = 0;
    const rounds = 400;
    for (let round = 0; round < rounds; round++) {
      const changed = Buffer.from(bytes);
      const at = randomInt(bytes.length);
      // Printable, or the end of a line: what an editor or a merge would leave.
      const byte = randomInt(96) === 0 ? 10 : 32 + randomInt(95);
      if (changed[at] === byte) continue;
      changed[at] = byte;
      const text = changed.toString();
      let refused = true;
      try {
        const wrong = parseDocument(text).errors.length > 0 || checkForm(path, text, "none").length > 0;
        // As the rules do: a file for others than the stack's recipients is none of the stack's.
        refused = wrong || recipientsOf(text).join(",") !== recipient;
      } catch {
        refused = true;
      }
      if (refused) continue;
      opened++;
      const result = await sops.decrypt(text, path, key).catch(() => undefined);
      if (result === undefined) continue;
      accepted++;
      equal(applied(result), expected, `byte ${at} of ${JSON.stringify(original.slice(at - 20, at + 20))}`);
    }
    ok(opened > 100 && accepted < rounds / 10, `${opened} opened, ${accepted} accepted of ${rounds}`);
  });

  it("is refused at every place of the values, their names and the MAC", async () => {
    const { key, recipient } = await identity();
    const original = await sops.encrypt(secretOf({ TOKEN: "hunter2" }), path, [recipient]);
    const parts = [/TOKEN/, /namespace: team/, /data:.*/, /mac: ENC\[AES256_GCM,.*/];
    for (const part of parts) {
      const [found = ""] = part.exec(original) ?? [];
      ok(found !== "", String(part));
      const start = original.indexOf(found);
      for (let tries = 0; tries < 6; tries++) {
        const at = start + randomInt(found.length);
        const other = original[at] === "A" ? "B" : "A";
        if (!/[\w+/]/.test(original[at] ?? "")) continue;
        const text = `${original.slice(0, at)}${other}${original.slice(at + 1)}`;
        if (checkForm(path, text, "none").length > 0) continue;
        await rejects(sops.decrypt(text, path, key), `${found} at ${at - start}`);
      }
    }
  });
});

describe("the official programs", function () {
  this.timeout(60_000);

  it("open what this project encrypts, and change it", async () => {
    const { key, recipient } = await identity();
    const directory = temporaryDirectory();
    writeFiles(directory, {
      "k.agekey": key,
      "s.enc.yaml": await sops.encrypt(secretOf({ A: "one", B: "two" }), path, [recipient]),
    });
    const env = { SOPS_AGE_KEY_FILE: join(directory, "k.agekey") };
    equal(
      official("sops", ["decrypt", "--extract", '["stringData"]["A"]', "s.enc.yaml"], directory, env),
      "one",
    );
    official("sops", ["set", "s.enc.yaml", '["stringData"]["A"]', '"three"'], directory, env);
    const changed = readFileSync(join(directory, "s.enc.yaml"), "utf8");
    deepEqual(checkForm(path, changed, "none"), []);
    const { stringData } = parse(await sops.decrypt(changed, path, key)) as { stringData: unknown };
    deepEqual(stringData, { A: "three", B: "two" });
  });

  it("encrypt by the rules of this project what it opens, for every recipient", async () => {
    const [one, two] = [await identity(), await identity()];
    const directory = temporaryDirectory();
    writeFiles(directory, {
      ".sops.yaml": `creation_rules:\n  - path_regex: ^gitops/clusters/x/.*\\.enc\\.yaml$\n    encrypted_regex: ^(data|stringData)$\n    age: ${one.recipient},${two.recipient}\n`,
      "gitops/clusters/x/s.enc.yaml": secretOf({ A: "one" }),
    });
    official("sops", ["encrypt", "--in-place", "gitops/clusters/x/s.enc.yaml"], directory);
    const encrypted = readFileSync(join(directory, "gitops/clusters/x/s.enc.yaml"), "utf8");
    deepEqual(checkForm(path, encrypted, "none"), []);
    for (const { key } of [one, two]) {
      deepEqual((parse(await sops.decrypt(encrypted, path, key)) as { stringData: unknown }).stringData, {
        A: "one",
      });
    }
    const { key } = await identity();
    await rejects(sops.decrypt(encrypted, path, key));
  });

  it("age opens the data key of a file, and what age seals SOPS opens", async function () {
    this.timeout(300_000);
    const bin = temporaryDirectory();
    const install = ["install", `filippo.io/age/cmd/age@${pinnedVersion("age-keygen")}`];
    try {
      execFileSync("go", install, { env: { ...process.env, GOBIN: bin, GOFLAGS: "" }, stdio: "pipe" });
    } catch (error) {
      console.error(`      age cannot be built here: ${String(error).split("\n")[0] ?? ""}`);
      this.skip();
    }
    const age = (args: readonly string[], input: string | Buffer) =>
      execFileSync(join(bin, "age"), [...args], { input, stdio: ["pipe", "pipe", "pipe"] });
    const [mine, theirs] = [await identity(), await identity()];
    const directory = temporaryDirectory();
    writeFiles(directory, { "k.agekey": mine.key });
    const document = parseDocument(await sops.encrypt(secretOf({ A: "one" }), path, [mine.recipient]));
    const stanza = String(document.getIn(["sops", "age", 0, "enc"]));
    const dataKey = age(["--decrypt", "--identity", join(directory, "k.agekey")], stanza);
    equal(dataKey.length, 32);
    document.setIn(
      ["sops", "age", 0, "enc"],
      age(["--armor", "--recipient", theirs.recipient], dataKey).toString(),
    );
    document.setIn(["sops", "age", 0, "recipient"], theirs.recipient);
    const opened = await sops.decrypt(document.toString({ lineWidth: 0 }), path, theirs.key);
    deepEqual(valuesOf(opened), { A: "one" });
    await rejects(sops.decrypt(document.toString({ lineWidth: 0 }), path, mine.key));
  });

  it("read the identities that this project makes, and make those that it reads", async () => {
    const directory = temporaryDirectory();
    writeFiles(directory, {
      "Pulumi.x.yaml": `config:\n  platform:cluster: {kind: kind}\n  platform:registry: {kind: local}\n  platform:domain: x\n  platform:sops: {identityFile: ${directory}/keys/x.agekey}\n`,
      "gitops/clusters/x/kustomization.yaml": "",
    });
    const store = new SecretStore({ stack: "x", project: directory, sops, env: {} });
    const { key, recipient } = await store.newKey();
    await store.writeIdentityFile({ keys: [key], notes: { rotation: { from: ["age1x"], to: recipient } } });
    equal(statSync(join(directory, "keys/x.agekey")).mode & 0o777, 0o600);
    equal(official("age-keygen", ["-y", "keys/x.agekey"], directory).trim(), recipient);
    official("age-keygen", ["-o", "keys/other.agekey"], directory);
    const other = readFileSync(join(directory, "keys/other.agekey"), "utf8");
    writeFileSync(join(directory, "keys/x.agekey"), other);
    deepEqual(await store.readIdentityFile(), {
      keys: [/^AGE-SECRET-KEY-.*$/m.exec(other)?.[0]],
      notes: {},
    });
  });
});

describe("edit", function () {
  this.timeout(60_000);

  it("shows the plain text to the editor in memory alone, and leaves nothing behind", async () => {
    const { key, recipient } = await identity();
    const directory = temporaryDirectory();
    const file = "gitops/clusters/x/s.enc.yaml";
    writeFiles(directory, {
      "Pulumi.x.yaml": `config:\n  platform:cluster: {kind: kind}\n  platform:registry: {kind: local}\n  platform:domain: x\n  platform:sops: {identityFile: ${directory}/x.agekey, recipients: [${recipient}]}\n`,
      "x.agekey": key,
      [file]: await sops.encrypt(secretOf({ A: "one" }), path, [recipient]),
      editor: `#!/bin/sh\necho "$1" > ${directory}/seen\nsed -i 's/one/two/' "$1"\n`,
    });
    chmodSync(join(directory, "editor"), 0o755);
    const store = new SecretStore({ stack: "x", project: directory, sops, env: {} });
    const PATH = [binDirectory(), process.env.PATH ?? ""].join(delimiter);
    await withEnvironment({ PATH }, async () => {
      const env = {
        ...process.env,
        EDITOR: join(directory, "editor"),
        SOPS_EDITOR: undefined,
        XDG_RUNTIME_DIR: "",
      };
      equal(await editSecret(store, "clusters/x/s.enc.yaml", env), "clusters/x/s.enc.yaml");
      // Nothing that changes is no error.
      await editSecret(store, join(directory, file), { ...env, EDITOR: "true" });
      await rejects(editSecret(store, "clusters/x/t.enc.yaml", env), {
        message:
          'Editing clusters/x/t.enc.yaml failed: it is no encrypted file of stack "x". Those are clusters/x/s.enc.yaml.',
      });
    });
    const seen = readFileSync(join(directory, "seen"), "utf8").trim();
    ok(seen.startsWith("/dev/shm/platform-secrets-"), seen);
    equal(existsSync(seen), false);
    deepEqual(
      readdirSync("/dev/shm").filter((name) => name.startsWith(`platform-secrets-${process.pid}-`)),
      [],
    );
    const { stringData } = parse(
      await sops.decrypt(readFileSync(join(directory, file), "utf8"), path, key),
    ) as {
      stringData: unknown;
    };
    deepEqual(stringData, { A: "two" });
  });
});
