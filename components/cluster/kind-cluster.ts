import { ComponentResource, type ComponentResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { stringify } from "yaml";
import type { Cluster } from "./cluster";
import { owner, ownerLabel } from "./kind/lifecycle";
import { Kind } from "./kind/resource";

/** A Kind cluster of the stack; plain values shape Kind's configuration. */
export interface KindClusterArgs {
  /** Name of the cluster: its node containers are `<name>-control-plane`, `<name>-worker`. */
  readonly clusterName: string;
  /** Docker network of the nodes. */
  readonly network: Input<string>;
  /** Node image with its tag or digest. @default Kind's own */
  readonly nodeImage?: string;
  /** Nodes beside the control plane. @default 0 */
  readonly workers?: number;
  /** @default 10.244.0.0/16 */
  readonly podSubnet?: string;
  /** @default 10.96.0.0/16 */
  readonly serviceSubnet?: string;
}

/** A local cluster without CNI and kube-proxy: Cilium, a seed, is both. */
export class KindCluster extends ComponentResource implements Cluster {
  readonly kubeconfig: Output<string>;
  readonly loadBalancerCidr: Output<string>;

  constructor(name: string, args: KindClusterArgs, opts?: ComponentResourceOptions) {
    super("platform:cluster:KindCluster", name, {}, opts);
    const kind = new Kind(
      `${name}-kind`,
      { name: args.clusterName, network: args.network, config: kindConfig(args) },
      { parent: this },
    );
    this.kubeconfig = kind.kubeconfig;
    this.loadBalancerCidr = kind.loadBalancerCidr;
    this.registerOutputs({ kubeconfig: this.kubeconfig, loadBalancerCidr: this.loadBalancerCidr });
  }
}

/** Kind's configuration file. Source: https://kind.sigs.k8s.io/docs/user/configuration/ */
export function kindConfig(args: KindClusterArgs): string {
  const node = (role: "control-plane" | "worker") => ({
    role,
    labels: { [ownerLabel]: owner },
    ...(args.nodeImage === undefined ? {} : { image: args.nodeImage }),
  });
  return stringify({
    kind: "Cluster",
    apiVersion: "kind.x-k8s.io/v1alpha4",
    networking: {
      disableDefaultCNI: true,
      kubeProxyMode: "none",
      podSubnet: args.podSubnet ?? "10.244.0.0/16",
      serviceSubnet: args.serviceSubnet ?? "10.96.0.0/16",
    },
    nodes: [node("control-plane"), ...Array.from({ length: args.workers ?? 0 }, () => node("worker"))],
  });
}
