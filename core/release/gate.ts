import { helmApi, kustomizeApi, operatorApi, sourceApi } from "../../clients/flux/kinds";
import { runtimeName } from "../tree/check";
import type { Clock } from "../../system/clock";
import { fluxNamespace, resumeFlux } from "../../clients/flux/finalizers";
import {
  goneWith,
  nameOf,
  type KubernetesApi,
  type Manifest,
  type ManifestRef,
} from "../../clients/kubernetes/client";
import type { OciRegistry } from "../../clients/registry/oci";
import { sentence } from "../../system/sentence";
import {
  instanceTrouble,
  look,
  reasonsOf,
  requestAnnotation,
  substitutesOf,
  type Expected,
  type Look,
  type Member,
  type Observed,
  type Trouble,
} from "./look";

/** A release: the artifact of a channel, its facts, and the cluster in which it must become Ready. */
export interface GateInputs {
  readonly kubeconfig: string;
  /** Whether this project makes the cluster; see `goneWith`. */
  readonly ownCluster: boolean;
  /** The uid of the namespace of Flux: a new namespace has no release, even if a refresh still saw one. */
  readonly namespaceUid: string;
  /** Repository as this machine reaches it: `host[:port]/path`. */
  readonly repository: string;
  readonly insecure: boolean;
  /** The tag that the cluster follows. */
  readonly channel: string;
  /** `sha256:…` of the artifact to release. */
  readonly digest: string;
  /** Data of ConfigMap `platform-runtime`, which Flux substitutes: a changed fact is a release. */
  readonly variables: Readonly<Record<string, string>>;
  /** The time in which every layer must become Ready, in seconds. */
  readonly timeoutSeconds: number;
  /** The number of revisions of the channel that the registry keeps; 0 keeps them all. */
  readonly keep: number;
}

/** The way of a layer to Ready. */
export interface LayerResult {
  /** The name of the Kustomization; outside the namespace of Flux, `namespace/name`. */
  readonly name: string;
  readonly ready: boolean;
  /** From the start of the release until Ready, in seconds. */
  readonly seconds: number;
  /** Objects in the layer's inventory. */
  readonly objects: number;
}

/** A release that is Ready. */
export interface GateOutputs extends GateInputs {
  /** Whether every layer is Ready at `digest`, at the last look. */
  readonly ready: boolean;
  readonly layers: readonly LayerResult[];
}

const sourceRef: ManifestRef = {
  ...{ apiVersion: sourceApi, kind: "OCIRepository" },
  ...{ name: fluxNamespace, namespace: fluxNamespace },
};
const runtimeRef: ManifestRef = {
  ...{ apiVersion: "v1", kind: "ConfigMap" },
  ...{ name: runtimeName, namespace: fluxNamespace },
};

/** The interval of the requests to the cluster, and of the retries of a layer that failed for a temporary reason. */
const pollMilliseconds = 100;
const retryMilliseconds = 2_000;
/** The time without an answer of the cluster after which the run says that it still waits. */
const silenceMilliseconds = 30_000;

/** A digest and its facts. */
interface Target {
  readonly digest: string;
  readonly variables: Readonly<Record<string, string>>;
}

/**
 * The release gate: it moves the channel to a digest and waits until every object of the release is Ready. If that
 * fails, it returns channel and facts to the last good release.
 *
 * The last good digest is the tag `<channel>-ready` of the same repository: it is lost only with the artifacts. The
 * facts of the last good release are in Pulumi's state.
 */
export class GateLifecycle {
  constructor(
    private readonly api: KubernetesApi,
    private readonly registry: OciRegistry,
    private readonly clock: Clock,
  ) {}

  /**
   * @param last the release that was Ready before, if it is known
   * @throws Error that names the failed object, its message, and the current digest of the channel
   */
  async release(inputs: GateInputs, last?: GateOutputs): Promise<GateOutputs> {
    const { repository, channel, digest } = inputs;
    const good = await this.lastGood(inputs, last);
    const before = await this.versions(await observe(this.api).catch(() => undefined));
    await this.registry.tag(repository, digest, revisionTag(channel, digest, this.clock.now()));
    await this.registry.tag(repository, digest, channel);

    const layers = new Map<string, LayerResult>();
    const failure = await this.untilReady(inputs, inputs, before, layers);
    if (failure === undefined) {
      await this.registry.tag(repository, digest, readyTag(channel));
      await this.prune(inputs).catch((error: unknown) => {
        // The release is Ready all the same; the next one prunes again.
        console.warn(`Pruning old revisions failed: ${sentence((error as Error).message)}`);
      });
      return { ...inputs, ready: true, layers: [...layers.values()] };
    }
    const operation = `Releasing ${digest} to channel "${channel}" failed: ${sentence(failure)}`;
    throw new Error(`${operation} ${await this.goBack(inputs, good)}`);
  }

