import { throwUnlessOwn, type KubernetesApi, type ManifestRef } from "../../clients/kubernetes/client";
import { fluxNamespace } from "../../clients/flux/finalizers";
import type { OciRegistry } from "../../clients/registry/oci";
import type { Clock } from "../../system/clock";
import { sentence } from "../../system/sentence";
import { runtimeName } from "../tree/check";
import { Channel } from "./channel";
import { look, oneRevision, type Expected } from "./look";
import { observe } from "./observe";
import { Wait, type LayerResult } from "./wait";

/** A release: the artifact of a channel, its facts, and the cluster in which it must become Ready. */
export interface GateInputs {
  readonly kubeconfig: string;
  /** Whether this project makes the cluster; see `throwUnlessOwn`. */
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

/** A release that is Ready. */
export interface GateOutputs extends GateInputs {
  /** Whether every layer is Ready at `digest`, at the last look. */
  readonly ready: boolean;
  readonly layers: readonly LayerResult[];
}

const runtimeRef: ManifestRef = {
  ...{ apiVersion: "v1", kind: "ConfigMap" },
  ...{ name: runtimeName, namespace: fluxNamespace },
};

/** A digest and its facts. */
interface Target {
  readonly digest: string;
  readonly variables: Readonly<Record<string, string>>;
}

/**
 * The release gate: it moves the channel to a digest and waits until every object of the release is Ready. If that
 * fails, it returns channel and facts to the last good release.
 *
 * The channel knows the last good digest: it is lost only with the artifacts. The facts of the last good release are in
 * Pulumi's state.
 */
export class GateLifecycle {
  constructor(
    private readonly api: KubernetesApi,
    private readonly registry: OciRegistry,
    private readonly clock: Clock,
  ) {}

  /**
   * Releases a digest.
   *
   * @param last the release that was Ready before, if it is known
   * @throws Error that names the failed object, its message, and the current digest of the channel
   */
  async create(inputs: GateInputs, last?: GateOutputs): Promise<GateOutputs> {
    const { digest, keep } = inputs;
    const channel = this.channel(inputs);
    const good = await this.lastGood(inputs, last);
    const wait = await this.prepareWait(inputs, inputs);
    await channel.moveTo(digest, this.clock.now());

    const failure = await wait.untilReady();
    if (failure !== undefined) {
      const operation = `Releasing ${digest} to channel "${inputs.channel}" failed: ${sentence(failure)}`;
      throw new Error(`${operation} ${await this.goBack(inputs, good)}`);
    }
    await channel.markReady(digest);
    await channel.prune(keep).catch((error: unknown) => {
      // The release is Ready all the same; the next one prunes again.
      console.warn(`Pruning old revisions failed: ${sentence((error as Error).message)}`);
    });
    return { ...inputs, ready: true, layers: [...wait.layers.values()] };
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
        // A registry that does not answer counts as another digest: the next release reports the error.
        this.channel(state)
          .serves()
          .catch(() => undefined),
        observe(this.api),
        this.api.get(runtimeRef),
      ]);
      const seen = look(observed, expectedOf(this.channel(state), state));
      if (seen === undefined) return undefined;
      const facts = (runtime?.data ?? {}) as Readonly<Record<string, string>>;
      // A state of an old version has no facts.
      const same = (state as Partial<GateOutputs>).variables === undefined || isSame(facts, state.variables);
      return { ...state, ready: seen.settled && tag === state.digest && same };
    } catch (error) {
      throwUnlessOwn(state.ownCluster, error);
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
    const facts = (last as Partial<GateOutputs> | undefined)?.variables;
    const variables = facts === undefined || Object.keys(facts).length === 0 ? inputs.variables : facts;
    const digest =
      last !== undefined && last.repository !== inputs.repository
        ? last.digest
        : await this.channel(inputs).lastGood();
    if (digest === undefined) return undefined;
    return digest === inputs.digest && isSame(variables, inputs.variables)
      ? undefined
      : { digest, variables };
  }

  /** Returns channel and facts to the last good release, despite failures on the way; reports the result. */
  private async goBack(inputs: GateInputs, good: Target | undefined): Promise<string> {
    if (good === undefined) return "There is no earlier good digest to return to; the channel stays.";
    const wait = await this.prepareWait(inputs, good);
    const facts = await this.restoreFacts(inputs.variables, good.variables).catch(
      (error: unknown) => ` Returning ConfigMap ${runtimeName} failed: ${sentence((error as Error).message)}`,
    );
    // If the repository itself is new, the old one stayed as it was.
    const isHere = isSameRepository(good, inputs);
    if (isHere) {
      try {
        const serves = await this.channel(inputs).returnTo(good.digest, inputs.digest);
        if (serves !== good.digest) {
          return `The channel stays: another release moved it to ${serves ?? "nothing"} meanwhile.${facts}`;
        }
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
      return `${returned} the cluster does not answer, so its state is not known. Bring the cluster back and run again.${facts}`;
    }
    const stuck = await wait.untilReady();
    const back =
      stuck === undefined
        ? `every layer is Ready on it again after ${wait.seconds().toFixed(1)} s`
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

  /** A wait for a target, to be made before the channel or the facts change. */
  private prepareWait(inputs: GateInputs, target: Target): Promise<Wait> {
    const channel = this.channel(inputs);
    return new Wait(this.api, this.clock, {
      ...{ digest: target.digest, expected: expectedOf(channel, target) },
      channel: isSameRepository(target, inputs) ? channel : undefined,
      timeoutSeconds: inputs.timeoutSeconds,
    }).prepare();
  }

  private channel({ repository, channel }: GateInputs): Channel {
    return new Channel(this.registry, repository, channel);
  }
}

function expectedOf(channel: Channel, { digest, variables }: Target): Expected {
  const repository = (variables as Partial<Target["variables"]> | undefined)?.artifact_repository;
  return {
    ...oneRevision(channel.revision(digest)),
    ...(repository === undefined ? {} : { url: `oci://${repository}` }),
  };
}

/** Whether the clusters of both follow the same repository. */
function isSameRepository(one: Target, other: Target): boolean {
  return one.variables.artifact_repository === other.variables.artifact_repository;
}

function isSame(one: Target["variables"], other: Target["variables"]): boolean {
  const [a, b] = [one, other].map((facts) => JSON.stringify(Object.entries(facts).sort()));
  return a === b;
}
