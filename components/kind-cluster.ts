import {
  ComponentResource,
  type ComponentResourceOptions,
  type Input,
  type Output,
  type Resource,
} from "@pulumi/pulumi";
import type { Network } from "./dynamic/network";
import { lastAddresses } from "../core/cluster/kind/addresses";
import type { Cluster } from "./cluster";
import {
  apiServerFiles,
  defaultNodeImage,
  kindConfig,
  type ApiServerArgs,
  type KindConfigArgs,
} from "../core/cluster/kind/config";
import { Kind } from "./dynamic/kind";

/** A Kind cluster of the stack; plain values shape Kind's configuration. */
export interface KindClusterArgs extends KindConfigArgs, ApiServerArgs {
  /** Name of the cluster: its node containers are `<name>-control-plane`, `<name>-worker`. */
  readonly clusterName: string;
  /** The owner of the cluster: `project/stack`. */
  readonly owner: string;
  /** Docker network of the nodes. */
  readonly network: Network;
  /** Node image with its tag or digest. @default `defaultNodeImage` */
  readonly nodeImage?: string;
  /** Pull the node image when the Docker Engine does not hold it. @default true */
  readonly pull?: boolean;
  /** containerd's `hosts.toml` by registry host. @default none */
  readonly hosts?: Input<Readonly<Record<string, string>>>;
  /** Also add the cluster to the user's own kubeconfig. @default false */
  readonly mergeKubeconfig?: boolean;
  /** Delete a cluster that Kind cannot change in place, with all data of its volumes. @default false */
  readonly allowReplace?: boolean;
}

/** A local cluster in containers. */
export class KindCluster extends ComponentResource implements Cluster {
  readonly kubeconfig: Output<string>;
  readonly loadBalancerCidr: Output<string>;
  readonly container: Resource;

  constructor(name: string, args: KindClusterArgs, opts?: ComponentResourceOptions) {
    super("platform:cluster:KindCluster", name, {}, opts);
    const kind = new Kind(
      `${name}-kind`,
      {
        name: args.clusterName,
        owner: args.owner,
        network: args.network.name,
        image: args.nodeImage ?? defaultNodeImage,
        pull: args.pull ?? true,
        config: kindConfig(args),
        files: apiServerFiles(args),
        hosts: args.hosts ?? {},
        mergeKubeconfig: args.mergeKubeconfig ?? false,
        allowReplace: args.allowReplace ?? false,
      },
      { parent: this },
    );
    this.container = kind;
    this.kubeconfig = kind.kubeconfig;
    this.loadBalancerCidr = args.network.subnet.apply(lastAddresses);
    this.registerOutputs({ kubeconfig: this.kubeconfig, loadBalancerCidr: this.loadBalancerCidr });
  }
}
