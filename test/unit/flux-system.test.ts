import { deepEqual, equal, rejects } from "node:assert/strict";
import { releaseFinalizers, resumeFlux, suspendFlux } from "../../clients/flux/finalizers";
import { FluxNamespaceLifecycle, type FluxNamespaceApi } from "../../core/flux-system/namespace";
import { claim } from "../../core/flux-system/claim";
import { nameOf, type Manifest, type ManifestRef } from "../../clients/kubernetes/client";
import { FakeClock } from "./clock";

/** As much of a cluster as is asked for; a kind that it does not serve has no objects. */
class FakeCluster {
  /** What was changed, in order. */
  readonly log: string[] = [];

  constructor(private readonly objects: readonly Manifest[]) {}

  list(apiVersion: string, kind: string, namespace?: string): Promise<Manifest[]> {
    return Promise.resolve(
      this.objects.filter(
        (object) =>
          object.apiVersion === apiVersion && object.kind === kind && object.metadata.namespace === namespace,
      ),
    );
  }

  merge(ref: ManifestRef, patch: object): Promise<void> {
    this.log.push(`${nameOf(ref)} ${JSON.stringify(patch)}`);
    return Promise.resolve();
  }
}

const object = (apiVersion: string, kind: string, name: string, more: object = {}): Manifest => ({
  ...{ apiVersion, kind, metadata: { name, namespace: "flux-system", ...more } },
});
const operator = "fluxcd.controlplane.io/v1";
const source = "source.toolkit.fluxcd.io/v1";
const notification = "notification.toolkit.fluxcd.io/v1beta3";

