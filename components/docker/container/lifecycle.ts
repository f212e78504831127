import { createHash } from "node:crypto";
import { sentence } from "../../sentence";
import type { ContainerSpec, Docker, FoundContainer } from "../client";
import { foreign, isOwn, owner, ownerLabel } from "../ownership";

/** A running container. */
export interface ContainerOutputs extends ContainerSpec {
  /** `host:port` as this machine reaches it. */
  readonly hostAddress: string;
  /** `host:port` as the containers of its network reach it. */
  readonly networkAddress: string;
}

/** The label that says which spec a container was made of. */
const fingerprintLabel = "platform.pulumi.com/fingerprint";

/** Makes, adopts, replaces and deletes a container whose data is on a volume. */
export class ContainerLifecycle {
  constructor(private readonly docker: Docker) {}

  /** Makes the container, or takes the one that is there as far as it is of the same spec. */
  async create(spec: ContainerSpec): Promise<ContainerOutputs> {
    const found = await this.docker.container(spec.name);
    if (found !== undefined && !isOwn(found.labels))
      throw foreign("Adopting", "container", spec.name, "docker rm");
    if (found === undefined || !(await this.revive(spec, found))) await this.run(spec, found !== undefined);
    return outputs(spec);
  }

  /** @returns undefined when the container is gone or does not run */
  async read(state: ContainerOutputs): Promise<ContainerOutputs | undefined> {
    const found = await this.docker.container(state.name);
    return found?.status === "running" ? state : undefined;
  }

  diff(olds: ContainerSpec, news: ContainerSpec): boolean {
    return olds.name !== news.name || fingerprint(olds) !== fingerprint(news);
  }

  /** The data stays: it is on the volume. */
  async update(spec: ContainerSpec): Promise<ContainerOutputs> {
    return this.create(spec);
  }

  async delete({ name }: ContainerSpec): Promise<void> {
    const found = await this.docker.container(name);
    if (found === undefined) return;
    if (!isOwn(found.labels)) throw foreign("Deleting", "container", name, "docker rm");
    await this.docker.removeContainer(name);
  }

  /** @returns whether a container of this very spec runs again */
  private async revive(spec: ContainerSpec, found: FoundContainer): Promise<boolean> {
    if (found.labels?.[fingerprintLabel] !== fingerprint(spec)) return false;
    if (found.status === "running") return true;
    // One that does not start, such as when its volume or network is another one now, is made anew.
    try {
      await (found.status === "paused" ? this.docker.unpause(spec.name) : this.docker.start(spec.name));
      return true;
    } catch {
      return false;
    }
  }

  private async run(spec: ContainerSpec, exists: boolean): Promise<void> {
    if (exists) await this.docker.removeContainer(spec.name);
    try {
      await this.docker.run(spec, { [ownerLabel]: owner, [fingerprintLabel]: fingerprint(spec) });
    } catch (error) {
      const { message } = error as Error;
      // The container of a run that was killed came to be meanwhile: it is looked at again.
      if (/is already in use by container/.test(message)) {
        await this.create(spec);
        return;
      }
      // Docker keeps a container that it could not start.
      await this.docker.removeContainer(spec.name).catch(() => undefined);
      throw new Error(
        /port is already allocated|address already in use/.test(message)
          ? `Starting container "${spec.name}" failed: port ${spec.port.host} on 127.0.0.1 is taken. Stop what listens there, or set platform:registry.port.`
          : `Starting container "${spec.name}" failed: ${sentence(message)} Mend it and run again.`,
        { cause: error },
      );
    }
  }
}

function fingerprint({ image, network, port, volume, env }: ContainerSpec): string {
  const variables = Object.entries(env).sort();
  return createHash("sha256")
    .update(JSON.stringify([image, network, port.container, port.host, volume.name, volume.path, variables]))
    .digest("hex");
}

function outputs(spec: ContainerSpec): ContainerOutputs {
  const { name, image, network, port, volume, env } = spec;
  return {
    ...{ name, image, network, port, volume, env },
    hostAddress: `127.0.0.1:${port.host}`,
    networkAddress: `${name}:${port.container}`,
  };
}
