import type { CustomResourceOptions } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { answers, DockerCli } from "../../clients/docker/client";
import { GarbageLifecycle, type GarbageInputs } from "../../core/docker/garbage";
import { CheckedOutResource, providerOf, type Args } from "./provider";

/** The provider that {@link CheckedOutResource} loads. */
export const provider = providerOf<GarbageInputs, GarbageInputs>({
  id: ({ container }) => container,
  lifecycle: () => new GarbageLifecycle(new DockerCli(), answers, new SystemClock()),
});

/** The garbage collection of a registry container, once after each release that it depends on. */
export class Garbage extends CheckedOutResource<GarbageInputs> {
  constructor(name: string, args: Args<GarbageInputs>, opts?: CustomResourceOptions) {
    super({ file: "garbage", type: ["docker", "Garbage"] }, name, args, opts);
  }
}