describe("suspendFlux", () => {
  it("holds the operator back first, then every Kustomization and HelmRelease of Flux's own namespace", async () => {
    const cluster = new FakeCluster([
      object("helm.toolkit.fluxcd.io/v2", "HelmRelease", "flux-operator"),
      object("helm.toolkit.fluxcd.io/v2", "HelmRelease", "traefik", { namespace: "traefik" }),
      object("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "apps"),
      object("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "controllers"),
      object(source, "OCIRepository", "flux-system"),
      object(operator, "FluxInstance", "flux"),
    ]);
    await suspendFlux(cluster);
    deepEqual(cluster.log, [
      'FluxInstance flux-system/flux {"metadata":{"annotations":{"fluxcd.controlplane.io/reconcile":"disabled","platform.pulumi.com/suspended":"true"}}}',
      'Kustomization flux-system/apps {"metadata":{"annotations":{"platform.pulumi.com/suspended":"true"}},"spec":{"suspend":true}}',
      'Kustomization flux-system/controllers {"metadata":{"annotations":{"platform.pulumi.com/suspended":"true"}},"spec":{"suspend":true}}',
      'HelmRelease flux-system/flux-operator {"metadata":{"annotations":{"platform.pulumi.com/suspended":"true"}},"spec":{"suspend":true}}',
    ]);
  });

  it("finds nothing to do in a cluster without Flux", async () => {
    const cluster = new FakeCluster([]);
    await suspendFlux(cluster);
    deepEqual(cluster.log, []);
  });
});

describe("resumeFlux", () => {
  const mark = { "platform.pulumi.com/suspended": "true" };
  const kustomize = "kustomize.toolkit.fluxcd.io/v1";
  const suspended = (name: string, annotations: object = {}) => ({
    ...object(kustomize, "Kustomization", name, { annotations }),
    spec: { suspend: true },
  });
  const instance = (annotations: object) => object(operator, "FluxInstance", "flux", { annotations });
  const disabled = { "fluxcd.controlplane.io/reconcile": "disabled" };

  it("resumes what this project suspended, the operator last, and nothing that somebody else did", async () => {
    const cluster = new FakeCluster([
      instance({ ...disabled, ...mark }),
      suspended("apps", mark),
      suspended("certs"),
      object(kustomize, "Kustomization", "controllers"),
    ]);
    await resumeFlux(cluster);
    deepEqual(cluster.log, [
      'Kustomization flux-system/apps {"metadata":{"annotations":{"platform.pulumi.com/suspended":null}},"spec":{"suspend":null}}',
      'FluxInstance flux-system/flux {"metadata":{"annotations":{"fluxcd.controlplane.io/reconcile":null,"platform.pulumi.com/suspended":null}}}',
    ]);
  });

  it("leaves alone what other people suspended and disabled", async () => {
    for (const objects of [
      [suspended("apps"), object(kustomize, "Kustomization", "certs")],
      [instance(disabled), suspended("apps"), object(kustomize, "Kustomization", "certs")],
    ]) {
      const cluster = new FakeCluster(objects);
      await resumeFlux(cluster);
      deepEqual(cluster.log, []);
    }
  });

  it("resumes as a whole what a version without the mark suspended", async () => {
    const cluster = new FakeCluster([instance(disabled), suspended("apps"), suspended("certs")]);
    await resumeFlux(cluster);
    deepEqual(
      cluster.log.map((line) => line.split(" ")[1]),
      ["flux-system/apps", "flux-system/certs", "flux-system/flux"],
    );
  });
});

describe("releaseFinalizers", () => {
  const kinds = [
    [operator, "FluxInstance"],
    ["kustomize.toolkit.fluxcd.io/v1", "Kustomization"],
    ["helm.toolkit.fluxcd.io/v2", "HelmRelease"],
    [operator, "FluxReport"],
    [operator, "ResourceSet"],
    [source, "OCIRepository"],
    [source, "GitRepository"],
    [source, "HelmRepository"],
    [source, "HelmChart"],
    [source, "Bucket"],
    ["notification.toolkit.fluxcd.io/v1", "Receiver"],
    [notification, "Alert"],
    [notification, "Provider"],
  ] as const;
  const deleted = { deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: ["finalizers.fluxcd.io"] };

  it("takes the finalizers off what is being deleted, of every kind of Flux", async () => {
    const cluster = new FakeCluster(
      kinds.map(([apiVersion, kind]) => object(apiVersion, kind, "x", deleted)),
    );
    await releaseFinalizers(cluster);
    deepEqual(
      cluster.log,
      kinds.map(([, kind]) => `${kind} flux-system/x {"metadata":{"finalizers":null}}`),
    );
  });

  it("leaves what is not being deleted, and what is not Flux's", async () => {
    const cluster = new FakeCluster([
      ...kinds.map(([apiVersion, kind]) => object(apiVersion, kind, "x", { finalizers: ["f"] })),
      object("helm.toolkit.fluxcd.io/v2", "HelmRelease", "x", { ...deleted, namespace: "traefik" }),
      object("v1", "Secret", "x", deleted),
    ]);
    await releaseFinalizers(cluster);
    deepEqual(cluster.log, []);
  });
});

/** A cluster with a namespace "flux-system" that goes when nothing holds it any more. */
class FakeNamespace implements FluxNamespaceApi {
  readonly log: string[] = [];
  metadata: Manifest["metadata"] | undefined;
  conditions: readonly object[] | undefined;
  /** What is in it: name → whether a finalizer holds it. */
  readonly held = new Map<string, boolean>();
  answers = true;
  /** A namespace that stays whatever is done. */
  stuck = false;
  private made = 0;

  apply(object: Manifest, fieldManager: string): Promise<void> {
    this.log.push(`apply ${JSON.stringify(object)} as ${fieldManager}`);
    this.metadata ??= { name: "flux-system", uid: `uid ${++this.made}` };
    return Promise.resolve();
  }

  get(): Promise<Manifest | undefined> {
    if (!this.answers) return Promise.reject(new Error("connection refused"));
    const { metadata, conditions } = this;
    return Promise.resolve(
      metadata && {
        ...{ apiVersion: "v1", kind: "Namespace", metadata },
        ...(conditions === undefined ? {} : { status: { conditions } }),
      },
    );
  }

  list(apiVersion: string, kind: string): Promise<Manifest[]> {
    if (kind !== "Kustomization") return Promise.resolve([]);
    const going = this.metadata?.deletionTimestamp === undefined ? {} : { deletionTimestamp: "now" };
    return Promise.resolve(
      [...this.held.keys()].map((name) => object(apiVersion, kind, name, { name, ...going })),
    );
  }

  merge(ref: ManifestRef, patch: object): Promise<void> {
    this.log.push(`${nameOf(ref)} ${JSON.stringify(patch)}`);
    if (JSON.stringify(patch).includes("finalizers")) this.held.delete(ref.name);
    if (this.held.size === 0 && !this.stuck && this.metadata?.deletionTimestamp !== undefined) {
      this.metadata = undefined;
    }
    return Promise.resolve();
  }

  delete(ref: ManifestRef): Promise<void> {
    this.log.push(`delete ${nameOf(ref)}`);
    this.going();
    return Promise.resolve();
  }

  /** Somebody deleted it. */
  going(): void {
    if (this.metadata !== undefined) this.metadata = { ...this.metadata, deletionTimestamp: "now" };
    if (this.held.size === 0 && !this.stuck) this.metadata = undefined;
  }
}

function fluxNamespace() {
  const api = new FakeNamespace();
  const clock = new FakeClock();
  return { api, clock, lifecycle: new FluxNamespaceLifecycle(api, clock) };
}

const inputs = {
  ...{ kubeconfig: "the kubeconfig", ownCluster: true, owner: "platform/prod", owned: [] },
};
const applied = 'apply {"apiVersion":"v1","kind":"Namespace","metadata":{"name":"flux-system"}} as platform';
const state = { ...inputs, name: "flux-system", uid: "uid 1" };

describe("namespace of Flux", () => {
  it("is made, and known by its uid", async () => {
    const { api, lifecycle } = fluxNamespace();
    deepEqual(await lifecycle.create(inputs), state);
    deepEqual(api.log, [applied]);
  });

  it("is adopted with what is in it", async () => {
    const { api, lifecycle } = fluxNamespace();
    api.metadata = { name: "flux-system", uid: "of somebody", labels: { a: "b" } };
    api.held.set("apps", true);
    deepEqual(await lifecycle.create(inputs), { ...state, uid: "of somebody" });
    deepEqual(api.log, [applied]);
  });

  it("is cleared and made anew when it is stuck in its own deletion", async () => {
    const { api, lifecycle } = fluxNamespace();
    api.metadata = { name: "flux-system", uid: "old" };
    api.held.set("apps", true);
    api.going();
    deepEqual(await lifecycle.create(inputs), state);
    deepEqual(api.log, ['Kustomization flux-system/apps {"metadata":{"finalizers":null}}', applied]);
  });

  it("is deleted after Flux was told to change nothing, and without its controllers", async () => {
    const { api, lifecycle } = fluxNamespace();
    await lifecycle.create(inputs);
    api.held.set("apps", true);
    api.log.length = 0;
    await lifecycle.delete();
    deepEqual(api.log, [
      'Kustomization flux-system/apps {"metadata":{"annotations":{"platform.pulumi.com/suspended":"true"}},"spec":{"suspend":true}}',
      "delete Namespace flux-system",
      'Kustomization flux-system/apps {"metadata":{"finalizers":null}}',
    ]);
    equal(api.metadata, undefined);
  });

  it("is deleted a second time without complaint", async () => {
    const { api, lifecycle } = fluxNamespace();
    await lifecycle.delete();
    deepEqual(api.log, []);
  });

  for (const [what, conditions, said] of [
    [
      "and what the API server says of it",
      [
        { type: "NamespaceContentRemaining", status: "True", message: "Some resources are remaining: pods." },
        { type: "NamespaceDeletionDiscoveryFailure", status: "False", message: "All is well" },
        { type: "NamespaceFinalizersRemaining", status: "True", message: "A finalizer remains." },
      ],
      "Some resources are remaining: pods. A finalizer remains.",
    ],
    ["and that nobody says why", undefined, "the API server does not say why"],
  ] as const) {
    it(`says what it waited for in vain, ${what}`, async () => {
      const { api, lifecycle } = fluxNamespace();
      await lifecycle.create(inputs);
      Object.assign(api, { stuck: true, conditions });
      await rejects(lifecycle.delete(), {
        message: `Deleting namespace "flux-system" failed: it is not gone after 120 s (${said}). Remove what holds it and run again.`,
      });
      await rejects(lifecycle.create(inputs), {
        message: `Clearing namespace "flux-system" failed: it is not gone after 120 s (${said}). Remove what holds it and run again.`,
      });
    });
  }

  it("is read with its uid of now, and is gone when it is, goes, or its cluster does not answer", async () => {
    const { api, lifecycle } = fluxNamespace();
    equal(await lifecycle.read(state), undefined);
    api.metadata = { name: "flux-system", uid: "another" };
    deepEqual(await lifecycle.read(state), { ...state, uid: "another" });
    api.answers = false;
    equal(await lifecycle.read(state), undefined);
    for (const foreign of [
      { ...state, ownCluster: false },
      { ...state, ownCluster: undefined as never },
    ]) {
      await rejects(lifecycle.read(foreign), {
        message:
          'connection refused. Bring the cluster back and run again; if it is gone for good, "pulumi stack rm --force --preserve-config" forgets it.',
      });
    }
    api.answers = true;
    api.held.set("apps", true);
    api.going();
    equal(await lifecycle.read(state), undefined);
    deepEqual(api.log, []);
  });
});

describe("claim", () => {
  const ref = { apiVersion: "v1", kind: "Secret", namespace: "flux-system", name: "sops-age" };
  const owner = "platform/prod";
  const uid = { "platform.pulumi.com/namespace-uid": "u" };
  const applied = (manager: string, fieldsV1: object) => ({ manager, operation: "Apply", fieldsV1 });

  /** Claims an object; returns what was changed. */
  async function claimed(metadata: object | undefined): Promise<string[]> {
    const log: string[] = [];
    const api = {
      get: () => Promise.resolve(metadata && object("v1", "Secret", "sops-age", metadata)),
      merge: (of: ManifestRef, patch: object) => {
        log.push(`${nameOf(of)} ${JSON.stringify(patch)}`);
        return Promise.resolve();
      },
    };
    await claim(api, ref, owner);
    return log;
  }

  it("takes what is not there, what carries the owner, and what was made before there were owners", async () => {
    deepEqual(await claimed(undefined), []);
    deepEqual(await claimed({ annotations: { "platform.pulumi.com/owner": owner } }), []);
    deepEqual(await claimed({ annotations: uid }), []);
  });

  it("refuses what another stack made", async () => {
    await rejects(claimed({ annotations: { ...uid, "platform.pulumi.com/owner": "platform/dev" } }), {
      message:
        'Adopting Secret flux-system/sops-age failed: it exists and is not of "platform/prod" (it is of "platform/dev"). Delete it, or give this stack another cluster, and run again.',
    });
  });

  it("refuses what a stranger made", async () => {
    await rejects(claimed({ annotations: { a: "b" } }), {
      message:
        'Adopting Secret flux-system/sops-age failed: it exists and is not of "platform/prod" (it lacks the annotation platform.pulumi.com/owner). Delete it, or give this stack another cluster, and run again.',
    });
  });

  it("makes one field manager of those that former states had, and leaves the others", async () => {
    const other = { manager: "kubectl", operation: "Update", fieldsV1: { "f:data": {} } };
    const managedFields = [
      applied("pulumi-kubernetes-1a", { "f:data": { "f:a": {}, "f:b": {} } }),
      other,
      applied("pulumi-kubernetes-2b", { "f:data": { "f:b": {}, "f:c": {} }, "f:type": {} }),
    ];
    const [change = ""] = await claimed({ annotations: uid, resourceVersion: "7", managedFields });
    deepEqual(JSON.parse(change.replace("Secret flux-system/sops-age ", "")), {
      metadata: {
        resourceVersion: "7",
        managedFields: [
          other,
          applied("platform", { "f:data": { "f:a": {}, "f:b": {}, "f:c": {} }, "f:type": {} }),
        ],
      },
    });
    deepEqual(await claimed({ annotations: uid, managedFields: [applied("platform", {}), other] }), []);
  });
});
