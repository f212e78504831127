import type { Output, Resource } from "@pulumi/pulumi";
import type { PlatformConfig } from "../../core/settings/config";
import type { Network } from "../dynamic/network";

/** A Kubernetes cluster of any kind. */
export interface Cluster {
  /** Admin kubeconfig; a secret. */
  readonly kubeconfig: Output<string>;
  /** Addresses that load balancers may take, in CIDR form. */
  readonly loadBalancerCidr: Output<string>;
  /** The resource whose deletion deletes everything in the cluster; undefined for a cluster that stays. */
  readonly container?: Resource;
}

/** Arguments of a cluster of any kind. */
export interface ClusterArgs<Config> extends Pick<
  PlatformConfig,
  "stack" | "owner" | "directory" | "registry"
> {
  /** The settings of `platform:cluster`. */
  readonly config: Config;
  /** Docker network of nodes on this machine; undefined for another kind. */
  readonly network: Network | undefined;
  /** Admin kubeconfig of a cluster that exists; undefined for another kind. */
  readonly kubeconfig: string | undefined;
  /** The resource that comes before everything in the cluster. */
  readonly after: Resource;
}
