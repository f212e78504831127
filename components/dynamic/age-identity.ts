import type { CustomResourceOptions, dynamic, Output } from "@pulumi/pulumi";
import { SopsCli } from "../../clients/sops/client";
import { textOf } from "../../core/findings/finding";
import { IdentityLifecycle, type IdentityInputs, type IdentityOutputs } from "../../core/secrets/identity";
import { CheckedOutResource, providerOf, type Args } from "./provider";

const lifecycle = () => new IdentityLifecycle(new SopsCli(), process.env);

/** The provider that {@link CheckedOutResource} loads. */
export const provider: dynamic.ResourceProvider<IdentityInputs, IdentityOutputs> = {
  ...providerOf<IdentityInputs, IdentityOutputs>({ id: ({ stack }) => stack, lifecycle }),
  check: async (_olds, news) => {
    const findings = await lifecycle().check(news);
    return {
      inputs: news,
      failures: findings.map((finding) => ({ property: "identity", reason: textOf(finding) })),
    };
  },
};

/** The age identity of a stack; it depends on nothing, so a run refuses a wrong identity before it makes anything. */
export class AgeIdentity extends CheckedOutResource<IdentityInputs> {
  /** The public halves, `age1…`. */
  declare readonly recipients: Output<string[]>;
  /** The private half; a secret. */
  declare readonly identity: Output<string>;

  constructor(name: string, args: Args<IdentityInputs>, opts?: CustomResourceOptions) {
    super(
      {
        file: "age-identity",
        type: ["sops", "AgeIdentity"],
        outputs: ["recipients", "identity"],
        secrets: ["identity", "key"],
      },
      name,
      args,
      opts,
    );
  }
}
