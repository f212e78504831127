import type { Clock } from "../clock";
import { nameOf, refOf, type KubernetesApi, type Manifest, type ManifestRef } from "../kubernetes";
import type { OciRegistry } from "../oci";
import { suspendFlux } from "../flux-system/finalizers";
import { sentence } from "../sentence";

/** A release: which artifact a channel serves, and where it must become Ready. */
export interface GateInputs {
  readonly kubeconfig: string;
  /** Of the namespace of Flux: in another one nothing is released, whatever a refresh saw. */
  readonly namespaceUid: string;
  /** Repository as this machine reaches it: `host[:port]/path`. */
  readonly repository: string;
  readonly insecure: boolean;
  /** The tag that the cluster follows. */
  readonly channel: string;
  /** `sha256:…` of the artifact to release. */
  readonly digest: string;
  /** How long the release may take until every layer is Ready, in seconds. */
  readonly timeoutSeconds: number;
  /** How many revisions of the channel the registry keeps; 0 keeps them all. */
  readonly keep: number;
}

/** How a layer came to be Ready. */
export interface LayerResult {
  readonly name: string;
  readonly ready: boolean;
  /** From the start of the release until Ready, in seconds. */
  readonly seconds: number;
  /** Objects in the layer's inventory. */
  readonly objects: number;
}

/** A release that is Ready. */
export interface GateOutputs extends GateInputs {
  /** Whether every layer is Ready at `digest`, as last seen. */
  readonly ready: boolean;
  readonly layers: readonly LayerResult[];
}

/** The namespace and the name of the source and the root Kustomization that a FluxInstance makes. */
const flux = "flux-system";
const sourceApi = "source.toolkit.fluxcd.io/v1";
const kustomizeApi = "kustomize.toolkit.fluxcd.io/v1";
const helmApi = "helm.toolkit.fluxcd.io/v2";

/** How often the cluster is asked, and how often a layer that failed for a passing reason is tried again. */
const pollMilliseconds = 100;
const retryMilliseconds = 2_000;
/** How long a layer may go on failing for reasons that often pass, such as a webhook that is not up yet. */
const patienceMilliseconds = 60_000;

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly observedGeneration?: number;
  readonly reason?: string;
  readonly message?: string;
}

/** Fields that the Flux kinds share. */
interface FluxStatus {
  readonly observedGeneration?: number;
  readonly conditions?: readonly Condition[];
  readonly lastAppliedRevision?: string;
  readonly lastAttemptedRevision?: string;
  /** The value of the last annotation `reconcile.fluxcd.io/requestedAt` that was followed. */
  readonly lastHandledReconcileAt?: string;
  readonly artifact?: { readonly revision: string };
  readonly inventory?: { readonly entries?: readonly unknown[] };
}

/** What a look at the cluster told of one digest. */
interface Look {
  readonly layers: readonly LayerState[];
  readonly ready: boolean;
  /** Failures that waiting does not mend. */
  readonly failures: readonly Failure[];
  /** The layers that tried the digest, by name, and the last request to do so that each of them followed. */
  readonly tried: ReadonlyMap<string, string>;
}

interface Failure {
  /** Of the layer. */
  readonly name: string;
  readonly message: string;
}

interface LayerState {
  readonly ref: ManifestRef;
  readonly dependsOn: readonly string[];
  readonly ready: boolean;
  /** The layer tried this digest and failed, for a reason that may pass. */
  readonly failing: boolean;
  readonly message: string;
  readonly objects: number;
}

/**
 * The release gate: moves the channel to a digest, waits until every layer is Ready at it, and moves the channel
 * back to the last good digest when that fails.
 *
 * The last good digest is the tag `<channel>-ready` of the same repository: it is lost only with the artifacts.
 */
export class GateLifecycle {
  constructor(
    private readonly api: KubernetesApi,
    private readonly registry: OciRegistry,
    private readonly clock: Clock,
  ) {}

