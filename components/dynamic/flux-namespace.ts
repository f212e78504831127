import { dynamic, type CustomResourceOptions, type Output } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { fluxNamespace } from "../../clients/flux/finalizers";
import { KubernetesClient, nameOf } from "../../clients/kubernetes/client";
import {
  FluxNamespaceLifecycle,
  type FluxNamespaceInputs,
  type FluxNamespaceOutputs,
} from "../../core/flux-system/namespace";
import { checkedOut, providerOf, type Args } from "./provider";

/** The provider that {@link checkedOut} loads. */
export const provider: dynamic.ResourceProvider<FluxNamespaceInputs, FluxNamespaceOutputs> = {
  ...providerOf<FluxNamespaceInputs, FluxNamespaceOutputs>({
    id: () => fluxNamespace,
    lifecycle: ({ kubeconfig }) =>
      new FluxNamespaceLifecycle(new KubernetesClient(kubeconfig), new SystemClock()),
  }),
  /** Another kubeconfig of the same cluster changes nothing; another cluster has no such namespace, or its own. */
  diff: (_id, olds, news) => {
    const told = ({ kubeconfig, ownCluster, owner, owned }: FluxNamespaceInputs) =>
      JSON.stringify([kubeconfig, ownCluster, owner, owned.map(nameOf)]);
    // A state from before owners existed has no owner.
    const changes = (olds as Partial<FluxNamespaceOutputs>).owned === undefined || told(olds) !== told(news);
    return Promise.resolve({ changes });
  },
};

/** The namespace of Flux, which is cleared when it is stuck in its own deletion. */
export class FluxNamespace extends dynamic.Resource {
  declare readonly name: Output<string>;
  /** A different value means that all objects of the namespace are lost. */
  declare readonly uid: Output<string>;

  constructor(name: string, args: Args<FluxNamespaceInputs>, opts?: CustomResourceOptions) {
    super(
      checkedOut("flux-namespace"),
      name,
      { ...args, name: undefined, uid: undefined },
      { ...opts, additionalSecretOutputs: ["kubeconfig"] },
      "flux",
      "Namespace",
    );
  }
}
