import type { Output } from "@pulumi/pulumi";

/** A Kubernetes cluster, whatever it is made of. */
export interface Cluster {
  /** Admin kubeconfig; a secret. */
  readonly kubeconfig: Output<string>;
  /** Addresses that load balancers may take, in CIDR form. */
  readonly loadBalancerCidr: Output<string>;
}