  /**
   * The release that the cluster runs now.
   *
   * @returns undefined when the cluster holds no Flux source, or is gone: the release is gone
   * @throws Error when a cluster that is not this project's does not answer
   */
  async read(state: GateOutputs): Promise<GateOutputs | undefined> {
    try {
      const [tag, observed, runtime] = await Promise.all([
        // A registry that does not answer counts as another digest: the next release says what is wrong.
        this.registry.digest(state.repository, state.channel).catch(() => undefined),
        observe(this.api),
        this.api.get(runtimeRef),
      ]);
      const seen = look(observed, expected(state, state));
      if (seen === undefined) return undefined;
      const facts = (runtime?.data ?? {}) as Readonly<Record<string, string>>;
      // A state from before facts were a part of the release has none.
      const same = (state as Partial<GateOutputs>).variables === undefined || isSame(facts, state.variables);
      return { ...state, ready: seen.settled && tag === state.digest && same };
    } catch (error) {
      goneWith(state.ownCluster, error);
      return undefined;
    }
  }

  /** A release is due when the digest or a fact is new, or the old release is not Ready any more. */
  diff(olds: GateOutputs, news: GateInputs): boolean {
    return (
      !olds.ready ||
      olds.kubeconfig !== news.kubeconfig ||
      olds.ownCluster !== news.ownCluster ||
      olds.namespaceUid !== news.namespaceUid ||
      olds.digest !== news.digest ||
      olds.channel !== news.channel ||
      olds.repository !== news.repository ||
      !isSame((olds as Partial<GateOutputs>).variables ?? {}, news.variables)
    );
  }

  /** The target of a failed release's return; undefined when no release was Ready before, or only this very release. */
  private async lastGood(inputs: GateInputs, last: GateOutputs | undefined): Promise<Target | undefined> {
    const { repository, channel } = inputs;
    const facts = (last as Partial<GateOutputs> | undefined)?.variables;
    const variables = facts === undefined || Object.keys(facts).length === 0 ? inputs.variables : facts;
    const digest =
      last !== undefined && last.repository !== repository
        ? last.digest
        : await this.registry.digest(repository, readyTag(channel));
    if (digest === undefined) return undefined;
    return digest === inputs.digest && isSame(variables, inputs.variables)
      ? undefined
      : { digest, variables };
  }

  /** Returns channel and facts to the last good release, despite failures on the way; reports the result. */
  private async goBack(inputs: GateInputs, good: Target | undefined): Promise<string> {
    const { repository, channel, digest } = inputs;
    if (good === undefined) return "There is no earlier good digest to return to; the channel stays.";
    const before = await this.versions(await observe(this.api).catch(() => undefined));
    const facts = await this.restoreFacts(inputs.variables, good.variables).catch(
      (error: unknown) => ` Its facts are not: ${sentence((error as Error).message)}`,
    );
    // If the repository itself is new, the old one stayed as it was.
    const isHere = good.variables.artifact_repository === inputs.variables.artifact_repository;
    if (isHere) {
      try {
        const serves = await this.registry.digest(repository, channel);
        if (serves !== digest) {
          return `The channel is left alone: another release moved it to ${serves ?? "nothing"} meanwhile.${facts}`;
        }
        await this.registry.tag(repository, good.digest, channel);
      } catch (error) {
        return `Returning the channel to the last good digest ${good.digest} failed: ${sentence((error as Error).message)} Run again when the registry answers.${facts}`;
      }
    }
    const returned = isHere
      ? `The channel is back at the last good digest ${good.digest};`
      : `The cluster follows ${good.variables.artifact_repository ?? ""} again, at the last good digest ${good.digest};`;
    try {
      await observe(this.api);
    } catch {
      return `${returned} whether the cluster runs it is not known, for it does not answer. Bring it back and run again.${facts}`;
    }
    const start = this.clock.now();
    const stuck = await this.untilReady(inputs, good, before, new Map());
    const back =
      stuck === undefined
        ? `every layer is Ready on it again after ${((this.clock.now() - start) / 1000).toFixed(1)} s`
        : `but it did not become Ready: ${stuck}`;
    return `${returned} ${sentence(back)}${facts}`;
  }

  /** @returns the addition to the report: empty if the facts are the same, or are back */
  private async restoreFacts(tried: Target["variables"], good: Target["variables"]): Promise<string> {
    if (isSame(tried, good)) return "";
    const removed = Object.fromEntries(Object.keys(tried).map((key) => [key, null]));
    await this.api.merge(runtimeRef, { data: { ...removed, ...good } });
    const changed = [...new Set([...Object.keys(tried), ...Object.keys(good)])]
      .filter((key) => tried[key] !== good[key])
      .map((key) => `${key}="${good[key] ?? ""}"`);
    return ` ConfigMap ${runtimeName} is back at ${changed.join(", ")}.`;
  }

