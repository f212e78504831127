import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { GateLifecycle, type GateInputs } from "../../core/release/gate";
import type { KubernetesApi, Manifest, ManifestRef } from "../../clients/kubernetes/client";
import { statusOf } from "../../core/release/status";
import { FakeClock } from "./clock";
import { FakeRegistry } from "./fake-registry";

const good = `sha256:${"a".repeat(64)}`;
const next = `sha256:${"b".repeat(64)}`;

interface FakeLayer {
  readonly name: string;
  readonly namespace: string;
  readonly dependsOn: readonly string[];
  /** The Kustomization of namespace flux-system that brings it. */
  readonly owner?: string;
  /** Of its own, where it is not that of the release. */
  readonly source?: string;
  readonly substituteFrom?: readonly { kind: string; name: string; optional?: boolean }[];
  applied: string;
  attempted: string;
  ready: { status: string; reason: string; message: string };
  handled?: string;
  suspend?: boolean;
  going?: boolean;
  annotations?: Record<string, string>;
}

function layer(name: string, others: Partial<FakeLayer> = {}): FakeLayer {
  return {
    name,
    namespace: "flux-system",
    dependsOn: [],
    applied: "",
    attempted: "",
    ready: { status: "Unknown", reason: "Progressing", message: "" },
    ...others,
  };
}

/** The labels that kustomize-controller puts on what a Kustomization of namespace flux-system brings. */
function broughtBy(owner: string): Record<string, string> {
  return {
    "kustomize.toolkit.fluxcd.io/name": owner,
    "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
  };
}

/** As much of Flux as the gate sees: it reconciles what it is asked to, after its dependencies. */
class FakeFlux implements KubernetesApi {
  readonly layers: FakeLayer[] = [
    layer("flux-system"),
    layer("controllers", { owner: "flux-system" }),
    layer("certs", { owner: "flux-system", dependsOn: ["controllers"] }),
  ];
  readonly helmReleases: Manifest[] = [];
  readonly instances: Manifest[] = [];
  readonly nudges: string[] = [];
  readonly merges: string[] = [];
  /** Name → ConfigMap. */
  readonly configMaps = new Map<string, { data: Record<string, string>; resourceVersion: string }>();
  served = "";
  /** What the source says when it cannot pull; it is said anew at each request. */
  refusal: string | undefined;
  sourceHandled = "";
  url = "oci://registry/platform";
  /** Digest → the layer that fails on it, and how. */
  readonly broken = new Map<string, { layer: string; reason: string; message: string; times: number }>();
  /** Runs when a layer was reconciled. */
  onReconcile: (layer: FakeLayer) => void = () => undefined;

  constructor(private readonly registry: FakeRegistry) {}

  apply(): Promise<void> {
    return Promise.resolve();
  }

  get(ref: ManifestRef): Promise<Manifest | undefined> {
    const { apiVersion, kind, name, namespace = "" } = ref;
    if (kind === "ConfigMap") {
      const found = this.configMaps.get(name);
      if (found === undefined) return Promise.resolve(undefined);
      const { data, resourceVersion } = found;
      return Promise.resolve({ apiVersion, kind, metadata: { name, namespace, resourceVersion }, data });
    }
    if (kind !== "OCIRepository") return Promise.resolve(undefined);
    const ready =
      this.refusal === undefined
        ? { type: "Ready", status: "True" }
        : { type: "Ready", status: "False", reason: "OCIArtifactPullFailed", message: this.refusal };
    return Promise.resolve({
      ...{ apiVersion, kind },
      metadata: { name, namespace, generation: 1 },
      spec: { url: this.url },
      status: {
        ...(this.served === "" ? {} : { artifact: { revision: this.served } }),
        lastHandledReconcileAt: this.sourceHandled,
        conditions: [ready],
      },
    });
  }

  list(apiVersion: string, kind: string): Promise<Manifest[]> {
    if (kind === "HelmRelease") return Promise.resolve(this.helmReleases);
    if (kind === "FluxInstance") return Promise.resolve(this.instances);
    if (kind !== "Kustomization") return Promise.resolve([]);
    return Promise.resolve(
      this.layers.map((layer) => ({
        ...{ apiVersion, kind },
        metadata: {
          ...{ name: layer.name, namespace: layer.namespace, generation: 1 },
          ...(layer.going === true ? { deletionTimestamp: "2026-01-01T00:00:00Z" } : {}),
          annotations: layer.annotations ?? {},
          ...(layer.owner === undefined ? {} : { labels: broughtBy(layer.owner) }),
        },
        spec: {
          ...(layer.suspend === true ? { suspend: true } : {}),
          sourceRef: {
            kind: "OCIRepository",
            name: layer.source ?? "flux-system",
            ...(layer.source === undefined ? { namespace: "flux-system" } : {}),
          },
          dependsOn: layer.dependsOn.map((name) => {
            const [namespace, inner] = name.split("/");
            return inner === undefined ? { name } : { name: inner, namespace };
          }),
          ...(layer.substituteFrom === undefined
            ? {}
            : { postBuild: { substituteFrom: layer.substituteFrom } }),
        },
        status: {
          // As Flux does: only success moves it.
          observedGeneration: layer.ready.status === "True" || layer.applied !== "" ? 1 : -1,
          lastAppliedRevision: layer.applied,
          lastAttemptedRevision: layer.attempted,
          lastHandledReconcileAt: layer.handled,
          conditions: [{ type: "Ready", observedGeneration: 1, ...layer.ready }],
          inventory: { entries: [1, 2, 3].map((id) => ({ id: String(id) })) },
        },
      })),
    );
  }

