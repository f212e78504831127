import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes, randomInt } from "node:crypto";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse, parseDocument } from "yaml";
import { textOf } from "../../core/findings/finding";
import { checkRepository } from "../../core/secrets/check";
import { SopsCli } from "../../clients/sops/client";
import { checkEncryption, checkForm } from "../../core/secrets/form";
import { IdentityLifecycle } from "../../core/secrets/identity";
import { uncommitted } from "../../core/secrets/history";
import { checkChanges } from "../../core/secrets/rewrite";
import { renderRules, type Readers } from "../../core/secrets/rules";
import { recipientsOf, secretManifest, withValues } from "../../clients/sops/secret-file";
import { SecretStore } from "../../core/secrets/store";
import { binDirectory } from "../../tools/bin";
import { ensureTools, pinnedVersion } from "../../tools/tools";
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

describe("variables of the user", () => {
  it("add no reader to what is encrypted, and no key to what is decrypted", async () => {
    const [own, stranger] = [await identity(), await identity()];
    const settings = {
      SOPS_KMS_ARN: "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
      SOPS_PGP_FP: "85D77543B3D624B63CEA9E6DBC17301B491B3F21",
      SOPS_AGE_RECIPIENTS: stranger.recipient,
      SOPS_GCP_KMS_IDS: "projects/p/locations/global/keyRings/r/cryptoKeys/k",
      SOPS_VAULT_URIS: "http://127.0.0.1:9/v1/sops/keys/k",
    };
    const content = await withEnvironment(settings, () =>
      sops.encrypt(secretOf({ a: "1" }), path, [own.recipient]),
    );
    deepEqual(recipientsOf(content), [own.recipient]);
    const { sops: metadata } = parse(content) as { sops: Record<string, unknown> };
    for (const service of ["kms", "pgp", "gcp_kms", "hc_vault"])
      deepEqual(metadata[service] ?? [], [], service);
    await withEnvironment({ SOPS_AGE_KEY: own.key, SOPS_AGE_KEY_CMD: `echo ${own.key}` }, () =>
      rejects(sops.decrypt(content, path, stranger.key), /no master key was able to decrypt the file/),
    );
  }).timeout(60_000);
});

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

/** A Git repository with one file of two recipients, encrypted by SOPS and committed with its rules. */
async function committed() {
  const [own, recovery] = [await identity(), await identity()];
  const directory = temporaryDirectory();
  const git = (...args: readonly string[]) =>
    execFileSync("git", ["-c", "user.name=T", "-c", "user.email=t@example.com", ...args], {
      ...{ cwd: directory, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] },
    }).trim();
  const commit = (message = "Change") => {
    git("add", "--all");
    git("commit", "--quiet", "--allow-empty", "--message", message);
  };
  const readers: Readers = {
    ...{ stack: "x", cluster: "x", generate: "none" },
    ...{ recipients: [own.recipient], recoveryRecipient: recovery.recipient },
  };
  const rules = renderRules([readers], { tree: "gitops", all: [path] });
  const manifest = secretOf({ A: "1", B: "2", C: "3" }).replace(
    "namespace: team",
    "namespace: team\n  labels:\n    tier: b",
  );
  const file = join(directory, "gitops", path);
  const tree = join(directory, "gitops");
  git("init", "--quiet", "--initial-branch", "main");
  writeFiles(directory, {
    ".sops.yaml": rules,
    [`gitops/${path}`]: await sops.encrypt(manifest, path, [own.recipient, recovery.recipient]),
  });
  commit();
  return { directory, tree, file, git, commit, readers, rules, own };
}

