import type { Output, Resource } from "@pulumi/pulumi";

/** A Kubernetes cluster of any kind. */
export interface Cluster {
  /** Admin kubeconfig; a secret. */
  readonly kubeconfig: Output<string>;
  /** Addresses that load balancers may take, in CIDR form. */
  readonly loadBalancerCidr: Output<string>;
  /** The resource whose deletion deletes everything in the cluster; undefined for a cluster that stays. */
  readonly container?: Resource;
}