  annotate(ref: ManifestRef, annotations: Readonly<Record<string, string>> = {}): Promise<void> {
    this.nudges.push(ref.name);
    const request = annotations["reconcile.fluxcd.io/requestedAt"] ?? "";
    if (ref.kind === "OCIRepository") {
      this.sourceHandled = request;
      if (this.refusal !== undefined) return Promise.resolve();
      const served = `local@${this.registry.held.get("local") ?? ""}`;
      if (served === this.served) return Promise.resolve();
      this.served = served;
      for (const layer of this.layers.filter(({ dependsOn }) => dependsOn.length === 0))
        this.reconcile(layer);
    } else {
      const layer = this.layers.find(
        ({ name, namespace }) => name === ref.name && namespace === ref.namespace,
      );
      if (layer !== undefined && layer.suspend !== true) {
        this.reconcile(layer);
        layer.handled = request;
      }
    }
    return Promise.resolve();
  }

  merge(ref: ManifestRef, patch: object): Promise<void> {
    this.merges.push(`${ref.kind} ${ref.name} ${JSON.stringify(patch)}`);
    const { spec, data } = patch as { spec?: { suspend?: unknown }; data?: Record<string, string | null> };
    for (const layer of this.layers) {
      if (ref.kind === "Kustomization" && layer.name === ref.name && spec?.suspend === null) {
        layer.suspend = false;
      }
    }
    const configMap = this.configMaps.get(ref.name);
    if (configMap !== undefined && data !== undefined) {
      const merged = Object.entries({ ...configMap.data, ...data }).filter(([, value]) => value !== null);
      this.configMaps.set(ref.name, {
        data: Object.fromEntries(merged) as Record<string, string>,
        resourceVersion: `${configMap.resourceVersion}'`,
      });
    }
    return Promise.resolve();
  }

  delete(): Promise<void> {
    throw new Error("the gate deletes nothing");
  }

  private reconcile(layer: FakeLayer): void {
    if (layer.suspend === true) return;
    const revision = layer.source === undefined ? this.served : "its own";
    layer.attempted = revision;
    const broken = this.broken.get(this.served.split("@")[1] ?? "");
    if (broken?.layer === layer.name && broken.times-- > 0) {
      layer.ready = { status: "False", reason: broken.reason, message: broken.message };
      return;
    }
    layer.applied = revision;
    layer.ready = { status: "True", reason: "ReconciliationSucceeded", message: "" };
    this.onReconcile(layer);
  }
}

function gate() {
  const registry = new FakeRegistry();
  const flux = new FakeFlux(registry);
  const clock = new FakeClock();
  const inputs: GateInputs = {
    ...{ kubeconfig: "", repository: "r/platform", insecure: false, channel: "local", digest: next },
    ...{ timeoutSeconds: 120, keep: 0, ownCluster: true, namespaceUid: "the uid" },
    variables: { artifact_repository: "registry/platform", domain: "old.example.com" },
  };
  flux.configMaps.set("platform-runtime", { data: { ...inputs.variables }, resourceVersion: "1" });
  return { registry, flux, clock, inputs, lifecycle: new GateLifecycle(flux, registry, clock) };
}

