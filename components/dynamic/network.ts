import type { CustomResourceOptions, Output } from "@pulumi/pulumi";
import { DockerCli } from "../../clients/docker/client";
import { NetworkLifecycle, type NetworkInputs, type NetworkOutputs } from "../../core/docker/network";
import { CheckedOutResource, providerOf, type Args } from "./provider";

/** The provider that {@link CheckedOutResource} loads. */
export const provider = providerOf<NetworkInputs, NetworkOutputs>({
  id: ({ name }) => name,
  lifecycle: () => new NetworkLifecycle(new DockerCli()),
});

/** A Docker network that adopts an existing one, which `@pulumi/docker` cannot do without its state. */
export class Network extends CheckedOutResource<NetworkInputs> {
  declare readonly name: Output<string>;
  /** IPv4, in CIDR form. */
  declare readonly subnet: Output<string>;

  constructor(name: string, args: Args<NetworkInputs>, opts?: CustomResourceOptions) {
    super({ file: "network", type: ["docker", "Network"], outputs: ["subnet"] }, name, args, opts);
  }
}
