import { fluxNamespace, resumeFlux } from "../../clients/flux/finalizers";
import { operatorApi } from "../../clients/flux/kinds";
import { nameOf, type KubernetesApi, type ManifestRef } from "../../clients/kubernetes/client";
import type { Clock } from "../../system/clock";
import { sentence } from "../../system/sentence";
import type { Channel } from "./channel";
import { instanceTrouble, look, reasonsOf } from "./look";
import type { Expected, Look, Member, Observed, Trouble } from "./look";
import { observe, sourceRef, versionsOf, type Versions } from "./observe";

/** The interval of the requests to the cluster, and of the retries of a layer that failed for a temporary reason. */
const pollMilliseconds = 100;
const retryMilliseconds = 2_000;
/** The time without an answer of the cluster after which the run says that it still waits. */
const silenceMilliseconds = 30_000;

/** The way of a layer to Ready. */
export interface LayerResult {
  /** The name of the Kustomization; outside the namespace of Flux, `namespace/name`. */
  readonly name: string;
  readonly ready: boolean;
  /** From the start of the wait until Ready, in seconds. */
  readonly seconds: number;
  /** Objects in the layer's inventory. */
  readonly objects: number;
}

/** The release that a wait is for. */
export interface WaitInputs {
  readonly digest: string;
  readonly expected: Expected;
  /** The channel that must serve the digest; undefined when the cluster follows another repository. */
  readonly channel: Channel | undefined;
  readonly timeoutSeconds: number;
}

/**
 * The wait until every object of a release is Ready. It asks Flux to reconcile instead of waiting for Flux's next
 * interval. Only a failure that no waiting can fix ends it early.
 */
export class Wait {
  /** Name of a member → its way to Ready, in the order in which the layers became Ready. */
  readonly layers = new Map<string, LayerResult>();
  private start = 0;
  /** Members that count only after a request: name → the last request that the member had followed before. */
  private outdated: Map<string, string> | undefined;
  /** Name → the last request that Flux had followed when the trouble was seen for the first time. */
  private readonly suspects = new Map<string, string>();
  /** The versions of the objects that layers substitute, from before the release. */
  private versions: Versions = new Map();
  private seen: Look | undefined;
  private operator: Trouble | undefined;
  private silence: { readonly since: number; readonly reason: string; told: boolean } | undefined;
  /** The time of the last look at the channel. */
  private lookedAt = 0;
  private resumed = false;
  /** Name of an object → the time of the last request to reconcile it. */
  private readonly requested = new Map<string, number>();
  /** Objects and purposes of the requests that were made once. */
  private readonly made = new Set<string>();

  constructor(
    private readonly api: KubernetesApi,
    private readonly clock: Clock,
    private readonly inputs: WaitInputs,
  ) {}

  /** Looks at the cluster before the release. */
  async prepare(): Promise<this> {
    const observed = await observe(this.api).catch(() => undefined);
    if (observed !== undefined) this.versions = await versionsOf(this.api, observed);
    return this;
  }

  /** The time since the wait began. */
  seconds(): number {
    return (this.clock.now() - this.start) / 1000;
  }

  /** @returns undefined when Ready, or the reason why not */
  async untilReady(): Promise<string | undefined> {
    const { timeoutSeconds } = this.inputs;
    this.start = this.lookedAt = this.clock.now();
    while (this.seconds() < timeoutSeconds) {
      const observed = await this.observe();
      const end = observed && (await this.step(observed));
      if (end !== undefined) return end.failure;
      await this.clock.sleep(observed === undefined ? retryMilliseconds : pollMilliseconds);
    }
    return `it was not Ready within ${timeoutSeconds} s. ${this.reasons()}`;
  }

  /** @returns undefined when the cluster does not answer: its API server may restart when its own layer is released */
  private async observe(): Promise<Observed | undefined> {
    try {
      if (!this.resumed) await resumeFlux(this.api);
      this.resumed = true;
      const observed = await observe(this.api);
      this.silence = undefined;
      return observed;
    } catch (error) {
      const now = this.clock.now();
      this.silence ??= { since: now, reason: (error as Error).message, told: false };
      if (!this.silence.told && now - this.silence.since > silenceMilliseconds) {
        this.silence.told = true;
        console.warn(
          `Still waiting: ${sentence(this.silence.reason)} The release gives up after ${this.inputs.timeoutSeconds} s.`,
        );
      }
      return undefined;
    }
  }

  /** @returns the end of the wait; undefined when the wait goes on */
  private async step(observed: Observed): Promise<{ readonly failure?: string } | undefined> {
    const seen = (this.seen = look(observed, this.inputs.expected));
    const { members = [], strays = [] } = seen ?? {};
    // A layer that runs this digest already may run it with other facts.
    this.outdated ??= new Map([...members, ...strays].map(({ name, handled }) => [name, handled]));
    const done = new Set(members.filter((member) => this.isDone(member)).map(({ name }) => name));
    this.record(members.filter(({ name, layer }) => layer && done.has(name)));
    if (seen?.ready === true && done.size === members.length) {
      return (await this.haveReadVariables(members, observed)) ? {} : undefined;
    }
    const failure =
      (await this.failureOf(members, observed)) ??
      (seen?.served === true ? undefined : await this.failureToServe(seen));
    if (failure !== undefined) return { failure };
    await this.requestDue(
      members.filter(({ name, layer }) => layer && !done.has(name)),
      done,
    );
    return undefined;
  }

