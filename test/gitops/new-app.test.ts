import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { renderCluster } from "../../core/tree/render";
import { inspectTree } from "../../core/tree/tree";
import { newApp } from "../../commands/new";
import { ensureTools } from "../../tools/tools";

const gitops = join(__dirname, "..", "..", "gitops");

describe("npx platform new app", function () {
  this.timeout(600_000);
  let tree: string;

  before(() => ensureTools(["platform-tree"], { report: console.error }));

  beforeEach(() => {
    tree = mkdtempSync(join(tmpdir(), "platform-new-app-"));
    cpSync(gitops, tree, { recursive: true });
  });

  afterEach(() => {
    rmSync(tree, { recursive: true });
  });

  const everyFile = () => readdirSync(tree, { recursive: true, encoding: "utf8" }).sort();

  it("adds a folder and a line, and every cluster has the app", async () => {
    const before = everyFile();
    const list = readFileSync(join(tree, "bases/apps/kustomization.yaml"), "utf8");
    const written = await newApp({ tree, name: "blog", image: "ghcr.io/example/whoami:1.4.2" });
    deepEqual(
      everyFile().filter((file) => !before.includes(file)),
      ["bases/apps/blog", ...written.filter((file) => file.startsWith("bases/apps/blog/"))].sort(),
    );
    const added = readFileSync(join(tree, "bases/apps/kustomization.yaml"), "utf8")
      .split("\n")
      .filter((line) => !list.split("\n").includes(line));
    deepEqual(added, ["  - blog"]);
    for (const cluster of ["local", "dev", "prod"]) {
      deepEqual((await inspectTree(tree, cluster)).findings, []);
      const { layers } = await renderCluster(tree, cluster);
      const objects = layers.flatMap(({ manifests }) => manifests);
      const own = objects.filter(({ metadata }) => metadata.namespace === "blog");
      const deployment = own.find(({ kind }) => kind === "Deployment");
      const { template } = deployment?.spec as { template: { spec: { containers: { image: string }[] } } };
      equal(template.spec.containers[0]?.image, "ghcr.io/example/whoami:1.4.2");
      ok(objects.some(({ kind, metadata }) => kind === "Namespace" && metadata.name === "blog"));
      ok(own.some(({ kind }) => kind === "ResourceQuota"));
      ok(own.some(({ kind }) => kind === "NetworkPolicy"));
      ok(!JSON.stringify(own).replace("example/whoami", "").includes("whoami"));
    }
  });

  for (const [what, name, image, message] of [
    [
      "a name that is no DNS label",
      "My_App",
      undefined,
      /: Adding app "My_App" failed: it is not a DNS label\./,
    ],
    ["a name that leads elsewhere", "../x", undefined, /it is not a DNS label/],
    ["a name of 64 characters", "a".repeat(64), undefined, /it is not a DNS label/],
    [
      "an app that is there",
      "homepage",
      undefined,
      /failed: .*bases\/apps\/homepage exists already\. Choose/,
    ],
    ["an image without a tag", "blog", "ghcr.io/example/blog", /has no tag\. Name it as/],
    ["the image of a registry with a port and no tag", "blog", "localhost:5000/blog", /has no tag/],
    ["an image of the newest version", "blog", "example/blog:latest", /names no version/],
    ["an image that is more than one line", "blog", "a:1\n  x", /no registry can hold image/],
    [
      "an image in upper case",
      "blog",
      "GHCR.io/A/B:1",
      /no registry can hold image "GHCR\.io\/A\/B:1"\. Name it as registry\/image:tag, in lower case/,
    ],
    ["an image with a scheme", "blog", "https://ghcr.io/a/b:1", /no registry can hold/],
    ["an image with an empty part", "blog", "ghcr.io//b:1", /no registry can hold/],
    ["an image whose port is none", "blog", "ghcr.io:99999/b:1", /no registry can hold/],
    ["an image whose tag begins with a dot", "blog", "ghcr.io/a/b:.1", /no registry can hold/],
    ["an image whose digest is too short", "blog", "ghcr.io/a/b:1@sha256:abc", /no registry can hold/],
    ...["kube-system", "kube-public", "kube-x"].map(
      (name) =>
        [`the name ${name}`, name, undefined, /the prefix "kube-" is reserved for Kubernetes/] as const,
    ),
    ...["default", "flux-system", "local-path-storage"].map(
      (name) =>
        [
          `the name ${name}`,
          name,
          undefined,
          new RegExp(`namespace "${name}" belongs to the cluster itself`),
        ] as const,
    ),
    ...["cert-manager", "traefik", "kyverno", "metrics-server", "reloader", "democratic-csi"].map(
      (name) =>
        [
          `the platform's own namespace ${name}`,
          name,
          undefined,
          new RegExp(`bases/.*\\.yaml uses namespace "${name}"\\. Choose another name\\.`),
        ] as const,
    ),
    [
      "a host of another app",
      "grafana",
      undefined,
      /bases\/apps\/monitoring\/http-route\.yaml uses host "grafana\.\$\{domain\}"/,
    ],
    ["a name that YAML reads as a value", "true", undefined, /YAML reads it as a value/],
  ] as const) {
    it(`refuses ${what}, and writes nothing`, async () => {
      const before = everyFile();
      await rejects(newApp({ tree, name, ...(image === undefined ? {} : { image }) }), message);
      deepEqual(everyFile(), before);
    });
  }

  it("says that a directory is not a gitops tree", async () => {
    await rejects(
      newApp({ tree: join(tree, "apps"), name: "blog" }),
      /apps has no folder bases\/apps\/whoami\. Name the gitops tree with --tree\.$/,
    );
  });
});
