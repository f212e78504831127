import { dynamic, type CustomResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { KubernetesClient } from "../../clients/kubernetes/client";
import { Crane } from "../../clients/registry/oci";
import { SopsCli } from "../../clients/sops/client";
import {
  GeneratedLifecycle,
  type GeneratedInputs,
  type GeneratedOutputs,
} from "../../core/secrets/generated";

class GeneratedSecretsProvider implements dynamic.ResourceProvider<GeneratedInputs, GeneratedOutputs> {
  async create(inputs: GeneratedInputs): Promise<dynamic.CreateResult<GeneratedOutputs>> {
    return { id: "generated-secrets", outs: await this.lifecycle(inputs).create(inputs) };
  }

  diff(_id: string, olds: GeneratedOutputs, news: GeneratedInputs): Promise<dynamic.DiffResult> {
    return Promise.resolve({ changes: this.lifecycle(news).diff(olds, news) });
  }

  async update(
    _id: string,
    olds: GeneratedOutputs,
    news: GeneratedInputs,
  ): Promise<dynamic.UpdateResult<GeneratedOutputs>> {
    return { outs: await this.lifecycle(news).update(olds, news) };
  }

  private lifecycle({ insecure, kubeconfig }: GeneratedInputs): GeneratedLifecycle {
    return new GeneratedLifecycle(new SopsCli(), new Crane(insecure), new KubernetesClient(kubeconfig));
  }
}

/** Arguments of `GeneratedSecrets`: `GeneratedInputs`, each of which may be an output. */
export type GeneratedSecretsArgs = { readonly [K in keyof GeneratedInputs]: Input<GeneratedInputs[K]> };

/** The generated secrets of a stack as SOPS-encrypted files, to be added to the artifact. */
export class GeneratedSecrets extends dynamic.Resource {
  /** Path relative to the gitops tree → encrypted content. */
  declare readonly encrypted: Output<Record<string, string>>;

  constructor(name: string, args: GeneratedSecretsArgs, opts?: CustomResourceOptions) {
    super(
      new GeneratedSecretsProvider(),
      name,
      { ...args, encrypted: undefined, fingerprint: undefined },
      opts,
      "sops",
      "GeneratedSecrets",
    );
  }
}
