import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { textOf } from "../../core/findings/finding";
import { buildTree } from "../../core/tree/build";
import { renderCluster, runtimeConfig } from "../../core/tree/render";
import { checkCluster, inspectTree } from "../../core/tree/tree";
import { ensureTools } from "../../tools/tools";
import { smallTree } from "./small-tree";
import { temporaryDirectory, writeFiles } from "./temporary";

const controllers = "clusters/x/controllers";

/** The small tree with other files: path → content. */
function treeWith(files: Readonly<Record<string, string>>): string {
  const tree = temporaryDirectory();
  writeFiles(tree, smallTree);
  writeFiles(tree, files);
  return tree;
}

/** The small tree whose layer holds one ConfigMap. */
const withValue = (text: string, metadata = "{name: c}") =>
  treeWith({
    [`${controllers}/kustomization.yaml`]: "resources: [c.yaml]\n",
    [`${controllers}/c.yaml`]: `apiVersion: v1\nkind: ConfigMap\nmetadata: ${metadata}\ndata:\n  key: ${JSON.stringify(text)}\n`,
  });

/** A Flux Kustomization of the release. */
const kustomization = (name: string, path: string, more = "", metadata = "namespace: flux-system") => `---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: ${name}, ${metadata}}
spec:
  path: ${path}
  sourceRef: {kind: OCIRepository, name: flux-system, namespace: flux-system}
${more}`;

before("platform-tree", async function () {
  this.timeout(600_000);
  await ensureTools(["platform-tree"], { report: console.error });
});

describe("variables of a tree", () => {
  const valueOf = async (text: string, metadata?: string) => {
    const { layers } = await renderCluster(withValue(text, metadata), "x", { runtime: { domain: "d" } });
    return (layers[0]?.manifests[0]?.data as Record<string, string>).key;
  };

  it("are committed facts and facts of the run, whose values a check does not know", async () => {
    const text = "${replicas} ${cluster} ${domain} ${channel} ${registry_address} ${load_balancer_cidr}";
    deepEqual((await inspectTree(withValue(text), "x")).findings, []);
    equal(await valueOf("${cluster} ${domain}"), "x d");
  });

  it("that become numbers where text must stand are named with field and remedy, without their values", async () => {
    const { findings } = await inspectTree(withValue("${replicas}"), "x");
    deepEqual(findings.map(textOf), [
      `Building layer "controllers" of cluster "x" failed: "data.key" of ConfigMap c is a number and must be text. Write it in quotes, or, where it comes from a variable, as \${quote}\${name}\${quote} with quote: '"' among the cluster's variables: Flux's substitution drops the quotes of the file.`,
    ]);
    await rejects(valueOf("${replicas}"), /"data\.key" of ConfigMap c is a number and must be text/);
  });

  it("that nothing sets are named, with the object, each once", async () => {
    const { findings } = await inspectTree(withValue("${colour} ${colour} ${shape}"), "x");
    deepEqual(
      findings.map(textOf),
      ["colour", "shape"].map(
        (name) =>
          `ConfigMap c of layer "controllers" uses \${${name}}, which is not set. Add it to the cluster's variables.yaml.`,
      ),
    );
  });

  it("may have a default, be escaped, or be switched off by an annotation or a label", async () => {
    equal(await valueOf("${colour:=blue}"), "blue");
    equal(await valueOf("$${colour} $colour"), "${colour} $colour");
    for (const mark of ["annotations", "labels"]) {
      const metadata = `{name: c, ${mark}: {kustomize.toolkit.fluxcd.io/substitute: disabled}}`;
      equal(await valueOf("${colour}", metadata), "${colour}");
    }
  });

  it("are refused in Flux's words where Flux refuses them", async () => {
    await rejects(renderCluster(withValue("${files[@]}"), "x"), {
      message:
        /^Building layer "controllers" of cluster "x" failed: post build failed for 'ConfigMap\.v1\.\[noGrp\]\/c': envsubst error: /,
    });
  });

  it("are left alone where the Kustomization has no postBuild", async () => {
    const tree = withValue("${colour}");
    writeFileSync(
      join(tree, "clusters/x/controllers.yaml"),
      kustomization("controllers", `./${controllers}`),
    );
    deepEqual((await inspectTree(tree, "x")).findings, []);
  });
});

