import { RemoteImage, Volume } from "@pulumi/docker";
import {
  ComponentResource,
  interpolate,
  type ComponentResourceOptions,
  type Input,
  type Output,
} from "@pulumi/pulumi";
import { Container } from "./dynamic/container";
import type { Network } from "./dynamic/network";
import { ownerLabel } from "../clients/docker/ownership";
import { internalPort, upstreams } from "../core/registry/hosts";
import type { PlatformConfig } from "../core/settings/config";
import { mirrorName } from "../core/registry/names";

/** The repository of a stack's artifacts. Repositories have the form `host[:port]/path`. */
export interface Registry {
  /** The repository as this machine reaches it. */
  readonly repository: Output<string>;
  /** The repository as the cluster reaches it. */
  readonly clusterRepository: Output<string>;
  /** The registry as the cluster reaches it, `host[:port]`. */
  readonly clusterAddress: Output<string>;
}

/** Arguments of `LocalRegistry`. */
export interface LocalRegistryArgs extends Pick<
  Extract<PlatformConfig["registry"], { kind: "local" }>,
  "port" | "image" | "mirrors" | "airGapped" | "retain"
> {
  /** Name of the container and its volume; the container's host name in the network. */
  readonly containerName: string;
  /** The owner of container and volume: `project/stack`. */
  readonly owner: string;
  /** Path of the repository. */
  readonly path: string;
  /** The Docker network that the cluster's nodes are in. */
  readonly network: Network;
}

const storage = "/var/lib/registry";

/**
 * A `registry:3` container on a volume of its own, and one more for each mirror, all published on 127.0.0.1 only.
 *
 * A mirror is a pull-through cache that keeps everything: it asks its upstream for new images, and serves its own
 * images when the upstream does not answer. Air-gapped, the mirror is a plain registry over the same content, which
 * accepts pushes.
 */
export class LocalRegistry extends ComponentResource implements Registry {
  readonly repository: Output<string>;
  readonly clusterRepository: Output<string>;
  readonly clusterAddress: Output<string>;

  constructor(name: string, args: LocalRegistryArgs, opts?: ComponentResourceOptions) {
    super("platform:registry:LocalRegistry", name, {}, opts);
    const { mirrors, airGapped } = args;
    // The network waits for everything that must hold before the run makes anything.
    const onHost = { parent: this, dependsOn: [args.network] };
    const volume = new Volume(
      `${name}-volume`,
      { name: args.containerName, labels: [{ label: ownerLabel, value: args.owner }] },
      // Docker cannot change a label, and another volume would be empty.
      { ...onHost, retainOnDelete: args.retain, ignoreChanges: ["labels"] },
    );
    const image = this.image(name, args.image, airGapped, args.network);
    const container = (
      suffix: string,
      containerName: string,
      port: number,
      env: Readonly<Record<string, string>>,
    ) =>
      new Container(
        `${name}-${suffix}`,
        {
          name: containerName,
          owner: args.owner,
          image,
          network: args.network.name,
          port: { container: internalPort, host: port },
          volume: volume.name.apply((volumeName) => ({ name: volumeName, path: storage })),
          env: { OTEL_TRACES_EXPORTER: "none", ...env },
        },
        { parent: this },
      );
    const registry = container("container", args.containerName, args.port, {
      REGISTRY_STORAGE_DELETE_ENABLED: "true",
    });
    mirrors.forEach((host, index) =>
      container(`mirror-${host}`, mirrorName(args.containerName, host), args.port + 1 + index, {
        REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY: `${storage}/${host}`,
        ...(airGapped
          ? {}
          : { REGISTRY_PROXY_REMOTEURL: `https://${upstreams[host] ?? host}`, REGISTRY_PROXY_TTL: "0s" }),
      }),
    );
    this.repository = interpolate`${registry.hostAddress}/${args.path}`;
    this.clusterAddress = registry.networkAddress;
    this.clusterRepository = interpolate`${this.clusterAddress}/${args.path}`;
    const { repository, clusterRepository, clusterAddress } = this;
    this.registerOutputs({ repository, clusterRepository, clusterAddress });
  }

  /** The id of the image. Air-gapped, the name of the image, which the Docker Engine must hold already. */
  private image(name: string, image: string, airGapped: boolean, network: Network): Input<string> {
    if (airGapped) return image;
    return new RemoteImage(
      `${name}-image`,
      { name: image, keepLocally: true },
      { parent: this, dependsOn: [network] },
    ).imageId;
  }
}
