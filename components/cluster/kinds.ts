import type { ComponentResourceOptions } from "@pulumi/pulumi";
import type { ClusterConfig } from "../../core/cluster/kinds";
import type { Cluster, ClusterArgs } from "./cluster";
import { ExistingCluster } from "./existing";
import { KindCluster } from "./kind";

type Component<Config> = new (
  name: string,
  args: ClusterArgs<Config>,
  opts?: ComponentResourceOptions,
) => Cluster;

/** The components of the kinds that `core/cluster/kinds.ts` registers. */
const components: {
  readonly [Kind in ClusterConfig["kind"]]: Component<Extract<ClusterConfig, { kind: Kind }>>;
} = {
  kind: KindCluster,
  existing: ExistingCluster,
};

/** Makes the cluster of a stack. */
export function clusterOf(
  name: string,
  args: ClusterArgs<ClusterConfig>,
  opts: ComponentResourceOptions,
): Cluster {
  return new (components[args.config.kind] as Component<ClusterConfig>)(name, args, opts);
}
