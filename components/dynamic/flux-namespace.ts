import type { CustomResourceOptions, Output } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { fluxNamespace } from "../../clients/flux/finalizers";
import { KubernetesClient } from "../../clients/kubernetes/client";
import {
  FluxNamespaceLifecycle,
  type FluxNamespaceInputs,
  type FluxNamespaceOutputs,
} from "../../core/flux-system/namespace";
import { CheckedOutResource, providerOf, type Args } from "./provider";

/** The provider that {@link CheckedOutResource} loads. */
export const provider = providerOf<FluxNamespaceInputs, FluxNamespaceOutputs>({
  id: () => fluxNamespace,
  lifecycle: ({ kubeconfig }) =>
    new FluxNamespaceLifecycle(new KubernetesClient(kubeconfig), new SystemClock()),
});

/** The namespace of Flux, which is cleared when it is stuck in its own deletion. */
export class FluxNamespace extends CheckedOutResource<FluxNamespaceInputs> {
  declare readonly name: Output<string>;
  /** A different value means that all objects of the namespace are lost. */
  declare readonly uid: Output<string>;

  constructor(name: string, args: Args<FluxNamespaceInputs>, opts?: CustomResourceOptions) {
    super(
      {
        file: "flux-namespace",
        type: ["flux", "Namespace"],
        outputs: ["name", "uid"],
        secrets: ["kubeconfig"],
      },
      name,
      args,
      opts,
    );
  }
}
