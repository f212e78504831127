import {
  ComponentResource,
  type ComponentResourceOptions,
  type Input,
  type Output,
  type Resource,
} from "@pulumi/pulumi";
import { Artifact, type ArtifactArgs } from "./artifact/resource";
import { Gate } from "./gate/resource";
import type { LayerResult } from "./gate/lifecycle";

/** Arguments of `Release`: those of its artifact, and where it must become Ready. */
export interface ReleaseArgs extends ArtifactArgs {
  readonly kubeconfig: Input<string>;
  /** Whether this project makes the cluster. */
  readonly ownCluster: boolean;
  /** Of the namespace of Flux. */
  readonly namespaceUid: Input<string>;
  /** The tag that the cluster follows. */
  readonly channel: Input<string>;
  /** Data of ConfigMap `platform-runtime`, which must be in the cluster. */
  readonly variables: Input<Record<string, string>>;
  /** How long the release may take until every layer is Ready. */
  readonly timeoutSeconds: Input<number>;
  /** How many revisions the registry keeps; 0 keeps them all. */
  readonly keep: Input<number>;
  /** What must be in the cluster before the gate opens: Flux and its secrets. The artifact does not wait for it. */
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
    const {
      kubeconfig,
      ownCluster,
      namespaceUid,
      channel,
      variables,
      timeoutSeconds,
      keep,
      after,
      ...artifactArgs
    } = args;
    const artifact = new Artifact(`${name}-artifact`, artifactArgs, { parent: this });
    const gate = new Gate(
      `${name}-gate`,
      {
        kubeconfig,
        ownCluster,
        namespaceUid,
        channel,
        variables,
        timeoutSeconds,
        keep,
        repository: args.repository,
        insecure: args.insecure,
        digest: artifact.digest,
      },
      { parent: this, dependsOn: [...after] },
    );
    this.digest = artifact.digest;
    this.ready = gate.ready;
    this.layers = gate.layers;
    this.registerOutputs({ digest: this.digest, ready: this.ready, layers: this.layers });
  }
}
