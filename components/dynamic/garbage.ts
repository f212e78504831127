import { dynamic, type CustomResourceOptions, type Input } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { answers, DockerCli } from "../../clients/docker/client";
import { GarbageLifecycle, type GarbageInputs } from "../../core/docker/garbage";

class GarbageProvider implements dynamic.ResourceProvider<GarbageInputs, GarbageInputs> {
  async create(inputs: GarbageInputs): Promise<dynamic.CreateResult<GarbageInputs>> {
    return { id: inputs.container, outs: await this.lifecycle().create(inputs) };
  }

  diff(_id: string, olds: GarbageInputs, news: GarbageInputs): Promise<dynamic.DiffResult> {
    return Promise.resolve({ changes: this.lifecycle().diff(olds, news) });
  }

  async update(
    _id: string,
    _olds: GarbageInputs,
    news: GarbageInputs,
  ): Promise<dynamic.UpdateResult<GarbageInputs>> {
    return { outs: await this.lifecycle().create(news) };
  }

  private lifecycle(): GarbageLifecycle {
    return new GarbageLifecycle(new DockerCli(), answers, new SystemClock());
  }
}

/** Arguments of `Garbage`: `GarbageInputs`, each of which may be an output. */
export type GarbageArgs = { readonly [K in keyof GarbageInputs]: Input<GarbageInputs[K]> };

/** The garbage collection of a registry container, once after each release that it depends on. */
export class Garbage extends dynamic.Resource {
  constructor(name: string, args: GarbageArgs, opts?: CustomResourceOptions) {
    super(new GarbageProvider(), name, { ...args }, opts, "docker", "Garbage");
  }
}
