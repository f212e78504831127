import { deepEqual, equal, match } from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ChartRenderer } from "../../clients/helm/chart";
import { SystemClock } from "../../system/clock";
import { KubernetesClient, type Manifest } from "../../clients/kubernetes/client";
import { claim, fieldManager, namespaceUidAnnotation, ownerAnnotation } from "../../core/flux-system/claim";
import { SeedLifecycle, type SeedInputs } from "../../core/flux-system/seed";
import { ControlPlane, controlPlaneTools } from "../../rehearsal/control-plane";
import { ensureTools } from "../../tools/tools";
import { smallTree } from "../unit/small-tree";
import { temporaryDirectory, writeFiles } from "../unit/temporary";

const settings = { apiVersion: "v1", kind: "ConfigMap", namespace: "default", name: "settings" };
const byHelm = { "helm.toolkit.fluxcd.io/name": "web" };
const byKustomize = { "kustomize.toolkit.fluxcd.io/name": "controllers" };

/** A ConfigMap of a chart or a layer. */
function configMap(
  data: Readonly<Record<string, string>>,
  labels?: Readonly<Record<string, string>>,
): Manifest {
  const { apiVersion, kind, ...metadata } = settings;
  return { apiVersion, kind, metadata: { ...metadata, ...(labels === undefined ? {} : { labels }) }, data };
}

describe("field managers on a real API server", function () {
  this.timeout(300_000);
  let parent: string;
  let controlPlane: ControlPlane;
  let api: KubernetesClient;
  let tree: string;

  before(async () => {
    const tools = await ensureTools([...controlPlaneTools, "kustomize"], { report: console.error });
    parent = await mkdtemp(join(tmpdir(), "platform-seed-"));
    controlPlane = await ControlPlane.start({ directory: join(parent, "state"), tools });
    await controlPlane.ready();
    api = new KubernetesClient(controlPlane.kubeconfig);
    tree = temporaryDirectory();
    writeFiles(tree, {
      ...smallTree,
      "clusters/x/controllers/plain.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: default}
data: {old: "1", kept: "1"}
`,
    });
  });

  after(async () => {
    await controlPlane.stop();
    await rm(parent, { recursive: true, force: true });
  });

  afterEach(() => api.delete(settings));

  /** Seeds a HelmRelease whose chart renders a ConfigMap, or a ConfigMap of the tree. */
  function seed(kind: "HelmRelease" | "ConfigMap", data: Readonly<Record<string, string>> = {}) {
    const charts: ChartRenderer = { template: () => Promise.resolve([configMap(data)]) };
    const inputs: SeedInputs = {
      ...{ kubeconfig: controlPlane.kubeconfig, ownCluster: true, namespaceUid: "u", tree, cluster: "x" },
      variables: { channel: "c" },
      object:
        kind === "HelmRelease"
          ? { kind, namespace: "web", name: "web" }
          : { kind, namespace: "default", name: "settings" },
    };
    const client = (namespace: string) => new KubernetesClient(controlPlane.kubeconfig, namespace);
    return new SeedLifecycle(client, charts, new SystemClock()).create(inputs);
  }

  /** As Pulumi's Kubernetes provider applies what Pulumi owns. */
  function own(data: Readonly<Record<string, string>>, manager: string): Promise<void> {
    const { metadata, ...rest } = configMap(data);
    const annotations = { [ownerAnnotation]: "platform/prod", [namespaceUidAnnotation]: "u" };
    return api.apply({ ...rest, metadata: { ...metadata, annotations } }, manager);
  }

  const data = async () => (await api.get(settings))?.data;
  const managers = async () =>
    ((await api.get(settings))?.metadata.managedFields ?? []).map(({ manager }) => manager).sort();

  for (const [kind, controller, labels] of [
    ["HelmRelease", "helm-controller", byHelm],
    ["ConfigMap", "kustomize-controller", byKustomize],
  ] as const) {
    it(`a seed loses a key that ${controller} does not apply any more`, async () => {
      await seed(kind, { old: "1", kept: "1" });
      deepEqual(await data(), { old: "1", kept: "1" });
      await api.apply(configMap({ kept: "1" }, labels), controller);
      deepEqual(await data(), { kept: "1" });
      deepEqual(await managers(), [controller]);
    });

    it(`a seed loses such a key, too, where it was made before seeds had the name of ${controller}`, async () => {
      await api.apply(configMap({ old: "1", kept: "1" }), "platform-seed");
      await api.apply(configMap({ kept: "1", new: "1" }, labels), controller);
      await api.apply(configMap({ theirs: "1" }), "somebody");
      deepEqual(await data(), { old: "1", kept: "1", new: "1", theirs: "1" });
      await seed(kind, { old: "1", kept: "1" });
      deepEqual(await data(), { kept: "1", new: "1", theirs: "1" });
      deepEqual(await managers(), [controller, "somebody"]);
    });
  }

  it("a seed that Flux does not own yet changes its manager and keeps its fields", async () => {
    await api.apply(configMap({ old: "1", kept: "1" }), "platform-seed");
    await seed("HelmRelease", { kept: "1", new: "1" });
    deepEqual(await data(), { kept: "1", new: "1" });
    deepEqual(await managers(), ["helm-controller"]);
  });

  it("a seed keeps all its fields where Flux does not apply server-side", async () => {
    await api.apply(configMap({ old: "1", kept: "1" }), "platform-seed");
    await api.merge(settings, { metadata: { labels: byHelm }, data: { new: "1" } });
    await seed("HelmRelease", { kept: "1" });
    deepEqual(await data(), { old: "1", kept: "1", new: "1" });
  });

  it("what Pulumi owns has one manager, whatever states applied it, and loses what the stack drops", async () => {
    await own({ domain: "old", dropped: "1" }, "pulumi-kubernetes-1a2b3c4d");
    await own({ domain: "old", dropped: "1", former: "1" }, "pulumi-kubernetes-5e6f7a8b");
    await api.apply(configMap({ theirs: "1" }), "somebody");
    await claim(api, settings, "platform/prod");
    deepEqual(await managers(), ["platform", "somebody"]);
    deepEqual(await data(), { domain: "old", dropped: "1", former: "1", theirs: "1" });
    await own({ domain: "new" }, fieldManager);
    deepEqual(await data(), { domain: "new", theirs: "1" });
    deepEqual(await managers(), ["platform", "somebody"]);
  });

  it("a seed is not made again by giving up what is gone", async () => {
    await api.apply(configMap({ old: "1" }), "platform-seed");
    const { uid } = (await api.get(settings))?.metadata ?? {};
    await api.delete(settings);
    const { apiVersion, kind, ...metadata } = settings;
    const gone = api.apply({ apiVersion, kind, metadata: { ...metadata, uid: uid ?? "" } }, "platform-seed");
    match(
      await gone.then(
        () => "applied",
        (error: unknown) => (error as Error).message,
      ),
      /uid/i,
    );
    equal(await data(), undefined);
  });
});
