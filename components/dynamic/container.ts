import { dynamic, type CustomResourceOptions, type Output } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { answers, DockerCli, type ContainerSpec } from "../../clients/docker/client";
import { ContainerLifecycle, type ContainerOutputs } from "../../core/docker/container";
import { checkedOut, providerOf, type Args } from "./provider";

const lifecycle = () => new ContainerLifecycle(new DockerCli(), answers, new SystemClock());

/** The provider that {@link checkedOut} loads. */
export const provider: dynamic.ResourceProvider<ContainerSpec, ContainerOutputs> = {
  ...providerOf<ContainerSpec, ContainerOutputs>({ id: ({ name }) => name, lifecycle }),
  diff: (_id, olds, news) =>
    Promise.resolve({
      changes: lifecycle().diff(olds, news),
      replaces: olds.name === news.name ? [] : ["name"],
      // Two containers cannot hold one port.
      deleteBeforeReplace: true,
    }),
};

/** A container that adopts an existing one, which `@pulumi/docker` cannot do without its state. */
export class Container extends dynamic.Resource {
  declare readonly name: Output<string>;
  /** `host:port` as this machine reaches it. */
  declare readonly hostAddress: Output<string>;
  /** `host:port` as the containers of its network reach it. */
  declare readonly networkAddress: Output<string>;

  constructor(name: string, args: Args<ContainerSpec>, opts?: CustomResourceOptions) {
    super(
      checkedOut("container"),
      name,
      { ...args, hostAddress: undefined, networkAddress: undefined, running: undefined },
      opts,
      "docker",
      "Container",
    );
  }
}
