import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import { addSecret, parseValues } from "../../core/secrets/add";
import type { Sops } from "../../clients/sops/client";
import { initialise } from "../../core/secrets/initialise";
import { readSecretFiles } from "../../core/secrets/files";
import { checkSecretFiles, readersOf } from "../../core/secrets/place";
import { recover } from "../../core/secrets/recovery";
import { rotate, type RotationOptions } from "../../core/secrets/rotation";
import { recipientsOf } from "../../clients/sops/secret-file";
import { SecretStore } from "../../core/secrets/store";
import { notWritten } from "../../system/write";
import { temporaryDirectory, writeFiles } from "./temporary";

const letters = "023456789acdefghjklmnpqrstuvwxyz";
const recipient = (n: number) => `age1${(letters[n] ?? "").repeat(58)}`;
const key = (n: number) => `AGE-SECRET-KEY-1TEST${n}`;

interface Sealed {
  stringData: Record<string, string>;
  sops?: { age: { recipient: string }[]; dataKey: number };
}

/** Encryption that hides nothing, and knows who may open what. Key n opens what is for recipient n. */
class FakeSops implements Sops {
  made = 10;
  private dataKey = 0;

  encrypt(manifest: string, _path: string, recipients: readonly string[]): Promise<string> {
    const file = parse(manifest) as Sealed;
    const seal = (value: string) => `ENC[AES256_GCM,data:${Buffer.from(value).toString("base64")}]`;
    return Promise.resolve(
      stringify({
        ...file,
        stringData: Object.fromEntries(Object.entries(file.stringData).map(([name, v]) => [name, seal(v)])),
        sops: {
          age: recipients.map((one) => ({ recipient: one })),
          encrypted_regex: "^(data|stringData)$",
          mac: `ENC[AES256_GCM,data:${++this.dataKey}]`,
        },
      }),
    );
  }

  async decrypt(content: string, _path: string, identity: string): Promise<string> {
    const own = await this.recipients(identity);
    const file = parse(content) as Sealed;
    delete file.sops;
    if (!recipientsOf(content).some((one) => own.includes(one))) throw new Error("no key could decrypt");
    const open = (value: string) => Buffer.from(value.slice(20, -1), "base64").toString();
    return stringify({
      ...file,
      stringData: Object.fromEntries(Object.entries(file.stringData).map(([name, v]) => [name, open(v)])),
    });
  }

  recipients(identity: string): Promise<string[]> {
    const found = [...identity.matchAll(/^AGE-SECRET-KEY-1TEST(\d+)$/gm)].map(([, n]) =>
      recipient(Number(n)),
    );
    return found.length === 0 ? Promise.reject(new Error("no identities found")) : Promise.resolve(found);
  }

  keygen(): Promise<string> {
    return Promise.resolve(`# created: now\n${key(this.made++)}\n`);
  }

  generate(): Promise<string> {
    throw new Error("commands make identities in memory");
  }
}

const plain = (value: string) =>
  `apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {A: ${value}}\n`;
const paths = ["clusters/prod/apps/a.enc.yaml", "clusters/prod/apps/b.enc.yaml"];

interface Setting {
  readonly recipients?: readonly number[];
  readonly recovery?: number;
  readonly identity?: readonly number[];
  readonly generate?: "none" | "all";
  readonly env?: NodeJS.ProcessEnv;
}

