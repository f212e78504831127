import type * as z from "zod";
import type { ToolName } from "../../tools/tools";
import type { SettingsContext } from "../fields/fields";
import type { Finding } from "../findings/finding";
import type { Host, Need } from "../host/host";
import type { TreeSource } from "../tree/source";

/** A kind of cluster: everything about it that needs no Pulumi. Its component is in `components/cluster/`. */
export interface ClusterKind<Settings> {
  /** `platform:cluster.kind`. */
  readonly name: string;
  /** The schema of `platform:cluster`. */
  settings(context: SettingsContext): z.ZodType<Settings>;
  /** Whether the cluster exists before the stack does, and stays after it. */
  readonly exists: boolean;
  /** Whether the nodes are containers of this machine. */
  readonly onThisMachine: boolean;
  /** The tools that its client runs. */
  readonly tools: readonly ToolName[];
  /** The checks of what the cluster needs. @param docker whether Docker answers */
  needs(settings: Settings, host: Host, owner: string, docker: boolean): Promise<Need[]>[];
  /** The admin kubeconfig of a cluster that exists. @throws Error when the kubeconfig cannot be read */
  kubeconfig(settings: Settings): Promise<string>;
  /** The addresses for load balancers in CIDR form, if the settings have them. */
  loadBalancerCidr(settings: Settings): string | undefined;
  /** The faults in a tree that such a cluster must not get. */
  checkTree(settings: Settings, source: TreeSource, cluster: string): Promise<Finding[]>;
  /** The settings in a rehearsal, whose control plane stands in for the cluster. */
  rehearsed(settings: object & { readonly cni?: unknown }, kubeconfigFile: string): object;
  /** The stand-ins of its Pulumi resources in a rehearsal. */
  readonly standIns: readonly ClusterStandIn[];
}

/** The stand-in of a Pulumi resource of a cluster kind. */
export interface ClusterStandIn {
  /** The resource's type token. */
  readonly type: string;
  /** The name for a person: "Kind cluster local". */
  describe(inputs: Readonly<Record<string, unknown>>): string;
  /** The outputs of the resource. */
  outputs(controlPlane: { readonly kubeconfig: string }): Record<string, unknown>;
}