describe("one changed byte of an encrypted file", function () {
  this.timeout(300_000);

  it("is refused wherever it is, replaced, removed or added", async () => {
    const { tree, file, own } = await committed();
    const original = readFileSync(file, "utf8");
    const place = `gitops/${path}`;
    // What Git has of the file, as the check reads it.
    writeFileSync(file, `${original} `);
    const { unstaged } = await uncommitted(join(tree, ".."), (name) => name === place);
    const [{ olders } = { olders: [] }] = unstaged;
    equal(olders[0]?.text, original);

    const checks: Readonly<Record<string, (text: string) => boolean>> = {
      form: (text) => checkForm(path, text, "none").length > 0 || checkEncryption(path, text).length > 0,
      rewrite: (text) => checkChanges([{ path: place, olders, newer: text }]).size > 0,
    };
    const refused: Record<string, string[]> = { form: [], rewrite: [], sops: [] };
    const accepted: string[] = [];
    let changes = 0;
    const at = (index: number, removed: number, added: string) =>
      `${original.slice(0, index)}${added}${original.slice(index + removed)}`;
    for (let index = 0; index <= original.length; index++) {
      const printable = 32 + ((original.charCodeAt(index) - 32 + 1 + randomInt(94)) % 95);
      const texts = [
        ...(index === original.length
          ? []
          : [at(index, 1, String.fromCharCode(printable)), at(index, 1, "")]),
        ...[" ", "\n", "x"].map((added) => at(index, 0, added)),
      ];
      for (const text of texts) {
        changes++;
        const name = Object.keys(checks).find((check) => checks[check]?.(text));
        if (name !== undefined) refused[name]?.push(text);
        else if (
          await sops
            .decrypt(text, path, own.key)
            .then(() => false)
            .catch(() => true)
        )
          refused.sops?.push(text);
        else
          accepted.push(
            `byte ${index} of ${JSON.stringify(text.slice(Math.max(0, index - 20), index + 20))}`,
          );
      }
    }
    const counts = Object.entries(refused).map(([name, texts]) => `${name} ${texts.length}`);
    console.error(`      ${changes} changes of ${original.length} bytes, refused by: ${counts.join(", ")}`);
    deepEqual(accepted, []);
    equal(changes, 5 * original.length + 3);

    // What Git alone knows is refused by the whole check, too.
    const known = refused.rewrite ?? [];
    ok(known.length > 1000, `${known.length} of ${changes}`);
    for (let round = 0; round < 10; round++) {
      writeFileSync(file, known[randomInt(known.length)] ?? "");
      equal((await checkRepository(tree, { strict: true })).changed.length, 1);
    }
    writeFileSync(file, original);
    deepEqual((await checkRepository(tree, { strict: true })).changed, []);
  });
});

