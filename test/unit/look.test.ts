import { deepEqual, equal } from "node:assert/strict";
import type { Manifest } from "../../clients/kubernetes/client";
import { look, oneRevision, type Expected, type Observed } from "../../core/release/look";

const metadata = { namespace: "flux-system", generation: 1 };
const ready = { observedGeneration: 1, conditions: [{ type: "Ready", status: "True" }] };

/** A Ready Kustomization that applied a revision of a source; the root layer brings it. */
function kustomization(name: string, source: string, revision: string): Manifest {
  return {
    ...{ apiVersion: "kustomize.toolkit.fluxcd.io/v1", kind: "Kustomization" },
    metadata: { ...metadata, name, ...broughtBy("flux-system") },
    spec: { sourceRef: { kind: "OCIRepository", name: source } },
    status: { ...ready, lastAppliedRevision: revision, lastAttemptedRevision: revision },
  };
}

function helmRelease(name: string, owner: string, status: string): Manifest {
  return {
    ...{ apiVersion: "helm.toolkit.fluxcd.io/v2", kind: "HelmRelease" },
    metadata: { ...metadata, name, ...broughtBy(owner) },
    status: { observedGeneration: 1, conditions: [{ type: "Ready", status }] },
  };
}

function broughtBy(owner: string): Pick<Manifest["metadata"], "labels"> {
  return {
    labels: {
      "kustomize.toolkit.fluxcd.io/name": owner,
      "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
    },
  };
}

function observed(...objects: readonly Manifest[]): Observed {
  const source = {
    ...{ apiVersion: "source.toolkit.fluxcd.io/v1", kind: "OCIRepository" },
    metadata: { ...metadata, name: "flux-system" },
    status: { ...ready, artifact: { revision: "local@root" } },
  };
  const of = (wanted: string) => objects.filter(({ kind }) => kind === wanted);
  return { source, kustomizations: of("Kustomization"), helmReleases: of("HelmRelease") };
}

/** What a look says of each member: name → Ready. */
function membersOf(objects: readonly Manifest[], expected: Expected): Record<string, boolean> {
  const { members = [] } = look(observed(...objects), expected) ?? {};
  return Object.fromEntries(members.map(({ ref, ready: isReady }) => [ref.name, isReady]));
}

const root = kustomization("flux-system", "flux-system", "local@root");
const a = kustomization("a", "a", "latest@a");
const b = kustomization("b", "b", "latest@b");

describe("a look with a revision for each Kustomization", () => {
  const parts = (revisions: Readonly<Record<string, string>>): Expected => ({
    revision: "local@root",
    revisionOf: ({ metadata: { name } }) => revisions[name],
  });
  const own = { "flux-system": "local@root", a: "latest@a", b: "latest@b" };

  it("is Ready when each has applied its own", () => {
    const seen = look(observed(root, a, b), parts(own));
    deepEqual([seen?.ready, seen?.settled], [true, true]);
    deepEqual(membersOf([root, a, b], parts(own)), { "flux-system": true, a: true, b: true });
  });

  for (const [name, revision] of [
    ["an older one", "latest@older"],
    ["the revision of another Kustomization", "latest@b"],
    ["the revision of the source", "local@root"],
  ] as const) {
    it(`is not Ready when a Kustomization has applied ${name}`, () => {
      const late = kustomization("a", "a", revision);
      const seen = look(observed(root, late, b), parts(own));
      deepEqual([seen?.ready, seen?.settled], [false, false]);
      deepEqual(membersOf([root, late, b], parts(own)), { "flux-system": true, a: false, b: true });
    });
  }

  it("counts the failure of a HelmRelease only once its Kustomization has applied its own revision", () => {
    const of = (...objects: readonly Manifest[]) =>
      look(observed(root, ...objects, helmRelease("app", "a", "False")), parts(own))?.members.find(
        ({ ref }) => ref.name === "app",
      )?.current;
    equal(of(a, b), true);
    equal(of(kustomization("a", "a", "latest@b"), b), false);
  });

  it("counts a Kustomization without a revision only if a member brings it, at any revision of its own source", () => {
    const { "flux-system": rootRevision, ...rest } = own;
    deepEqual(membersOf([root, a, b], parts({ "flux-system": rootRevision })), {
      ...{ "flux-system": true, a: true, b: true },
    });
    const foreign = { ...a, metadata: { ...metadata, name: "a" } };
    deepEqual(membersOf([root, foreign, b], parts({ "flux-system": rootRevision, b: rest.b })), {
      ...{ "flux-system": true, b: true },
    });
  });

  it("asks no revision of a HelmRelease with the name of a Kustomization", () => {
    deepEqual(look(observed(root, a, b, helmRelease("a", "b", "True")), parts(own))?.ready, true);
  });

  it("is not Ready, and has no members, while the source serves another revision", () => {
    const seen = look(observed(root, a, b), { ...parts(own), revision: "local@next" });
    deepEqual([seen?.served, seen?.ready, seen?.members], [false, false, []]);
  });

  it("is not Ready without the root Kustomization", () => {
    equal(look(observed(a, b), parts(own))?.ready, false);
  });
});

describe("a look with one revision", () => {
  it("expects it of every Kustomization of Flux's source, and of no other", () => {
    const follower = kustomization("follower", "flux-system", "local@older");
    deepEqual(membersOf([root, a, follower], oneRevision("local@root")), {
      ...{ "flux-system": true, a: true, follower: false },
    });
  });

  it("tells Flux's source from a source of the same name in another namespace, and of another kind", () => {
    const { revisionOf } = oneRevision("local@root");
    const of = (sourceRef: object, namespace?: string) =>
      revisionOf({
        ...root,
        metadata: { name: "x", ...(namespace === undefined ? {} : { namespace }) },
        spec: { sourceRef },
      });
    equal(of({ name: "flux-system" }, "flux-system"), "local@root");
    equal(of({ name: "flux-system", namespace: "flux-system" }, "apps"), "local@root");
    equal(of({ name: "flux-system" }, "apps"), undefined);
    equal(of({ name: "flux-system" }), undefined);
    equal(of({ name: "flux-system", kind: "GitRepository" }, "flux-system"), undefined);
    equal(of({ name: "other" }, "flux-system"), undefined);
  });

  it("names the tag that the source follows, and the channel, if they differ", () => {
    const { source } = observed(root);
    const follows = (tag: string) => ({
      ...observed(root),
      source: source && { ...source, spec: { ...source.spec, ref: { tag } } },
    });
    equal(
      look(follows("main"), oneRevision("local@other"))?.source.message,
      'OCIRepository flux-system/flux-system follows tag main, but the stack releases to local. Set "spec.sync.ref" of the FluxInstance to "${channel}"',
    );
    equal(
      look(follows("local"), oneRevision("local@other"))?.source.message,
      "OCIRepository flux-system/flux-system does not serve it",
    );
  });
});