  /**
   * @throws Error that names the object that failed, its message, and where the channel stands now
   */
  async release(inputs: GateInputs): Promise<GateOutputs> {
    const { repository, channel, digest } = inputs;
    const good = await this.registry.digest(repository, readyTag(channel));
    await this.registry.tag(repository, digest, revisionTag(channel, digest, this.clock.now()));
    await this.registry.tag(repository, digest, channel);

    const layers = new Map<string, LayerResult>();
    const failure = await this.await(inputs, digest, layers);
    if (failure === undefined) {
      await this.registry.tag(repository, digest, readyTag(channel));
      await this.prune(inputs).catch((error: unknown) => {
        // The release is Ready all the same; the next one prunes again.
        console.warn(`Pruning old revisions failed: ${sentence((error as Error).message)}`);
      });
      return { ...inputs, ready: true, layers: [...layers.values()] };
    }
    const operation = `Releasing ${digest} to channel "${channel}" failed: ${sentence(failure)}`;
    if (good === undefined || good === digest) {
      throw new Error(`${operation} There is no earlier good digest to return to; the channel stays.`);
    }
    await this.registry.tag(repository, good, channel);
    const returned = `${operation} The channel is back at the last good digest ${good};`;
    try {
      await this.look(channel, good);
    } catch {
      throw new Error(
        `${returned} whether the cluster runs it is not known, for it does not answer. Bring it back and run again.`,
      );
    }
    const start = this.clock.now();
    const stuck = await this.await(inputs, good, new Map());
    const back =
      stuck === undefined
        ? `every layer is Ready on it again after ${((this.clock.now() - start) / 1000).toFixed(1)} s`
        : `but it did not become Ready: ${stuck}`;
    throw new Error(`${returned} ${sentence(back)}`);
  }

  /**
   * What the cluster runs now.
   *
   * @returns undefined when the cluster does not answer or holds no Flux source: the release is gone
   */
  async read(state: GateOutputs): Promise<GateOutputs | undefined> {
    try {
      const [tag, look] = await Promise.all([
        this.registry.digest(state.repository, state.channel),
        this.look(state.channel, state.digest),
      ]);
      if (look === undefined) return undefined;
      return { ...state, ready: look.ready && tag === state.digest };
    } catch {
      return undefined;
    }
  }

  /** A release is due when the digest is new, or the old one is not Ready any more. */
  diff(olds: GateOutputs, news: GateInputs): boolean {
    return (
      !olds.ready ||
      olds.namespaceUid !== news.namespaceUid ||
      olds.digest !== news.digest ||
      olds.channel !== news.channel ||
      olds.repository !== news.repository
    );
  }

  /** Tells Flux to change nothing any more, as far as it still answers: the platform is being destroyed. */
  async delete(): Promise<void> {
    await suspendFlux(this.api).catch(() => undefined);
  }

  /**
   * Removes the oldest revisions of the channel, but none that a tag of another meaning points at: the channel's
   * own, the last good one, and what other channels serve.
   */
  private async prune({ repository, channel, keep }: GateInputs): Promise<void> {
    if (keep === 0) return;
    const tags = await this.registry.tags(repository);
    // The time in a tag sorts; a digest counts once, by its newest tag.
    const newest = new Map<string, string>();
    for (const tag of tags.filter((candidate) => isRevision(channel, candidate)).sort()) {
      newest.delete(tag.slice(-shortLength));
      newest.set(tag.slice(-shortLength), tag);
    }
    const old = [...newest.values()].reverse().slice(keep);
    if (old.length === 0) return;
    const digest = (tag: string) => this.registry.digest(repository, tag);
    const held = await Promise.all(tags.filter((tag) => !isRevision(channel, tag)).map(digest));
    for (const superseded of await Promise.all(old.map(digest))) {
      if (superseded !== undefined && !held.includes(superseded)) {
        await this.registry.delete(repository, superseded);
      }
    }
  }

