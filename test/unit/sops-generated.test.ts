import { deepEqual, equal, notEqual } from "node:assert/strict";
import type { Sops } from "../../components/sops/client";
import { GeneratedLifecycle, type GeneratedInputs } from "../../components/sops/generated/lifecycle";

/** Encrypts as far as the lifecycle sees: nobody reads the result. */
class FakeSops implements Sops {
  readonly encrypted: { manifest: string; path: string; recipients: readonly string[] }[] = [];

  encrypt(manifest: string, path: string, recipients: readonly string[]): Promise<string> {
    this.encrypted.push({ manifest, path, recipients });
    return Promise.resolve(`sealed ${path}`);
  }

  decrypt(): Promise<string> {
    throw new Error("generated secrets are not decrypted");
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

const file = (name: string) =>
  `apiVersion: v1\nkind: Secret\nmetadata: {name: ${name}}\nstringData: {A: "", B: ""}\n`;
const inputs: GeneratedInputs = {
  files: { "clusters/local/x.enc.yaml": file("x"), "clusters/local/y.enc.yaml": file("y") },
  values: {
    "clusters/local/x.enc.yaml": { A: "value-xa", B: "value-xb" },
    "clusters/local/y.enc.yaml": { A: "value-ya", B: "value-yb" },
  },
  recipients: ["age1local"],
};

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
  it("encrypts every file with its own values, for the recipients", async () => {
    const sops = new FakeSops();
    const { encrypted } = await new GeneratedLifecycle(sops).create(inputs);
    deepEqual(encrypted, {
      "clusters/local/x.enc.yaml": "sealed clusters/local/x.enc.yaml",
      "clusters/local/y.enc.yaml": "sealed clusters/local/y.enc.yaml",
    });
    for (const { manifest, path, recipients } of sops.encrypted) {
      const name = path.slice(-"x.enc.yaml".length)[0] ?? "";
      equal(
        manifest.includes(`A: "value-${name}a"`) && manifest.includes(`B: "value-${name}b"`),
        true,
        manifest,
      );
      deepEqual(recipients, ["age1local"]);
    }
    equal(sops.encrypted.length, 2);
  });

  it("keeps no value: not in its outputs, and not as a hash of one value", async () => {
    const outputs = await new GeneratedLifecycle(new FakeSops()).create(inputs);
    deepEqual(Object.keys(outputs).sort(), ["encrypted", "fingerprint"]);
    equal(/value-/.test(JSON.stringify(outputs)), false);
  });

  it("is unchanged whatever the order of keys", async () => {
    const lifecycle = new GeneratedLifecycle(new FakeSops());
    const outputs = await lifecycle.create(inputs);
    notEqual(JSON.stringify(reversed(inputs)), JSON.stringify(inputs));
    equal(lifecycle.diff(outputs, inputs), false);
    equal(lifecycle.diff(outputs, reversed(inputs)), false);
  });

  for (const [what, change] of [
    ["a value", { values: { ...inputs.values, "clusters/local/x.enc.yaml": { A: "value-xa", B: "other" } } }],
    ["a file", { files: { ...inputs.files, "clusters/local/x.enc.yaml": file("z") } }],
    ["a recipient", { recipients: ["age1other"] }],
  ] as const) {
    it(`is due again when ${what} changed`, async () => {
      const lifecycle = new GeneratedLifecycle(new FakeSops());
      equal(lifecycle.diff(await lifecycle.create(inputs), { ...inputs, ...change }), true);
    });
  }

  it("has nothing to do where nothing is generated", async () => {
    const sops = new FakeSops();
    deepEqual(
      (await new GeneratedLifecycle(sops).create({ files: {}, values: {}, recipients: [] })).encrypted,
      {},
    );
    deepEqual(sops.encrypted, []);
  });
});