/** A project with one stack, whose files are encrypted as its settings say. */
async function project(setting: Setting = {}) {
  const { recipients = [1], recovery, identity = [1], generate = "none", env = {} } = setting;
  const directory = temporaryDirectory();
  const identityFile = join(directory, "keys", "prod.agekey");
  const sops = new FakeSops();
  writeFiles(directory, {
    "project/Pulumi.prod.yaml": `# The one that counts
config:
  platform:cluster: {kind: existing, kubeconfigFile: /k, loadBalancerCidr: 10.0.0.0/24}
  platform:registry: {kind: remote, repository: r.example.com/p}
  platform:domain: example.com # ours
  platform:sops:
    identityFile: ${identityFile}
    generate: ${generate}
${recipients.length === 0 ? "" : `    recipients: [${recipients.map(recipient).join(", ")}]\n`}${recovery === undefined ? "" : `    recoveryRecipient: ${recipient(recovery)}\n`}`,
    "project/gitops/clusters/prod/apps/kustomization.yaml": "resources:\n  - base # the rest\n",
    "project/gitops/bases/apps.yaml":
      "kind: ConfigMap\nmetadata: {name: x}\n---\nkind: Namespace\nmetadata: {name: team}\n",
  });
  if (identity.length > 0)
    writeFiles(directory, { "keys/prod.agekey": identity.map((n) => `${key(n)}\n`).join("") });
  const tree = join(directory, "project", "gitops");
  const everybody = [...recipients, ...(recovery === undefined ? [] : [recovery])].map(recipient);
  for (const [index, path] of paths.entries()) {
    const content =
      generate === "all" ? plain('""') : await sops.encrypt(plain(`value-${index}`), path, everybody);
    writeFiles(tree, { [path]: content });
  }
  return open(directory, sops, env);
}

/** What a test does with a project in a directory. */
async function open(directory: string, sops: FakeSops, env: NodeJS.ProcessEnv = {}) {
  const store = new SecretStore({ stack: "prod", project: join(directory, "project"), sops, env });
  const tree = join(directory, "project", "gitops");
  const identityFile = join(directory, "keys", "prod.agekey");
  writeFiles(directory, { "project/Pulumi.yaml": "name: platform\nruntime: nodejs\n" });
  await store.writeRules();
  const read = (path: string) => readFileSync(join(directory, path), "utf8");
  return {
    ...{ directory, sops, store, tree, identityFile, read },
    contents: () => paths.map((path) => readFileSync(join(tree, path), "utf8")),
    values: async (identity: string) =>
      Promise.all(
        paths.map(async (path) => {
          const file = parse(
            await sops.decrypt(readFileSync(join(tree, path), "utf8"), path, identity),
          ) as Sealed;
          return file.stringData.A;
        }),
      ),
    agree: async () => {
      const files = await readSecretFiles(tree, "prod");
      deepEqual(await checkSecretFiles(tree, readersOf(await store.config()), files), []);
      deepEqual(await store.unopened(), []);
    },
  };
}

type Project = Awaited<ReturnType<typeof project>>;

/** The cluster that a stack is released to: what Flux has must open what it is given, at every moment. */
class Cluster {
  releases = 0;
  private keys: readonly string[];
  private artifact: readonly string[];

  constructor(private readonly of: Project) {
    this.keys = [];
    this.artifact = [];
    this.take();
  }

  /** As `up` does: refused when something is wrong, the Secret before the artifact. */
  async release(): Promise<void> {
    await this.of.agree();
    this.keys = await this.of.sops.recipients((await this.of.store.identity()) ?? "");
    this.opens();
    this.artifact = this.of.contents();
    this.opens();
    this.releases++;
  }

  private take(): void {
    this.keys = [recipient(1)];
    this.artifact = this.of.contents();
    this.opens();
  }

  opens(): void {
    for (const file of this.artifact) {
      ok(
        recipientsOf(file).length === 0 || recipientsOf(file).some((one) => this.keys.includes(one)),
        `Flux has ${this.keys.join(", ")} and not ${recipientsOf(file).join(", ")}`,
      );
    }
  }

  get holds(): readonly string[] {
    return this.keys;
  }
}

class Killed extends Error {}

/** Rotates until it is killed at its nth step; a release counts as two, before and after it is done. */
async function rotateUntil(
  of: Project,
  cluster: Cluster,
  kill: number,
  options: Partial<RotationOptions> = {},
): Promise<{ done: boolean; steps: string[] }> {
  const steps: string[] = [];
  const step = (what: string) => {
    steps.push(what);
    cluster.opens();
    if (steps.length === kill) throw new Killed();
  };
  try {
    await rotate(of.store, {
      ...options,
      tell: step,
      release: async () => {
        step("before the release");
        await cluster.release();
        step("after the release");
      },
    });
    return { done: true, steps };
  } catch (error) {
    if (error instanceof Killed) return { done: false, steps };
    throw error;
  }
}

