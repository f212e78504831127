import { deepEqual, equal, notEqual, rejects } from "node:assert/strict";
import { parseAllDocuments } from "yaml";
import type { Manifest, ManifestRef } from "../../clients/kubernetes/client";
import type { ArtifactReader } from "../../clients/registry/oci";
import type { Sops } from "../../clients/sops/client";
import {
  GeneratedLifecycle,
  type GeneratedInputs,
  type GeneratedOutputs,
} from "../../core/secrets/generated";
import { valuesIn } from "../../clients/sops/secret-file";
import { FakeRegistry } from "./fake-registry";

/** Encrypts as far as the lifecycle sees: the identity that opens a file is the name of its recipients. */
class FakeSops implements Sops {
  readonly encrypted: { manifest: string; path: string; recipients: readonly string[] }[] = [];

  encrypt(manifest: string, path: string, recipients: readonly string[]): Promise<string> {
    this.encrypted.push({ manifest, path, recipients });
    return Promise.resolve(sealed(manifest, recipients.join()));
  }

  decrypt(content: string, _path: string, identity: string): Promise<string> {
    const { sops } = parseAllDocuments(content)[0]?.toJS() as { sops: { plain: string; for: string } };
    if (sops.for !== identity) return Promise.reject(new Error("no identity matched any of the recipients"));
    return Promise.resolve(Buffer.from(sops.plain, "base64").toString());
  }

  recipients(): Promise<string[]> {
    throw new Error("recipients are inputs");
  }

  keygen(): Promise<string> {
    throw new Error("the identity is an input");
  }

  generate(): Promise<string> {
    throw new Error("the identity is an input");
  }
}

const sealed = (manifest: string, recipient: string) =>
  `kind: Secret\nsops: {for: ${recipient}, plain: ${Buffer.from(manifest).toString("base64")}}\n`;

const file = (name: string) =>
  `apiVersion: v1\nkind: Secret\nmetadata: {name: ${name}, namespace: team}\nstringData: {A: "", B: ""}\n`;
const filled = (name: string, A: string, B: string) =>
  `apiVersion: v1\nkind: Secret\nmetadata: {name: ${name}}\nstringData: {A: ${A}, B: ${B}}\n`;
const [x, y] = ["clusters/local/x.enc.yaml", "clusters/local/y.enc.yaml"];
const inputs: GeneratedInputs = {
  files: { [x]: file("x"), [y]: file("y") },
  values: { [x]: { A: "value-xa", B: "value-xb" }, [y]: { A: "value-ya", B: "value-yb" } },
  recipients: ["age1local"],
  identity: "age1local",
  ...{ repository: "registry/platform", insecure: false, channel: "local", kubeconfig: "", revision: 0 },
};

/** What a registry and a cluster hold. */
class World extends FakeRegistry implements ArtifactReader {
  readonly sops = new FakeSops();
  /** Tag → path → encrypted file. */
  artifacts: Record<string, Record<string, string>> = {};
  secrets: Manifest[] = [];
  failure: string | undefined;
  asked: string[] = [];

  readonly lifecycle = new GeneratedLifecycle(this.sops, this, {
    get: (ref: ManifestRef) => {
      const found = this.listed(`Secret ${ref.namespace ?? ""}/${ref.name}`).find(
        ({ metadata }) => metadata.name === ref.name && metadata.namespace === ref.namespace,
      );
      return this.answer(found);
    },
    list: () => this.answer(this.listed("Secrets")),
  });

  override digest(_repository: string, tag: string): Promise<string | undefined> {
    this.asked.push(tag);
    return this.answer(this.artifacts[tag] === undefined ? undefined : `sha256:${tag}`);
  }

  files(_repository: string, digest: string, paths: readonly string[]): Promise<Record<string, string>> {
    const held = this.artifacts[digest.replace("sha256:", "")] ?? {};
    return this.answer(Object.fromEntries(Object.entries(held).filter(([path]) => paths.includes(path))));
  }

