import { deepEqual, equal, notDeepEqual, notEqual, rejects } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { secretFilesIn } from "../../core/secrets/files";
import { listTree, packTree } from "../../core/tree/build";
import { renderCluster } from "../../core/tree/render";
import { provenance, type Provenance, type TreeSource } from "../../core/tree/source";
import { inspectTree } from "../../core/tree/tree";
import { ensureTools } from "../../tools/tools";
import { smallTree } from "./small-tree";
import { temporaryDirectory, writeFiles } from "./temporary";

const source: Provenance = {
  ...{ revision: "sha1:abc", source: "https://example.com/platform", created: "2026-01-01T00:00:00Z" },
};
const content = { "@a.yaml": "a: 0\n", "a.yaml": "a: 1\n", "b/c.yaml": "c: 1\n", "b.yaml": "b: 1\n" };

before("platform-tree", async function () {
  this.timeout(600_000);
  await ensureTools(["platform-tree"], { report: console.error });
});

function directoryOf(files: Readonly<Record<string, string>>): string {
  const directory = temporaryDirectory();
  writeFiles(directory, files);
  return directory;
}

async function layout(
  directory: string,
  origin = source,
  into = temporaryDirectory(),
): Promise<string | undefined> {
  const { content: checked } = await listTree(directory);
  return packTree(directory, into, { ...origin, content: checked, files: {} });
}

/** The content of an artifact, as source-controller unpacks it: name → bytes. */
function unpacked(into: string): Record<string, string> {
  const blob = (name: string) => readFileSync(join(into, "blobs", "sha256", name.replace("sha256:", "")));
  const index = JSON.parse(readFileSync(join(into, "index.json"), "utf8")) as {
    manifests: { digest: string }[];
  };
  const { layers } = JSON.parse(blob(index.manifests[0]?.digest ?? "").toString()) as {
    layers: { digest: string }[];
  };
  const at = temporaryDirectory();
  execFileSync("tar", ["-xz", "-C", at], { input: blob(layers[0]?.digest ?? "") });
  const files = readdirSync(at, { recursive: true, withFileTypes: true }).filter(
    (entry) => !entry.isDirectory(),
  );
  return Object.fromEntries(
    files.map((file) => {
      const path = join(file.parentPath, file.name);
      return [path.slice(at.length + 1), readFileSync(path, "latin1")];
    }),
  );
}

describe("layout of an artifact", () => {
  it("has the same digest for the same files, whatever their times and place", async () => {
    const first = directoryOf(content);
    const second = directoryOf(content);
    for (const path of Object.keys(content)) utimesSync(join(second, path), 1_000_000_000, 1_000_000_000);
    const digest = await layout(first);
    equal(await layout(second), digest);
    equal(await layout(first), digest);
  });

  it("has the same digest whoever may read the files of a checkout", async () => {
    const first = directoryOf(content);
    const second = directoryOf(content);
    for (const path of Object.keys(content)) {
      chmodSync(join(first, path), 0o644);
      chmodSync(join(second, path), 0o600);
    }
    equal(await layout(second), await layout(first));
  });

  for (const [what, files, origin] of [
    ["the content of a file", { ...content, "a.yaml": "a: 2\n" }, source],
    ["the name of a file", { "b.yaml": "b: 1\n", "b/c.yaml": "c: 1\n", "d.yaml": "a: 1\n" }, source],
    ["one file more", { ...content, "d.yaml": "" }, source],
    ["the revision", content, { ...source, revision: "sha1:abd" }],
    ["the source", content, { ...source, source: "https://example.com/other" }],
  ] as const) {
    it(`has another digest for ${what}`, async () => {
      notEqual(await layout(directoryOf(files), origin), await layout(directoryOf(content)));
    });
  }

  it("is an OCI layout whose only layer is what Flux reads", async () => {
    const into = temporaryDirectory();
    const digest = (await layout(directoryOf(content), source, into)) ?? "";
    const blob = (name: string) => readFileSync(join(into, "blobs", "sha256", name.replace("sha256:", "")));
    const index = JSON.parse(readFileSync(join(into, "index.json"), "utf8")) as {
      manifests: { digest: string }[];
    };
    deepEqual(
      index.manifests.map((manifest) => manifest.digest),
      [digest],
    );
    const manifest = JSON.parse(blob(digest).toString()) as {
      config: { mediaType: string };
      layers: { mediaType: string; digest: string; size: number }[];
      annotations: Record<string, string>;
    };
    equal(manifest.config.mediaType, "application/vnd.cncf.flux.config.v1+json");
    equal(manifest.layers.length, 1);
    equal(manifest.layers[0]?.mediaType, "application/vnd.cncf.flux.content.v1.tar+gzip");
    deepEqual(manifest.annotations, {
      "org.opencontainers.image.created": source.created,
      "org.opencontainers.image.revision": source.revision,
      "org.opencontainers.image.source": source.source,
    });
    for (const name of readdirSync(join(into, "blobs", "sha256"))) {
      equal(createHash("sha256").update(blob(name)).digest("hex"), name);
    }
    deepEqual(unpacked(into), content);
  });
});