/** A copy, so that every kill starts from the same state. */
async function copy(of: Project): Promise<Project> {
  const directory = temporaryDirectory();
  cpSync(of.directory, directory, { recursive: true });
  const settings = join(directory, "project", "Pulumi.prod.yaml");
  writeFileSync(settings, readFileSync(settings, "utf8").replaceAll(of.directory, directory));
  const sops = new FakeSops();
  return open(directory, sops);
}

describe("rotation", () => {
  async function rotated(of: Project, cluster: Cluster, others: readonly number[] = [], recovery?: number) {
    const identity = of.read("keys/prod.agekey");
    const own = await of.sops.recipients(identity);
    equal(own.length, 1, identity);
    equal(own.includes(recipient(1)), false);
    equal(identity.includes("rotation"), false);
    equal(statSync(of.identityFile).mode & 0o777, 0o600);
    const { sops } = await of.store.config();
    const everybody = [
      ...others.map(recipient),
      ...own,
      ...(recovery === undefined ? [] : [recipient(recovery)]),
    ];
    deepEqual(sops.recipients, [...others.map(recipient), ...own]);
    for (const content of of.contents()) deepEqual(recipientsOf(content), everybody);
    deepEqual(await of.values(identity), ["value-0", "value-1"]);
    deepEqual(cluster.holds, own);
    await of.agree();
    match(of.read("project/Pulumi.prod.yaml"), /^# The one that counts\n[^]*example\.com # ours\n/);
    deepEqual(
      [existsSync(`${of.identityFile}.new`), existsSync(join(of.tree, `${paths[0] ?? ""}.new`))],
      [false, false],
    );
  }

  it("puts a new identity in the place of the old one in two releases, others and the recovery key stay", async () => {
    const of = await project({ recipients: [1, 2], recovery: 3 });
    const before = of.contents();
    const cluster = new Cluster(of);
    const { done, steps } = await rotateUntil(of, cluster, 0);
    equal(done, true);
    equal(cluster.releases, 2);
    await rotated(of, cluster, [2], 3);
    const macs = [...before, ...of.contents()].map((content) => /mac: .*/.exec(content)?.[0]);
    equal(new Set(macs).size, 4, "a data key was kept");
    deepEqual(
      steps.map((line) => line.replace(/age1\w+/g, "…")),
      [
        "identity file: … is in it, beside …",
        "settings: Pulumi.prod.yaml",
        "rules: .sops.yaml",
        ...paths.map((path) => `encrypted: ${path}`),
        "before the release",
        "after the release",
        'released: … and … open the secrets of stack "prod"',
        "settings: Pulumi.prod.yaml",
        "rules: .sops.yaml",
        ...paths.map((path) => `encrypted: ${path}`),
        "identity file: … left it",
        "before the release",
        "after the release",
        'released: … opens nothing of stack "prod" any more',
        'rotated: the identity of stack "prod" is …',
      ],
    );
  });

  it("goes on after a kill at any of its steps, and ends as if there had been none", async () => {
    const start = await project({ recipients: [1, 2], recovery: 3 });
    const { steps } = await rotateUntil(await copy(start), new Cluster(start), 0);
    // After the last step there is nothing to go on with.
    for (let kill = 1; kill < steps.length; kill++) {
      const of = await copy(start);
      const cluster = new Cluster(of);
      equal((await rotateUntil(of, cluster, kill)).done, false);
      const made = of.sops.made;
      equal((await rotateUntil(of, cluster, 0)).done, true, `killed at "${steps[kill - 1] ?? ""}"`);
      equal(of.sops.made, made, "it began anew");
      await rotated(of, cluster, [2], 3);
    }
  }).timeout(60_000);

  it("goes on after one kill after the other", async () => {
    const of = await project();
    const cluster = new Cluster(of);
    let runs = 1;
    // What a run does again, such as a release, the next one lives through.
    for (let kill = 1; !(await rotateUntil(of, cluster, kill)).done; kill++) runs++;
    ok(runs > 5, String(runs));
    equal(of.sops.made, 11);
    await rotated(of, cluster);
  });

  it("lets others leave with the old identity, at the end", async () => {
    const of = await project({ recipients: [2, 1, 4], recovery: 3 });
    const cluster = new Cluster(of);
    await rotateUntil(of, cluster, 0, { without: [recipient(2), recipient(3)] });
    await rotated(of, cluster, [4]);
    await rejects(rotateUntil(of, cluster, 0, { without: [recipient(2)] }), {
      message: `Rotating the identity of stack "prod" failed: ${recipient(2)} is not another recipient of its secrets. Its other recipients: ${recipient(4)}.`,
    });
  });

  it("makes generated values up anew once, however often it is killed", async () => {
    const start = await project();
    const { steps } = await rotateUntil(await copy(start), new Cluster(start), 0, { values: true });
    for (let kill = 1; kill < steps.length; kill++) {
      const of = await copy(start);
      const cluster = new Cluster(of);
      await rotateUntil(of, cluster, kill, { values: true });
      await rotateUntil(of, cluster, 0, { values: true });
      equal((await of.store.config()).sops.valuesRevision, 1);
    }
  }).timeout(60_000);

  it("of a stack that makes all its values up changes no file and no recipient", async () => {
    const of = await project({ recipients: [], generate: "all" });
    const before = of.contents();
    const cluster = new Cluster(of);
    await rotateUntil(of, cluster, 0, { values: true });
    deepEqual(of.contents(), before);
    deepEqual(cluster.holds, [recipient(10)]);
    equal(cluster.releases, 2);
    const { sops } = await of.store.config();
    deepEqual([sops.recipients, sops.valuesRevision], [undefined, 1]);
  });

  it("is refused where the identity cannot be written, is missing, or opens nothing", async () => {
    const options = { release: () => Promise.reject(new Error("released")), tell: () => undefined };
    const env = await project({ env: { SOPS_AGE_KEY: `${key(1)}\n` } });
    await rejects(
      rotate(env.store, options),
      /failed: the identity comes from SOPS_AGE_KEY, and this command cannot write there\. Put the identity into /,
    );
    const missing = await project({ identity: [] });
    await rejects(
      rotate(missing.store, options),
      /prod\.agekey does not exist\. Put the identity there, or run/,
    );
    const wrong = await project({ identity: [5] });
    await rejects(rotate(wrong.store, options), /it is encrypted for age1.*, the identity is age1/);
    equal(wrong.read("keys/prod.agekey"), `${key(5)}\n`);
  });

  it("stops at a release that fails, and releases again when it is called again", async () => {
    const of = await project();
    const cluster = new Cluster(of);
    const failing = { release: () => Promise.reject(new Error("apps is not Ready")), tell: () => undefined };
    await rejects(rotate(of.store, failing), { message: "apps is not Ready" });
    await rotateUntil(of, cluster, 0);
    await rotated(of, cluster);
  });
});

describe("recovery", () => {
  const tell = () => undefined;

  it("gives the stack a new identity, with the recovery key alone, and keeps that nowhere", async () => {
    const of = await project({ recipients: [1, 2], recovery: 3, identity: [] });
    const cluster = { released: 0 };
    await recover(of.store, {
      ...{ key: `# offline\n${key(3)}\n`, lost: recipient(1), tell },
      release: async () => {
        await of.agree();
        cluster.released++;
      },
    });
    const identity = of.read("keys/prod.agekey");
    equal(identity.includes(key(3)), false);
    deepEqual((await of.store.config()).sops.recipients, [recipient(10), recipient(2)]);
    for (const content of of.contents()) {
      deepEqual(recipientsOf(content), [recipient(10), recipient(2), recipient(3)]);
    }
    deepEqual(await of.values(identity), ["value-0", "value-1"]);
    equal(cluster.released, 1);
  });

  it("goes on after a kill at any of its steps", async () => {
    const start = await project({ recovery: 3, identity: [] });
    let steps = 0;
    for (let kill = 1; kill <= 7; kill++) {
      const of = await copy(start);
      steps = 0;
      const step = () => {
        if (++steps === kill) throw new Killed();
      };
      const options = { key: `${key(3)}\n`, release: async () => Promise.resolve().then(step) };
      await recover(of.store, { ...options, tell: step }).catch((error: unknown) => {
        ok(error instanceof Killed, String(error));
      });
      if (steps < kill) break;
      // The last step says that nothing is left to do.
      if (steps === 7) continue;
      await recover(of.store, { ...options, tell, release: () => of.agree() });
      deepEqual((await of.store.config()).sops.recipients, [recipient(10)]);
      deepEqual(await of.values(of.read("keys/prod.agekey")), ["value-0", "value-1"]);
    }
    equal(steps, 7);
  });

  it("brings back the recipients of settings that lost them", async () => {
    const of = await project({ recipients: [1, 2], identity: [] });
    const settings = join(of.directory, "project", "Pulumi.prod.yaml");
    writeFileSync(settings, readFileSync(settings, "utf8").replace(/ {4}recipients: .*\n/, ""));
    await recover(of.store, { key: `${key(2)}\n`, tell, release: () => Promise.resolve() });
    deepEqual((await of.store.config()).sops.recipients, [recipient(10), recipient(2)]);
    await of.agree();
  });

  for (const [what, setting, options, message] of [
    [
      "a key that opens nothing",
      {},
      { key: key(9) },
      /a\.enc\.yaml is encrypted for .*, the key is age1.*\. Pass the recovery key /,
    ],
    ["what is no key", {}, { key: "hunter2" }, /standard input is not an age identity\. (?!.*hunter2)/],
    ["an identity that is there", { identity: [1] }, {}, /there is an identity in .*prod\.agekey\./],
    [
      "more than one that may be lost",
      { recipients: [1, 2] },
      {},
      /several identities may be lost\. Name the lost one with --lost: age1\w+, age1\w+\.$/,
    ],
    ["one that is not a recipient", {}, { lost: recipient(9) }, /is not an identity that may be lost\./],
    ["an identity of the environment", { env: { SOPS_AGE_KEY: key(3) } }, {}, /comes from SOPS_AGE_KEY/],
  ] as const) {
    it(`is refused for ${what}, and changes nothing`, async () => {
      const of = await project({ recovery: 3, identity: [], ...setting });
      const before = [of.read("project/Pulumi.prod.yaml"), ...of.contents(), existsSync(of.identityFile)];
      const release = () => Promise.reject(new Error("released"));
      await rejects(recover(of.store, { key: key(3), tell, release, ...options }), (error: Error) => {
        match(error.message, message);
        match(error.message, /^Recovering stack "prod" failed: /);
        return true;
      });
      deepEqual([of.read("project/Pulumi.prod.yaml"), ...of.contents(), existsSync(of.identityFile)], before);
    });
  }
});

describe("init", () => {
  const tell = () => undefined;

  it("makes an identity outside the tree, its settings and rules, and encrypts what is plain", async () => {
    const of = await project({ recipients: [], identity: [], generate: "all" });
    const settings = join(of.directory, "project", "Pulumi.prod.yaml");
    writeFileSync(settings, readFileSync(settings, "utf8").replace("generate: all", "generate: none"));
    for (const path of paths) writeFileSync(join(of.tree, path), plain("x"));
    await initialise(of.store, { tell });
    equal(statSync(of.identityFile).mode & 0o777, 0o600);
    equal(statSync(join(of.directory, "keys")).mode & 0o777, 0o700);
    deepEqual((await of.store.config()).sops.recipients, [recipient(10)]);
    deepEqual(await of.values(of.read("keys/prod.agekey")), ["x", "x"]);
    await of.agree();
  });

  it("changes nothing where all agree", async () => {
    const of = await project({ recipients: [1, 2], recovery: 3 });
    const before = [of.read("project/Pulumi.prod.yaml"), of.read("keys/prod.agekey"), ...of.contents()];
    const lines: string[] = [];
    await initialise(of.store, { tell: (line) => lines.push(line) });
    deepEqual([of.read("project/Pulumi.prod.yaml"), of.read("keys/prod.agekey"), ...of.contents()], before);
    deepEqual(lines, [`identity: ${recipient(1)}, from ${of.identityFile}`]);
  });

  it("adds recipients and a recovery key, which is shown once and kept nowhere", async () => {
    const of = await project();
    const shown: string[] = [];
    await initialise(of.store, {
      tell,
      recipients: [recipient(2)],
      showRecoveryKey: (made) => shown.push(made),
    });
    deepEqual(shown, [key(10)]);
    const { recipients, recoveryRecipient } = (await of.store.config()).sops;
    deepEqual([recipients, recoveryRecipient], [[recipient(1), recipient(2)], recipient(10)]);
    deepEqual(await of.values(`${key(10)}\n`), ["value-0", "value-1"]);
    const everything = [of.read("project/Pulumi.prod.yaml"), of.read("keys/prod.agekey"), ...of.contents()];
    equal(everything.join("").includes(key(10)), false);
    await of.agree();
    await rejects(
      initialise(of.store, { tell, showRecoveryKey: () => undefined }),
      /it has a recovery key, age1/,
    );
  });

  it("tells somebody new whom to ask, and lets nobody in who cannot open the files", async () => {
    const of = await project({ identity: [] });
    const lines: string[] = [];
    await initialise(of.store, { tell: (line) => lines.push(line) });
    match(lines.at(-1) ?? "", /^not a recipient yet: .* init prod --recipient age1\w+"$/);
    deepEqual((await of.store.config()).sops.recipients, [recipient(1)]);
    await rejects(
      initialise(of.store, { tell, recipients: [recipient(5)] }),
      /is not one of its recipients age1/,
    );
  });

  it("encrypts anew with the recovery key what only that opens, such as a file from before a rotation", async () => {
    const of = await project({ recipients: [2], recovery: 3, identity: [2] });
    const [path = ""] = paths;
    const old = await of.sops.encrypt(plain("old"), path, [recipient(1), recipient(3)]);
    writeFileSync(join(of.tree, path), old);
    await rejects(initialise(of.store, { tell }), {
      message: `Decrypting ${path} with the identity of stack "prod" failed: it is encrypted for ${recipient(1)}, ${recipient(3)}, the identity is ${recipient(2)}. Set SOPS_AGE_KEY_FILE to the right identity, ask a person whose identity opens it to run "npx platform secrets init prod --recipient ${recipient(2)}", or replace the file with a Secret of your own.`,
    });
    for (const keys of [[3], [3, 2], [1, 2]]) {
      writeFileSync(join(of.tree, path), old);
      writeFiles(of.directory, { recovery: keys.map((n) => `${key(n)}\n`).join("") });
      const again = await open(of.directory, of.sops, { SOPS_AGE_KEY_FILE: join(of.directory, "recovery") });
      await initialise(again.store, { tell });
      await of.agree();
      deepEqual(await of.values(`${key(2)}\n`), ["old", "value-1"]);
    }
  });

  it("changes nothing where the recovery key is all there is, and no recipient", async () => {
    const of = await project({ recipients: [], recovery: 3, env: { SOPS_AGE_KEY: `${key(3)}\n` } });
    const before = of.read("project/Pulumi.prod.yaml");
    await rejects(initialise(of.store, { tell }), /SOPS_AGE_KEY holds only the recovery key of the stack\./);
    equal(of.read("project/Pulumi.prod.yaml"), before);
  });

  it("changes nothing where files are encrypted for others alone, and says what to do with them", async () => {
    const of = await project({ identity: [] });
    const settings = join(of.directory, "project", "Pulumi.prod.yaml");
    writeFileSync(settings, readFileSync(settings, "utf8").replace(/ {4}recipients: .*\n/, ""));
    const before = [readFileSync(settings, "utf8"), of.read("project/.sops.yaml"), ...of.contents()];
    const shown: string[] = [];
    await rejects(
      initialise(of.store, { tell, showRecoveryKey: (made) => shown.push(made) }),
      (error: Error) => {
        const lines = error.message.split("\n");
        equal(lines.length, paths.length);
        for (const [index, line] of lines.entries()) {
          match(
            line,
            new RegExp(`^Decrypting ${paths[index] ?? ""} with .* failed: it is encrypted for age1`),
          );
          match(line, /, or replace the file with a Secret of your own\.$/);
        }
        return true;
      },
    );
    deepEqual([readFileSync(settings, "utf8"), of.read("project/.sops.yaml"), ...of.contents()], before);
    deepEqual([existsSync(of.identityFile), shown], [false, []]);
  });

  it("changes nothing where .sops.yaml cannot be read", async () => {
    const of = await project();
    const before = of.read("project/Pulumi.prod.yaml");
    writeFiles(of.directory, { "project/.sops.yaml": "<<<<<<< HEAD\n" });
    await rejects(
      initialise(of.store, { tell, recipients: [recipient(2)] }),
      /^Error: Reading \.sops\.yaml failed: /,
    );
    equal(of.read("project/Pulumi.prod.yaml"), before);
    equal(of.read("project/.sops.yaml"), "<<<<<<< HEAD\n");
  });

  it("refuses a post-quantum identity and recipient, and changes nothing", async () => {
    const of = await project({ recipients: [], identity: [] });
    for (const path of paths) writeFileSync(join(of.tree, path), plain("x"));
    const before = of.read("project/Pulumi.prod.yaml");
    const refused = {
      message: `Making the secrets of stack "prod" ready failed: age1pq1${"q".repeat(13)}… is a post-quantum recipient, which is not supported here. Make an identity with "age-keygen", without -pq.`,
    };
    const pq = `age1pq1${"q".repeat(1950)}`;
    await rejects(initialise(of.store, { tell, recipients: [pq] }), refused);
    of.sops.recipients = () => Promise.resolve([pq]);
    await rejects(initialise(of.store, { tell }), refused);
    equal(of.read("project/Pulumi.prod.yaml"), before);
    equal(existsSync(of.identityFile), false);
  });

  it("takes the identity of the environment", async () => {
    const of = await project({ identity: [], env: { SOPS_AGE_KEY: `${key(1)}\n` } });
    await initialise(of.store, { tell, recipients: [recipient(2)] });
    equal(existsSync(of.identityFile), false);
    await of.agree();
  });
});

describe("an identity file", () => {
  it("stays a symbolic link where it is one", async () => {
    const of = await project();
    renameSync(of.identityFile, join(of.directory, "real"));
    symlinkSync(join(of.directory, "real"), of.identityFile);
    await of.store.writeIdentityFile({ keys: [key(2)], notes: {} });
    ok(lstatSync(of.identityFile).isSymbolicLink());
    match(of.read("real"), /^AGE-SECRET-KEY-1TEST2$/m);
    equal(statSync(join(of.directory, "real")).mode & 0o777, 0o600);
  });

  it("is as it was where it cannot be written, which is said in one sentence", async () => {
    const of = await project();
    mkdirSync(`${of.identityFile}.new`);
    const write = () => of.store.writeIdentityFile({ keys: [key(2)], notes: {} });
    await rejects(write(), (error: Error) => {
      match(
        error.message,
        /^Writing \S+prod\.agekey failed: \S+prod\.agekey\.new is a directory\. [A-Z][^.]+, and run the same command again\.$/,
      );
      return true;
    });
    equal(of.read("keys/prod.agekey"), `${key(1)}\n`);
    for (const [code, cause, remedy] of [
      ["ENOSPC", "the disk of /a is full", "Free some space on its disk"],
      ["EROFS", "/a is on a file system that is read-only", "Make its directory writable for this user"],
    ] as const) {
      equal(
        notWritten("/a", Object.assign(new Error(`${code}: reason, write`), { code })).message,
        `Writing /a failed: ${cause}. ${remedy}, and run the same command again.`,
      );
    }
  });
});

describe("add", () => {
  const secret = { name: "new", layer: "apps", namespace: "team", values: { A: "hunter2", B: "2026-01-01" } };

  it("writes an encrypted file and its line", async () => {
    const of = await project();
    deepEqual(await addSecret(of.store, secret), [
      "clusters/prod/apps/new.enc.yaml",
      "clusters/prod/apps/kustomization.yaml",
    ]);
    const content = readFileSync(join(of.tree, "clusters/prod/apps/new.enc.yaml"), "utf8");
    equal(content.includes("hunter2"), false);
    deepEqual(parse(await of.sops.decrypt(content, "", key(1))), {
      ...{ apiVersion: "v1", kind: "Secret", metadata: { name: "new", namespace: "team" } },
      stringData: secret.values,
    });
    equal(
      readFileSync(join(of.tree, "clusters/prod/apps/kustomization.yaml"), "utf8"),
      "resources:\n  - base # the rest\n  - new.enc.yaml\n",
    );
    await of.agree();
    await rejects(
      addSecret(of.store, secret),
      /new\.enc\.yaml is there\. Change it with "npx platform secrets edit/,
    );
  });

  it("brings the file of a line that is there, and does not add the line again", async () => {
    for (const line of ["new.enc.yaml", '"./new.enc.yaml"']) {
      const of = await project();
      const list = join(of.tree, "clusters/prod/apps/kustomization.yaml");
      writeFileSync(list, `resources: [${line}]\n`);
      deepEqual(await addSecret(of.store, secret), ["clusters/prod/apps/new.enc.yaml"]);
      equal(readFileSync(list, "utf8"), `resources: [${line}]\n`);
      await of.agree();
    }
  });

  it("names the line that a file lacks", async () => {
    const of = await project();
    writeFiles(of.tree, { "clusters/prod/apps/new.enc.yaml": plain("x") });
    await rejects(addSecret(of.store, secret), {
      message:
        'Adding Secret "new" to stack "prod" failed: clusters/prod/apps/new.enc.yaml is there. List it in clusters/prod/apps/kustomization.yaml, with the line "- new.enc.yaml" below "resources".',
    });
  });

  it("is done again after a kill or a full disk between its two writes", async () => {
    const of = await project();
    const writeFile = of.store.writeFile.bind(of.store);
    of.store.writeFile = () => Promise.reject(new Killed());
    await rejects(addSecret(of.store, secret));
    of.store.writeFile = writeFile;
    await addSecret(of.store, secret);
    equal(of.read("project/gitops/clusters/prod/apps/kustomization.yaml").split("new.enc.yaml").length, 2);
    await of.agree();
  });

  it("looks again at what is there when it has the values", async () => {
    const of = await project();
    const values = async () => {
      await addSecret(of.store, secret);
      return secret.values;
    };
    await rejects(addSecret(of.store, { ...secret, values }), /new\.enc\.yaml is there\. Change it with/);
  });

  it("leaves the values to a stack that makes them up", async () => {
    const of = await project({ recipients: [], generate: "all" });
    await rejects(addSecret(of.store, secret), /generates all its values\. Leave them empty: "key="\.$/);
    await addSecret(of.store, { ...secret, values: { A: "" } });
    match(
      readFileSync(join(of.tree, "clusters/prod/apps/new.enc.yaml"), "utf8"),
      /stringData:\n {2}A: ""\n$/,
    );
  });

  for (const [what, change, message] of [
    ["a name that is none", { name: "New Secret" }, /is not a valid name of an object/],
    ["a name that leads elsewhere", { name: "../../x" }, /is not a valid name of an object/],
    ["a namespace that is none", { namespace: "A" }, /"A" is not a valid namespace/],
    [
      "a namespace that is none of the tree's",
      { namespace: "teams" },
      /: no Namespace of the tree is named "teams"\. Name a Namespace of the tree with --namespace, or add this one first\.$/,
    ],
    ["no values", { values: {} }, /it has no values/],
    ["a key that is none", { values: { "a b": "hunter2" } }, /"a b" is not a valid key\. (?!.*hunter2)/],
    ["a layer that is none", { layer: "appz" }, /there is no clusters\/prod\/appz\/kustomization\.yaml/],
  ] as const) {
    it(`is refused for ${what}`, async () => {
      const of = await project();
      await rejects(addSecret(of.store, { ...secret, ...change }), (error: Error) => {
        match(error.message, message);
        match(error.message, /^Adding Secret ".*" to stack "prod" failed: /);
        return true;
      });
      deepEqual([...(await of.store.files()).keys()], paths);
    });
  }

  it("reads values to the end of their lines, and names a line that has none without showing it", () => {
    deepEqual(parseValues("A=b=c \r\n\n B = x\nC=\n"), { A: "b=c ", B: " x", C: "" });
    for (const [text, message] of [
      ["A=1\nhunter2", 'Reading line 2 of the values failed: it has no "key=". Write lines "key=value".'],
      ["A=1\nA=2", 'Reading line 2 of the values failed: "A" is there twice. Write lines "key=value".'],
    ] as const) {
      let said = "";
      try {
        parseValues(text);
      } catch (error) {
        said = (error as Error).message;
      }
      equal(said, message);
    }
  });
});