  /**
   * Removes the oldest revisions of the channel, except revisions with a tag of another meaning: the channel's own, the
   * last good one, and the revisions of other channels.
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
   * Waits until every object of a release is Ready, and asks Flux to reconcile instead of waiting for its next
   * interval. Only a failure that no waiting can fix ends it early.
   *
   * @param before the versions of the objects that layers substitute, from before the release
   * @returns undefined when Ready, or the reason why not
   */
  private async untilReady(
    inputs: GateInputs,
    target: Target,
    before: Versions,
    results: Map<string, LayerResult>,
  ): Promise<string | undefined> {
    const start = this.clock.now();
    const deadline = start + inputs.timeoutSeconds * 1000;
    const wanted = expected(inputs, target);
    const isHere = target.variables.artifact_repository === inputs.variables.artifact_repository;
    const requests = new Requests(this.api, this.clock);
    /** Members that count only after a request: key → the last request that the member had followed before. */
    let outdated = new Map<string, string>();
    const suspects = new Map<string, string>();
    let versions = before;
    let seen: Look | undefined;
    let operator: Trouble | undefined;
    let first = true;
    let silence: { readonly since: number; readonly reason: string; told: boolean } | undefined;
    let asked = start;
    let resumed = false;

    while (this.clock.now() < deadline) {
      let observed: Observed;
      try {
        if (!resumed) await resumeFlux(this.api);
        resumed = true;
        observed = await observe(this.api);
        silence = undefined;
      } catch (error) {
        // The API server may restart meanwhile, for example when its own layer is released.
        const now = this.clock.now();
        silence ??= { since: now, reason: (error as Error).message, told: false };
        if (!silence.told && now - silence.since > silenceMilliseconds) {
          silence.told = true;
          console.warn(
            `Still waiting: ${sentence(silence.reason)} The release gives up after ${inputs.timeoutSeconds} s.`,
          );
        }
        await this.clock.sleep(retryMilliseconds);
        continue;
      }
      seen = look(observed, wanted);
      const { members = [], served = false } = seen ?? {};
      if (first) {
        // A layer that runs this digest already may run it with other facts.
        outdated = new Map([...members, ...(seen?.strays ?? [])].map(({ key, handled }) => [key, handled]));
        first = false;
      }
      /** Ready, and not only with the state from before. */
      const isDone = ({ key, ready, handled, layer }: Member) =>
        ready && (!layer || outdated.get(key) === undefined || outdated.get(key) !== handled);
      const done = new Set(members.filter(isDone).map(({ key }) => key));

      const seconds = (this.clock.now() - start) / 1000;
      for (const { ref, key, objects, layer } of members) {
        if (!layer || !done.has(key) || results.has(key)) continue;
        const name = ref.namespace === fluxNamespace ? ref.name : `${ref.namespace ?? ""}/${ref.name}`;
        results.set(key, { name, ready: true, seconds, objects });
      }

      if (seen?.ready === true && done.size === members.length) {
        const changed = await this.versions(observed).catch(() => undefined);
        const again =
          changed === undefined ? [] : members.filter((member) => isOutdated(member, versions, changed));
        if (changed !== undefined && again.length === 0) return undefined;
        // A layer may have read its variables before the root layer changed them.
        for (const { key, handled } of again) outdated.set(key, handled);
        versions = changed ?? versions;
        await this.clock.sleep(pollMilliseconds);
        continue;
      }

      for (const member of members) {
        if (member.verdict === "passing" || !member.current) continue;
        const failure = `${nameOf(member.ref)}: ${member.message}`;
        if (member.verdict === "final") return explain(failure, observed);
        const handled = suspects.get(member.key);
        if (handled !== undefined && handled !== member.handled) return explain(failure, observed);
        if (handled === undefined) suspects.set(member.key, member.handled);
        await requests.once(member.ref, "suspected");
      }

      if (!served) {
        operator = instanceTrouble(await this.instances());
        const trouble = seen === undefined ? operator : seen.source;
        if (trouble?.verdict === "final") return trouble.message;
        if (trouble?.verdict === "suspected") {
          const handled = suspects.get("source");
          if (handled !== undefined && handled !== trouble.handled) return trouble.message;
          if (handled === undefined) suspects.set("source", trouble.handled);
        }
        await requests.again(sourceRef);
        // The layer that holds the FluxInstance tells the source its new address.
        for (const { ref } of seen?.strays ?? []) await requests.once(ref, "stray");
        if (isHere && this.clock.now() - asked > retryMilliseconds) {
          asked = this.clock.now();
          const serves = await this.registry
            .digest(inputs.repository, inputs.channel)
            .catch(() => target.digest);
          if (serves !== target.digest) {
            return `another release moved the channel to ${serves ?? "nothing"} meanwhile`;
          }
        }
      }
      for (const member of members) {
        const due = member.layer && member.dependsOn.every((key) => done.has(key));
        if (!due || done.has(member.key)) continue;
        // Once for each set of dependencies that became Ready, and again after a failure that may be temporary.
        if (outdated.get(member.key) === member.handled) {
          await requests.once(member.ref, `outdated ${member.handled}`);
        } else if (member.dependsOn.length > 0 && !member.ready) {
          await requests.once(member.ref, "due");
        }
        if (member.failing && member.verdict === "passing") await requests.again(member.ref);
      }
      await this.clock.sleep(pollMilliseconds);
    }
    const unready = seen?.members.filter(({ ready }) => !ready) ?? [];
    const reasons = unready.map(({ ref, message }) => `${nameOf(ref)}: ${message || "not reconciled yet"}`);
    const absent = [seen?.source.message ?? `there is no ${nameOf(sourceRef)}`, operator?.message];
    const said =
      silence?.reason ?? (reasons.join("; ") || absent.filter((message) => message !== undefined).join("; "));
    return `it was not Ready within ${inputs.timeoutSeconds} s. ${said}`;
  }

