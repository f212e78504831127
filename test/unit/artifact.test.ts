import { deepEqual, equal, match, notEqual, rejects } from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ArtifactLifecycle, type ArtifactInputs } from "../../core/release/artifact";
import { textOf } from "../../core/findings/finding";
import { checkCluster, inspectTree, readTree } from "../../core/tree/tree";
import type { OciRegistry } from "../../clients/registry/oci";
import { ensureTools } from "../../tools/tools";
import { smallTree } from "./small-tree";
import { temporaryDirectory, writeFiles } from "./temporary";

class FakeRegistry implements OciRegistry {
  readonly held = new Map<string, Buffer>();
  unreachable = false;

  push(layout: string, repository: string, digest: string): Promise<void> {
    const manifest = readFileSync(join(layout, "blobs", "sha256", digest.replace("sha256:", "")));
    this.held.set(`${repository}@${digest}`, manifest);
    return Promise.resolve();
  }

  tag(): Promise<void> {
    throw new Error("an artifact is pushed by its digest alone");
  }

  digest(repository: string, reference: string): Promise<string | undefined> {
    if (this.unreachable) return Promise.reject(new Error("connection refused"));
    return Promise.resolve(this.held.has(`${repository}@${reference}`) ? reference : undefined);
  }

  tags(): Promise<string[]> {
    throw new Error("an artifact has no tag");
  }

  delete(): Promise<void> {
    throw new Error("an artifact is deleted by the release after it");
  }
}

async function artifact() {
  const tree = temporaryDirectory();
  writeFiles(tree, smallTree);
  const registry = new FakeRegistry();
  const inputs: ArtifactInputs = {
    ...{ tree, cluster: "x", files: {}, repository: "r/platform", insecure: false },
    content: (await readTree(tree)).content,
    ...{ revision: "sha1:abc", source: "https://example.com/p", created: "2026-01-01T00:00:00Z" },
  };
  return { tree, registry, inputs, lifecycle: new ArtifactLifecycle(registry) };
}

before("platform-tree", async function () {
  this.timeout(600_000);
  await ensureTools(["platform-tree"], { report: console.error });
});

describe("artifact", () => {
  it("is pushed by its digest, which is its only new output", async () => {
    const { registry, inputs, lifecycle } = await artifact();
    const { digest, ...rest } = await lifecycle.create(inputs);
    deepEqual(rest, inputs);
    match(digest, /^sha256:[0-9a-f]{64}$/);
    deepEqual([...registry.held.keys()], [`r/platform@${digest}`]);
  });

  it("is the same from another place, and another with a file that replaces one", async () => {
    const one = await artifact();
    const two = await artifact();
    const { digest } = await one.lifecycle.create(one.inputs);
    equal((await two.lifecycle.create(two.inputs)).digest, digest);
    const files = {
      "clusters/x/controllers/secret.enc.yaml":
        smallTree["clusters/x/controllers/secret.enc.yaml"].replace('""', '"ENC[x]"') + "sops: {mac: x}\n",
    };
    notEqual((await one.lifecycle.create({ ...one.inputs, files })).digest, digest);
    equal(
      readFileSync(join(one.tree, "clusters/x/controllers/secret.enc.yaml"), "utf8"),
      smallTree["clusters/x/controllers/secret.enc.yaml"],
    );
  });

  it("is not pushed when the tree is not the one that was checked", async () => {
    const { tree, registry, inputs, lifecycle } = await artifact();
    writeFileSync(join(tree, "README.md"), "changed in the meantime\n");
    await rejects(lifecycle.create(inputs), /was refused: the tree changed during the run\. Run again/);
    equal(registry.held.size, 0);
  });

  it("is not pushed with generated values that are not encrypted, and does not show them", async () => {
    const { registry, inputs, lifecycle } = await artifact();
    const path = "clusters/x/controllers/secret.enc.yaml";
    const files = { [path]: smallTree[path].replace('""', "hunter2") };
    await rejects(lifecycle.create({ ...inputs, files }), (error: Error) => {
      match(error.message, /secret\.enc\.yaml was refused: its generated values are not encrypted\./);
      equal(error.message.includes("hunter2"), false);
      return true;
    });
    equal(registry.held.size, 0);
  });

  it("is gone when the registry does not hold it, or does not answer", async () => {
    const { registry, inputs, lifecycle } = await artifact();
    const outputs = await lifecycle.create(inputs);
    equal(await lifecycle.read(outputs), outputs);
    registry.unreachable = true;
    equal(await lifecycle.read(outputs), undefined);
    registry.unreachable = false;
    registry.held.clear();
    equal(await lifecycle.read(outputs), undefined);
  });

  for (const [due, change] of [
    [false, { tree: "/elsewhere" }],
    [false, { created: "2027-01-01T00:00:00Z" }],
    [true, { content: "2" }],
    [true, { cluster: "y" }],
    [true, { repository: "r/other" }],
    [true, { revision: "sha1:abd" }],
    [true, { source: "https://example.com/q" }],
    [true, { files: { a: "1" } }],
  ] as const) {
    it(`is ${due ? "" : "not "}due for another ${Object.keys(change).join()}`, async () => {
      const { inputs, lifecycle } = await artifact();
      equal(lifecycle.diff(inputs, { ...inputs, ...change }), due);
    });
  }

  it("is not due for the same files in another order", async () => {
    const { inputs, lifecycle } = await artifact();
    equal(
      lifecycle.diff({ ...inputs, files: { a: "1", b: "2" } }, { ...inputs, files: { b: "2", a: "1" } }),
      false,
    );
  });
});

