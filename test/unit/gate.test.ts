import { deepEqual, equal, match, rejects } from "node:assert/strict";
import type { Clock } from "../../components/clock";
import { GateLifecycle, type GateInputs } from "../../components/gate/lifecycle";
import type { KubernetesApi, Manifest, ManifestRef } from "../../components/kubernetes";
import type { OciRegistry } from "../../components/oci";

const good = `sha256:${"a".repeat(64)}`;
const next = `sha256:${"b".repeat(64)}`;

/** A clock that a sleep moves on at once. */
class FakeClock implements Clock {
  time = 0;
  private readonly waiting: ((time: number) => void)[] = [];

  now(): number {
    return this.time;
  }

  onTick(listener: (time: number) => void): void {
    this.waiting.push(listener);
  }

  sleep(milliseconds: number): Promise<void> {
    this.time += milliseconds;
    for (const listener of this.waiting) listener(this.time);
    return Promise.resolve();
  }
}

class FakeRegistry implements OciRegistry {
  readonly tags = new Map<string, string>();

  push(): Promise<void> {
    return Promise.resolve();
  }

  tag(_repository: string, digest: string, tag: string): Promise<void> {
    this.tags.set(tag, digest);
    return Promise.resolve();
  }

  digest(_repository: string, reference: string): Promise<string | undefined> {
    return Promise.resolve(this.tags.get(reference));
  }
}

interface FakeLayer {
  readonly name: string;
  readonly dependsOn: readonly string[];
  applied: string;
  attempted: string;
  ready: { status: string; reason: string; message: string };
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
          conditions: [{ type: "Ready", observedGeneration: 1, ...layer.ready }],
          inventory: { entries: [1, 2, 3] },
        },
      })),
    );
  }

  annotate(ref: ManifestRef): Promise<void> {
    this.nudges.push(ref.name);
    if (ref.kind === "OCIRepository") {
      this.served = `local@${this.registry.tags.get("local") ?? ""}`;
      for (const layer of this.layers.filter(({ dependsOn }) => dependsOn.length === 0))
        this.reconcile(layer);
    } else {
      const layer = this.layers.find(({ name }) => name === ref.name);
      if (layer !== undefined) this.reconcile(layer);
    }
    return Promise.resolve();
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
    timeoutSeconds: 120,
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
    deepEqual(
      [...registry.tags],
      [
        ["local", next],
        ["local-ready", next],
      ],
    );
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
    deepEqual(
      [...registry.tags],
      [
        ["local", good],
        ["local-ready", good],
      ],
    );
    equal(flux.served, `local@${good}`);
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

  it("names what is not Ready when time is up", async () => {
    const { flux, inputs, lifecycle } = gate();
    flux.annotate = () => Promise.resolve();
    await rejects(
      lifecycle.release(inputs),
      /was not Ready within 120 s\. OCIRepository flux-system\/flux-system does not serve it/,
    );
  });

  it("is due when the digest is new or a layer is not Ready any more", async () => {
    const { flux, inputs, lifecycle } = gate();
    const outputs = await lifecycle.release(inputs);
    equal(lifecycle.diff(outputs, inputs), false);
    equal(lifecycle.diff(outputs, { ...inputs, digest: good }), true);
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
    registry.tags.set("local", good);
    equal((await lifecycle.read(outputs))?.ready, false);
    flux.get = () => Promise.resolve(undefined);
    equal(await lifecycle.read(outputs), undefined);
  });
});
