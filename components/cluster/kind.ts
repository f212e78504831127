import { ComponentResource, type ComponentResourceOptions, type Output, type Resource } from "@pulumi/pulumi";
import { lastAddresses } from "../../core/cluster/kind/addresses";
import { apiServerFiles, defaultNodeImage, kindConfig } from "../../core/cluster/kind/config";
import type { KindSettings } from "../../core/cluster/kind/settings";
import { registryHosts } from "../../core/registry/hosts";
import { registryName } from "../../core/registry/names";
import { Kind } from "../dynamic/kind";
import type { Cluster, ClusterArgs } from "./cluster";

/** A local cluster in containers. */
export class KindCluster extends ComponentResource implements Cluster {
  readonly kubeconfig: Output<string>;
  readonly loadBalancerCidr: Output<string>;
  readonly container: Resource;

  constructor(name: string, args: ClusterArgs<KindSettings>, opts?: ComponentResourceOptions) {
    super("platform:cluster:KindCluster", name, {}, opts);
    const { config, stack, owner, directory, network } = args;
    if (network === undefined)
      throw new Error(`Composing Kind cluster "${config.name}" failed: it lacks its network.`);
    const registry = args.registry.kind === "local" ? args.registry : undefined;
    const kind = new Kind(
      `${name}-kind`,
      {
        ...{ name: config.name, owner, network: network.name },
        image: config.nodeImage ?? defaultNodeImage,
        pull: registry?.airGapped !== true,
        config: kindConfig({ ...config, directory }),
        files: apiServerFiles(config),
        hosts:
          registry === undefined ? {} : registryHosts({ ...registry, containerName: registryName(stack) }),
        mergeKubeconfig: config.kubeconfig === "merge",
        allowReplace: config.allowReplace,
      },
      { parent: this },
    );
    this.container = kind;
    this.kubeconfig = kind.kubeconfig;
    this.loadBalancerCidr = network.subnet.apply(lastAddresses);
    this.registerOutputs({ kubeconfig: this.kubeconfig, loadBalancerCidr: this.loadBalancerCidr });
  }
}