  /** Whether a member is Ready, and not only with the state from before. */
  private isDone({ name, ready, handled, layer }: Member): boolean {
    const before = this.outdated?.get(name);
    return ready && (!layer || before === undefined || before !== handled);
  }

  private record(layers: readonly Member[]): void {
    const seconds = this.seconds();
    for (const { ref, name: key, objects } of layers) {
      if (this.layers.has(key)) continue;
      const name = ref.namespace === fluxNamespace ? ref.name : `${ref.namespace ?? ""}/${ref.name}`;
      this.layers.set(key, { name, ready: true, seconds, objects });
    }
  }

  /** Whether every layer has read its variables as they are now: the root layer may have changed them. */
  private async haveReadVariables(members: readonly Member[], observed: Observed): Promise<boolean> {
    const now = await versionsOf(this.api, observed).catch(() => undefined);
    if (now === undefined) return false;
    const late = members.filter((member) => isOutdated(member, this.versions, now));
    for (const { name, handled } of late) this.outdated?.set(name, handled);
    this.versions = now;
    return late.length === 0;
  }

  /** The first failure of a member that no waiting can fix. */
  private async failureOf(members: readonly Member[], observed: Observed): Promise<string | undefined> {
    for (const member of members.filter(({ current }) => current)) {
      if (this.isFinal(member.name, member)) {
        const failure = `${member.name}: ${member.message}`;
        return [failure, ...reasonsOf(failure, observed.helmReleases)].join("; ");
      }
      if (member.verdict === "suspected") await this.requestOnce(member.ref, "suspected");
    }
    return undefined;
  }

  /** Whether no waiting can help: a suspected cause must still be there after Flux followed another request. */
  private isFinal(name: string, { verdict, handled }: Trouble): boolean {
    if (verdict !== "suspected") return verdict === "final";
    const first = this.suspects.get(name) ?? handled;
    this.suspects.set(name, first);
    return first !== handled;
  }

  /** Asks the source to pull. @returns the reason why it cannot serve the release, if no waiting can fix it */
  private async failureToServe(seen: Look | undefined): Promise<string | undefined> {
    const { channel, digest } = this.inputs;
    // If the cluster does not answer, the next look reports that.
    const instances = await this.api.list(operatorApi, "FluxInstance", fluxNamespace).catch(() => []);
    this.operator = instanceTrouble(instances);
    const trouble = seen === undefined ? this.operator : seen.source;
    if (trouble !== undefined && this.isFinal(nameOf(sourceRef), trouble)) return trouble.message;
    await this.request(sourceRef);
    // The layer that holds the FluxInstance tells the source its new address.
    for (const { ref } of seen?.strays ?? []) await this.requestOnce(ref, "stray");
    if (channel === undefined || this.clock.now() - this.lookedAt <= retryMilliseconds) return undefined;
    this.lookedAt = this.clock.now();
    const serves = await channel.serves().catch(() => digest);
    return serves === digest
      ? undefined
      : `another release moved the channel to ${serves ?? "nothing"} meanwhile`;
  }

  /** Asks each layer whose dependencies are Ready to reconcile. */
  private async requestDue(layers: readonly Member[], done: ReadonlySet<string>): Promise<void> {
    for (const { ref, name, handled, dependsOn, ready, failing, verdict } of layers) {
      if (!dependsOn.every((dependency) => done.has(dependency))) continue;
      // Once for each set of dependencies that became Ready, and again after a failure that may be temporary.
      if (this.outdated?.get(name) === handled) await this.requestOnce(ref, `outdated ${handled}`);
      else if (dependsOn.length > 0 && !ready) await this.requestOnce(ref, "due");
      if (failing && verdict === "passing") await this.request(ref);
    }
  }

  /** Asks Flux to reconcile an object, once for a purpose. */
  private async requestOnce(ref: ManifestRef, purpose: string): Promise<void> {
    const key = `${nameOf(ref)} ${purpose}`;
    if (!this.made.has(key) && (await this.request(ref))) this.made.add(key);
  }

  /** Asks Flux to reconcile an object, as often as a retry makes sense. @returns whether the cluster accepted it */
  private async request(ref: ManifestRef): Promise<boolean> {
    const now = this.clock.now();
    if (now - (this.requested.get(nameOf(ref)) ?? -Infinity) < retryMilliseconds) return false;
    this.requested.set(nameOf(ref), now);
    const annotations = { "reconcile.fluxcd.io/requestedAt": new Date(now).toISOString() };
    return this.api.annotate(ref, annotations).then(
      () => true,
      () => false,
    );
  }

  /** The reasons why the release is not Ready when the time is up. */
  private reasons(): string {
    if (this.silence !== undefined) return this.silence.reason;
    const unready = this.seen?.members.filter(({ ready }) => !ready) ?? [];
    if (unready.length > 0) {
      return unready.map(({ name, message }) => `${name}: ${message || "not reconciled yet"}`).join("; ");
    }
    const source = this.seen?.source.message ?? `there is no ${nameOf(sourceRef)}`;
    return this.operator === undefined ? source : `${source}; ${this.operator.message}`;
  }
}

/** Whether an object that a layer substitutes changed; the layer cannot have read an object that did not exist. */
function isOutdated({ substitutes }: Member, before: Versions, now: Versions): boolean {
  return substitutes.some(({ ref, optional }) => {
    const [old, current] = [before.get(nameOf(ref)) ?? "", now.get(nameOf(ref)) ?? ""];
    return current !== old && (old !== "" || optional);
  });
}
