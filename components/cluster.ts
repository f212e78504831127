import type { Output, Resource } from "@pulumi/pulumi";

/** A Kubernetes cluster, whatever it is made of. */
export interface Cluster {
  /** Admin kubeconfig; a secret. */
  readonly kubeconfig: Output<string>;
  /** Addresses that load balancers may take, in CIDR form. */
  readonly loadBalancerCidr: Output<string>;
  /** What takes all that is in the cluster with it when it is deleted; undefined for one that stays. */
  readonly container?: Resource;
}
