import type { CustomResourceOptions, Output } from "@pulumi/pulumi";
import { Crane } from "../../clients/registry/oci";
import { ArtifactLifecycle, type ArtifactInputs, type ArtifactOutputs } from "../../core/release/artifact";
import { CheckedOutResource, providerOf, type Args } from "./provider";

/** The provider that {@link CheckedOutResource} loads. */
export const provider = providerOf<ArtifactInputs, ArtifactOutputs>({
  id: ({ repository }) => repository,
  lifecycle: ({ insecure }) => new ArtifactLifecycle(new Crane(insecure)),
});

/** Arguments of `Artifact`: `ArtifactInputs`, each of which may be an output. */
export type ArtifactArgs = Args<ArtifactInputs>;

/** The gitops tree as a checked OCI artifact in the registry. */
export class Artifact extends CheckedOutResource<ArtifactInputs> {
  /** `sha256:…`. */
  declare readonly digest: Output<string>;

  constructor(name: string, args: ArtifactArgs, opts?: CustomResourceOptions) {
    super({ file: "artifact", type: ["release", "Artifact"], outputs: ["digest"] }, name, args, opts);
  }
}