  /** The instance of the operator; undefined if the cluster does not answer, which the next look reports. */
  private async instances(): Promise<Manifest[]> {
    return this.api.list(operatorApi, "FluxInstance", fluxNamespace).catch(() => []);
  }

  /** The versions of the ConfigMaps and Secrets that the Kustomizations of a cluster substitute. */
  private async versions(observed: Observed | undefined): Promise<Versions> {
    const versions = new Map<string, string>();
    const used = (observed?.kustomizations ?? []).flatMap(substitutesOf);
    for (const ref of new Map(used.map(({ ref }) => [nameOf(ref), ref])).values()) {
      versions.set(nameOf(ref), (await this.api.get(ref))?.metadata.resourceVersion ?? "");
    }
    return versions;
  }
}

/** The objects of Flux in a cluster. */
export async function observe(api: Pick<KubernetesApi, "get" | "list">): Promise<Observed> {
  const [source, kustomizations, helmReleases] = await Promise.all([
    api.get(sourceRef),
    api.list(kustomizeApi, "Kustomization"),
    api.list(helmApi, "HelmRelease"),
  ]);
  return { source, kustomizations, helmReleases };
}

/** Name of a ConfigMap or Secret → its version, empty where there is none. */
type Versions = ReadonlyMap<string, string>;

/** Whether an object that a layer substitutes changed; the layer cannot have read an object that did not exist. */
function isOutdated({ substitutes }: Member, before: Versions, now: Versions): boolean {
  return substitutes.some(({ ref, optional }) => {
    const [old, current] = [before.get(nameOf(ref)) ?? "", now.get(nameOf(ref)) ?? ""];
    return current !== old && (old !== "" || optional);
  });
}

/** Requests to reconcile; if the cluster does not answer a request, the next look reports that. */
class Requests {
  private readonly times = new Map<string, number>();
  private readonly made = new Set<string>();

  constructor(
    private readonly api: KubernetesApi,
    private readonly clock: Clock,
  ) {}

  /** Sends one request for a purpose. */
  async once(ref: ManifestRef, purpose: string): Promise<void> {
    const key = `${nameOf(ref)} ${purpose}`;
    if (!this.made.has(key) && (await this.again(ref))) this.made.add(key);
  }

  /** Sends a request as often as a retry makes sense. @returns whether the cluster accepted the request */
  async again(ref: ManifestRef): Promise<boolean> {
    const now = this.clock.now();
    if (now - (this.times.get(nameOf(ref)) ?? -Infinity) < retryMilliseconds) return false;
    this.times.set(nameOf(ref), now);
    return this.api.annotate(ref, { [requestAnnotation]: new Date(now).toISOString() }).then(
      () => true,
      () => false,
    );
  }
}

function expected(
  { channel }: Pick<GateInputs, "channel">,
  { digest, variables }: Partial<Target>,
): Expected {
  const repository = variables?.artifact_repository;
  return {
    revision: `${channel}@${digest ?? ""}`,
    ...(repository === undefined ? {} : { url: `oci://${repository}` }),
  };
}

function explain(failure: string, { helmReleases }: Observed): string {
  return [failure, ...reasonsOf(failure, helmReleases)].join("; ");
}

function isSame(one: Target["variables"], other: Target["variables"]): boolean {
  const [a, b] = [one, other].map((facts) => JSON.stringify(Object.entries(facts).sort()));
  return a === b;
}

/** The tag of the last Ready digest of a channel. */
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
