import { dynamic, type CustomResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { KubernetesClient } from "../../kubernetes";
import { KindCli } from "./client";
import { KindLifecycle, type KindInputs, type KindOutputs } from "./lifecycle";

class KindProvider implements dynamic.ResourceProvider<KindInputs, KindOutputs> {
  async create(inputs: KindInputs): Promise<dynamic.CreateResult<KindOutputs>> {
    return { id: inputs.name, outs: await this.lifecycle().create(inputs) };
  }

  async read(id: string, state?: KindOutputs): Promise<dynamic.ReadResult<KindOutputs>> {
    const props = state && (await this.lifecycle().read(state));
    return props === undefined ? {} : { id, props };
  }

  diff(_id: string, olds: KindOutputs, news: KindInputs): Promise<dynamic.DiffResult> {
    const replaces = this.lifecycle().diff(olds, news);
    return Promise.resolve({ changes: replaces.length > 0, replaces, deleteBeforeReplace: true });
  }

  async delete(_id: string, state: KindOutputs): Promise<void> {
    await this.lifecycle().delete(state);
  }

  private lifecycle(): KindLifecycle {
    return new KindLifecycle(new KindCli(), (kubeconfig) => new KubernetesClient(kubeconfig));
  }
}

/** Arguments of `Kind`: `KindInputs`, each of which may be an output. */
export type KindArgs = { readonly [K in keyof KindInputs]: Input<KindInputs[K]> };

/** A Kind cluster. */
export class Kind extends dynamic.Resource {
  /** Admin kubeconfig; a secret. */
  declare readonly kubeconfig: Output<string>;
  /** Addresses that load balancers may take, in CIDR form. */
  declare readonly loadBalancerCidr: Output<string>;

  constructor(name: string, args: KindArgs, opts?: CustomResourceOptions) {
    super(
      new KindProvider(),
      name,
      { ...args, kubeconfig: undefined, loadBalancerCidr: undefined },
      { ...opts, additionalSecretOutputs: ["kubeconfig"] },
      "cluster",
      "Kind",
    );
  }
}
