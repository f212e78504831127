import { dynamic, type CustomResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { KubernetesClient } from "../../clients/kubernetes/client";
import { Crane } from "../../clients/registry/oci";
import { GateLifecycle, type GateInputs, type GateOutputs, type LayerResult } from "../../core/release/gate";

class GateProvider implements dynamic.ResourceProvider<GateInputs, GateOutputs> {
  async create(inputs: GateInputs): Promise<dynamic.CreateResult<GateOutputs>> {
    return { id: inputs.channel, outs: await this.lifecycle(inputs).release(inputs) };
  }

  async read(id: string, state?: GateOutputs): Promise<dynamic.ReadResult<GateOutputs>> {
    const props = state && (await this.lifecycle(state).read(state));
    return props === undefined ? {} : { id, props };
  }

  diff(_id: string, olds: GateOutputs, news: GateInputs): Promise<dynamic.DiffResult> {
    return Promise.resolve({ changes: this.lifecycle(news).diff(olds, news) });
  }

  async update(_id: string, olds: GateOutputs, news: GateInputs): Promise<dynamic.UpdateResult<GateOutputs>> {
    return { outs: await this.lifecycle(news).release(news, olds) };
  }

  private lifecycle(inputs: GateInputs): GateLifecycle {
    return new GateLifecycle(
      new KubernetesClient(inputs.kubeconfig),
      new Crane(inputs.insecure),
      new SystemClock(),
    );
  }
}

/** Arguments of `Gate`: `GateInputs`, each of which may be an output. */
export type GateArgs = { readonly [K in keyof GateInputs]: Input<GateInputs[K]> };

/**
 * The release gate: every layer Ready at the digest, or the channel back at the last good digest. The deletion of this
 * resource changes nothing in the cluster.
 */
export class Gate extends dynamic.Resource {
  /** Whether every layer is Ready at the digest. */
  declare readonly ready: Output<boolean>;
  /** The layers, in the order in which they became Ready. */
  declare readonly layers: Output<LayerResult[]>;

  constructor(name: string, args: GateArgs, opts?: CustomResourceOptions) {
    super(
      new GateProvider(),
      name,
      { ...args, ready: undefined, layers: undefined },
      { ...opts, additionalSecretOutputs: ["kubeconfig"] },
      "release",
      "Gate",
    );
  }
}
