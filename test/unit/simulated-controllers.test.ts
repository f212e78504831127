import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Chart } from "../../clients/helm/chart";
import type { Manifest } from "../../clients/kubernetes/client";
import { byKind, readDefinitions } from "../../rehearsal/rehearsal";
import { SimulatedControllers } from "../../rehearsal/simulated-controllers";
import { newestOf } from "../../tools/upstream";
import { FakeApiServer, type Served } from "./api-server";
import { temporaryDirectory } from "./temporary";

const flux = { "kustomize.toolkit.fluxcd.io/name": "apps" };
const sourceKinds = {
  ...{ OCIRepository: "ocirepositories", HelmRepository: "helmrepositories" },
  ...{ GitRepository: "gitrepositories", Bucket: "buckets", HelmChart: "helmcharts" },
  ExternalArtifact: "externalartifacts",
};
const served: Served = {
  v1: {
    PersistentVolumeClaim: ["persistentvolumeclaims", true],
    PersistentVolume: ["persistentvolumes", false],
  },
  "source.toolkit.fluxcd.io/v1": Object.fromEntries(
    Object.entries(sourceKinds).map(([kind, plural]) => [kind, [plural, true] as const]),
  ),
  "notification.toolkit.fluxcd.io/v1": { Receiver: ["receivers", true] },
  "helm.toolkit.fluxcd.io/v2": { HelmRelease: ["helmreleases", true] },
  "apiextensions.k8s.io/v1": { CustomResourceDefinition: ["customresourcedefinitions", false] },
};
const definition = (kind: string): Manifest => ({
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: `${kind.toLowerCase()}s.example.com` },
  spec: { group: "example.com", names: { kind } },
});
const repository: Manifest = {
  apiVersion: "source.toolkit.fluxcd.io/v1",
  kind: "OCIRepository",
  metadata: { name: "widgets", namespace: "widgets", labels: flux, uid: "o", generation: 1 },
  spec: { url: "oci://registry.example.com/charts/widgets", ref: { tag: "1.0.0" } },
};
const release: Manifest = {
  apiVersion: "helm.toolkit.fluxcd.io/v2",
  kind: "HelmRelease",
  metadata: { name: "widgets", namespace: "widgets", uid: "h", generation: 1 },
  spec: { chartRef: { kind: "OCIRepository", name: "widgets" } },
};
const widget: Manifest = { apiVersion: "example.com/v1", kind: "Widget", metadata: { name: "w" } };