describe("build of a cluster", () => {
  it("follows Kustomizations of the release in any namespace, and names those of other sources", async () => {
    const tree = treeWith({
      "clusters/x/controllers/kustomization.yaml": "resources: [more.yaml]\n",
      "clusters/x/controllers/more.yaml":
        kustomization(
          "app",
          "./app",
          "  dependsOn: [{name: controllers, namespace: flux-system}]\n",
          "namespace: web",
        ) + kustomization("other", "./app").replace("kind: OCIRepository", "kind: GitRepository"),
      "app/config.yaml":
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: web}\ndata: {a: '${x}'}\n",
    });
    const { layers, notes } = await renderCluster(tree, "x");
    deepEqual(
      layers.map(({ name, dependsOn, manifests }) => [name, dependsOn, manifests.map(({ kind }) => kind)]),
      [
        ["controllers", [], ["Kustomization", "Kustomization"]],
        ["web/app", ["controllers"], ["ConfigMap"]],
      ],
    );
    deepEqual(notes, [
      'Layer "other" is not built here: its source GitRepository flux-system/flux-system is not the release.',
    ]);
    deepEqual((await inspectTree(tree, "x")).findings, []);
    deepEqual(
      (await buildTree(tree, "x", { given: [runtimeConfig()] })).kustomizations[1]?.parent,
      "flux-system/controllers",
    );
  });

  it("leaves out suspended Kustomizations, names them, and then knows of no Secret that nothing applies", async () => {
    const tree = treeWith({
      "clusters/x/layers.yaml": kustomization("paused", "./paused", "  suspend: true\n"),
      "clusters/x/kustomization.yaml": "resources: [variables.yaml, controllers.yaml, layers.yaml]\n",
      "paused/kustomization.yaml": "resources: [missing.yaml]\n",
    });
    const { layers, notes } = await renderCluster(tree, "x");
    deepEqual(
      layers.map(({ name }) => name),
      ["controllers"],
    );
    deepEqual(notes, ['Layer "paused" is not built here: it is suspended, and Flux applies nothing of it.']);
    deepEqual(await checkCluster(tree, "x"), { findings: [] });
  });

  it("takes encrypted files of a secretGenerator and encrypted patches for what they are", async () => {
    const cipher = (text: string) => `ENC[AES256_GCM,data:${text},iv:YmFy,tag:YmF6,type:str]`;
    const sops = `sops:\n    mac: ${cipher("bWFj")}\n    version: 3.13.3\n`;
    const encrypted = (settings: string) => ({
      [`${controllers}/kustomization.yaml`]:
        "resources: [secret.yaml]\nsecretGenerator: [{name: g, files: [settings.yaml]}]\npatches: [{path: patch.yaml}]\n",
      [`${controllers}/secret.yaml`]: "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n",
      [`${controllers}/settings.yaml`]: `${settings}\n${sops}`,
      [`${controllers}/patch.yaml`]: `apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  a: ${cipher("Zm9v")}\n${sops}`,
    });
    const { findings, notes } = await inspectTree(treeWith(encrypted(`a: ${cipher("Zm9v")}`)), "x");
    deepEqual(findings, []);
    equal(notes.length, 2, notes.join("\n"));
    for (const note of notes) match(note, /comes from an encrypted file: its values, .* are not known here/);
    // A value that somebody put there in plain text, beside encrypted ones.
    const changed = await inspectTree(treeWith(encrypted(`a: ${cipher("Zm9v")}\nb: plain`)), "x");
    equal(changed.findings.length, 1, changed.findings.map(textOf).join("\n"));
    match(changed.findings[0]?.message ?? "", /^Secret default\/g-\w+ holds "settings\.yaml" in plain text/);
  });

  it("does not see what source-controller leaves out: images, archives, links, .sourceignore", async () => {
    const tree = treeWith({ "logo.png": "x", "chart.zip": "x", "docs/.sourceignore": "/draft.md\n" });
    symlinkSync("plain.yaml", join(tree, controllers, "link.yaml"));
    deepEqual((await buildTree(tree, "x")).leftOut, [`${controllers}/link.yaml`]);
    writeFiles(tree, { "docs/.sourceignore": "", "docs/draft.md": "x" });
    deepEqual((await buildTree(tree, "x")).leftOut, ["chart.zip", `${controllers}/link.yaml`, "logo.png"]);
    writeFiles(tree, { [`${controllers}/kustomization.yaml`]: "resources: [link.yaml]\n" });
    match(
      (await inspectTree(tree, "x")).findings.map(textOf).join(),
      /link\.yaml: no such file or directory/,
    );
  });
});