describe("release gate", () => {
  it("moves the channel, waits for every layer at the digest, and remembers it as good", async () => {
    const { registry, flux, inputs, lifecycle } = gate();
    const outputs = await lifecycle.create(inputs);
    equal(outputs.ready, true);
    deepEqual(
      outputs.layers.map(({ name, objects }) => [name, objects]),
      [
        ["flux-system", 3],
        ["controllers", 3],
        ["certs", 3],
      ],
    );
    deepEqual(registry.channels(), [
      ["local", next],
      ["local-ready", next],
    ]);
    deepEqual(flux.nudges, ["flux-system", "certs"]);
  });

  it("goes back to the last good digest when a layer fails for good, and says why", async () => {
    const { registry, flux, inputs, lifecycle } = gate();
    await lifecycle.create({ ...inputs, digest: good });
    flux.broken.set(next, {
      ...{
        layer: "certs",
        reason: "BuildFailed",
        message: "kustomize build failed: no such file",
        times: Infinity,
      },
    });
    await rejects(lifecycle.create(inputs), (error: Error) => {
      match(
        error.message,
        new RegExp(
          `^Releasing ${next} to channel "local" failed: Kustomization flux-system/certs: kustomize build failed: no such file\\.`,
        ),
      );
      match(
        error.message,
        new RegExp(`back at the last good digest ${good}; every layer is Ready on it again`),
      );
      return true;
    });
    deepEqual(registry.channels(), [
      ["local", good],
      ["local-ready", good],
    ]);
    equal(flux.served, `local@${good}`);
  });

  it("has a layer try again that had failed at this digest before, for what it failed for may be mended", async () => {
    const { flux, clock, inputs, lifecycle } = gate();
    const broken = { layer: "certs", reason: "BuildFailed", message: "decryption failed" };
    flux.broken.set(next, { ...broken, times: 2 });
    await rejects(lifecycle.create(inputs), /certs: decryption failed/);
    equal((await lifecycle.create(inputs)).ready, true);

    flux.broken.set(next, { ...broken, times: Infinity });
    await flux.annotate({ apiVersion: "", kind: "Kustomization", name: "certs" });
    const start = clock.time;
    await rejects(lifecycle.create(inputs), /certs: decryption failed/);
    equal(clock.time - start < 5_000, true, `it took ${clock.time - start} ms`);
  });

  it("tries again after a failure that passes", async () => {
    const { flux, inputs, lifecycle } = gate();
    flux.broken.set(next, {
      ...{ layer: "certs", reason: "ReconciliationFailed", message: "failed calling webhook", times: 3 },
    });
    equal((await lifecycle.create(inputs)).ready, true);
    equal(flux.nudges.filter((name) => name === "certs").length, 4);
  });

  it("waits as long as it may for a failure that may pass, and adds nothing up over gaps", async () => {
    const { flux, clock, inputs, lifecycle } = gate();
    const passing = { layer: "certs", reason: "ReconciliationFailed", message: "failed calling webhook" };
    flux.broken.set(next, { ...passing, times: 45 });
    equal((await lifecycle.create(inputs)).ready, true);
    equal(clock.time > 88_000, true, `it was Ready after ${clock.time} ms`);

    const other = gate();
    other.flux.broken.set(next, { ...passing, times: Infinity });
    await rejects(
      other.lifecycle.create(inputs),
      /was not Ready within 120 s\. Kustomization flux-system\/certs: failed calling webhook\. There is no earlier/,
    );
    equal(other.clock.time >= 120_000 && other.clock.time < 121_000, true, `${other.clock.time} ms`);
  });

  it("waits longer than Flux's own limit for health, but not for what is stalled", async () => {
    const { flux, clock, inputs, lifecycle } = gate();
    const health = { layer: "certs", reason: "HealthCheckFailed" };
    const message = "timeout waiting for: [Deployment/cilium status: 'InProgress']";
    flux.broken.set(next, { ...health, message, times: 30 });
    equal((await lifecycle.create(inputs)).ready, true);
    equal(clock.time > 55_000, true, `it was Ready after ${clock.time} ms`);

    const other = gate();
    const stalled = "failed early due to stalled resources: [HelmRelease/x status: 'Failed']";
    other.flux.broken.set(next, { ...health, message: stalled, times: Infinity });
    await rejects(other.lifecycle.create(inputs), /certs: failed early due to stalled resources/);
    equal(other.clock.time < 10_000, true, `it took ${other.clock.time} ms`);
  });

  it("takes a cluster that does not answer a request to reconcile for one that may answer again", async () => {
    const { flux, inputs, lifecycle } = gate();
    const annotate = flux.annotate.bind(flux);
    let silent = 3;
    flux.annotate = (ref) => (silent-- > 0 ? Promise.reject(new Error("no answer")) : annotate(ref));
    equal((await lifecycle.create(inputs)).ready, true);
  });

  it("waits for a cluster that stopped to answer, says so, and returns the channel all the same", async () => {
    const { flux, registry, clock, inputs, lifecycle } = gate();
    registry.held.set("local-ready", good);
    flux.list = () => Promise.reject(new Error("the API server does not answer"));
    const warned = await warnings(async () => {
      await rejects(lifecycle.create(inputs), {
        message: `Releasing ${next} to channel "local" failed: it was not Ready within 120 s. the API server does not answer. The channel is back at the last good digest ${good}; the cluster does not answer, so its state is not known. Bring the cluster back and run again.`,
      });
    });
    deepEqual(warned, ["Still waiting: the API server does not answer. The release gives up after 120 s."]);
    equal(registry.held.get("local"), good);
    equal(clock.time < 125_000, true, `gave up after ${clock.time} ms`);
  });

  it("is not disturbed by a cluster that does not answer for two minutes of a longer limit", async () => {
    const { flux, clock, inputs, lifecycle } = gate();
    const list = flux.list.bind(flux);
    flux.list = (apiVersion, kind) =>
      clock.time < 120_000 ? Promise.reject(new Error("no answer")) : list(apiVersion, kind);
    await warnings(async () => {
      equal((await lifecycle.create({ ...inputs, timeoutSeconds: 600 })).ready, true);
    });
  });

  it("names what is not Ready when time is up", async () => {
    const { flux, inputs, lifecycle } = gate();
    flux.annotate = () => Promise.resolve();
    await rejects(
      lifecycle.create(inputs),
      /was not Ready within 120 s\. OCIRepository flux-system\/flux-system does not serve it/,
    );
  });

  it("is due when what is released, or where, is new, or a layer is not Ready any more", async () => {
    const { flux, inputs, lifecycle } = gate();
    const outputs = await lifecycle.create(inputs);
    equal(lifecycle.diff(outputs, inputs), false);
    for (const change of [
      { digest: good },
      { kubeconfig: "of another user" },
      { ownCluster: false },
      { namespaceUid: "of another namespace" },
      { channel: "other" },
      { repository: "r/other" },
    ]) {
      equal(lifecycle.diff(outputs, { ...inputs, ...change }), true, Object.keys(change)[0]);
    }
    equal(lifecycle.diff(outputs, { ...inputs, keep: 5, timeoutSeconds: 1 }), false);
    equal((await lifecycle.read(outputs))?.ready, true);
    const certs = flux.layers[2];
    if (certs !== undefined) certs.ready = { status: "False", reason: "X", message: "" };
    const seen = await lifecycle.read(outputs);
    equal(seen?.ready, false);
    equal(lifecycle.diff(seen, inputs), true);
  });

  it("is gone when the channel moved away or the cluster has no source", async () => {
    const { registry, flux, inputs, lifecycle } = gate();
    const outputs = await lifecycle.create(inputs);
    registry.held.set("local", good);
    equal((await lifecycle.read(outputs))?.ready, false);
    flux.get = () => Promise.resolve(undefined);
    equal(await lifecycle.read(outputs), undefined);
  });

  it("is gone with a cluster of this project that does not answer, and with no other", async () => {
    const { flux, inputs, lifecycle } = gate();
    const outputs = await lifecycle.create(inputs);
    flux.list = () => Promise.reject(new Error("the API server does not answer."));
    equal(await lifecycle.read(outputs), undefined);
    for (const foreign of [
      { ...outputs, ownCluster: false },
      { ...outputs, ownCluster: undefined as never },
    ]) {
      await rejects(lifecycle.read(foreign), {
        message:
          /^the API server does not answer\. Bring the cluster back and run again; if it is gone for good, /,
      });
    }
  });

  it("is not Ready when the registry does not answer", async () => {
    const { registry, inputs, lifecycle } = gate();
    const outputs = await lifecycle.create(inputs);
    registry.digest = () => Promise.reject(new Error("connection refused"));
    for (const ownCluster of [true, false]) {
      equal((await lifecycle.read({ ...outputs, ownCluster }))?.ready, false);
    }
  });
});

