import { deepEqual, equal, match, ok } from "node:assert/strict";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { inOrder } from "../../core/tree/check";
import { renderCluster, type Rendered } from "../../core/tree/render";
import { inspectTree } from "../../core/tree/tree";
import { chartOf } from "../../clients/helm/chart";
import type { Manifest } from "../../clients/kubernetes/client";
import { readSecretFiles } from "../../core/secrets/files";
import { isEncrypted, recipientsOf, secretKeys } from "../../clients/sops/secret-file";
import { ensureTools } from "../../tools/tools";

const project = join(__dirname, "..", "..");
const tree = join(project, "gitops");

/** Every cluster of the tree; `base` is what they share. */
const clusters = readdirSync(join(tree, "clusters")).filter((name) => name !== "base");

before("platform-tree", async function () {
  this.timeout(600_000);
  await ensureTools(["platform-tree"], { report: console.error });
});

/** The values of a field, at any depth. */
function valuesOf(field: string, value: unknown): unknown[] {
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value as Record<string, unknown>).flatMap(([key, child]) => [
    ...(key === field ? [child] : []),
    ...valuesOf(field, child),
  ]);
}

/** The clusters of the project's own stacks are there, so that a lost directory is not an empty loop. */
it("gitops has the clusters of every stack", () => {
  deepEqual([...clusters].sort(), ["dev", "local", "prod"]);
});

for (const cluster of clusters) {
  describe(`gitops of cluster "${cluster}"`, () => {
    let rendered: Rendered;
    let objects: Manifest[];

    before(async () => {
      rendered = await renderCluster(tree, cluster);
      objects = [...rendered.root, ...rendered.layers.flatMap(({ manifests }) => manifests)];
    });

    it("may be released", async () => {
      deepEqual((await inspectTree(tree, cluster)).findings, []);
    });

    it("has the layers controllers, certs and apps, in this order and each from its own directory", () => {
      deepEqual(
        inOrder(rendered.layers).map(({ name, path, dependsOn }) => [name, path, dependsOn]),
        [
          ["controllers", `./clusters/${cluster}/controllers`, []],
          ["certs", `./clusters/${cluster}/certs`, ["controllers"]],
          ["apps", `./clusters/${cluster}/apps`, ["certs"]],
        ],
      );
      for (const { name, manifests } of rendered.layers) ok(manifests.length > 0, `layer ${name} is empty`);
    });

    it("waits for each layer, prunes it, decrypts it and fills in both sets of facts", () => {
      for (const { kind, metadata, spec } of rendered.root.filter(
        (object) => object.kind === "Kustomization",
      )) {
        const { wait, prune, decryption, postBuild } = spec as {
          wait?: boolean;
          prune?: boolean;
          decryption?: { provider: string; secretRef: { name: string } };
          postBuild?: { substituteFrom: { kind: string; name: string }[] };
        };
        deepEqual([wait, prune], [true, true], `${kind} ${metadata.name}`);
        deepEqual(decryption, { provider: "sops", secretRef: { name: "sops-age" } });
        deepEqual(
          postBuild?.substituteFrom.map(({ name }) => name),
          ["platform-variables", "platform-runtime"],
        );
      }
    });

    it("names itself in its facts", () => {
      const facts = rendered.root.find(({ metadata }) => metadata.name === "platform-variables");
      equal((facts?.data as Record<string, string> | undefined)?.cluster, cluster);
    });

    it("gives every object a kind and a name, and no two the same", () => {
      const names = objects.map(({ apiVersion, kind, metadata }) => {
        match(apiVersion, /./);
        match(kind, /./);
        match(metadata.name, /./);
        return [apiVersion.split("/")[0], kind, metadata.namespace ?? "", metadata.name].join(" ");
      });
      deepEqual(
        names.filter((name, index) => names.indexOf(name) !== index),
        [],
      );
    });

    it("takes every chart from a source of its own, by a pinned version", () => {
      const releases = objects.filter(({ kind }) => kind === "HelmRelease");
      ok(releases.length > 0);
      for (const release of releases) {
        const { name, repository, version } = chartOf(release, objects);
        match(
          repository,
          /^(oci|https):\/\//,
          `the chart of HelmRelease ${release.metadata.name} has no source`,
        );
        match(version, /^v?\d+\.\d+\.\d+$/, `chart ${name} is not pinned`);
      }
    });

    it("labels every namespace, workload and release with its name, its whole and its manager", () => {
      const owned = objects.filter(({ kind }) =>
        /^(Namespace|Deployment|StatefulSet|DaemonSet|CronJob|Job|HelmRelease)$/.test(kind),
      );
      ok(owned.length > 0);
      for (const { kind, metadata } of owned) {
        const labels = metadata.labels ?? {};
        const subject = `${kind} ${metadata.name}`;
        match(labels["app.kubernetes.io/name"] ?? "", /./, subject);
        equal(labels["app.kubernetes.io/part-of"], "platform", subject);
        match(labels["app.kubernetes.io/managed-by"] ?? "", /^(flux|Helm)$/, subject);
      }
    });

    it("gives every namespace a Pod Security level", () => {
      for (const { kind, metadata } of objects.filter((object) => object.kind === "Namespace")) {
        match(
          metadata.labels?.["pod-security.kubernetes.io/enforce"] ?? "",
          /^(privileged|baseline|restricted)$/,
          `${kind} ${metadata.name}`,
        );
      }
    });

    it("installs, retries and rolls back every release as the one patch of all says", () => {
      const releases = objects.filter(({ kind }) => kind === "HelmRelease");
      for (const { metadata, spec } of releases) {
        const { interval, timeout, install, upgrade, driftDetection } = spec as Record<string, unknown>;
        deepEqual(
          { interval, timeout, driftDetection },
          { interval: "10m", timeout: "5m", driftDetection: { mode: "enabled" } },
          metadata.name,
        );
        deepEqual(
          (install as { remediation?: object } | undefined)?.remediation,
          { retries: 3 },
          metadata.name,
        );
        deepEqual(
          (upgrade as { remediation?: object } | undefined)?.remediation,
          { retries: 3, strategy: "rollback" },
          metadata.name,
        );
      }
    });

    it("pins every image", () => {
      const images = objects
        .filter(({ kind }) => kind !== "CustomResourceDefinition")
        .flatMap((object) => valuesOf("image", object));
      const names = images.filter((image) => typeof image === "string");
      ok(names.length > 0);
      for (const name of names)
        match(name, /(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})$/, `image ${name} is not pinned`);
      // In the values of a chart an image is often an object.
      for (const image of images.filter((value) => typeof value === "object")) {
        equal((image as { tag?: unknown } | null)?.tag === "latest", false, JSON.stringify(image));
      }
    });

    it("puts every namespaced object of an application into a namespace that a layer makes, or that is always there", () => {
      const made = objects.filter(({ kind }) => kind === "Namespace").map(({ metadata }) => metadata.name);
      const known = [...made, "kube-system", "flux-system"];
      const lost = objects.filter(
        ({ metadata }) => metadata.namespace !== undefined && !known.includes(metadata.namespace),
      );
      deepEqual(
        lost.map(({ kind, metadata }) => `${kind} ${metadata.namespace ?? ""}/${metadata.name}`),
        [],
      );
    });

    it("holds secrets only as the stack's identity opens them, or empty", async () => {
      const { creation_rules: rules } = parse(readFileSync(join(project, ".sops.yaml"), "utf8")) as {
        creation_rules: { path_regex: string; age: string }[];
      };
      const files = await readSecretFiles(tree, cluster);
      ok(files.size > 0);
      for (const [path, content] of files) {
        const rule = rules.find((candidate) => new RegExp(candidate.path_regex).test(`gitops/${path}`));
        if (cluster === "local") {
          equal(rule, undefined, `${path} is the stack's to make up`);
          equal(isEncrypted(content), false, path);
          const { data = {}, stringData = {} } = parse(content) as Record<
            string,
            Record<string, string> | undefined
          >;
          ok(secretKeys(content).length > 0, path);
          deepEqual(new Set([...Object.values(data), ...Object.values(stringData)]), new Set([""]), path);
        } else {
          equal(isEncrypted(content), true, path);
          deepEqual(
            recipientsOf(content),
            rule?.age.split(","),
            `${path} is encrypted for others than .sops.yaml says`,
          );
        }
      }
    });
  });
}

