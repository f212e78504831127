import type { Docker, FoundNetwork } from "../../clients/docker/client";
import { foreignError, isOwn } from "../../clients/docker/ownership";

/** The Docker network that the stack wants. */
export interface NetworkInputs {
  readonly name: string;
  /** The owner of the network: `project/stack`. */
  readonly owner: string;
}

/** A Docker network that exists. */
export interface NetworkOutputs extends NetworkInputs {
  /** IPv4, in CIDR form. */
  readonly subnet: string;
}

/** Makes, adopts and deletes a Docker network. */
export class NetworkLifecycle {
  constructor(private readonly docker: Docker) {}

  async create({ name, owner }: NetworkInputs): Promise<NetworkOutputs> {
    const found = await this.docker.network(name);
    if (found === undefined) await this.docker.createNetwork(name, owner);
    else refuseForeign("Adopting", { name, owner }, found);
    const made = await this.read({ name, owner });
    if (made !== undefined) return made;
    throw new Error(
      `Creating Docker network "${name}" failed: it was removed at once. Run again when nothing else does so.`,
    );
  }

  /** @returns undefined when the network is gone */
  async read({ name, owner }: NetworkInputs): Promise<NetworkOutputs | undefined> {
    const found = await this.docker.network(name);
    if (found === undefined) return undefined;
    if (found.subnet !== undefined) return { name, owner, subnet: found.subnet };
    throw new Error(
      `Reading Docker network "${name}" failed: it has no IPv4 subnet. Remove it with "docker network rm ${name}" and run again.`,
    );
  }

  diff(olds: NetworkInputs, news: NetworkInputs) {
    const changes = olds.name !== news.name;
    return { changes, replaces: changes ? ["name"] : [] };
  }

  async delete({ name, owner }: NetworkInputs): Promise<void> {
    const found = await this.docker.network(name);
    if (found === undefined) return;
    refuseForeign("Deleting", { name, owner }, found);
    await this.docker.removeNetwork(name);
  }
}

function refuseForeign(operation: string, { name, owner }: NetworkInputs, { labels }: FoundNetwork): void {
  if (isOwn(labels, owner)) return;
  throw foreignError(operation, `Docker network "${name}"`, { labels, owner }, `docker network rm ${name}`);
}
