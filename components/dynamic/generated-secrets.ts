import type { CustomResourceOptions, Output } from "@pulumi/pulumi";
import { KubernetesClient } from "../../clients/kubernetes/client";
import { Crane } from "../../clients/registry/oci";
import { SopsCli } from "../../clients/sops/client";
import {
  GeneratedLifecycle,
  type GeneratedInputs,
  type GeneratedOutputs,
} from "../../core/secrets/generated";
import { CheckedOutResource, providerOf, type Args } from "./provider";

/** The provider that {@link CheckedOutResource} loads. */
export const provider = providerOf<GeneratedInputs, GeneratedOutputs>({
  id: () => "generated-secrets",
  lifecycle: ({ insecure, kubeconfig }: GeneratedInputs) =>
    new GeneratedLifecycle(new SopsCli(), new Crane(insecure), new KubernetesClient(kubeconfig)),
});

/** Arguments of `GeneratedSecrets`: `GeneratedInputs`, each of which may be an output. */
export type GeneratedSecretsArgs = Args<GeneratedInputs>;

/** The generated secrets of a stack as SOPS-encrypted files, to be added to the artifact. */
export class GeneratedSecrets extends CheckedOutResource<GeneratedInputs> {
  /** Path relative to the gitops tree → encrypted content. */
  declare readonly encrypted: Output<Record<string, string>>;

  constructor(name: string, args: GeneratedSecretsArgs, opts?: CustomResourceOptions) {
    super(
      {
        file: "generated-secrets",
        type: ["sops", "GeneratedSecrets"],
        outputs: ["encrypted", "fingerprint"],
      },
      name,
      args,
      opts,
    );
  }
}
