import { output, secret, type Output } from "@pulumi/pulumi";
import type { ExistingSettings } from "../../core/cluster/existing/settings";
import type { Cluster, ClusterArgs } from "./cluster";

/** A cluster that exists already: no resource of the stack. */
export class ExistingCluster implements Cluster {
  readonly kubeconfig: Output<string>;
  readonly loadBalancerCidr: Output<string>;

  constructor(_name: string, { config, kubeconfig, after }: ClusterArgs<ExistingSettings>) {
    if (kubeconfig === undefined) {
      throw new Error(
        'Composing the platform failed: a cluster of kind "existing" lacks its kubeconfig. Pass it to Platform.',
      );
    }
    // The value is known only after that resource: nothing is applied to the cluster before.
    this.kubeconfig = secret(output(after.urn).apply(() => kubeconfig));
    this.loadBalancerCidr = output(config.loadBalancerCidr);
  }
}
