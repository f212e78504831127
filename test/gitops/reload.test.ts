import { deepEqual, ok } from "node:assert/strict";
import { join } from "node:path";
import { finalLayers } from "../../core/tree/final";
import { nameOf, refOf, type Manifest } from "../../clients/kubernetes/client";
import { localCharts, presumedRuntime } from "../../commands/render";
import { readStackConfig } from "../../core/settings/config";
import { ensureTools } from "../../tools/tools";
import { isReloaded, isWorkload, reload, secretsOf } from "./secret-readers";

const project = join(__dirname, "..", "..");

/** What reads a Secret and is not restarted when it changes, and why. */
const notRestarted: Readonly<Record<string, string>> = {
  "StatefulSet gitlab/postgres": "it reads a password on its first start only",
  "StatefulSet nextcloud/postgres": "it reads a password on its first start only",
  "Secret monitoring/alertmanager": "Alertmanager reads its file for every message",
  "Secret cert-manager/cloudflare-api-token": "cert-manager reads it for every challenge",
};

/** By HelmRelease, the values that annotate what of its chart reads Secrets; their source is the chart's templates. */
const annotations: Readonly<Record<string, readonly string[]>> = {
  "HelmRelease democratic-csi/democratic-csi": ["controller.annotations", "node.annotations"],
  "HelmRelease gitlab/gitlab": ["global.deployment.annotations", "gitlab.gitaly.annotations"],
  "HelmRelease monitoring/kube-prometheus-stack": ["grafana.annotations"],
  "HelmRelease nextcloud/nextcloud": ["deploymentAnnotations"],
};

describe("what reads a Secret of the tree", function () {
  this.timeout(600_000);
  const stacks = new Map<string, readonly Manifest[]>();

  before(async () => {
    await ensureTools(["helm", "platform-tree"], { report: console.error });
    for (const stack of ["local", "dev", "prod"]) {
      const config = await readStackConfig(stack, project, process.env);
      const charts = localCharts(() => undefined);
      const { tree, cluster } = config.gitops;
      const layers = await finalLayers(tree, cluster, presumedRuntime(config), charts);
      stacks.set(
        stack,
        layers.flatMap(({ objects }) => objects.map(({ manifest }) => manifest)),
      );
    }
  });

  for (const stack of ["local", "dev", "prod"])
    it(`is restarted when it changes, or is known to need no restart, in ${stack}`, () => {
      const objects = stacks.get(stack) ?? [];
      ok(objects.some(isSecret));
      deepEqual(findings(objects), []);
    });

  it("is all that is excused", () => {
    const objects = [...stacks.values()].flat();
    const names = objects.filter((object) => isSecret(object) || isReader(object, objects)).map(named);
    for (const name of [...Object.keys(notRestarted), ...Object.keys(annotations)])
      ok(names.includes(name), `${name} reads no Secret`);
  });

  for (const [what, change, found] of [
    [
      "a workload without the annotation",
      withChanged("Deployment homepage/homepage", ({ metadata, ...rest }) => ({
        ...rest,
        metadata: { ...metadata, annotations: {} },
      })),
      "Deployment homepage/homepage reads Secret homepage and is not restarted.",
    ],
    [
      "a release whose values lack it",
      withChanged("HelmRelease nextcloud/nextcloud", (release) => ({
        ...release,
        spec: { values: { secretName: "nextcloud" } },
      })),
      'HelmRelease nextcloud/nextcloud reads Secret nextcloud, and "deploymentAnnotations" does not have it restarted.',
    ],
    [
      "a release of which nobody knows what reads it",
      (objects: readonly Manifest[]) => [
        ...objects,
        {
          ...{ apiVersion: "helm.toolkit.fluxcd.io/v2", kind: "HelmRelease" },
          metadata: { name: "new", namespace: "homepage" },
          spec: { values: { auth: { existingSecret: "homepage" } } },
        },
      ],
      "HelmRelease homepage/new reads Secret homepage; which of its values annotate the reader is not known.",
    ],
    [
      "a Secret that nobody reads",
      (objects: readonly Manifest[]) => [
        ...objects,
        { apiVersion: "v1", kind: "Secret", metadata: { name: "lost", namespace: "homepage" } },
      ],
      "Secret homepage/lost is read by nobody.",
    ],
  ] as const)
    it(`is missed: ${what}`, () => {
      deepEqual(findings(change(stacks.get("prod") ?? [])), [found]);
    });
});

const named = (object: Manifest) => nameOf(refOf(object));
const isSecret = ({ kind }: Manifest) => kind === "Secret";

/** One sentence for each reader of a Secret that is not restarted, and for each Secret without one. */
function findings(objects: readonly Manifest[]): string[] {
  return objects.filter(isSecret).flatMap((secret) => {
    const { name } = secret.metadata;
    if (named(secret) in notRestarted) return [];
    const readers = objects.filter((object) => reads(object, secret));
    if (readers.length === 0) return [`${named(secret)} is read by nobody.`];
    return readers.flatMap((reader) => {
      const subject = `${named(reader)} reads Secret ${name}`;
      if (isWorkload(reader))
        return isReloaded(reader) || named(reader) in notRestarted
          ? []
          : [`${subject} and is not restarted.`];
      const known = annotations[named(reader)];
      if (known === undefined) return [`${subject}; which of its values annotate the reader is not known.`];
      return known
        .filter((path) => valueAt(valuesOf(reader), path)?.[reload] !== "true")
        .map((path) => `${subject}, and "${path}" does not have it restarted.`);
    });
  });
}

function isReader(object: Manifest, objects: readonly Manifest[]): boolean {
  return objects.some((secret) => isSecret(secret) && reads(object, secret));
}

/** Whether a workload reads a Secret, or a release names it where its values are about secrets. */
function reads(object: Manifest, { metadata: { name, namespace } }: Manifest): boolean {
  if (object.metadata.namespace !== namespace) return false;
  if (isWorkload(object)) return secretsOf(object).has(name);
  return object.kind === "HelmRelease" && secretNames(valuesOf(object), false).includes(name);
}

/** The texts below a key that has "secret" in its name. */
function secretNames(value: unknown, isAboutSecrets: boolean): string[] {
  if (typeof value === "string") return isAboutSecrets ? [value] : [];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, child]) =>
    secretNames(child, isAboutSecrets || /secret/i.test(key)),
  );
}

function valuesOf({ spec }: Manifest): unknown {
  return (spec as { values?: unknown }).values;
}

function valueAt(values: unknown, path: string): Record<string, unknown> | undefined {
  return path
    .split(".")
    .reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], values) as
    Record<string, unknown> | undefined;
}

/** The objects, one of them changed. */
function withChanged(name: string, change: (object: Manifest) => Manifest) {
  return (objects: readonly Manifest[]) => {
    ok(objects.some((object) => named(object) === name));
    return objects.map((object) => (named(object) === name ? change(object) : object));
  };
}
