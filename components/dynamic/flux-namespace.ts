import { dynamic, type CustomResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { KubernetesClient, nameOf } from "../../clients/kubernetes/client";
import {
  FluxNamespaceLifecycle,
  type FluxNamespaceInputs,
  type FluxNamespaceOutputs,
} from "../../core/flux-system/namespace";

class FluxNamespaceProvider implements dynamic.ResourceProvider<FluxNamespaceInputs, FluxNamespaceOutputs> {
  async create(inputs: FluxNamespaceInputs): Promise<dynamic.CreateResult<FluxNamespaceOutputs>> {
    const outs = await this.lifecycle(inputs).create(inputs);
    return { id: outs.name, outs };
  }

  async read(id: string, state?: FluxNamespaceOutputs): Promise<dynamic.ReadResult<FluxNamespaceOutputs>> {
    const props = state && (await this.lifecycle(state).read(state));
    return props === undefined ? {} : { id, props };
  }

  /** Another kubeconfig of the same cluster changes nothing; another cluster has no such namespace, or its own. */
  diff(_id: string, olds: FluxNamespaceOutputs, news: FluxNamespaceInputs): Promise<dynamic.DiffResult> {
    const told = ({ kubeconfig, ownCluster, owner, owned }: FluxNamespaceInputs) =>
      JSON.stringify([kubeconfig, ownCluster, owner, owned.map(nameOf)]);
    // A state from before owners existed has no owner.
    const changes = (olds as Partial<FluxNamespaceOutputs>).owned === undefined || told(olds) !== told(news);
    return Promise.resolve({ changes });
  }

  async update(
    _id: string,
    _olds: FluxNamespaceOutputs,
    news: FluxNamespaceInputs,
  ): Promise<dynamic.UpdateResult<FluxNamespaceOutputs>> {
    return { outs: await this.lifecycle(news).create(news) };
  }

  async delete(_id: string, state: FluxNamespaceOutputs): Promise<void> {
    await this.lifecycle(state).delete();
  }

  private lifecycle({ kubeconfig }: FluxNamespaceInputs): FluxNamespaceLifecycle {
    return new FluxNamespaceLifecycle(new KubernetesClient(kubeconfig), new SystemClock());
  }
}

/** Arguments of `FluxNamespace`: `FluxNamespaceInputs`, each of which may be an output. */
export type FluxNamespaceArgs = { readonly [K in keyof FluxNamespaceInputs]: Input<FluxNamespaceInputs[K]> };

/** The namespace of Flux, which is cleared when it is stuck in its own deletion. */
export class FluxNamespace extends dynamic.Resource {
  declare readonly name: Output<string>;
  /** A different value means that all objects of the namespace are lost. */
  declare readonly uid: Output<string>;

  constructor(name: string, args: FluxNamespaceArgs, opts?: CustomResourceOptions) {
    super(
      new FluxNamespaceProvider(),
      name,
      { ...args, name: undefined, uid: undefined },
      { ...opts, additionalSecretOutputs: ["kubeconfig"] },
      "flux",
      "Namespace",
    );
  }
}