describe("files of an artifact", () => {
  const secret = `apiVersion: v1\nkind: Secret\nmetadata: {name: p}\nstringData: {A: hunter2}\n`;

  /** A repository whose directory `gitops` is the small tree, committed. */
  function repository() {
    const directory = temporaryDirectory();
    const tree = join(directory, "gitops");
    writeFiles(tree, smallTree);
    const git = (...args: string[]) =>
      execFileSync("git", ["-c", "user.name=t", "-c", "user.email=t@example.com", ...args], {
        ...{ cwd: directory, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] },
      });
    git("init", "-q");
    git("add", ".");
    git("commit", "-q", "-m", "first");
    return { directory, tree, git };
  }

  async function packed(tree: TreeSource) {
    const { content: checked, findings, files } = await inspectTree(tree, "x");
    const into = temporaryDirectory();
    await packTree(tree, into, { ...source, content: checked, files: {} });
    const artifact = unpacked(into);
    deepEqual(Object.keys(artifact).sort(), files);
    return { artifact, findings };
  }

  it("are those that Git tracks or would track, and no others", async () => {
    const { tree } = repository();
    writeFiles(tree, { ".gitignore": ".env\n", ".env": secret, "ignored/.gitignore": "*\n", "new.yaml": "" });
    const { artifact, findings } = await packed(tree);
    deepEqual(Object.keys(artifact).sort(), [...Object.keys(smallTree), "new.yaml"].sort());
    deepEqual(findings, []);
    writeFiles(tree, { "plain.yaml": secret });
    equal((await packed(tree)).findings.length, 1);
  });

  it("are those of the commit where the tree must be clean, whatever is on the disk", async () => {
    const { directory, tree, git } = repository();
    const { artifact } = await packed(tree);
    // What Git is told not to look at is on the disk all the same.
    git("update-index", "--assume-unchanged", "gitops/clusters/x/variables.yaml");
    writeFileSync(join(tree, "clusters/x/variables.yaml"), secret);
    writeFiles(directory, { ".git/info/exclude": "gitops/secret.yaml\n", "gitops/secret.yaml": secret });
    const clean = await packed({ tree, commit: "HEAD" });
    deepEqual([clean.artifact, clean.findings], [artifact, []]);
    equal((await packed(tree)).findings.length > 0, true);
  });

  it("are those of the commit for the check of secret files, too", async () => {
    const { directory, tree } = repository();
    const path = "clusters/x/own.enc.yaml";
    writeFiles(directory, { ".git/info/exclude": `gitops/${path}\n`, [`gitops/${path}`]: secret });
    writeFiles(tree, { "clusters/x/new.enc.yaml": secret });
    const secretsOf = async (of: TreeSource) => [
      ...(await secretFilesIn((await inspectTree(of, "x")).texts, "x")).keys(),
    ];
    const committed = "clusters/x/controllers/secret.enc.yaml";
    deepEqual(await secretsOf(tree), [committed, "clusters/x/new.enc.yaml"]);
    deepEqual(await secretsOf({ tree, commit: "HEAD" }), [committed]);
  });

  it("are those of a commit alone, where its name is an option of Git", async () => {
    const { directory, tree } = repository();
    const written = join(directory, "written");
    await rejects(inspectTree({ tree, commit: `--output=${written}` }, "x"), /--output/);
    await rejects(provenance({ tree, commit: `--output=${written}` }), /--output/);
    equal(existsSync(written), false);
  });

  it("are those of an older commit, with the layers and the origin that it had", async () => {
    const { tree, git } = repository();
    const first = git("rev-parse", "HEAD").trim();
    const before = await packed(tree);
    writeFiles(tree, {
      "clusters/x/controllers/later.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: later}\n",
      "clusters/x/controllers/kustomization.yaml": "resources: [later.yaml]\n",
    });
    git("add", ".");
    git("commit", "-q", "-m", "second");
    const older = { tree, commit: first };
    deepEqual((await packed(older)).artifact, before.artifact);
    notDeepEqual((await packed(tree)).artifact, before.artifact);
    equal((await provenance(older)).revision, `sha1:${first}`);
    notEqual((await provenance(tree)).revision, `sha1:${first}`);
    const objects = async (of: TreeSource) =>
      (await renderCluster(of, "x")).layers.flatMap(({ manifests }) =>
        manifests.map(({ metadata }) => metadata.name),
      );
    equal((await objects(tree)).includes("later"), true);
    equal((await objects(older)).includes("later"), false);
    await rejects(inspectTree({ tree, commit: "no-such-commit" }, "x"), /no-such-commit/);
  });

  it("are without .git where the tree is a repository itself", async () => {
    const tree = directoryOf(smallTree);
    execFileSync("git", ["init", "-q"], { cwd: tree });
    deepEqual(Object.keys((await packed(tree)).artifact).sort(), Object.keys(smallTree).sort());
  });

  it("are all files of a tree outside Git, but what source-controller leaves out, links among it", async () => {
    const tree = directoryOf({ ...smallTree, "@x.yaml": "", "logo.png": "", ".sops.yaml": "" });
    symlinkSync("README.md", join(tree, "link.md"));
    writeFileSync(join(tree, "binary"), Buffer.from([0xff, 0xfe, 0]));
    const { artifact } = await packed(tree);
    deepEqual(Object.keys(artifact).sort(), [...Object.keys(smallTree), "@x.yaml", "binary"].sort());
    equal(artifact.binary, "\xff\xfe\0");
    const before = (await listTree(tree)).content;
    writeFileSync(join(tree, "binary"), Buffer.from([0xfd, 0xfc, 0]));
    notEqual((await listTree(tree)).content, before);
  });

  it("are the same artifact from a clone over ssh and over https", async () => {
    const { tree, git } = repository();
    git("remote", "add", "origin", "git@example.com:me/platform.git");
    const overSsh = await provenance(tree);
    git("remote", "set-url", "origin", "https://me:token@example.com/me/platform");
    deepEqual(await provenance(tree), overSsh);
    equal(await layout(tree, await provenance(tree)), await layout(tree, overSsh));
  });
});
