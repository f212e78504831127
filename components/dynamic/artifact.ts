import { dynamic, type CustomResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { Crane } from "../../clients/registry/oci";
import { ArtifactLifecycle, type ArtifactInputs, type ArtifactOutputs } from "../../core/release/artifact";

class ArtifactProvider implements dynamic.ResourceProvider<ArtifactInputs, ArtifactOutputs> {
  async create(inputs: ArtifactInputs): Promise<dynamic.CreateResult<ArtifactOutputs>> {
    return { id: inputs.repository, outs: await this.lifecycle(inputs).create(inputs) };
  }

  async read(id: string, state?: ArtifactOutputs): Promise<dynamic.ReadResult<ArtifactOutputs>> {
    return state && (await this.lifecycle(state).exists(state)) ? { id, props: state } : {};
  }

  diff(_id: string, olds: ArtifactOutputs, news: ArtifactInputs): Promise<dynamic.DiffResult> {
    return Promise.resolve({ changes: this.lifecycle(news).diff(olds, news) });
  }

  async update(
    _id: string,
    _olds: ArtifactOutputs,
    news: ArtifactInputs,
  ): Promise<dynamic.UpdateResult<ArtifactOutputs>> {
    return { outs: await this.lifecycle(news).create(news) };
  }

  private lifecycle(inputs: ArtifactInputs): ArtifactLifecycle {
    return new ArtifactLifecycle(new Crane(inputs.insecure));
  }
}

/** Arguments of `Artifact`: `ArtifactInputs`, each of which may be an output. */
export type ArtifactArgs = { readonly [K in keyof ArtifactInputs]: Input<ArtifactInputs[K]> };

/** The gitops tree as a checked OCI artifact in the registry. */
export class Artifact extends dynamic.Resource {
  /** `sha256:…`. */
  declare readonly digest: Output<string>;

  constructor(name: string, args: ArtifactArgs, opts?: CustomResourceOptions) {
    super(new ArtifactProvider(), name, { ...args, digest: undefined }, opts, "release", "Artifact");
  }
}
