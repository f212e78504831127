import { deepEqual, equal, match, rejects, throws } from "node:assert/strict";
import type { KubernetesApi, Manifest, ManifestRef } from "../../clients/kubernetes/client";
import type { Chart, ChartRenderer } from "../../clients/helm/chart";
import { textOf } from "../../core/findings/finding";
import { findSecondNetwork } from "../../core/cluster/existing/network";
import { checkSource, SeedLifecycle, type SeedInputs } from "../../core/flux-system/seed";
import { ensureTools } from "../../tools/tools";
import { FakeClock } from "./clock";
import { smallTree } from "./small-tree";
import { temporaryDirectory, writeFiles } from "./temporary";

/** A cluster whose definitions are served only when it was asked for them a few times. */
class FakeCluster implements KubernetesApi {
  readonly objects = new Map<string, Manifest>();
  /** `Kind name` of what was applied, with `?` before what was looked at. */
  readonly log: string[] = [];
  managers = new Set<string>();
  looksUntilServed = 3;
  answers = true;
  /** The namespace of what names none. */
  namespace = "";

  in(namespace: string): this {
    this.namespace = namespace;
    return this;
  }

  apply(object: Manifest, fieldManager: string): Promise<void> {
    this.log.push(`${object.kind} ${object.metadata.name}`);
    this.managers.add(fieldManager);
    this.objects.set(key(object.kind, object.metadata.name), object);
    return Promise.resolve();
  }

  get(ref: ManifestRef): Promise<Manifest | undefined> {
    if (!this.answers) return Promise.reject(new Error("connection refused"));
    const object = this.objects.get(key(ref.kind, ref.name));
    if (ref.kind !== "CustomResourceDefinition" || object === undefined) return Promise.resolve(object);
    this.log.push(`?${ref.name}`);
    const conditions = this.looksUntilServed-- > 0 ? null : [{ type: "Established", status: "True" }];
    return Promise.resolve({ ...object, status: { conditions } });
  }

  list(apiVersion: string, kind: string): Promise<Manifest[]> {
    const found = [...this.objects.values()].filter((object) => object.kind === kind);
    return Promise.resolve(found.map((object) => ({ ...object, apiVersion })));
  }

  annotate(): Promise<void> {
    throw new Error("a seed annotates nothing");
  }

  merge(): Promise<void> {
    throw new Error("a seed merges nothing");
  }

  delete(): Promise<void> {
    throw new Error("a seed deletes nothing");
  }
}

const key = (kind: string, name: string) => `${kind}/${name}`;

class FakeCharts implements ChartRenderer {
  readonly rendered: Chart[] = [];

  constructor(private readonly objects: readonly Manifest[]) {}

  template(chart: Chart): Promise<Manifest[]> {
    this.rendered.push(chart);
    return Promise.resolve([...this.objects]);
  }
}

const object = (kind: string, name: string, more: object = {}): Manifest => ({
  ...{ apiVersion: "v1", kind, metadata: { name, ...more } },
});
const chartObjects = [
  object("ConfigMap", "web"),
  object("Deployment", "web", { labels: { app: "web" }, annotations: { note: "1" } }),
  object("CustomResourceDefinition", "pages"),
  object("Namespace", "web"),
];

function seed(objects: readonly Manifest[] = chartObjects, files: Readonly<Record<string, string>> = {}) {
  const tree = temporaryDirectory();
  writeFiles(tree, { ...smallTree, ...files });
  const api = new FakeCluster();
  const charts = new FakeCharts(objects);
  const clock = new FakeClock();
  const inputs: SeedInputs = {
    ...{
      kubeconfig: "the kubeconfig",
      ownCluster: true,
      namespaceUid: "the uid",
      tree,
      cluster: "x",
      variables: { channel: "stable", host: "from the run" },
    },
    object: { kind: "HelmRelease", namespace: "web", name: "web" },
  };
  return {
    api,
    charts,
    clock,
    inputs,
    lifecycle: new SeedLifecycle((namespace) => api.in(namespace), charts, clock),
  };
}

