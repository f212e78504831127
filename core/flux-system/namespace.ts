import type { Clock } from "../../system/clock";
import {
  nameOf,
  throwUnlessOwn,
  type KubernetesApi,
  type Manifest,
  type ManifestRef,
} from "../../clients/kubernetes/client";
import type { Condition } from "../../clients/kubernetes/condition";
import { claim, fieldManager } from "./claim";
import { fluxNamespace, releaseFinalizers, suspendFlux } from "../../clients/flux/finalizers";

/** The place of the namespace of Flux. */
export interface FluxNamespaceInputs {
  readonly kubeconfig: string;
  /** Whether this project makes the cluster; see `throwUnlessOwn`. */
  readonly ownCluster: boolean;
  /** Project and stack, as `ownerAnnotation` names them. */
  readonly owner: string;
  /** The objects that Pulumi's Kubernetes provider applies into the namespace. */
  readonly owned: readonly ManifestRef[];
}

/** The existing namespace of Flux. */
export interface FluxNamespaceOutputs extends FluxNamespaceInputs {
  readonly name: string;
  /** A different value means that all objects of the namespace are lost. */
  readonly uid: string;
}

/** The calls of the lifecycle to a Kubernetes API server. */
export type FluxNamespaceApi = Pick<KubernetesApi, "apply" | "get" | "list" | "merge" | "delete">;

const ref: ManifestRef = { apiVersion: "v1", kind: "Namespace", name: fluxNamespace };
/** The time in which a namespace must disappear when no object of Flux holds it any more. */
const goneMilliseconds = 120_000;
const pollMilliseconds = 500;

/**
 * Makes, adopts and deletes the namespace of Flux.
 *
 * A namespace in deletion stays for ever by itself, because its objects wait for controllers that were deleted with it.
 * The lifecycle clears it and makes a new one.
 */
export class FluxNamespaceLifecycle {
  constructor(
    private readonly api: FluxNamespaceApi,
    private readonly clock: Clock,
  ) {}

  async create(inputs: FluxNamespaceInputs): Promise<FluxNamespaceOutputs> {
    if (isGoing(await this.api.get(ref))) await this.clear("Clearing");
    const { name } = ref;
    // Flux and its operator label this namespace too, so only its existence is applied.
    await this.api.apply({ ...{ apiVersion: "v1", kind: "Namespace" }, metadata: { name } }, fieldManager);
    for (const object of inputs.owned) await claim(this.api, object, inputs.owner);
    return { ...inputs, name, uid: (await this.api.get(ref))?.metadata.uid ?? "" };
  }

  /**
   * @returns undefined when the namespace is gone or in deletion, or its cluster is gone
   * @throws Error when a cluster that is not this project's does not answer
   */
  async read(state: FluxNamespaceOutputs): Promise<FluxNamespaceOutputs | undefined> {
    let found: Manifest | undefined;
    try {
      found = await this.api.get(ref);
    } catch (error) {
      throwUnlessOwn(state.ownCluster, error);
      return undefined;
    }
    if (found === undefined || isGoing(found)) return undefined;
    return { ...state, uid: found.metadata.uid ?? "" };
  }

  /** Another kubeconfig of the same cluster changes nothing; another cluster has no such namespace, or its own. */
  diff(olds: FluxNamespaceInputs, news: FluxNamespaceInputs): boolean {
    const told = ({ kubeconfig, ownCluster, owner, owned }: Partial<FluxNamespaceInputs>) =>
      // A state from before owners existed has no owner.
      JSON.stringify([kubeconfig, ownCluster, owner, owned?.map(nameOf)]);
    return told(olds) !== told(news);
  }

  /** Stops Flux, and removes it with its namespace; the objects that Flux applied stay. */
  async delete(): Promise<void> {
    if ((await this.api.get(ref)) === undefined) return;
    await suspendFlux(this.api);
    await this.api.delete(ref);
    await this.clear("Deleting");
  }

  private async clear(operation: string): Promise<void> {
    const deadline = this.clock.now() + goneMilliseconds;
    for (;;) {
      const found = await this.api.get(ref);
      if (!isGoing(found)) return;
      if (this.clock.now() > deadline) {
        throw new Error(
          `${operation} namespace "${fluxNamespace}" failed: it is not gone after ${goneMilliseconds / 1000} s (${remaining(found)}). Remove what holds it and run again.`,
        );
      }
      await releaseFinalizers(this.api);
      await this.clock.sleep(pollMilliseconds);
    }
  }
}

function isGoing(namespace: Manifest | undefined): boolean {
  return namespace?.metadata.deletionTimestamp !== undefined;
}

/** The reasons for the delay, from the namespace controller. */
function remaining(namespace: Manifest | undefined): string {
  const { conditions = [] } = (namespace?.status ?? {}) as { conditions?: readonly Condition[] };
  const waiting = conditions.filter(({ status }) => status === "True").map(({ message }) => message);
  return waiting.join(" ") || "the API server does not say why";
}
