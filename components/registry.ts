import { Container, RemoteImage, Volume, type Network } from "@pulumi/docker";
import {
  ComponentResource,
  interpolate,
  type ComponentResourceOptions,
  type Input,
  type Output,
} from "@pulumi/pulumi";
import { owner, ownerLabel } from "./cluster/kind/lifecycle";

/** Where a stack's artifacts are stored. Repositories have the form `host[:port]/path`. */
export interface Registry {
  /** The repository as this machine reaches it. */
  readonly repository: Output<string>;
  /** The repository as the cluster reaches it. */
  readonly clusterRepository: Output<string>;
  /** The registry as the cluster reaches it, `host[:port]`. */
  readonly clusterAddress: Output<string>;
}

/** Arguments of `LocalRegistry`. */
export interface LocalRegistryArgs {
  /** Name of the container, which is its host name in the network. */
  readonly containerName: string;
  /** Port on 127.0.0.1; never on another address. */
  readonly port: number;
  /** Path of the repository. */
  readonly path: string;
  /** The Docker network that the cluster's nodes are in. */
  readonly network: Network;
  /** @default registry:3 */
  readonly image?: Input<string>;
}

/** A `registry:3` container on a volume of its own, published on 127.0.0.1 only. */
export class LocalRegistry extends ComponentResource implements Registry {
  readonly repository: Output<string>;
  readonly clusterRepository: Output<string>;
  readonly clusterAddress: Output<string>;

  constructor(name: string, args: LocalRegistryArgs, opts?: ComponentResourceOptions) {
    super("platform:registry:LocalRegistry", name, {}, opts);
    // The network waits for all that must hold before anything is made.
    const onHost = { parent: this, dependsOn: [args.network] };
    const labels = [{ label: ownerLabel, value: owner }];
    const image = new RemoteImage(
      `${name}-image`,
      { name: args.image ?? "registry:3", keepLocally: true },
      onHost,
    );
    const volume = new Volume(`${name}-volume`, { name: args.containerName, labels }, onHost);
    const container = new Container(
      `${name}-container`,
      {
        name: args.containerName,
        image: image.imageId,
        labels,
        restart: "unless-stopped",
        ports: [{ internal: 5000, external: args.port, ip: "127.0.0.1" }],
        volumes: [{ volumeName: volume.name, containerPath: "/var/lib/registry" }],
        networksAdvanced: [{ name: args.network.name }],
        envs: ["REGISTRY_STORAGE_DELETE_ENABLED=true"],
      },
      { parent: this },
    );
    const port = container.ports.apply((ports) => ports?.[0]);
    this.repository = interpolate`127.0.0.1:${port.apply((p) => p?.external ?? args.port)}/${args.path}`;
    this.clusterAddress = interpolate`${container.name}:${port.apply((p) => p?.internal ?? 5000)}`;
    this.clusterRepository = interpolate`${this.clusterAddress}/${args.path}`;
    this.registerOutputs({
      repository: this.repository,
      clusterRepository: this.clusterRepository,
      clusterAddress: this.clusterAddress,
    });
  }
}
