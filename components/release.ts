import { ComponentResource, type ComponentResourceOptions, type Output, type Resource } from "@pulumi/pulumi";
import { Artifact, type ArtifactArgs } from "./dynamic/artifact";
import { Gate, type GateArgs } from "./dynamic/gate";
import type { LayerResult } from "../core/release/wait";

/** Arguments of `Release`. */
export interface ReleaseArgs {
  readonly artifact: ArtifactArgs;
  /** The place where the artifact must become Ready, and the timing; the other arguments describe the artifact. */
  readonly gate: Omit<GateArgs, "repository" | "insecure" | "digest">;
  /**
   * The resources that the cluster needs before the gate opens: Flux and its secrets. The artifact does not wait for
   * them.
   */
  readonly after: readonly Resource[];
}

/** A release: artifact, channel tag and gate. */
export class Release extends ComponentResource {
  /** `sha256:…` of the artifact. */
  readonly digest: Output<string>;
  readonly ready: Output<boolean>;
  readonly layers: Output<LayerResult[]>;

  constructor(name: string, args: ReleaseArgs, opts?: ComponentResourceOptions) {
    super("platform:release:Release", name, {}, opts);
    const { repository, insecure } = args.artifact;
    const artifact = new Artifact(`${name}-artifact`, args.artifact, { parent: this });
    const gate = new Gate(
      `${name}-gate`,
      { ...args.gate, repository, insecure, digest: artifact.digest },
      { parent: this, dependsOn: [...args.after] },
    );
    this.digest = artifact.digest;
    this.ready = gate.ready;
    this.layers = gate.layers;
    this.registerOutputs({ digest: this.digest, ready: this.ready, layers: this.layers });
  }
}
