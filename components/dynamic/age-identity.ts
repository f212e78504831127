import { dynamic, type CustomResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { SopsCli } from "../../clients/sops/client";
import { textOf } from "../../core/findings/finding";
import { IdentityLifecycle, type IdentityInputs, type IdentityOutputs } from "../../core/secrets/identity";

class AgeIdentityProvider implements dynamic.ResourceProvider<IdentityInputs, IdentityOutputs> {
  async check(_olds: IdentityInputs, news: IdentityInputs): Promise<dynamic.CheckResult<IdentityInputs>> {
    const findings = await this.lifecycle().check(news);
    return {
      inputs: news,
      failures: findings.map((finding) => ({ property: "identity", reason: textOf(finding) })),
    };
  }

  async create(inputs: IdentityInputs): Promise<dynamic.CreateResult<IdentityOutputs>> {
    return { id: inputs.stack, outs: await this.lifecycle().create(inputs) };
  }

  async read(id: string, state?: IdentityOutputs): Promise<dynamic.ReadResult<IdentityOutputs>> {
    const props = state && (await this.lifecycle().read(state));
    return props === undefined ? {} : { id, props };
  }

  diff(_id: string, olds: IdentityOutputs, news: IdentityInputs): Promise<dynamic.DiffResult> {
    return Promise.resolve({ changes: this.lifecycle().diff(olds, news) });
  }

  async update(
    _id: string,
    _olds: IdentityOutputs,
    news: IdentityInputs,
  ): Promise<dynamic.UpdateResult<IdentityOutputs>> {
    return { outs: await this.lifecycle().create(news) };
  }

  private lifecycle(): IdentityLifecycle {
    return new IdentityLifecycle(new SopsCli(), process.env);
  }
}

/** Arguments of `AgeIdentity`: `IdentityInputs`, each of which may be an output. */
export type AgeIdentityArgs = { readonly [K in keyof IdentityInputs]: Input<NonNullable<IdentityInputs[K]>> };

/** The age identity of a stack; it depends on nothing, so a run refuses a wrong identity before it makes anything. */
export class AgeIdentity extends dynamic.Resource {
  /** The public halves, `age1…`. */
  declare readonly recipients: Output<string[]>;
  /** The private half; a secret. */
  declare readonly identity: Output<string>;

  constructor(name: string, args: AgeIdentityArgs, opts?: CustomResourceOptions) {
    super(
      new AgeIdentityProvider(),
      name,
      { ...args, recipients: undefined, identity: undefined },
      { ...opts, additionalSecretOutputs: ["identity", "key"] },
      "sops",
      "AgeIdentity",
    );
  }
}