  /** The values that the last run encrypted: path → key → value. */
  async run(news: GeneratedInputs, olds?: GeneratedOutputs) {
    this.sops.encrypted.length = 0;
    const outputs = await (olds === undefined
      ? this.lifecycle.create(news)
      : this.lifecycle.update(news, olds));
    const values = this.sops.encrypted.map(({ path, manifest }) => [path, valuesIn(manifest)] as const);
    return { outputs, values: Object.fromEntries(values) };
  }

  private listed(what: string): Manifest[] {
    this.asked.push(what);
    return this.secrets;
  }

  private answer<T>(value: T): Promise<T> {
    return this.failure === undefined ? Promise.resolve(value) : Promise.reject(new Error(this.failure));
  }
}

const secret = (name: string, namespace: string, values: Readonly<Record<string, string>>): Manifest => ({
  ...{ apiVersion: "v1", kind: "Secret" },
  metadata: { name, namespace, labels: { "kustomize.toolkit.fluxcd.io/name": "apps" } },
  data: Object.fromEntries(
    Object.entries(values).map(([key, value]) => [key, Buffer.from(value).toString("base64")]),
  ),
});

/** The same record with its keys the other way round, at every depth. */
function reversed<T>(value: T): T {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([key, child]) => [key, reversed(child as unknown)]),
  ) as T;
}

describe("generated secrets", () => {
  it("encrypts every file with its own values, for the recipients, where nobody has one yet", async () => {
    const world = new World();
    const { outputs, values } = await world.run(inputs);
    deepEqual(Object.keys(outputs.encrypted), [x, y]);
    deepEqual(values, inputs.values);
    for (const { recipients } of world.sops.encrypted) deepEqual(recipients, ["age1local"]);
    equal(world.sops.encrypted.length, 2);
  });

  it("keeps no value: not in its outputs, and not as a hash of one value", async () => {
    const { outputs } = await new World().run(inputs);
    deepEqual(Object.keys(outputs).sort(), ["encrypted", "fingerprint", "revision"]);
    const { encrypted, ...rest } = outputs;
    equal(/value-/.test(JSON.stringify(rest)), false);
    equal(
      Object.values(encrypted).some((text) => text.includes("value-")),
      false,
    );
  });

  it("is unchanged whatever the order of keys", async () => {
    const { lifecycle } = new World();
    const outputs = await lifecycle.create(inputs);
    notEqual(JSON.stringify(reversed(inputs)), JSON.stringify(inputs));
    equal(lifecycle.diff(outputs, inputs), false);
    equal(lifecycle.diff(outputs, reversed(inputs)), false);
  });

  for (const [what, change] of [
    ["a value", { values: { ...inputs.values, [x]: { A: "value-xa", B: "other" } } }],
    ["a file", { files: { ...inputs.files, [x]: file("z") } }],
    ["a recipient", { recipients: ["age1other"] }],
  ] as const) {
    it(`is due again when ${what} changed`, async () => {
      const { lifecycle } = new World();
      equal(lifecycle.diff(await lifecycle.create(inputs), { ...inputs, ...change }), true);
    });
  }

  it("has nothing to do, and asks nobody, where nothing is generated", async () => {
    const world = new World();
    const { outputs } = await world.run({ ...inputs, files: {}, values: {} });
    deepEqual([outputs.encrypted, world.sops.encrypted, world.asked], [{}, [], []]);
  });
});