  /**
   * Waits until every layer is Ready at a digest, and asks Flux to look again whenever waiting would only wait
   * for its next interval.
   *
   * @returns undefined when Ready, or why it did not become so
   */
  private async await(
    inputs: GateInputs,
    digest: string,
    results: Map<string, LayerResult>,
  ): Promise<string | undefined> {
    const start = this.clock.now();
    const deadline = start + inputs.timeoutSeconds * 1000;
    const nudged = new Map<string, number>();
    const failing = new Map<string, number>();
    const nudge = async (ref: ManifestRef, key: string) => {
      const now = this.clock.now();
      if (now - (nudged.get(key) ?? -Infinity) < retryMilliseconds) return;
      nudged.set(key, now);
      const request = { "reconcile.fluxcd.io/requestedAt": new Date(now).toISOString() };
      // A cluster that does not answer is told by the next look.
      await this.api.annotate(ref, request).catch(() => undefined);
    };

    /**
     * What had been tried of this digest before. What a layer failed for may be mended by now, as where this very run
     * brought a lost key back: its failure counts once it has tried again.
     */
    let before: Look["tried"] | undefined;
    let look: Look | undefined;
    let silence: { readonly since: number; readonly reason: string } | undefined;
    while (this.clock.now() < deadline) {
      try {
        look = await this.look(inputs.channel, digest);
        silence = undefined;
      } catch (error) {
        // The API server may restart under us, as when its own layer is released.
        const now = this.clock.now();
        silence = { since: silence?.since ?? now, reason: (error as Error).message };
        if (now - silence.since > patienceMilliseconds) return silence.reason;
        await this.clock.sleep(retryMilliseconds);
        continue;
      }
      const seconds = (this.clock.now() - start) / 1000;
      for (const layer of look?.layers ?? []) {
        if (layer.ready && !results.has(layer.ref.name)) {
          results.set(layer.ref.name, { name: layer.ref.name, ready: true, seconds, objects: layer.objects });
        }
      }
      const tried = look?.tried ?? new Map<string, string>();
      before ??= tried;
      const failure = look?.failures.find(({ name }) => before?.get(name) !== tried.get(name));
      if (failure !== undefined) return this.explain(failure.message);
      if (look?.ready === true) return undefined;
      for (const layer of look?.layers ?? []) {
        if (layer.ready) failing.delete(layer.ref.name);
        else if (layer.failing) failing.set(layer.ref.name, failing.get(layer.ref.name) ?? this.clock.now());
        const since = failing.get(layer.ref.name);
        if (layer.failing && since !== undefined && this.clock.now() - since > patienceMilliseconds) {
          return this.explain(`${nameOf(layer.ref)}: ${layer.message}`);
        }
      }

      if (look === undefined || look.layers.length === 0) {
        await nudge(sourceRef, "source");
      }
      const ready = new Set(look?.layers.filter((layer) => layer.ready).map((layer) => layer.ref.name));
      for (const layer of look?.layers ?? []) {
        const due = layer.dependsOn.every((name) => ready.has(name));
        // Once for each set of dependencies that came to be Ready, and again after a failure that may pass.
        const waiting = layer.dependsOn.length > 0 && !nudged.has(layer.ref.name);
        if (!layer.ready && due && (waiting || layer.failing)) await nudge(layer.ref, layer.ref.name);
      }
      await this.clock.sleep(pollMilliseconds);
    }
    const unready = look?.layers.filter((layer) => !layer.ready) ?? [];
    const reasons = unready.map((layer) => `${nameOf(layer.ref)}: ${layer.message || "not reconciled yet"}`);
    return `it was not Ready within ${inputs.timeoutSeconds} s. ${silence?.reason ?? (reasons.join("; ") || `${nameOf(sourceRef)} does not serve it`)}`;
  }

  /** Adds what stalled HelmReleases say: Flux's message of a failed health check names them, not their reason. */
  private async explain(failure: string): Promise<string> {
    const stalled = (await this.api.list(helmApi, "HelmRelease")).filter(isStalled);
    const named = stalled.filter((release) => failure.includes(release.metadata.name));
    return [
      failure,
      ...named.map((release) => `${nameOf(refOf(release))}: ${condition(release, "Ready")?.message ?? ""}`),
    ].join("; ");
  }

