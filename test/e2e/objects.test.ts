import { deepEqual, ok, rejects } from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { applyInOrder } from "../../clients/kubernetes/apply";
import { finalLayers, type FinalLayer } from "../../core/tree/final";
import { SystemClock } from "../../system/clock";
import { KubernetesClient, type Manifest } from "../../clients/kubernetes/client";
import { localCharts, presumedRuntime } from "../../commands/render";
import { readStackConfig } from "../../core/settings/config";
import { ControlPlane, controlPlaneTools } from "../../rehearsal/control-plane";
import { groupKind, groupKindOf } from "../../rehearsal/simulated-controllers";
import { ensureTools } from "../../tools/tools";
import { fluxDistribution, upstreamCrds } from "../../tools/upstream";

const project = join(__dirname, "..", "..");
const stacks = ["local", "dev", "prod"] as const;

/** Objects of kinds that charts define but do not carry, or whose chart is not on this machine. */
const definedElsewhere = [
  ...["cilium", "cert-manager", "kyverno", "traefik", "flux-operator", "prometheus-operator"],
] as const;

describe("final objects", function () {
  this.timeout(300_000);
  const layers = new Map<string, readonly FinalLayer[]>();
  let parent: string;
  let controlPlane: ControlPlane;
  let api: KubernetesClient;

  before(async () => {
    const tools = await ensureTools([...controlPlaneTools, "helm", "platform-tree"], {
      report: console.error,
    });
    const told = new Set<string>();
    for (const stack of stacks) {
      const config = await readStackConfig(stack, project, process.env);
      const { tree, cluster } = config.gitops;
      const charts = localCharts((line) => told.add(line));
      layers.set(stack, await finalLayers(tree, cluster, presumedRuntime(config), charts));
    }
    for (const line of [...told].sort()) console.log(`    not checked: ${line}`);

    parent = await mkdtemp(join(tmpdir(), "platform-objects-"));
    controlPlane = await ControlPlane.start({ directory: join(parent, "state"), tools });
    await controlPlane.ready();
    api = new KubernetesClient(controlPlane.kubeconfig);
    const objects = [...layers.values()].flat().flatMap(manifestsOf);
    const [{ spec } = { spec: {} }] = objects.filter(({ kind }) => kind === "FluxInstance");
    const { distribution } = spec as { distribution: { version: string } };
    const definitions = [
      ...(await Promise.all(definedElsewhere.map((component) => upstreamCrds(component)))).flat(),
      ...(await fluxDistribution(distribution.version)),
    ] as unknown as Manifest[];
    // Definitions that no object needs cost the API server seconds each; they are validated like any other object.
    const used = new Set(objects.map(groupKind));
    const first = [...definitions, ...objects].filter(
      (object) =>
        object.kind === "Namespace" ||
        (object.kind === "CustomResourceDefinition" && used.has(groupKindOf(object))),
    );
    const byName = new Map(first.map((object) => [`${object.kind}/${object.metadata.name}`, object]));
    await applyInOrder(api, new SystemClock(), [namespace("flux-system"), ...byName.values()], "test");
  });

  after(async () => {
    await controlPlane.stop();
    await rm(parent, { recursive: true, force: true });
  });

  for (const stack of stacks) {
    it(`of ${stack} pass the schemas of a real API server`, async () => {
      const findings: string[] = [];
      for (const layer of layers.get(stack) ?? []) {
        const objects = manifestsOf(layer);
        ok(objects.length > 0, `layer ${layer.name} is empty`);
        console.log(`    ${stack}, layer ${layer.name}: ${objects.length} objects`);
        // The API server answers a few at a time fastest.
        for (let at = 0; at < objects.length; at += 16) {
          const some = objects.slice(at, at + 16);
          const answers = await Promise.allSettled(some.map((object) => api.validate(decrypted(object))));
          findings.push(
            ...answers.flatMap((answer) =>
              answer.status === "rejected" ? [(answer.reason as Error).message] : [],
            ),
          );
        }
      }
      deepEqual(findings, []);
    });
  }

  it("would be refused with a field that no schema has", async () => {
    const object = [...(layers.get("local") ?? [])]
      .flatMap(manifestsOf)
      .find(({ kind }) => kind === "Deployment");
    ok(object !== undefined);
    const spec = { ...(object.spec as object), replica: 1 };
    await rejects(
      api.validate({ ...object, spec }),
      /field not declared in schema|unknown field "spec.replica"/,
    );
  });

  it("of prod are 300 or more", () => {
    const count = (layers.get("prod") ?? []).reduce((sum, { objects }) => sum + objects.length, 0);
    console.log(`    prod: ${count} objects`);
    ok(count >= 300, `${count}`);
  });
});

function manifestsOf({ objects }: FinalLayer): Manifest[] {
  return objects.map(({ manifest }) => manifest);
}

function namespace(name: string): Manifest {
  return { apiVersion: "v1", kind: "Namespace", metadata: { name } };
}

/** A Secret as Flux applies it: without what SOPS adds, and with other values. */
function decrypted(object: Manifest): Manifest {
  if (object.kind !== "Secret" || object.sops === undefined) return object;
  const { apiVersion, kind, metadata, type, data = {}, stringData = {} } = object;
  const values = { ...(data as object), ...(stringData as object) };
  return { apiVersion, kind, metadata, ...(type === undefined ? {} : { type }), stringData: values };
}
