import type { CustomResourceOptions } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { KubernetesClient } from "../../clients/kubernetes/client";
import { Helm } from "../../clients/helm/chart";
import { SeedLifecycle, type SeedInputs, type SeedOutputs } from "../../core/flux-system/seed";
import { CheckedOutResource, providerOf, type Args } from "./provider";

/** The provider that {@link CheckedOutResource} loads. */
export const provider = providerOf<SeedInputs, SeedOutputs>({
  id: ({ object: { kind, namespace, name } }) => `${kind}/${namespace}/${name}`,
  lifecycle: (values) =>
    new SeedLifecycle(
      (namespace) => new KubernetesClient(values.kubeconfig, namespace),
      new Helm("chartMirror" in values ? values.chartMirror : undefined),
      new SystemClock(),
    ),
});

/** Arguments of `Seed`: `SeedInputs`; each of them may be an output. */
export type SeedArgs = Args<SeedInputs>;

/** An object of the gitops tree that the cluster needs before Flux can apply it. */
export class Seed extends CheckedOutResource<SeedInputs> {
  constructor(name: string, args: SeedArgs, opts?: CustomResourceOptions) {
    super(
      {
        file: "seed",
        type: ["seed", "Seed"],
        outputs: ["sentinel", "fieldManager", "fingerprint"],
        secrets: ["kubeconfig"],
      },
      name,
      args,
      opts,
    );
  }
}
