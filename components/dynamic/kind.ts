import { dynamic, type CustomResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { KubernetesClient } from "../../clients/kubernetes/client";
import { KindCli } from "../../clients/kind/client";
import {
  KindLifecycle,
  refusal,
  warning,
  type KindInputs,
  type KindOutputs,
} from "../../core/cluster/kind/lifecycle";

class KindProvider implements dynamic.ResourceProvider<KindInputs, KindOutputs> {
  async check(olds: KindInputs, news: KindInputs): Promise<dynamic.CheckResult<KindInputs>> {
    // For a cluster in state, `diff` reports the loss.
    const isNew = (olds as Partial<KindInputs>).name === undefined;
    // The resources that need the Docker Engine report that it does not answer.
    const findings = isNew
      ? await this.lifecycle()
          .check(news)
          .catch(() => [])
      : [];
    return { inputs: news, failures: findings.map((reason) => ({ property: "name", reason })) };
  }

  async create(inputs: KindInputs): Promise<dynamic.CreateResult<KindOutputs>> {
    return { id: inputs.name, outs: await this.lifecycle().create(inputs) };
  }

  async read(id: string, state?: KindOutputs): Promise<dynamic.ReadResult<KindOutputs>> {
    const props = state && (await this.lifecycle().read(state));
    return props === undefined ? {} : { id, props };
  }

  diff(_id: string, olds: KindOutputs, news: KindInputs): Promise<dynamic.DiffResult> {
    const { changes, replaces, reasons } = this.lifecycle().diff(olds, news);
    if (replaces.length > 0) {
      if (!news.allowReplace) {
        // Pulumi prints the stack of an error that `diff` throws.
        return Promise.reject(Object.assign(new Error(refusal(olds.name, reasons)), { stack: "" }));
      }
      console.warn(warning(olds.name, reasons));
    }
    return Promise.resolve({ changes, replaces, deleteBeforeReplace: true });
  }

  async update(
    _id: string,
    _olds: KindOutputs,
    news: KindInputs,
  ): Promise<dynamic.UpdateResult<KindOutputs>> {
    return { outs: await this.lifecycle().update(news) };
  }

  async delete(_id: string, state: KindOutputs): Promise<void> {
    await this.lifecycle().delete(state);
  }

  private lifecycle(): KindLifecycle {
    return new KindLifecycle(
      new KindCli(),
      (kubeconfig) => new KubernetesClient(kubeconfig),
      new SystemClock(),
    );
  }
}

/** Arguments of `Kind`: `KindInputs`; each of them may be an output. */
export type KindArgs = { readonly [K in keyof KindInputs]: Input<KindInputs[K]> };

/** A Kind cluster. */
export class Kind extends dynamic.Resource {
  /** Admin kubeconfig; a secret. */
  declare readonly kubeconfig: Output<string>;

  constructor(name: string, args: KindArgs, opts?: CustomResourceOptions) {
    super(
      new KindProvider(),
      name,
      { ...args, kubeconfig: undefined, running: undefined },
      { ...opts, additionalSecretOutputs: ["kubeconfig"] },
      "cluster",
      "Kind",
    );
  }
}
