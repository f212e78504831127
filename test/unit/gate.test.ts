import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { GateLifecycle, revisionTag, type GateInputs } from "../../components/gate/lifecycle";
import type { KubernetesApi, Manifest, ManifestRef } from "../../components/kubernetes";
import type { OciRegistry } from "../../components/oci";
import { FakeClock } from "./clock";

const good = `sha256:${"a".repeat(64)}`;
const next = `sha256:${"b".repeat(64)}`;

class FakeRegistry implements OciRegistry {
  /** Tag → digest. */
  readonly held = new Map<string, string>();
  /** Digests, in the order of their deletion. */
  readonly deleted: string[] = [];

  push(): Promise<void> {
    return Promise.resolve();
  }

  tag(_repository: string, digest: string, tag: string): Promise<void> {
    this.held.set(tag, digest);
    return Promise.resolve();
  }

  digest(_repository: string, reference: string): Promise<string | undefined> {
    return Promise.resolve(this.held.get(reference));
  }

  tags(): Promise<string[]> {
    return Promise.resolve([...this.held.keys()]);
  }

  delete(_repository: string, digest: string): Promise<void> {
    this.deleted.push(digest);
    for (const [tag, held] of this.held) if (held === digest) this.held.delete(tag);
    return Promise.resolve();
  }

  /** What channels serve and were Ready at, without the tags of revisions. */
  channels(): [string, string][] {
    return [...this.held].filter(([tag]) => !/\d{14}/.test(tag));
  }
}

interface FakeLayer {
  readonly name: string;
  readonly dependsOn: readonly string[];
  applied: string;
  attempted: string;
  ready: { status: string; reason: string; message: string };
  handled?: string;
}

/** As much of Flux as the gate sees: it reconciles what it is asked to, after its dependencies. */
class FakeFlux implements KubernetesApi {
  readonly layers: FakeLayer[] = ["flux-system", "controllers", "certs"].map((name, index) => ({
    name,
    dependsOn: name === "certs" ? ["controllers"] : [],
    applied: index === 0 ? "" : "",
    attempted: "",
    ready: { status: "Unknown", reason: "Progressing", message: "" },
  }));
  readonly nudges: string[] = [];
  served = "";
  /** Digest → the layer that fails on it, and how. */
  readonly broken = new Map<string, { layer: string; reason: string; message: string; times: number }>();

  constructor(private readonly registry: FakeRegistry) {}

  apply(): Promise<void> {
    return Promise.resolve();
  }

  get(ref: ManifestRef): Promise<Manifest | undefined> {
    if (ref.kind !== "OCIRepository") return Promise.resolve(undefined);
    return Promise.resolve({
      ...{ apiVersion: ref.apiVersion, kind: ref.kind },
      metadata: { name: ref.name, generation: 1 },
      status: { artifact: { revision: this.served } },
    });
  }

  list(apiVersion: string, kind: string): Promise<Manifest[]> {
    if (kind !== "Kustomization") return Promise.resolve([]);
    return Promise.resolve(
      this.layers.map((layer) => ({
        ...{ apiVersion, kind },
        metadata: { name: layer.name, namespace: "flux-system", generation: 1 },
        spec: {
          sourceRef: { name: "flux-system" },
          dependsOn: layer.dependsOn.map((name) => ({ name })),
        },
        status: {
          // As Flux does: only success moves it.
          observedGeneration: layer.ready.status === "True" ? 1 : -1,
          lastAppliedRevision: layer.applied,
          lastAttemptedRevision: layer.attempted,
          lastHandledReconcileAt: layer.handled,
          conditions: [{ type: "Ready", observedGeneration: 1, ...layer.ready }],
          inventory: { entries: [1, 2, 3] },
        },
      })),
    );
  }

  annotate(ref: ManifestRef, annotations: Readonly<Record<string, string>> = {}): Promise<void> {
    this.nudges.push(ref.name);
    if (ref.kind === "OCIRepository") {
      this.served = `local@${this.registry.held.get("local") ?? ""}`;
      for (const layer of this.layers.filter(({ dependsOn }) => dependsOn.length === 0))
        this.reconcile(layer);
    } else {
      const layer = this.layers.find(({ name }) => name === ref.name);
      if (layer !== undefined) {
        this.reconcile(layer);
        layer.handled = annotations["reconcile.fluxcd.io/requestedAt"] ?? "";
      }
    }
    return Promise.resolve();
  }

  merge: KubernetesApi["merge"] = () => {
    throw new Error("the gate merges nothing into a cluster that it releases to");
  };

  delete(): Promise<void> {
    throw new Error("the gate deletes nothing");
  }

  private reconcile(layer: FakeLayer): void {
    layer.attempted = this.served;
    const broken = this.broken.get(this.served.split("@")[1] ?? "");
    if (broken?.layer === layer.name && broken.times-- > 0) {
      layer.ready = { status: "False", reason: broken.reason, message: broken.message };
      return;
    }
    layer.applied = this.served;
    layer.ready = { status: "True", reason: "ReconciliationSucceeded", message: "" };
  }
}

