import { deepEqual, equal, ok } from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { parse } from "yaml";
import { finalLayers } from "../../core/tree/final";
import { renderCluster } from "../../core/tree/render";
import type { Manifest } from "../../clients/kubernetes/client";
import { localCharts, presumedRuntime } from "../../commands/render";
import { readStackConfig } from "../../core/settings/config";
import { ensureTools } from "../../tools/tools";
import { judge, violations, type Request, type Verdict } from "./policies/apply";

const project = join(__dirname, "..", "..");
const tree = join(project, "gitops");
const examples = join(__dirname, "policies");

/** An object to judge, on its own or in an AdmissionReview that says who asks for it. */
interface Example {
  readonly object: Manifest;
  readonly request: Request;
  /** The object or its review. */
  readonly whole: Manifest;
  /** The comment before it: in `fail.yaml`, what the policy says. */
  readonly comment: string;
}

function read(policy: string, file: "pass" | "fail" | "skip"): Example[] {
  const path = join(examples, policy, `${file}.yaml`);
  if (file === "skip" && !existsSync(path)) return [];
  const documents = readFileSync(path, "utf8").split("---\n");
  return documents.map((text) => {
    const whole = parse(text) as Manifest;
    const comment = /^# (.*)/.exec(text)?.[1] ?? "";
    if (whole.kind !== "AdmissionReview") return { object: whole, request: {}, whole, comment };
    const { object, userInfo, operation } = whole.request as {
      object: Manifest;
      userInfo: NonNullable<Request["requester"]>;
      operation: NonNullable<Request["operation"]>;
    };
    return { object, request: { requester: userInfo, operation }, whole, comment };
  });
}

/** The paths at which two values differ; what only one of them has is one difference. Names do not count, nor who asks. */
function differences(a: unknown, b: unknown, path = ""): string[] {
  if (path.endsWith("/metadata/name") || isDeepStrictEqual(a, b)) return [];
  const isUnit = typeof a !== "object" || typeof b !== "object" || a === null || b === null;
  if (isUnit || Array.isArray(a) !== Array.isArray(b) || path.endsWith("/userInfo")) return [path];
  const [one, other] = [a as Record<string, unknown>, b as Record<string, unknown>];
  return [...new Set([...Object.keys(one), ...Object.keys(other)])].flatMap((key) =>
    differences(one[key], other[key], `${path}/${key}`),
  );
}

describe("policies", function () {
  this.timeout(120_000);
  let policies: readonly Manifest[];

  before(async function () {
    this.timeout(1_200_000);
    await ensureTools(["helm", "platform-tree", "kyverno"], { report: console.error });
    policies = await policiesOf("prod");
  });

  it("each have examples", () => {
    const directories = readdirSync(examples, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    deepEqual(
      directories.map(({ name }) => name).sort(),
      policies.map(({ metadata }) => metadata.name).sort(),
    );
  });

  it("refuse in prod, and only tell in local and dev", async () => {
    for (const [cluster, action] of [
      ["local", "Audit"],
      ["dev", "Audit"],
      ["prod", "Deny"],
    ] as const)
      for (const { metadata, spec } of await policiesOf(cluster))
        deepEqual(
          (spec as { validationActions: string[] }).validationActions,
          [action],
          `${cluster} ${metadata.name}`,
        );
  });

  it("leave out what Kyverno must not stand in the way of, and nothing else", async () => {
    const object = read("disallow-host-namespaces", "fail")[0]?.object;
    ok(object !== undefined);
    const namespaces = [
      "cert-manager",
      "default",
      "flux-system",
      "kube-system",
      "kyverno",
      "local-path-storage",
      "traefik",
    ];
    const everywhere = namespaces.map((namespace) => ({
      ...object,
      metadata: { ...object.metadata, namespace },
    }));
    const refused = (await judge(everywhere, policies)).filter(({ result }) => result === "fail");
    deepEqual(
      new Set(refused.map((verdict) => verdict.object.metadata.namespace)),
      new Set(["cert-manager", "default", "traefik"]),
    );
  });

  for (const stack of ["local", "dev", "prod"])
    it(`refuse nothing of stack ${stack}, charts on this machine included, but what is added to it to be refused`, async () => {
      const config = await readStackConfig(stack, project, process.env);
      const { cluster } = config.gitops;
      const layers = await finalLayers(
        tree,
        cluster,
        presumedRuntime(config),
        localCharts(() => undefined),
      );
      const objects = layers.flatMap((layer) => layer.objects.map(({ manifest }) => manifest));
      const whoami = objects.find(
        ({ kind, metadata }) => kind === "Deployment" && metadata.name === "whoami",
      );
      ok(whoami !== undefined);
      const { spec } = structuredClone(whoami) as {
        spec?: { template?: { spec?: { hostNetwork?: boolean } } };
      };
      if (spec?.template?.spec !== undefined) spec.template.spec.hostNetwork = true;
      const bad = { ...whoami, metadata: { ...whoami.metadata, name: "bad" }, spec };
      deepEqual(await violations([...objects, bad], policies), [
        "Policy disallow-host-namespaces refuses Deployment whoami/bad: No pod may share the network, process or IPC namespace of its host.",
      ]);
    });

  for (const policy of readdirSync(examples, { withFileTypes: true }).filter((entry) => entry.isDirectory()))
    describe(policy.name, () => {
      const pass = read(policy.name, "pass");
      const fail = read(policy.name, "fail");
      const skip = read(policy.name, "skip");

      const verdictsOn = async (some: readonly Example[]): Promise<Verdict[]> => {
        const only = policies.filter(({ metadata }) => metadata.name === policy.name);
        const requests = [...new Set(some.map(({ request }) => JSON.stringify(request)))];
        const verdicts = requests.map((request) =>
          judge(
            some.filter((example) => JSON.stringify(example.request) === request).map(({ object }) => object),
            only,
            JSON.parse(request) as Request,
          ),
        );
        return (await Promise.all(verdicts)).flat();
      };

      for (const [file, some, expected] of [
        ["pass", pass, "pass"],
        ["skip", skip, "skip"],
      ] as const)
        if (some.length > 0)
          it(`has the verdict "${expected}" on ${file}.yaml`, async () => {
            const verdicts = await verdictsOn(some);
            deepEqual(
              verdicts.map(({ object, result }) => [object.metadata.name, result]).sort(),
              some.map(({ object }) => [object.metadata.name, expected]).sort(),
            );
          });

      it("refuses fail.yaml, each object with the message before it", async () => {
        const verdicts = await verdictsOn(fail);
        deepEqual(
          verdicts.map(({ object, result, message }) => [object.metadata.name, result, message]).sort(),
          fail.map(({ object, comment }) => [object.metadata.name, "fail", comment]).sort(),
        );
      });

      it("is about one thing: nothing else tells an object that it refuses from one that it does not", () => {
        for (const [some, others] of [
          [fail, pass],
          [skip, fail],
        ] as const)
          for (const { object, whole } of some) {
            const counts = others.map((other) => differences(whole, other.whole).length);
            equal(Math.min(...counts), 1, object.metadata.name);
          }
      });
    });
});

/** The policies of a cluster, with its variables. */
async function policiesOf(cluster: string): Promise<Manifest[]> {
  const { layers } = await renderCluster(tree, cluster);
  return layers.flatMap(({ manifests }) => manifests).filter(({ kind }) => kind === "ValidatingPolicy");
}
