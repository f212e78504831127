import type { Clock } from "../../system/clock";
import {
  goneWith,
  type KubernetesApi,
  type Manifest,
  type ManifestRef,
} from "../../clients/kubernetes/client";
import { claim, fieldManager } from "./claim";
import { fluxNamespace, releaseFinalizers, suspendFlux } from "../../clients/flux/finalizers";

/** Where the namespace of Flux is. */
export interface FluxNamespaceInputs {
  readonly kubeconfig: string;
  /** Whether this project makes the cluster; see `goneWith`. */
  readonly ownCluster: boolean;
  /** Project and stack, as `ownerAnnotation` names them. */
  readonly owner: string;
  /** What Pulumi's Kubernetes provider applies into the namespace. */
  readonly owned: readonly ManifestRef[];
}

/** The namespace of Flux as it is there. */
export interface FluxNamespaceOutputs extends FluxNamespaceInputs {
  readonly name: string;
  /** Another one means that all that was in the namespace is lost. */
  readonly uid: string;
}

/** What the lifecycle asks of a Kubernetes API server. */
export type FluxNamespaceApi = Pick<KubernetesApi, "apply" | "get" | "list" | "merge" | "delete">;

const ref: ManifestRef = { apiVersion: "v1", kind: "Namespace", name: fluxNamespace };
/** How long a namespace may take to go once nothing of Flux holds it. */
const goneMilliseconds = 120_000;
const pollMilliseconds = 500;

/**
 * Makes, adopts and deletes the namespace of Flux.
 *
 * One that is being deleted stays for ever by itself: its objects wait for controllers that went with it. It is
 * cleared and made anew.
 */
export class FluxNamespaceLifecycle {
  constructor(
    private readonly api: FluxNamespaceApi,
    private readonly clock: Clock,
  ) {}

  async create(inputs: FluxNamespaceInputs): Promise<FluxNamespaceOutputs> {
    if (isGoing(await this.api.get(ref))) await this.clear("Clearing");
    const { name } = ref;
    // Flux and its operator label this namespace too; only its existence is applied.
    await this.api.apply({ ...{ apiVersion: "v1", kind: "Namespace" }, metadata: { name } }, fieldManager);
    for (const object of inputs.owned) await claim(this.api, object, inputs.owner);
    return { ...inputs, name, uid: (await this.api.get(ref))?.metadata.uid ?? "" };
  }

  /**
   * @returns undefined when the namespace is gone or going, or its cluster is
   * @throws Error when a cluster that is not this project's does not say
   */
  async read(state: FluxNamespaceOutputs): Promise<FluxNamespaceOutputs | undefined> {
    let found: Manifest | undefined;
    try {
      found = await this.api.get(ref);
    } catch (error) {
      goneWith(state.ownCluster, error);
      return undefined;
    }
    if (found === undefined || isGoing(found)) return undefined;
    return { ...state, uid: found.metadata.uid ?? "" };
  }

  /** Stops Flux, and removes it with its namespace; what it brought stays. */
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

/** What the namespace controller says it waits for. */
function remaining(namespace: Manifest | undefined): string {
  const { conditions = [] } = (namespace?.status ?? {}) as {
    conditions?: readonly { type: string; status: string; message?: string }[];
  };
  const waiting = conditions.filter(({ status }) => status === "True").map(({ message }) => message);
  return waiting.join(" ") || "the API server does not say why";
}
