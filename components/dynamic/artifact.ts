import { dynamic, type CustomResourceOptions, type Output } from "@pulumi/pulumi";
import { Crane } from "../../clients/registry/oci";
import { ArtifactLifecycle, type ArtifactInputs, type ArtifactOutputs } from "../../core/release/artifact";
import { checkedOut, providerOf, type Args } from "./provider";

/** The provider that {@link checkedOut} loads. */
export const provider = providerOf<ArtifactInputs, ArtifactOutputs>({
  id: ({ repository }) => repository,
  lifecycle: ({ insecure }) => new ArtifactLifecycle(new Crane(insecure)),
});

/** Arguments of `Artifact`: `ArtifactInputs`, each of which may be an output. */
export type ArtifactArgs = Args<ArtifactInputs>;

/** The gitops tree as a checked OCI artifact in the registry. */
export class Artifact extends dynamic.Resource {
  /** `sha256:…`. */
  declare readonly digest: Output<string>;

  constructor(name: string, args: ArtifactArgs, opts?: CustomResourceOptions) {
    super(checkedOut("artifact"), name, { ...args, digest: undefined }, opts, "release", "Artifact");
  }
}