const [a, b, c] = ["1", "2", "3"].map((digit) => `sha256:${digit.repeat(64)}`) as [string, string, string];

/** What `action` warns of. */
async function warnings(action: () => Promise<void>): Promise<string[]> {
  const warned: string[] = [];
  const { warn } = console;
  console.warn = (message: string) => void warned.push(message);
  try {
    await action();
  } finally {
    console.warn = warn;
  }
  return warned;
}

describe("revisions of a channel", () => {
  /** A gate that releases digests a minute after each other. */
  function channel(keep: number) {
    const made = gate();
    const release = async (...released: readonly string[]) => {
      for (const digest of released) {
        made.clock.time += 60_000;
        await made.lifecycle.create({ ...made.inputs, digest, keep });
      }
    };
    return { ...made, release };
  }

  it("are kept when their release failed, so that its reason can be found", async () => {
    const { registry, flux, inputs, lifecycle } = gate();
    flux.broken.set(next, { layer: "certs", reason: "BuildFailed", message: "no", times: Infinity });
    await rejects(lifecycle.create(inputs));
    equal(registry.held.get("local-19700101000000-bbbbbbbbbbbb"), next);
  });

  it("are not deleted by a release that failed", async () => {
    const { registry, flux, clock, inputs, lifecycle, release } = channel(1);
    await release(a);
    flux.broken.set(b, { layer: "certs", reason: "BuildFailed", message: "no", times: Infinity });
    clock.time += 60_000;
    await rejects(lifecycle.create({ ...inputs, digest: b, keep: 1 }));
    deepEqual(registry.deleted, []);
    deepEqual(registry.channels(), [
      ["local", a],
      ["local-ready", a],
    ]);
  });

  for (const [what, method, failure] of [
    ["listed", "tags", "Listing r/platform failed: connection refused\n"],
    ["deleted", "delete", "Deleting r/platform@sha256:1 failed: UNSUPPORTED"],
  ] as const) {
    it(`do not fail a release that is Ready when they cannot be ${what}, which it says, and the next one deletes them`, async () => {
      const { registry, clock, inputs, lifecycle, release } = channel(1);
      await release(a);
      clock.time += 60_000;
      registry[method] = (): Promise<never> => Promise.reject(new Error(failure));
      const warned = await warnings(async () => {
        equal((await lifecycle.create({ ...inputs, digest: b, keep: 1 })).ready, true);
      });
      deepEqual(warned, [`Pruning old revisions failed: ${failure.trim()}.`]);
      deepEqual(registry.channels(), [
        ["local", b],
        ["local-ready", b],
      ]);
      Reflect.deleteProperty(registry, method);
      deepEqual(await warnings(() => release(c)), []);
      deepEqual(registry.deleted.sort(), [a, b]);
    });
  }
});