describe("what the official sops makes of a committed file", function () {
  this.timeout(60_000);
  type Repository = Awaited<ReturnType<typeof committed>>;

  /** Runs sops on the file, as its user does. */
  const run = ({ directory, own }: Repository, args: readonly string[], editor = "") =>
    official("sops", args, directory, { SOPS_AGE_KEY: own.key, EDITOR: editor });

  /** Names another recipient in the rules, or takes it out of them. */
  async function updateKeys(repository: Repository, round: number): Promise<void> {
    const { directory, readers } = repository;
    const recipients = [...readers.recipients, ...(round === 0 ? [(await identity()).recipient] : [])];
    const rules = renderRules([{ ...readers, recipients }], { tree: "gitops", all: [path] });
    writeFileSync(join(directory, ".sops.yaml"), rules);
    run(repository, ["updatekeys", "--yes", repository.file]);
  }

  /** Form, MAC and what Git knows. */
  async function findings({ tree, file, own }: Repository): Promise<readonly string[]> {
    const text = readFileSync(file, "utf8");
    await sops.decrypt(text, path, own.key);
    return [
      ...checkForm(path, text, "none"),
      ...(await checkRepository(tree, { base: "main", strict: true })).changed,
    ].map(textOf);
  }

  for (const [what, change, pause = 0] of [
    ["edit of a value", (of) => run(of, ["edit", of.file], "sed -i 's/A: /&x/'")],
    // It leaves the MAC as it is, until the second is over.
    ["edit of a key", (of) => run(of, ["edit", of.file], "sed -i 's/A:/A&/'"), 1_000],
    ["edit of a label's name", (of) => run(of, ["edit", of.file], "sed -i 's/tier/&x/'"), 1_000],
    ["edit of a comment and its place", (of) => run(of, ["edit", of.file], "sed -i '1i # x'"), 1_000],
    ["set of a value", (of, round) => run(of, ["set", of.file, '["stringData"]["A"]', `"new ${round}"`])],
    ["set of a new key", (of, round) => run(of, ["set", of.file, `["stringData"]["N${round}"]`, '"x"'])],
    ["unset", (of, round) => run(of, ["unset", of.file, `["stringData"]["${round === 0 ? "A" : "B"}"]`])],
    ["rotate", (of) => run(of, ["rotate", "--in-place", of.file])],
    ["updatekeys", updateKeys],
    [
      "encrypt of what it decrypted",
      (of) => {
        run(of, ["decrypt", "--in-place", of.file]);
        run(of, ["encrypt", "--in-place", of.file]);
      },
    ],
  ] as const satisfies readonly (readonly [string, (of: Repository, round: number) => unknown, number?])[]) {
    it(`is accepted: ${what}, twice as soon as it can be`, async () => {
      const repository = await committed();
      repository.git("switch", "--quiet", "--create", "topic");
      for (const round of [0, 1]) {
        await new Promise((resolve) => setTimeout(resolve, pause));
        const before = readFileSync(repository.file, "utf8");
        await change(repository, round);
        ok(readFileSync(repository.file, "utf8") !== before, "nothing changed");
        deepEqual(await findings(repository), []);
        repository.commit();
        deepEqual(await findings(repository), []);
      }
    });
  }

  it("is accepted where Git merged a value of one branch with the recipients of another", async () => {
    const repository = await committed();
    const { git, commit, file } = repository;
    git("switch", "--quiet", "--create", "values");
    run(repository, ["set", file, '["stringData"]["A"]', '"new"']);
    commit();
    git("switch", "--quiet", "--create", "recipients", "main");
    await updateKeys(repository, 0);
    commit();
    git("merge", "--quiet", "--no-edit", "values");
    equal(git("rev-list", "--count", "--merges", "HEAD"), "1");
    deepEqual(await findings(repository), []);
    equal(recipientsOf(readFileSync(file, "utf8")).length, 3);

    // A merge that changed more than its parents did is refused.
    writeFileSync(file, readFileSync(file, "utf8").replace("tier:", "tyer:"));
    git("commit", "--quiet", "--all", "--amend", "--no-edit");
    match(
      (await findings(repository)).join("\n"),
      /^Checking \S+ failed: another program than SOPS changed it/,
    );
  });
});

describe("what kubectl and the official sops write", function () {
  this.timeout(60_000);

  it("is accepted and opened: creationTimestamp, mac_only_encrypted, two Secrets in one file", async () => {
    const own = await identity();
    const directory = temporaryDirectory();
    const kubectl = (name: string) =>
      `apiVersion: v1\ndata:\n  token: aHVudGVyMg==\nkind: Secret\nmetadata:\n  creationTimestamp: null\n  name: ${name}\n  namespace: web\n`;
    const rules = `creation_rules:\n  - path_regex: (?i)\\.ENC\\.yaml\\z\n    encrypted_regex: ^(data|stringData)$\n    mac_only_encrypted: true\n    age: ${own.recipient}\n`;
    const file = `gitops/${path}`;
    writeFiles(directory, { ".sops.yaml": rules, [file]: `${kubectl("a")}---\n${kubectl("b")}` });
    official("sops", ["encrypt", "--in-place", file], directory);
    const text = readFileSync(join(directory, file), "utf8");
    match(text, /mac_only_encrypted: true/);
    deepEqual([...checkForm(path, text, "none"), ...checkEncryption(path, text)], []);
    deepEqual(recipientsOf(text), [own.recipient]);
    const lifecycle = new IdentityLifecycle(sops, { SOPS_AGE_KEY: own.key });
    const inputs = {
      stack: "x",
      file: "none",
      generate: "none",
      tree: join(directory, "gitops"),
      cluster: "x",
    };
    deepEqual(await lifecycle.check({ ...inputs, generate: "none" }), []);
    writeFileSync(
      join(directory, file),
      text.replace(/tag:./, (tag) => `${tag}x`),
    );
    match(
      (await lifecycle.check({ ...inputs, generate: "none" })).map(textOf).join(),
      /^Decrypting .* failed: /,
    );
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
      "Pulumi.yaml": "name: platform\nruntime: nodejs\n",
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