describe("gitops overlays", () => {
  it("hold differences only: no file is the copy of another cluster's or distribution's, or of a base", () => {
    const files = readdirSync(tree, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(tree.length + 1));
    const byContent = new Map<string, string[]>();
    for (const path of files.filter(
      (name) => !/(^|\/)(variables|kustomization|[^/]+\.enc)\.yaml$/.test(name),
    )) {
      const hash = createHash("sha256")
        .update(readFileSync(join(tree, path)))
        .digest("hex");
      byContent.set(hash, [...(byContent.get(hash) ?? []), path]);
    }
    ok(byContent.size > 0);
    deepEqual(
      [...byContent.values()].filter(
        (paths) => paths.length > 1 && paths.some((path) => !path.startsWith("bases/")),
      ),
      [],
    );
  });

  it("leave to the one patch what all releases have in common", () => {
    const files = readdirSync(tree, { recursive: true, encoding: "utf8" }).filter((name) =>
      name.endsWith("helm-release.yaml"),
    );
    ok(files.length > 0);
    for (const file of files) {
      const { spec } = parse(readFileSync(join(tree, file), "utf8")) as { spec: Record<string, unknown> };
      const { install = {}, upgrade = {} } = spec as { install?: object; upgrade?: object };
      const own = [...Object.keys(spec), ...Object.keys(install), ...Object.keys(upgrade)];
      deepEqual(
        own.filter((key) => ["interval", "timeout", "driftDetection", "remediation"].includes(key)),
        [],
        file,
      );
    }
  });

  it("have the same variables in every cluster, but for those of its certificates", () => {
    const keys = (cluster: string) =>
      Object.keys(
        (parse(readFileSync(join(tree, "clusters", cluster, "variables.yaml"), "utf8")) as { data: object })
          .data,
      ).filter((key) => !key.startsWith("acme_"));
    for (const cluster of clusters) deepEqual(keys(cluster).sort(), keys("prod").sort(), cluster);
  });
});