describe("everything that comes from a release", () => {
  const failed = { status: "False", reason: "ReconciliationFailed", message: "dry-run failed (Invalid): no" };
  const helmRelease = (name: string, conditions: readonly object[], spec: object = {}): Manifest => ({
    ...{ apiVersion: "helm.toolkit.fluxcd.io/v2", kind: "HelmRelease", spec },
    metadata: {
      ...{ name, namespace: "apps", generation: 1 },
      labels: broughtBy("controllers"),
    },
    status: { observedGeneration: 1, conditions },
  });

  it("counts in every namespace, and is named with it", async () => {
    const { flux, inputs, lifecycle } = gate();
    flux.layers.push(layer("blog", { namespace: "apps", owner: "flux-system" }));
    flux.broken.set(next, { layer: "blog", ...failed, times: Infinity });
    await rejects(lifecycle.create(inputs), /Kustomization apps\/blog: dry-run failed \(Invalid\)/);
    flux.broken.clear();
    const { layers } = await lifecycle.create(inputs);
    deepEqual(layers.map(({ name }) => name).sort(), ["apps/blog", "certs", "controllers", "flux-system"]);
  });

  it("is told apart by namespace, where two Kustomizations share a name", async () => {
    const { flux, inputs, lifecycle } = gate();
    flux.layers.push(
      layer("certs", { namespace: "apps", owner: "flux-system", dependsOn: ["flux-system/certs"] }),
    );
    const { layers } = await lifecycle.create(inputs);
    deepEqual(
      layers.map(({ name }) => name),
      ["flux-system", "controllers", "certs", "apps/certs"],
    );
  });

  it("counts where a member brings it from another source, and what nobody brought does not", async () => {
    const { flux, inputs, lifecycle } = gate();
    const nested = layer("team", { namespace: "team", owner: "controllers", source: "team-repository" });
    const foreign = layer("foreign", { namespace: "other", source: "other" });
    flux.layers.push(
      { ...nested, applied: "its own", ready: failed, handled: "" },
      { ...foreign, ready: failed },
    );
    flux.broken.set(next, { layer: "team", ...failed, times: Infinity });
    await rejects(lifecycle.create(inputs), /Kustomization team\/team: dry-run failed/);
    flux.broken.clear();
    flux.layers.splice(3, 1);
    equal((await lifecycle.create(inputs)).ready, true);
  });

  it("counts as HelmRelease, though its Kustomization does not wait for it", async () => {
    const { flux, clock, inputs, lifecycle } = gate();
    flux.helmReleases.push(
      helmRelease("blog", [{ type: "Ready", status: "Unknown", reason: "Progressing" }]),
    );
    await rejects(
      lifecycle.create(inputs),
      /not Ready within 120 s\. HelmRelease apps\/blog: not reconciled/,
    );
    flux.helmReleases.splice(
      0,
      1,
      helmRelease("blog", [
        {
          type: "Ready",
          status: "False",
          reason: "RetriesExceeded",
          message: "install failed: no such chart",
        },
        { type: "Stalled", status: "True" },
      ]),
    );
    const start = clock.time;
    await rejects(lifecycle.create(inputs), /HelmRelease apps\/blog: install failed: no such chart/);
    equal(clock.time - start < 5_000, true, `it took ${clock.time - start} ms`);
    flux.helmReleases.splice(0, 1, helmRelease("blog", [{ type: "Ready", status: "True" }]));
    equal((await lifecycle.create(inputs)).ready, true);
    flux.helmReleases.splice(
      0,
      1,
      helmRelease("blog", [{ type: "Ready", status: "True" }], { suspend: true }),
    );
    await rejects(lifecycle.create(inputs), /HelmRelease apps\/blog: it is suspended\. Resume it with "flux/);
  });

  it("does not count once the release holds it no more and it is being pruned", async () => {
    const { flux, inputs, lifecycle } = gate();
    flux.layers.push(layer("old", { owner: "flux-system", going: true, ready: failed }));
    equal((await lifecycle.create(inputs)).ready, true);
  });

  it("is Ready for a look while Flux reconciles it, or waits for what it reconciles", async () => {
    const { flux, inputs, lifecycle } = gate();
    const outputs = await lifecycle.create(inputs);
    const [, controllers, certs] = flux.layers;
    if (controllers === undefined || certs === undefined) throw new Error("the layers are gone");
    controllers.ready = { status: "Unknown", reason: "Progressing", message: "Reconciliation in progress" };
    certs.ready = { status: "False", reason: "DependencyNotReady", message: "dependency is not ready" };
    equal((await lifecycle.read(outputs))?.ready, true);
    controllers.ready = { status: "False", reason: "ReconciliationFailed", message: "drift" };
    equal((await lifecycle.read(outputs))?.ready, false);
    controllers.ready = { status: "Unknown", reason: "Progressing", message: "" };
    controllers.applied = `local@${good}`;
    equal((await lifecycle.read(outputs))?.ready, false);
  });
});

describe("suspended", () => {
  it("is never Ready: what somebody suspended is named at once, with its remedy", async () => {
    const { flux, clock, inputs, lifecycle } = gate();
    const outputs = await lifecycle.create(inputs);
    const [, , certs] = flux.layers;
    if (certs === undefined) throw new Error("the layer is gone");
    certs.suspend = true;
    equal((await lifecycle.read(outputs))?.ready, false);
    const start = clock.time;
    await rejects(
      lifecycle.create(inputs),
      /Kustomization flux-system\/certs: it is suspended\. Resume it with "flux resume kustomization certs --namespace flux-system", or take spec\.suspend out of Git\./,
    );
    equal(clock.time - start < 5_000, true, `it took ${clock.time - start} ms`);
    deepEqual(flux.merges, []);
  });

  it("by a destroy that was killed, is resumed by the next release", async () => {
    const { flux, inputs, lifecycle } = gate();
    await lifecycle.create(inputs);
    const mark = { "platform.pulumi.com/suspended": "true" };
    for (const each of flux.layers) Object.assign(each, { suspend: true, annotations: mark });
    flux.instances.push({
      ...{ apiVersion: "fluxcd.controlplane.io/v1", kind: "FluxInstance" },
      metadata: {
        ...{ name: "flux", namespace: "flux-system" },
        annotations: { "fluxcd.controlplane.io/reconcile": "disabled", ...mark },
      },
    });
    flux.merge = ((merge) => (ref: ManifestRef, patch: object) => {
      if (ref.kind === "FluxInstance") flux.instances.length = 0;
      return merge(ref, patch);
    })(flux.merge.bind(flux));
    equal((await lifecycle.create(inputs)).ready, true);
    equal(flux.merges.length, 4);
    match(flux.merges[3] ?? "", /^FluxInstance flux .*"fluxcd.controlplane.io\/reconcile":null/);
  });
});

describe("facts of a release", () => {
  const facts = (domain: string) => ({ artifact_repository: "registry/platform", domain });
  function factsGate() {
    const made = gate();
    made.flux.configMaps.set("platform-runtime", { data: facts("old.example.com"), resourceVersion: "1" });
    for (const each of made.flux.layers.slice(1)) {
      Object.assign(each, { substituteFrom: [{ kind: "ConfigMap", name: "platform-runtime" }] });
    }
    /** Layer → the domain that it was last reconciled with. */
    const domains = new Map<string, string>();
    made.flux.onReconcile = ({ name }) => {
      domains.set(name, made.flux.configMaps.get("platform-runtime")?.data.domain ?? "");
    };
    const configure = (domain: string) => {
      made.flux.configMaps.set("platform-runtime", { data: facts(domain), resourceVersion: domain });
      return { ...made.inputs, variables: facts(domain) };
    };
    return { ...made, domains, configure };
  }

  it("make a release due, and it waits until every layer was reconciled with them", async () => {
    const { lifecycle, inputs, domains, configure } = factsGate();
    const outputs = await lifecycle.create(inputs);
    const changed = configure("new.example.com");
    equal(lifecycle.diff(outputs, changed), true);
    equal((await lifecycle.create(changed, outputs)).ready, true);
    deepEqual([...domains.values()], ["new.example.com", "new.example.com", "new.example.com"]);
  });

  it("return to those of the last good release when a layer fails with them", async () => {
    const { flux, lifecycle, inputs, domains, configure } = factsGate();
    const outputs = await lifecycle.create(inputs);
    const changed = configure("not valid");
    const broken = { layer: "certs", reason: "BuildFailed", message: "not a domain", times: 3 };
    flux.broken.set(next, broken);
    const merge = flux.merge.bind(flux);
    flux.merge = (ref, patch) => {
      broken.times = 0;
      return merge(ref, patch);
    };
    await rejects(
      lifecycle.create(changed, outputs),
      /certs: not a domain\. The channel is back at the last good digest .* every layer is Ready on it again after .* ConfigMap platform-runtime is back at domain="old\.example\.com"\./,
    );
    deepEqual(flux.configMaps.get("platform-runtime")?.data, facts("old.example.com"));
    equal(domains.get("certs"), "old.example.com");
  });

  it("that somebody changed in the cluster make a release due", async () => {
    const { lifecycle, inputs, configure } = factsGate();
    const outputs = await lifecycle.create(inputs);
    equal((await lifecycle.read(outputs))?.ready, true);
    configure("of somebody else");
    equal((await lifecycle.read(outputs))?.ready, false);
  });

  it("that the root layer changes are waited for by the layers that read them before", async () => {
    const { flux, lifecycle, inputs, domains } = factsGate();
    await lifecycle.create({ ...inputs, digest: good });
    // The root layer is the last to be done: the others have read the old value by then.
    const seen = flux.onReconcile;
    let pending = true;
    flux.onReconcile = (each) => {
      seen(each);
      if (each.name !== "certs" || !pending) return;
      pending = false;
      flux.configMaps.set("platform-runtime", { data: facts("by the root"), resourceVersion: "2" });
    };
    equal((await lifecycle.create(inputs)).ready, true);
    deepEqual([domains.get("controllers"), domains.get("certs")], ["by the root", "by the root"]);
  });

  it("with another repository are not Ready while the source follows the old one", async () => {
    const { flux, lifecycle, inputs } = factsGate();
    const outputs = await lifecycle.create(inputs);
    const moved = { ...inputs, variables: { ...inputs.variables, artifact_repository: "registry/other" } };
    await rejects(
      lifecycle.create(moved, outputs),
      /OCIRepository flux-system\/flux-system follows oci:\/\/registry\/platform, but the stack releases to oci:\/\/registry\/other\. Set "spec\.sync\.url" of the FluxInstance to "oci:\/\/\$\{artifact_repository\}"\./,
    );
    flux.onReconcile = ({ name }) => {
      if (name === "controllers") flux.url = "oci://registry/other";
    };
    equal((await lifecycle.create(moved, outputs)).ready, true);
  });
});

describe("a source that cannot pull", () => {
  for (const refusal of [
    "failed to determine artifact digest: GET https://r/v2/: UNAUTHORIZED: authentication required",
    "failed to pull: x509: certificate signed by unknown authority",
    "GET https://r/v2/platform/manifests/local: NAME_UNKNOWN: repository name not known to registry",
  ]) {
    it(`is named at once, in Flux's words: ${refusal.slice(-40)}`, async () => {
      const { flux, clock, inputs, lifecycle } = gate();
      flux.refusal = refusal;
      await rejects(lifecycle.create(inputs), (error: Error) => {
        equal(
          error.message.includes(`OCIRepository flux-system/flux-system: ${refusal}`),
          true,
          error.message,
        );
        return true;
      });
      equal(clock.time < 5_000, true, `it took ${clock.time} ms`);
    });
  }

  it("is waited for where it may pass, and for what Flux said before the artifact was there", async () => {
    const { flux, clock, inputs, lifecycle } = gate();
    flux.refusal = "dial tcp 10.0.0.1:443: connect: connection refused";
    const annotate = flux.annotate.bind(flux);
    flux.annotate = (ref, annotations) => {
      if (clock.time > 60_000) flux.refusal = undefined;
      return annotate(ref, annotations);
    };
    equal((await lifecycle.create(inputs)).ready, true);

    const other = gate();
    other.flux.refusal = "MANIFEST_UNKNOWN: manifest unknown";
    const first = other.flux.annotate.bind(other.flux);
    other.flux.annotate = (ref, annotations) => {
      other.flux.refusal = undefined;
      return first(ref, annotations);
    };
    equal((await other.lifecycle.create(inputs)).ready, true);
  });

  it("does not hide what the operator says of the instance that should bring it", async () => {
    const { flux, clock, inputs, lifecycle } = gate();
    const instance = (stalled: boolean): Manifest => ({
      ...{ apiVersion: "fluxcd.controlplane.io/v1", kind: "FluxInstance" },
      metadata: { name: "flux", namespace: "flux-system", generation: 1 },
      status: {
        conditions: [
          { type: "Ready", status: "False", message: "pulling the distribution failed: 401" },
          ...(stalled ? [{ type: "Stalled", status: "True" }] : []),
        ],
      },
    });
    flux.get = () => Promise.resolve(undefined);
    flux.instances.push(instance(false));
    await rejects(
      lifecycle.create(inputs),
      /within 120 s\. there is no OCIRepository flux-system\/flux-system; FluxInstance flux-system\/flux: pulling the distribution failed/,
    );
    flux.instances.splice(0, 1, instance(true));
    const start = clock.time;
    await rejects(lifecycle.create(inputs), /failed: FluxInstance flux-system\/flux: pulling/);
    equal(clock.time - start < 5_000, true, `it took ${clock.time - start} ms`);
  });
});

describe("the way back", () => {
  const broken = { layer: "certs", reason: "BuildFailed", message: "no", times: Infinity };

  it("is taken though the cluster does not answer while a failure is explained", async () => {
    const { flux, registry, inputs, lifecycle } = gate();
    await lifecycle.create({ ...inputs, digest: good });
    flux.broken.set(next, broken);
    flux.onReconcile = ({ name }) => {
      if (name !== "controllers" || registry.held.get("local") !== next) return;
      // Once the failure was seen, nothing answers any more.
      flux.nudges.length = 0;
    };
    const list = flux.list.bind(flux);
    flux.list = (apiVersion, kind) =>
      flux.nudges.filter((name) => name === "certs").length > 1
        ? Promise.reject(new Error("no answer"))
        : list(apiVersion, kind);
    await warnings(async () => {
      await rejects(lifecycle.create(inputs), /The channel is back at the last good digest/);
    });
    equal(registry.held.get("local"), good);
  });

  it("does not undo another person's release", async () => {
    const { flux, registry, inputs, lifecycle } = gate();
    await lifecycle.create({ ...inputs, digest: good });
    const theirs = `sha256:${"c".repeat(64)}`;
    flux.broken.set(next, broken);
    const annotate = flux.annotate.bind(flux);
    flux.annotate = async (ref, annotations) => {
      await annotate(ref, annotations);
      if (ref.name === "certs") registry.held.set("local", theirs);
    };
    await rejects(
      lifecycle.create(inputs),
      new RegExp(`The channel stays: another release moved it to ${theirs} meanwhile\\.`),
    );
    equal(registry.held.get("local"), theirs);
  });

  it("is told when the registry does not let it", async () => {
    const { flux, registry, inputs, lifecycle } = gate();
    await lifecycle.create({ ...inputs, digest: good });
    flux.broken.set(next, broken);
    const tag = registry.tag.bind(registry);
    registry.tag = (repository, digest, name) =>
      digest === good ? Promise.reject(new Error("no space")) : tag(repository, digest, name);
    await rejects(
      lifecycle.create(inputs),
      /certs: no\. Returning the channel to the last good digest sha256:a+ failed: no space\. Run again/,
    );
  });
});

describe("status of a release", () => {
  const of = { repository: "r/platform", channel: "local" };

  it("is Ready when everything of what the channel serves is, and only then", async () => {
    const { registry, flux, inputs, lifecycle } = gate();
    deepEqual(await statusOf(flux, registry, of), {
      ...{ ready: false, revision: undefined, members: [] },
      problem: 'Channel "local" of r/platform serves nothing.',
    });
    await lifecycle.create(inputs);
    const { ready, revision, members, problem } = await statusOf(flux, registry, of);
    deepEqual([ready, revision, problem], [true, `local@${next}`, undefined]);
    deepEqual(
      members.map(({ name, objects }) => [name, objects]),
      ["flux-system", "controllers", "certs"].map((name) => [`Kustomization flux-system/${name}`, 3]),
    );
    const [, controllers] = flux.layers;
    if (controllers !== undefined) {
      controllers.ready = { status: "False", reason: "HealthCheckFailed", message: "no room" };
    }
    const failed = await statusOf(flux, registry, of);
    equal(failed.ready, false);
    equal(failed.members.find((member) => !member.ready)?.message, "no room");
  });

  it("says why the cluster does not run what the channel serves", async () => {
    const { registry, flux, inputs, lifecycle } = gate();
    await lifecycle.create(inputs);
    registry.held.set("local", good);
    flux.refusal = "unauthorized";
    deepEqual(await statusOf(flux, registry, of), {
      ...{ ready: false, revision: `local@${good}`, members: [] },
      problem: `The cluster's source does not serve local@${good}. OCIRepository flux-system/flux-system: unauthorized.`,
    });
  });

  it("fails where the registry or the cluster does not answer", async () => {
    const { registry, flux } = gate();
    registry.digest = () => Promise.reject(new Error("Looking up r failed: no answer."));
    await rejects(statusOf(flux, registry, of), /^Error: Looking up r failed: no answer\.$/);
  });
});