function gate() {
  const registry = new FakeRegistry();
  const flux = new FakeFlux(registry);
  const clock = new FakeClock();
  const inputs: GateInputs = {
    ...{ kubeconfig: "", repository: "r/platform", insecure: false, channel: "local", digest: next },
    ...{ timeoutSeconds: 120, keep: 0, namespaceUid: "the uid" },
  };
  return { registry, flux, clock, inputs, lifecycle: new GateLifecycle(flux, registry, clock) };
}

describe("release gate", () => {
  it("moves the channel, waits for every layer at the digest, and remembers it as good", async () => {
    const { registry, flux, inputs, lifecycle } = gate();
    const outputs = await lifecycle.release(inputs);
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
    await lifecycle.release({ ...inputs, digest: good });
    flux.broken.set(next, {
      ...{
        layer: "certs",
        reason: "BuildFailed",
        message: "kustomize build failed: no such file",
        times: Infinity,
      },
    });
    await rejects(lifecycle.release(inputs), (error: Error) => {
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
    flux.broken.set(next, { ...broken, times: 1 });
    await rejects(lifecycle.release(inputs), /certs: decryption failed/);
    equal((await lifecycle.release(inputs)).ready, true);

    flux.broken.set(next, { ...broken, times: Infinity });
    await flux.annotate({ apiVersion: "", kind: "Kustomization", name: "certs" });
    const start = clock.time;
    await rejects(lifecycle.release(inputs), /certs: decryption failed/);
    equal(clock.time - start < 5_000, true, `it took ${clock.time - start} ms`);
  });

  it("tries again after a failure that passes", async () => {
    const { flux, inputs, lifecycle } = gate();
    flux.broken.set(next, {
      ...{ layer: "certs", reason: "ReconciliationFailed", message: "failed calling webhook", times: 3 },
    });
    equal((await lifecycle.release(inputs)).ready, true);
    equal(flux.nudges.filter((name) => name === "certs").length, 4);
  });

  it("loses patience with a failure that does not pass", async () => {
    const { flux, clock, inputs, lifecycle } = gate();
    flux.broken.set(next, {
      ...{
        layer: "certs",
        reason: "ReconciliationFailed",
        message: "failed calling webhook",
        times: Infinity,
      },
    });
    await rejects(
      lifecycle.release(inputs),
      /certs: failed calling webhook\. There is no earlier good digest/,
    );
    equal(clock.time > 60_000 && clock.time < 70_000, true, `gave up after ${clock.time} ms`);
  });

  it("takes a cluster that does not answer a request to reconcile for one that may answer again", async () => {
    const { flux, inputs, lifecycle } = gate();
    const annotate = flux.annotate.bind(flux);
    let silent = 3;
    flux.annotate = (ref) => (silent-- > 0 ? Promise.reject(new Error("no answer")) : annotate(ref));
    equal((await lifecycle.release(inputs)).ready, true);
  });

  it("does not wait for a cluster that stopped to answer, once the channel is back", async () => {
    const { flux, registry, clock, inputs, lifecycle } = gate();
    registry.held.set("local-ready", good);
    flux.list = () => Promise.reject(new Error("the API server does not answer"));
    await rejects(lifecycle.release(inputs), {
      message: `Releasing ${next} to channel "local" failed: the API server does not answer. The channel is back at the last good digest ${good}; whether the cluster runs it is not known, for it does not answer. Bring it back and run again.`,
    });
    equal(registry.held.get("local"), good);
    equal(clock.time < 70_000, true, `gave up after ${clock.time} ms`);
  });

  it("names what is not Ready when time is up", async () => {
    const { flux, inputs, lifecycle } = gate();
    flux.annotate = () => Promise.resolve();
    await rejects(
      lifecycle.release(inputs),
      /was not Ready within 120 s\. OCIRepository flux-system\/flux-system does not serve it/,
    );
  });

  it("is due when what is released, or where, is new, or a layer is not Ready any more", async () => {
    const { flux, inputs, lifecycle } = gate();
    const outputs = await lifecycle.release(inputs);
    equal(lifecycle.diff(outputs, inputs), false);
    for (const change of [
      { digest: good },
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
    const outputs = await lifecycle.release(inputs);
    registry.held.set("local", good);
    equal((await lifecycle.read(outputs))?.ready, false);
    flux.get = () => Promise.resolve(undefined);
    equal(await lifecycle.read(outputs), undefined);
  });
});

const digests = ["1", "2", "3", "4", "5"].map((digit) => `sha256:${digit.repeat(64)}`) as [
  string,
  string,
  string,
  string,
  string,
];

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
        await made.lifecycle.release({ ...made.inputs, digest, keep });
      }
    };
    return { ...made, release };
  }

  it("have a tag of channel, UTC time and digest", async () => {
    const { registry, clock, release } = channel(0);
    clock.time = Date.UTC(2026, 10, 21, 7, 5, 3, 999);
    equal(revisionTag("local", good, clock.time), "local-20261121070503-aaaaaaaaaaaa");
    await release(good);
    deepEqual(
      [...registry.held],
      [
        ["local-20261121070603-aaaaaaaaaaaa", good],
        ["local", good],
        ["local-ready", good],
      ],
    );
  });

  it("are kept when their release failed, for whoever looks for the reason", async () => {
    const { registry, flux, inputs, lifecycle } = gate();
    flux.broken.set(next, { layer: "certs", reason: "BuildFailed", message: "no", times: Infinity });
    await rejects(lifecycle.release(inputs));
    equal(registry.held.get("local-19700101000000-bbbbbbbbbbbb"), next);
  });

  it("are deleted but for the newest", async () => {
    const { registry, release } = channel(2);
    await release(...digests.slice(0, 2));
    deepEqual(registry.deleted, []);
    await release(...digests.slice(2));
    deepEqual(registry.deleted, digests.slice(0, 3));
    deepEqual([...registry.held.values()].sort(), [digests[3], digests[4], digests[4], digests[4]]);
  });

  it("count once, by their last release, however often they were released", async () => {
    const { registry, release } = channel(2);
    const [a, b, c] = digests;
    await release(a, a, b, b, a);
    deepEqual(registry.deleted, []);
    await release(c);
    deepEqual(registry.deleted, [b]);
  });

  it("are all kept when nothing is said of how many, as in a registry of somebody else", async () => {
    const { registry, release } = channel(0);
    registry.tags = () => Promise.reject(new Error("the registry does not list tags"));
    await release(...digests);
    deepEqual(registry.deleted, []);
  });

  it("are kept while the channel serves them, whatever a clock said of their age", async () => {
    const { registry, clock, release } = channel(1);
    const [a, b] = digests;
    clock.time = 3_600_000;
    await release(a);
    clock.time = 0;
    await release(b);
    deepEqual(registry.deleted, []);
    deepEqual(registry.channels(), [
      ["local", b],
      ["local-ready", b],
    ]);
  });

  for (const tag of ["prod", "prod-ready", "prod-20260101000000-111111111111", "local-x", "v1.0.0"]) {
    it(`are kept while tag "${tag}", which is no revision of the channel, points at them`, async () => {
      const { registry, release } = channel(1);
      const [a, b, c] = digests;
      registry.held.set(tag, a);
      await release(a, b, c);
      deepEqual(registry.deleted, [b]);
      equal(registry.held.get(tag), a);
    });
  }

  it("of other channels are nothing to delete", async () => {
    const { registry, release } = channel(1);
    const [a, b, c] = digests;
    registry.held.set("local-x-20200101000000-111111111111", a);
    registry.held.set("prod-20200101000000-222222222222", b);
    await release(c);
    deepEqual(registry.deleted, []);
  });

  it("are not deleted by a release that failed", async () => {
    const { registry, flux, clock, inputs, lifecycle, release } = channel(1);
    const [a, b] = digests;
    await release(a);
    flux.broken.set(b, { layer: "certs", reason: "BuildFailed", message: "no", times: Infinity });
    clock.time += 60_000;
    await rejects(lifecycle.release({ ...inputs, digest: b, keep: 1 }));
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
      const [a, b, c] = digests;
      await release(a);
      clock.time += 60_000;
      registry[method] = (): Promise<never> => Promise.reject(new Error(failure));
      const warned = await warnings(async () => {
        equal((await lifecycle.release({ ...inputs, digest: b, keep: 1 })).ready, true);
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

  it("that are gone already are left alone", async () => {
    const { registry, release } = channel(1);
    const [a, b] = digests;
    await release(a);
    const digest = registry.digest.bind(registry);
    registry.digest = (repository, reference) =>
      reference.endsWith("-111111111111") ? Promise.resolve(undefined) : digest(repository, reference);
    await release(b);
    deepEqual(registry.deleted, []);
  });
});

describe("deleting a release", () => {
  it("tells Flux to change nothing any more, and leaves channel and artifacts", async () => {
    const { registry, flux, inputs, lifecycle } = gate();
    await lifecycle.release(inputs);
    const held = [...registry.held];
    const suspended: string[] = [];
    flux.merge = (ref: ManifestRef, patch: object) => {
      suspended.push(`${ref.kind} ${ref.name} ${JSON.stringify(patch)}`);
      return Promise.resolve();
    };
    await lifecycle.delete();
    deepEqual(
      suspended,
      flux.layers.map(({ name }) => `Kustomization ${name} {"spec":{"suspend":true}}`),
    );
    deepEqual([...registry.held], held);
  });

  it("does without a cluster that does not answer", async () => {
    const { flux, lifecycle } = gate();
    flux.list = () => Promise.reject(new Error("connection refused"));
    await lifecycle.delete();
  });
});
