import { all, type CustomResourceOptions, type Output } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { answers, DockerCli, type ContainerSpec } from "../../clients/docker/client";
import {
  addressesOf,
  ContainerLifecycle,
  type ContainerAddresses,
  type ContainerOutputs,
} from "../../core/docker/container";
import { CheckedOutResource, providerOf, type Args } from "./provider";

/** The provider that {@link CheckedOutResource} loads. */
export const provider = providerOf<ContainerSpec, ContainerOutputs>({
  id: ({ name }) => name,
  lifecycle: () => new ContainerLifecycle(new DockerCli(), answers, new SystemClock()),
});

/** A container that adopts an existing one, which `@pulumi/docker` cannot do without its state. */
export class Container extends CheckedOutResource<ContainerSpec & ContainerAddresses> {
  declare readonly name: Output<string>;
  /** `host:port` as this machine reaches it. */
  declare readonly hostAddress: Output<string>;
  /** `host:port` as the containers of its network reach it. */
  declare readonly networkAddress: Output<string>;

  constructor(name: string, args: Args<ContainerSpec>, opts?: CustomResourceOptions) {
    // A preview knows of a resource only its inputs.
    const addresses = all([args.name, args.port]).apply(([of, port]) => addressesOf({ name: of, port }));
    const { hostAddress, networkAddress } = addresses;
    const names = { file: "container", type: ["docker", "Container"], outputs: ["running"] } as const;
    super(names, name, { ...args, hostAddress, networkAddress }, opts);
  }
}