before("platform-tree", async function () {
  this.timeout(600_000);
  await ensureTools(["platform-tree"], { report: console.error });
});

describe("seed", () => {
  it("renders the release of the tree with the values that Flux would see", async () => {
    const { charts, inputs, lifecycle } = seed();
    await lifecycle.create(inputs);
    deepEqual(charts.rendered, [
      {
        ...{
          release: "web",
          namespace: "web",
          repository: "oci://ghcr.io/example/charts",
          name: "web",
          version: "1.2.3",
        },
        values: { replicas: 2, text: "is from the run", channel: "stable" },
      },
    ]);
  });

  it("takes its chart from a HelmRepository, too", async () => {
    const { charts, inputs, lifecycle } = seed(chartObjects, {
      "clusters/x/controllers/release.yaml": `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: web, namespace: web}
spec: {chart: {spec: {chart: web, version: 1.2.3, sourceRef: {kind: HelmRepository, name: web}}}}
`,
      "clusters/x/controllers/source.yaml": `apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmRepository
metadata: {name: web, namespace: web}
spec: {url: https://charts.example.com}
`,
    });
    await lifecycle.create(inputs);
    const [{ repository, name, version } = {}] = charts.rendered as Partial<Chart>[];
    deepEqual(
      { repository, name, version },
      { repository: "https://charts.example.com", name: "web", version: "1.2.3" },
    );
  });

  it("puts what names no namespace into the target namespace of the release, and finds it there", async () => {
    const { api, inputs, lifecycle } = seed(chartObjects, {
      "clusters/x/controllers/release.yaml": `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: web, namespace: web}
spec: {chartRef: {kind: OCIRepository, name: web}, targetNamespace: target}
`,
    });
    const outputs = await lifecycle.create(inputs);
    equal(api.namespace, "target");
    equal(outputs.sentinel.namespace, "target");
    api.in("another");
    equal(await lifecycle.read(outputs), outputs);
    equal(api.namespace, "target");
  });

  it("applies namespaces and definitions, waits until those are served, and applies the rest", async () => {
    const { api, inputs, lifecycle } = seed();
    await lifecycle.create(inputs);
    deepEqual(api.log, [
      ...["Namespace web", "CustomResourceDefinition pages"],
      ...["?pages", "?pages", "?pages", "?pages"],
      ...["ConfigMap web", "Deployment web"],
    ]);
    deepEqual([...api.managers], ["helm-controller"]);
  });

  it("gives up on a definition that is not served within 30 s", async () => {
    const { api, clock, inputs, lifecycle } = seed();
    api.looksUntilServed = Infinity;
    await rejects(lifecycle.create(inputs), {
      message: /CustomResourceDefinition pages failed: the API server did not serve it within 30 s\.$/,
    });
    equal(clock.time, 30_000);
    equal(api.objects.has(key("Deployment", "web")), false);
  });

  it("marks every object as its Helm release's, so that Helm takes it over", async () => {
    const { api, inputs, lifecycle } = seed();
    await lifecycle.create(inputs);
    const marks = { "meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "web" };
    const managed = { "app.kubernetes.io/managed-by": "Helm" };
    deepEqual(api.objects.get(key("Deployment", "web"))?.metadata, {
      ...{
        name: "web",
        labels: { app: "web", ...managed },
        annotations: { note: "1", ...marks },
      },
    });
    for (const [name, { metadata }] of api.objects) {
      equal(metadata.labels?.["app.kubernetes.io/managed-by"], "Helm", name);
      equal(metadata.annotations?.["meta.helm.sh/release-name"], "web", name);
    }
  });

  it("remembers a workload and a hash, not the objects", async () => {
    const { inputs, lifecycle } = seed();
    const { fingerprint, ...outputs } = await lifecycle.create(inputs);
    deepEqual(outputs, {
      kubeconfig: "the kubeconfig",
      ownCluster: true,
      namespaceUid: "the uid",
      sentinel: { apiVersion: "v1", kind: "Deployment", namespace: "web", name: "web" },
      fieldManager: "helm-controller",
    });
    match(fingerprint, /^[0-9a-f]{64}$/);
  });

  for (const label of ["helm.toolkit.fluxcd.io/name", "kustomize.toolkit.fluxcd.io/name"]) {
    it(`is left alone when the workload carries ${label}`, async () => {
      const { api, inputs, lifecycle } = seed();
      api.objects.set(key("Deployment", "web"), object("Deployment", "web", { labels: { [label]: "web" } }));
      equal((await lifecycle.create(inputs)).sentinel.kind, "Deployment");
      deepEqual(api.log, []);
    });
  }

  it("is applied again over a workload that is not Flux's", async () => {
    const { api, inputs, lifecycle } = seed();
    api.objects.set(key("Deployment", "web"), object("Deployment", "web", { labels: { app: "web" } }));
    await lifecycle.create(inputs);
    equal(api.log.includes("Deployment web"), true);
  });

  it("that is no HelmRelease is applied itself, with its variables filled in", async () => {
    const { api, charts, inputs, lifecycle } = seed();
    await lifecycle.create({
      ...inputs,
      object: { kind: "FluxInstance", namespace: "flux-system", name: "flux" },
    });
    deepEqual(charts.rendered, []);
    deepEqual([...api.managers], ["kustomize-controller"]);
    deepEqual(api.objects.get(key("FluxInstance", "flux")), {
      ...{ apiVersion: "fluxcd.controlplane.io/v1", kind: "FluxInstance" },
      metadata: { name: "flux", namespace: "flux-system" },
      spec: { ref: "stable" },
    });
  });

  it("is refused when no layer holds it", async () => {
    const { inputs, lifecycle } = seed();
    await rejects(
      lifecycle.create({ ...inputs, object: { kind: "HelmRelease", namespace: "web", name: "wbe" } }),
      {
        message:
          'Seeding HelmRelease web/wbe failed: layer "controllers" of cluster "x" does not hold it. Add it there.',
      },
    );
  });

  it("is refused when its chart renders nothing", async () => {
    const { inputs, lifecycle } = seed([]);
    await rejects(lifecycle.create(inputs), {
      message: "Seeding web failed: its chart renders no object. Check its values.",
    });
  });

  it("is there as long as its workload is; a cluster of this project that does not answer has none", async () => {
    const { api, inputs, lifecycle } = seed();
    const outputs = await lifecycle.create(inputs);
    equal(await lifecycle.read(outputs), outputs);
    api.answers = false;
    equal(await lifecycle.read(outputs), undefined);
    const { ownCluster, ...former } = outputs;
    equal(ownCluster, true);
    for (const foreign of [{ ...outputs, ownCluster: false }, former]) {
      await rejects(lifecycle.read(foreign), {
        message: /^connection refused\. Bring the cluster back and run again; if it is gone for good, /,
      });
    }
    api.answers = true;
    api.objects.clear();
    equal(await lifecycle.read(outputs), undefined);
  });
});

describe("seed of a network", () => {
  const cilium = object("DaemonSet", "cilium");
  const settings = object("ConfigMap", "cilium-config");
  const node = (status: string): Manifest => ({
    ...{ apiVersion: "v1", kind: "Node", metadata: { name: "n" } },
    status: { conditions: [{ type: "Ready", status }] },
  });
  const by = (manager: string) => ({ managedFields: [{ manager, operation: "Apply" }] });

  /** Seeds Cilium beside other objects. */
  async function network(setting: "auto" | "cilium" | undefined, others: readonly Manifest[]) {
    const { api, inputs, lifecycle } = seed([settings, cilium]);
    for (const other of others) api.objects.set(key(other.kind, other.metadata.name), other);
    await lifecycle.create({ ...inputs, ...(setting === undefined ? {} : { network: setting }) });
    return api.log;
  }

  for (const setting of ["auto", "cilium"] as const) {
    it(`goes where none is: ${setting}`, async () => {
      const log = await network(setting, [node("False"), object("DaemonSet", "kube-proxy")]);
      deepEqual(log, ["ConfigMap cilium-config", "DaemonSet cilium"]);
    });

    for (const [name, what] of [
      ["calico-node", "Calico"],
      ["kube-flannel", "Flannel"],
      ["kindnet", "kindnet"],
      ["cilium", "Cilium"],
    ] as const) {
      it(`is refused beside ${what} of somebody else: ${setting}`, async () => {
        const other = object("DaemonSet", name, { namespace: "net", ...by("helm") });
        await rejects(network(setting, [other]), {
          message: `Seeding Cilium failed: the cluster has a network already (DaemonSet net/${name}, ${what}). Keep it with platform:cluster.cni "existing" and take Cilium out of the tree (see docs/platform.md), or remove it and set "cilium".`,
        });
      });
    }

    for (const manager of ["helm-controller", "platform-seed"]) {
      it(`is applied again over what ${manager} applied: ${setting}`, async () => {
        const log = await network(setting, [node("True"), object("DaemonSet", "cilium", by(manager))]);
        equal(log.includes("DaemonSet cilium"), true);
      });
    }

    it(`is brought back where only a part of it was lost: ${setting}`, async () => {
      const left = object("ConfigMap", "cilium-config", by("helm-controller"));
      deepEqual(await network(setting, [node("True"), left]), [
        "ConfigMap cilium-config",
        "DaemonSet cilium",
      ]);
    });
  }

  it("is refused where nodes are Ready without it, unless the settings ask for it", async () => {
    await rejects(network("auto", [node("True")]), {
      message:
        /^Seeding Cilium failed: the cluster has a network already \(node n is Ready without Cilium\)\. /,
    });
    deepEqual(await network("cilium", [node("True")]), ["ConfigMap cilium-config", "DaemonSet cilium"]);
  });

  it("asks nothing of a cluster that this project makes", async () => {
    equal((await network(undefined, [node("True"), object("DaemonSet", "kindnet")])).length, 2);
  });
});

describe("findSecondNetwork", () => {
  it("names the layer of a cluster with a network of its own that brings Cilium", async () => {
    const tree = temporaryDirectory();
    writeFiles(tree, smallTree);
    deepEqual(await findSecondNetwork(tree, "x"), []);
    writeFiles(tree, {
      "clusters/x/controllers/release.yaml": `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: cilium, namespace: kube-system}
spec: {}
`,
    });
    deepEqual((await findSecondNetwork(tree, "x")).map(textOf), [
      'Checking the network of cluster "x" failed: platform:cluster.cni is "existing", and layer "controllers" brings HelmRelease kube-system/cilium. Take Cilium out of the layer (see docs/platform.md), or set "cilium".',
    ]);
  });
});

describe("the source of a seeded FluxInstance", () => {
  const variables = { artifact_repository: "registry:5000/platform", channel: "local" };
  const instance = (sync?: object): Manifest => ({
    ...{ apiVersion: "fluxcd.controlplane.io/v1", kind: "FluxInstance" },
    ...{ metadata: { name: "flux", namespace: "flux-system" }, spec: { sync } },
  });
  const own = { url: "oci://registry:5000/platform", ref: "local" };

  for (const [what, sync, message] of [
    [
      "another registry",
      { ...own, url: "oci://ghcr.io/example/platform" },
      'Seeding FluxInstance flux-system/flux failed: its "spec.sync.url" is oci://ghcr.io/example/platform, but the stack releases to oci://registry:5000/platform. Set it to "oci://${artifact_repository}", and choose the registry with platform:registry.',
    ],
    [
      "another channel",
      { ...own, ref: "main" },
      'Seeding FluxInstance flux-system/flux failed: its "spec.sync.ref" is main, but the stack releases to tag local. Set it to "${channel}".',
    ],
  ] as const) {
    it(`is refused if it is ${what} than the release's`, () => {
      throws(
        () => {
          checkSource(instance(sync), variables);
        },
        { message },
      );
    });
  }

  it("may be the release's, or set elsewhere", () => {
    checkSource(instance(own), variables);
    checkSource(instance(), variables);
  });
});
