import { dynamic, type CustomResourceOptions, type Input } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { KubernetesClient } from "../../clients/kubernetes/client";
import { Helm } from "../../clients/helm/chart";
import {
  fieldManagerOf,
  SeedLifecycle,
  type SeedInputs,
  type SeedOutputs,
} from "../../core/flux-system/seed";

class SeedProvider implements dynamic.ResourceProvider<SeedInputs, SeedOutputs> {
  async create(inputs: SeedInputs): Promise<dynamic.CreateResult<SeedOutputs>> {
    const { kind, namespace, name } = inputs.object;
    return { id: `${kind}/${namespace}/${name}`, outs: await this.seed(inputs) };
  }

  async read(id: string, state?: SeedOutputs): Promise<dynamic.ReadResult<SeedOutputs>> {
    if (state === undefined) return {};
    const lifecycle = new SeedLifecycle(
      (namespace) => new KubernetesClient(state.kubeconfig, namespace),
      new Helm(undefined),
      new SystemClock(),
    );
    return (await lifecycle.exists(state)) ? { id, props: state } : {};
  }

  /** Flux owns an applied seed; only another cluster, namespace or field manager needs a new one. */
  diff(_id: string, olds: SeedOutputs, news: SeedInputs): Promise<dynamic.DiffResult> {
    return Promise.resolve({
      changes:
        olds.kubeconfig !== news.kubeconfig ||
        olds.ownCluster !== news.ownCluster ||
        olds.namespaceUid !== news.namespaceUid ||
        olds.fieldManager !== fieldManagerOf(news.object.kind),
    });
  }

  async update(
    _id: string,
    _olds: SeedOutputs,
    news: SeedInputs,
  ): Promise<dynamic.UpdateResult<SeedOutputs>> {
    return { outs: await this.seed(news) };
  }

  private seed(inputs: SeedInputs): Promise<SeedOutputs> {
    return new SeedLifecycle(
      (namespace) => new KubernetesClient(inputs.kubeconfig, namespace),
      new Helm(inputs.chartMirror),
      new SystemClock(),
    ).create(inputs);
  }
}

/** One provider for all resources: Pulumi serialises each provider object again. */
const provider = new SeedProvider();

/** Arguments of `Seed`: `SeedInputs`; each of them may be an output. */
export type SeedArgs = { readonly [K in keyof SeedInputs]: Input<NonNullable<SeedInputs[K]>> | undefined };

/** An object of the gitops tree that the cluster needs before Flux can apply it. */
export class Seed extends dynamic.Resource {
  constructor(name: string, args: SeedArgs, opts?: CustomResourceOptions) {
    super(
      provider,
      name,
      { ...args, sentinel: undefined, fieldManager: undefined, fingerprint: undefined },
      { ...opts, additionalSecretOutputs: ["kubeconfig"] },
      "seed",
      "Seed",
    );
  }
}
