import { dynamic, type CustomResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { answers, DockerCli, type ContainerSpec } from "../../clients/docker/client";
import { ContainerLifecycle, type ContainerOutputs } from "../../core/docker/container";

class ContainerProvider implements dynamic.ResourceProvider<ContainerSpec, ContainerOutputs> {
  async create(inputs: ContainerSpec): Promise<dynamic.CreateResult<ContainerOutputs>> {
    return { id: inputs.name, outs: await this.lifecycle().create(inputs) };
  }

  async read(id: string, state?: ContainerOutputs): Promise<dynamic.ReadResult<ContainerOutputs>> {
    const props = state && (await this.lifecycle().read(state));
    return props === undefined ? {} : { id, props };
  }

  diff(_id: string, olds: ContainerOutputs, news: ContainerSpec): Promise<dynamic.DiffResult> {
    return Promise.resolve({
      changes: this.lifecycle().diff(olds, news),
      replaces: olds.name === news.name ? [] : ["name"],
      // Two containers cannot hold one port.
      deleteBeforeReplace: true,
    });
  }

  async update(
    _id: string,
    _olds: ContainerOutputs,
    news: ContainerSpec,
  ): Promise<dynamic.UpdateResult<ContainerOutputs>> {
    return { outs: await this.lifecycle().update(news) };
  }

  async delete(_id: string, state: ContainerOutputs): Promise<void> {
    await this.lifecycle().delete(state);
  }

  private lifecycle(): ContainerLifecycle {
    return new ContainerLifecycle(new DockerCli(), answers, new SystemClock());
  }
}

/** One provider for all resources: Pulumi serialises each provider object again. */
const provider = new ContainerProvider();

/** Arguments of `Container`: `ContainerSpec`, each of which may be an output. */
export type ContainerArgs = { readonly [K in keyof ContainerSpec]: Input<ContainerSpec[K]> };

/** A container that adopts an existing one, which `@pulumi/docker` cannot do without its state. */
export class Container extends dynamic.Resource {
  declare readonly name: Output<string>;
  /** `host:port` as this machine reaches it. */
  declare readonly hostAddress: Output<string>;
  /** `host:port` as the containers of its network reach it. */
  declare readonly networkAddress: Output<string>;

  constructor(name: string, args: ContainerArgs, opts?: CustomResourceOptions) {
    super(
      provider,
      name,
      { ...args, hostAddress: undefined, networkAddress: undefined, running: undefined },
      opts,
      "docker",
      "Container",
    );
  }
}