describe("values in force, after the loss of Pulumi's state", () => {
  it("are those of the artifact that was last Ready, then of the channel's, then of the cluster", async () => {
    const world = new World();
    world.artifacts = {
      "local-ready": { [x]: sealed(filled("x", "ready-xa", '""'), "age1local"), other: "kind: Secret" },
      local: { [x]: sealed(filled("x", "channel-xa", "channel-xb"), "age1local") },
    };
    world.secrets = [secret("x", "team", { A: "no" }), secret("y", "team", { A: "cluster-ya", C: "no" })];
    const { values } = await world.run(inputs);
    deepEqual(values, {
      [x]: { A: "ready-xa", B: "channel-xb" },
      [y]: { A: "cluster-ya", B: "value-yb" },
    });
  });

  it("are not looked for any further where the artifact has them all", async () => {
    const world = new World();
    world.artifacts = {
      "local-ready": {
        [x]: sealed(filled("x", "xa", "xb"), "age1local"),
        [y]: sealed(filled("y", "ya", "yb"), "age1local"),
      },
    };
    deepEqual((await world.run(inputs)).values, { [x]: { A: "xa", B: "xb" }, [y]: { A: "ya", B: "yb" } });
    deepEqual(world.asked, ["local-ready"]);
  });

  it("are the cluster's where the identity does not open the artifact", async () => {
    const world = new World();
    world.artifacts = { "local-ready": { [x]: sealed(filled("x", "xa", "xb"), "age1lost"), [y]: file("y") } };
    world.secrets = [secret("x", "team", { A: "cluster-xa", B: "cluster-xb" })];
    deepEqual((await world.run(inputs)).values, {
      [x]: { A: "cluster-xa", B: "cluster-xb" },
      [y]: { A: "value-ya", B: "value-yb" },
    });
  });

  it("are found in the namespace that a kustomization set, where one Secret alone has the name", async () => {
    const world = new World();
    const files = { [x]: file("x").replace(", namespace: team", ""), [y]: file("y") };
    world.secrets = [
      secret("x", "elsewhere", { A: "cluster-xa" }),
      { ...secret("x", "mine", { A: "no" }), metadata: { name: "x", namespace: "mine" } },
      secret("y", "one", { A: "no" }),
      secret("y", "two", { A: "no" }),
    ];
    deepEqual((await world.run({ ...inputs, files })).values, {
      [x]: { A: "cluster-xa", B: "value-xb" },
      [y]: { A: "value-ya", B: "value-yb" },
    });
  });

  it("are not made up where registry or cluster does not answer", async () => {
    const world = new World();
    world.failure = "the registry does not answer";
    await rejects(world.run(inputs), /the registry does not answer/);
    deepEqual(world.sops.encrypted, []);
  });

  it("stay from then on: the next run changes nothing, and a new file or recipient leaves them alone", async () => {
    const world = new World();
    world.artifacts = { local: { [x]: sealed(filled("x", "in-force-a", "in-force-b"), "age1local") } };
    const files = { [x]: file("x") };
    const { outputs } = await world.run({ ...inputs, files });
    equal(world.lifecycle.diff(outputs, { ...inputs, files }), false);
    equal(world.lifecycle.diff(outputs, { ...inputs, files, kubeconfig: "of another cluster" }), false);
    world.artifacts = {};
    const added = await world.run({ ...inputs, recipients: ["age1local"] }, outputs);
    deepEqual(added.values, { [x]: { A: "in-force-a", B: "in-force-b" }, [y]: inputs.values[y] });
    const rotated = await world.run({ ...inputs, recipients: ["age1new"] }, added.outputs);
    deepEqual(rotated.values, added.values);
  });

  it("are new with another revision", async () => {
    const world = new World();
    world.artifacts = { local: { [x]: sealed(filled("x", "in-force-a", "in-force-b"), "age1local") } };
    const { outputs } = await world.run(inputs);
    deepEqual((await world.run({ ...inputs, revision: 1 }, outputs)).values, inputs.values);
  });

  it("stay in a state that knows no revision yet, whatever becomes of the names of its passwords", async () => {
    const world = new World();
    const { revision, ...old } = (await world.run(inputs)).outputs;
    equal(revision, 0);
    const values = { [x]: { A: "new", B: "new" }, [y]: { A: "new", B: "new" } };
    deepEqual((await world.run({ ...inputs, values }, old)).values, inputs.values);
    deepEqual((await world.run({ ...inputs, values, revision: 3 }, old)).values, values);
  });
});
