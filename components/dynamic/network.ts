import { dynamic, type CustomResourceOptions, type Output } from "@pulumi/pulumi";
import { DockerCli } from "../../clients/docker/client";
import { NetworkLifecycle, type NetworkInputs, type NetworkOutputs } from "../../core/docker/network";
import { checkedOut, providerOf, type Args } from "./provider";

/** The provider that {@link checkedOut} loads. */
export const provider: dynamic.ResourceProvider<NetworkInputs, NetworkOutputs> = {
  ...providerOf<NetworkInputs, NetworkOutputs>({
    id: ({ name }) => name,
    lifecycle: () => new NetworkLifecycle(new DockerCli()),
  }),
  diff: (_id, olds, news) => {
    const changes = olds.name !== news.name;
    return Promise.resolve({ changes, replaces: changes ? ["name"] : [] });
  },
};

/** A Docker network that adopts an existing one, which `@pulumi/docker` cannot do without its state. */
export class Network extends dynamic.Resource {
  declare readonly name: Output<string>;
  /** IPv4, in CIDR form. */
  declare readonly subnet: Output<string>;

  constructor(name: string, args: Args<NetworkInputs>, opts?: CustomResourceOptions) {
    super(checkedOut("network"), name, { ...args, subnet: undefined }, opts, "docker", "Network");
  }
}
