import { dynamic, type CustomResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { DockerCli } from "../../clients/docker/client";
import { NetworkLifecycle, type NetworkInputs, type NetworkOutputs } from "../../core/docker/network";

class NetworkProvider implements dynamic.ResourceProvider<NetworkInputs, NetworkOutputs> {
  async create(inputs: NetworkInputs): Promise<dynamic.CreateResult<NetworkOutputs>> {
    return { id: inputs.name, outs: await this.lifecycle().create(inputs) };
  }

  async read(id: string, state?: NetworkOutputs): Promise<dynamic.ReadResult<NetworkOutputs>> {
    const props = state && (await this.lifecycle().read(state));
    return props === undefined ? {} : { id, props };
  }

  diff(_id: string, olds: NetworkOutputs, news: NetworkInputs): Promise<dynamic.DiffResult> {
    const changes = olds.name !== news.name;
    return Promise.resolve({ changes, replaces: changes ? ["name"] : [] });
  }

  async delete(_id: string, state: NetworkOutputs): Promise<void> {
    await this.lifecycle().delete(state);
  }

  private lifecycle(): NetworkLifecycle {
    return new NetworkLifecycle(new DockerCli());
  }
}

/** Arguments of `Network`: `NetworkInputs`; each of them may be an output. */
export type NetworkArgs = { readonly [K in keyof NetworkInputs]: Input<NetworkInputs[K]> };

/** A Docker network that adopts an existing one, which `@pulumi/docker` cannot do without its state. */
export class Network extends dynamic.Resource {
  declare readonly name: Output<string>;
  /** IPv4, in CIDR form. */
  declare readonly subnet: Output<string>;

  constructor(name: string, args: NetworkArgs, opts?: CustomResourceOptions) {
    super(new NetworkProvider(), name, { ...args, subnet: undefined }, opts, "docker", "Network");
  }
}