  /** @returns undefined when there is no source; no layers when it does not serve the digest yet */
  private async look(channel: string, digest: string): Promise<Look | undefined> {
    const revision = `${channel}@${digest}`;
    const [source, kustomizations] = await Promise.all([
      this.api.get(sourceRef),
      this.api.list(kustomizeApi, "Kustomization", flux),
    ]);
    if (source === undefined) return undefined;
    const served = statusOf(source).artifact?.revision === revision;
    const layers = kustomizations
      .filter((object) => (object.spec as { sourceRef?: { name?: string } }).sourceRef?.name === flux)
      .map((object) => layerState(object, revision));
    const root = layers.find((layer) => layer.ref.name === flux);
    return {
      layers: served ? layers : [],
      ready: served && root !== undefined && layers.every((layer) => layer.ready),
      failures: permanentFailures(kustomizations, revision),
      tried: new Map(
        kustomizations
          .filter((object) => statusOf(object).lastAttemptedRevision === revision)
          .map((object) => [object.metadata.name, statusOf(object).lastHandledReconcileAt ?? ""]),
      ),
    };
  }
}

const sourceRef: ManifestRef = { apiVersion: sourceApi, kind: "OCIRepository", name: flux, namespace: flux };

/** The tag of the digest that a channel was last Ready at. */
export function readyTag(channel: string): string {
  return `${channel}-ready`;
}

/** Characters of a digest in a revision's tag. */
const shortLength = 12;

/** The tag that a release leaves on its digest: `<channel>-<UTC time>-<start of the digest>`. */
export function revisionTag(channel: string, digest: string, now: number): string {
  const time = new Date(now)
    .toISOString()
    .replace(/[^0-9]/g, "")
    .slice(0, 14);
  return `${channel}-${time}-${digest.slice("sha256:".length).slice(0, shortLength)}`;
}

function isRevision(channel: string, tag: string): boolean {
  const rest = tag.startsWith(`${channel}-`) ? tag.slice(channel.length + 1) : "";
  return /^\d{14}-[0-9a-f]{12}$/.test(rest);
}

function statusOf(object: Manifest): FluxStatus {
  return object.status ?? {};
}

function condition(object: Manifest, type: string): Condition | undefined {
  return statusOf(object).conditions?.find((entry) => entry.type === type);
}

function isCurrent(object: Manifest): boolean {
  return statusOf(object).observedGeneration === object.metadata.generation;
}

function isStalled(object: Manifest): boolean {
  return isCurrent(object) && condition(object, "Stalled")?.status === "True";
}

function layerState(object: Manifest, revision: string): LayerState {
  const status = statusOf(object);
  const ready = condition(object, "Ready");
  return {
    ref: refOf(object),
    dependsOn: ((object.spec as { dependsOn?: readonly { name: string }[] }).dependsOn ?? []).map(
      (dependency) => dependency.name,
    ),
    ready: isCurrent(object) && ready?.status === "True" && status.lastAppliedRevision === revision,
    failing: isFailure(object, revision),
    message: ready?.message ?? "",
    objects: status.inventory?.entries?.length ?? 0,
  };
}

/**
 * The Kustomization tried this revision and says that it failed; waiting for dependencies is no failure. Flux moves
 * `status.observedGeneration` only on success, so the condition's own is what tells an old failure from this one.
 */
function isFailure(object: Manifest, revision: string): boolean {
  const ready = condition(object, "Ready");
  return (
    (ready?.observedGeneration ?? object.metadata.generation) === object.metadata.generation &&
    statusOf(object).lastAttemptedRevision === revision &&
    ready?.status === "False" &&
    ready.reason !== "DependencyNotReady" &&
    ready.reason !== "Progressing"
  );
}

/**
 * The Kustomizations whose failure no retry mends: the build failed, the API server refuses an object as such, or Flux
 * waited for its health as long as it is told to.
 */
function permanentFailures(kustomizations: readonly Manifest[], revision: string): Failure[] {
  return kustomizations.flatMap((object) => {
    const { reason = "", message = "" } = condition(object, "Ready") ?? {};
    const isPermanent =
      ["BuildFailed", "HealthCheckFailed", "PruneFailed"].includes(reason) ||
      /\((Invalid|BadRequest)\)|is immutable|is invalid:|strict decoding error|field not declared in schema/.test(
        message,
      );
    if (!isPermanent || !isFailure(object, revision)) return [];
    return [{ name: object.metadata.name, message: `${nameOf(refOf(object))}: ${message}` }];
  });
}