describe("tree", () => {
  it("lists its files and hashes their names and contents", async () => {
    const { tree } = await artifact();
    const first = await inspectTree(tree, "x");
    deepEqual(first.files, Object.keys(smallTree).sort());
    deepEqual(first.findings, []);
    equal((await inspectTree((await artifact()).tree, "x")).content, first.content);
    writeFileSync(join(tree, "README.md"), "");
    notEqual((await inspectTree(tree, "x")).content, first.content);
  });

  it("says what forbids its release: all of it, not the first", async () => {
    const { tree } = await artifact();
    writeFiles(tree, {
      "notes.txt": `AGE-SECRET-KEY-1${"Q".repeat(58)}`,
      "clusters/x/controllers/kustomization.yaml": "resources: [gone.yaml]\n",
    });
    const { findings } = await inspectTree(tree, "x");
    equal(findings.length, 2);
    const [first = "", second = ""] = findings.map(textOf);
    match(first, /^File notes\.txt holds a private key/);
    match(second, /^Building layer "controllers" of cluster "x" failed: .*gone\.yaml/);
  });

  it("is refused for a plain Secret that kustomize makes up, and for one in a file once", async () => {
    const { tree } = await artifact();
    writeFiles(tree, {
      "clusters/x/controllers/kustomization.yaml":
        "namespace: web\nresources: [secret.enc.yaml]\nsecretGenerator: [{name: g, literals: [A=b], options: {disableNameSuffixHash: true}}]\n",
      "clusters/x/controllers/secret.enc.yaml": smallTree["clusters/x/controllers/secret.enc.yaml"].replace(
        '""',
        "b",
      ),
    });
    const remedy =
      'Encrypt its file with "sops encrypt --in-place", name it *.enc.yaml, and replace the value: it is known from now on. Or, where it is public, mark its line with the comment "platform:not-a-secret <reason>".';
    deepEqual((await inspectTree(tree, "x")).findings.map(textOf), [
      `File clusters/x/controllers/secret.enc.yaml: Secret default/s holds "A" in plain text. ${remedy}`,
      `Secret web/g holds "A" in plain text. ${remedy}`,
    ]);
  });

  it("tells the names of the Secrets that a cluster applies, where it builds", async () => {
    const { tree } = await artifact();
    deepEqual(await checkCluster(tree, "x"), { findings: [], secrets: new Set(["s"]) });
    writeFiles(tree, { "clusters/x/controllers/kustomization.yaml": "resources: [gone.yaml]\n" });
    equal((await checkCluster(tree, "x")).secrets, undefined);
  });

  it("that is not there is refused, naming the setting", async () => {
    equal(existsSync("/no/such/tree"), false);
    await rejects(inspectTree("/no/such/tree", "x"), {
      message:
        /^Reading the gitops tree failed: \S+ does not exist\. Set platform:gitops\.tree to the directory of the tree\.$/,
    });
  });
});