describe("simulated controllers", function () {
  this.timeout(60_000);
  let api: FakeApiServer;
  let simulation: SimulatedControllers | undefined;
  const asked: Chart[] = [];

  beforeEach(async () => {
    api = await FakeApiServer.start(served);
    asked.length = 0;
  });

  afterEach(() => {
    simulation?.stop();
    api.stop();
  });

  const put = (plural: string, object: Manifest) => {
    const group = object.apiVersion.includes("/") ? "apis" : "api";
    const { namespace = "", name } = object.metadata;
    api.objects.set(`/${group}/${object.apiVersion}/namespaces/${namespace}/${plural}/${name}`, {
      ...object,
    });
    // As an API server lists it over all namespaces.
    api.objects.set(`/${group}/${object.apiVersion}/${plural}/${name}`, { ...object });
  };

  /** Runs it until a condition holds. */
  async function until(
    condition: (running: SimulatedControllers) => boolean,
    tree: readonly Manifest[] = [],
    charts: (chart: Chart) => Promise<Manifest[]> = () => Promise.resolve([]),
  ): Promise<SimulatedControllers> {
    const running = new SimulatedControllers({
      ...{ kubeconfig: api.kubeconfig, helm: false, notification: false, definitions: [] },
      startFlux: () => Promise.resolve(),
      charts: {
        template: (chart) => {
          asked.push(chart);
          return charts(chart);
        },
      },
      report: () => undefined,
    });
    simulation = running;
    running.use(() => Promise.resolve(tree));
    running.start();
    const end = Date.now() + 30_000;
    while (!condition(running)) {
      if (Date.now() > end) throw new Error(`not in time: ${[...running.simulated].join(", ")}`);
      await sleep(20);
    }
    return running;
  }

  it("marks sources of every kind and Receivers Ready, and names them", async () => {
    for (const [kind, plural] of Object.entries(sourceKinds)) {
      const metadata = { name: "x", namespace: "apps", uid: kind, generation: 1, labels: flux };
      put(plural, { apiVersion: "source.toolkit.fluxcd.io/v1", kind, metadata });
    }
    const metadata = { name: "hook", namespace: "apps", uid: "r", generation: 1 };
    put("receivers", { apiVersion: "notification.toolkit.fluxcd.io/v1", kind: "Receiver", metadata });
    const running = await until(({ simulated }) => simulated.size === 7);
    deepEqual(
      [...running.simulated].sort(),
      [...Object.keys(sourceKinds).map((kind) => `${kind} apps/x`), "Receiver apps/hook"].sort(),
    );
    for (const plural of [...Object.values(sourceKinds), "receivers"]) {
      equal(
        api.requests.some((request) => request.startsWith("PATCH") && request.includes(`/${plural}/`)),
        true,
      );
    }
  });

  it("provisions volumes of both modes", async () => {
    for (const volumeMode of ["Block", undefined]) {
      const spec = { accessModes: ["ReadWriteOnce"], resources: { requests: { storage: "1Gi" } } };
      const metadata = {
        name: volumeMode ?? "none",
        namespace: "apps",
        uid: volumeMode ?? "none",
        generation: 1,
      };
      put("persistentvolumeclaims", {
        ...{ apiVersion: "v1", kind: "PersistentVolumeClaim", metadata },
        spec: { ...spec, ...(volumeMode === undefined ? {} : { volumeMode }) },
      });
    }
    const mode = (uid: string) =>
      (
        api.objects.get(`/api/v1/persistentvolumes/rehearsal-${uid}`)?.spec as
          { volumeMode?: string } | undefined
      )?.volumeMode;
    await until(() => mode("Block") !== undefined && mode("none") !== undefined);
    deepEqual([mode("Block"), mode("none")], ["Block", "Filesystem"]);
  });

  it("renders the chart of a release where the tree has a kind that nothing known defines", async () => {
    put("ocirepositories", repository);
    put("helmreleases", release);
    const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/";
    const chart = [definition("Widget"), definition("Unused"), widget];
    await until(
      ({ simulated }) => simulated.has("HelmRelease widgets/widgets"),
      [repository, release, widget],
      () => Promise.resolve(chart),
    );
    deepEqual(
      asked.map(({ repository, name, version }) => [repository, name, version]),
      [["oci://registry.example.com/charts", "widgets", "1.0.0"]],
    );
    equal(api.objects.has(`${definitions}widgets.example.com`), true);
    equal(api.objects.has(`${definitions}unuseds.example.com`), false);
  });

  it("renders no chart where every kind is defined by the API server, the tree or a known chart", async () => {
    put("ocirepositories", repository);
    put("helmreleases", release);
    const known = [
      ...["apps/v1", "v1", "batch/v1", "rbac.authorization.k8s.io/v1", "helm.toolkit.fluxcd.io/v2"],
      "networking.k8s.io/v1",
    ].map((apiVersion) => ({ ...widget, apiVersion }));
    const issuer = { ...widget, apiVersion: "cert-manager.io/v1", kind: "Issuer" };
    await until(
      ({ simulated }) => simulated.has("HelmRelease widgets/widgets"),
      [repository, release, definition("Widget"), widget, issuer, ...known],
    );
    deepEqual(asked, []);
  });

  it("says which chart was out of reach when a kind is not defined, and what to do", async () => {
    put("ocirepositories", repository);
    put("helmreleases", release);
    const running = await until(
      ({ simulated }) => simulated.has("HelmRelease widgets/widgets"),
      [repository, release, widget],
      () => Promise.reject(new Error('"helm template widgets" failed: no such host')),
    );
    match(
      running.explain('Widget/w dry-run failed: no matches for kind "Widget" in version "example.com/v1"'),
      /^No chart that the rehearsal knows defines Widget, and HelmReleases are simulated\. HelmRelease widgets\/widgets: "helm template widgets" failed: no such host\. Put its CustomResourceDefinition into a directory, and set "platform:rehearsal\.definitions" to that directory\.$/,
    );
    equal(running.explain("timeout waiting for Deployment"), "");
  });

  it("takes definitions out of a directory of YAML files, and nothing else", async () => {
    const directory = temporaryDirectory();
    mkdirSync(join(directory, "deeper"));
    writeFileSync(join(directory, "deeper", "a.yaml"), JSON.stringify(definition("Widget")));
    writeFileSync(
      join(directory, "b.yml"),
      `${JSON.stringify(widget)}\n---\n${JSON.stringify(definition("B"))}`,
    );
    writeFileSync(join(directory, "README.md"), "no YAML: [");
    deepEqual(
      (await readDefinitions(directory)).map(({ metadata }) => metadata.name),
      ["bs.example.com", "widgets.example.com"],
    );
    await rejects(
      readDefinitions(join(directory, "none")),
      /"platform:rehearsal\.definitions" failed: \S+ does not exist\. Set it to a directory\./,
    );
  });

  it("names what was simulated by kind", () => {
    deepEqual(
      [...byKind(["HelmRelease a/x", "HelmRelease b/y", "volumes"])],
      [
        ["HelmRelease", ["x", "y"]],
        ["volumes", []],
      ],
    );
  });
});

describe("version of Flux", () => {
  const versions = ["2.7.5", "2.8.8", "2.9.0", "2.9.5", "2.10.1", "3.0.0"];
  for (const [range, newest] of [
    ["2.9.5", "2.9.5"],
    ["v2.9.0", "2.9.0"],
    ["2.x", "2.10.1"],
    ["2", "2.10.1"],
    ["2.9.x", "2.9.5"],
    ["2.9.*", "2.9.5"],
    ["*", "3.0.0"],
    ["~2.8.0", "2.8.8"],
    ["~2.9", "2.9.5"],
    ["^2.7.0", "2.10.1"],
    [">=2.8.0 <2.9.0", "2.8.8"],
    [">= 2.8, < 2.10", "2.9.5"],
    [">2.9", "3.0.0"],
    ["<=2.9", "2.9.5"],
    ["2.7.x || 2.8.x", "2.8.8"],
    ["4.x", undefined],
    ["latest", undefined],
  ] as const) {
    it(`of "${range}" is ${newest ?? "none"}`, () => {
      equal(newestOf(versions, range), newest);
    });
  }
});
