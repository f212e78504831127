import type { Docker } from "../client";
import { foreign, isOwn } from "../ownership";

/** A Docker network as it is asked for. */
export interface NetworkInputs {
  readonly name: string;
}

/** A Docker network that is there. */
export interface NetworkOutputs extends NetworkInputs {
  /** IPv4, in CIDR form. */
  readonly subnet: string;
}

/** Makes, adopts and deletes a Docker network. */
export class NetworkLifecycle {
  constructor(private readonly docker: Docker) {}

  async create({ name }: NetworkInputs): Promise<NetworkOutputs> {
    const found = await this.docker.network(name);
    if (found === undefined) await this.docker.createNetwork(name);
    else if (!isOwn(found.labels)) throw foreign("Adopting", "Docker network", name, "docker network rm");
    const made = await this.read({ name });
    if (made !== undefined) return made;
    throw new Error(
      `Creating Docker network "${name}" failed: it was removed at once. Run again when nothing else does so.`,
    );
  }

  /** @returns undefined when the network is gone */
  async read({ name }: NetworkInputs): Promise<NetworkOutputs | undefined> {
    const found = await this.docker.network(name);
    if (found === undefined) return undefined;
    if (found.subnet !== undefined) return { name, subnet: found.subnet };
    throw new Error(
      `Reading Docker network "${name}" failed: it has no IPv4 subnet. Remove it with "docker network rm ${name}" and run again.`,
    );
  }

  async delete({ name }: NetworkInputs): Promise<void> {
    const found = await this.docker.network(name);
    if (found === undefined) return;
    if (!isOwn(found.labels)) throw foreign("Deleting", "Docker network", name, "docker network rm");
    await this.docker.removeNetwork(name);
  }
}
