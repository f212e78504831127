import type { CustomResourceOptions, Output } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { KubernetesClient } from "../../clients/kubernetes/client";
import { Crane } from "../../clients/registry/oci";
import { GateLifecycle, type GateInputs, type GateOutputs } from "../../core/release/gate";
import type { LayerResult } from "../../core/release/wait";
import { CheckedOutResource, providerOf, type Args } from "./provider";

/** The provider that {@link CheckedOutResource} loads. */
export const provider = providerOf<GateInputs, GateOutputs>({
  id: ({ channel }) => channel,
  lifecycle: ({ kubeconfig, insecure }) =>
    new GateLifecycle(new KubernetesClient(kubeconfig), new Crane(insecure), new SystemClock()),
});

/** Arguments of `Gate`: `GateInputs`, each of which may be an output. */
export type GateArgs = Args<GateInputs>;

/**
 * The release gate: every layer Ready at the digest, or the channel back at the last good digest. The deletion of this
 * resource changes nothing in the cluster.
 */
export class Gate extends CheckedOutResource<GateInputs> {
  /** Whether every layer is Ready at the digest. */
  declare readonly ready: Output<boolean>;
  /** The layers, in the order in which they became Ready. */
  declare readonly layers: Output<LayerResult[]>;

  constructor(name: string, args: GateArgs, opts?: CustomResourceOptions) {
    super(
      { file: "gate", type: ["release", "Gate"], outputs: ["ready", "layers"], secrets: ["kubeconfig"] },
      name,
      args,
      opts,
    );
  }
}
