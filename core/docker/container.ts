import { hash } from "node:crypto";
import type { Clock } from "../../system/clock";
import { sentence } from "../../system/sentence";
import {
  answerMilliseconds,
  answersInTime,
  type ContainerSpec,
  type Docker,
  type FoundContainer,
} from "../../clients/docker/client";
import { foreignError, isOwn, ownerLabel } from "../../clients/docker/ownership";

/** The addresses of a container, which follow from its spec. */
export interface ContainerAddresses {
  /** `host:port` as this machine reaches it. */
  readonly hostAddress: string;
  /** `host:port` as the containers of its network reach it. */
  readonly networkAddress: string;
}

/** A running container. */
export interface ContainerOutputs extends ContainerSpec, ContainerAddresses {
  /** Whether, at the last look, the container had this spec, ran and answered. */
  readonly running: boolean;
}

/** The label with the spec of a container. */
const fingerprintLabel = "platform.pulumi.com/fingerprint";

/** Makes, adopts, replaces and deletes a container that serves HTTP and whose data is on a volume. */
export class ContainerLifecycle {
  constructor(
    private readonly docker: Docker,
    /** Whether an HTTP server answers at `host:port`. */
    private readonly answers: (address: string) => Promise<boolean>,
    private readonly clock: Clock,
  ) {}

  /** Makes the container, or adopts an existing one of the same spec, and waits until it answers. */
  async create(spec: ContainerSpec): Promise<ContainerOutputs> {
    await this.bring(spec, 2);
    await this.untilAnswers(spec);
    return outputs(spec);
  }

  /**
   * A container that is stopped, does not answer or has another spec exists: the result says that it does not run.
   *
   * @returns undefined when the container is gone, or has another owner
   */
  async read(state: ContainerOutputs): Promise<ContainerOutputs | undefined> {
    const found = await this.docker.container(state.name);
    if (found === undefined || !isOwn(found.labels, state.owner)) return undefined;
    const running =
      found.status === "running" &&
      found.labels?.[fingerprintLabel] === fingerprint(state) &&
      (await this.answers(state.hostAddress));
    return { ...state, running };
  }

  /** An update makes another container; its data stays on the volume. */
  diff(olds: ContainerSpec & Partial<ContainerOutputs>, news: ContainerSpec) {
    const replaces = olds.name === news.name ? [] : ["name"];
    const isSame = olds.owner === news.owner && fingerprint(olds) === fingerprint(news);
    // Two containers cannot hold one port.
    return {
      changes: olds.running === false || replaces.length > 0 || !isSame,
      replaces,
      deleteBeforeReplace: true,
    };
  }

  async delete({ name, owner }: ContainerSpec): Promise<void> {
    const found = await this.docker.container(name);
    if (found === undefined) return;
    this.refuseForeign("Deleting", { name, owner }, found);
    await this.docker.removeContainer(name);
  }

  /** @param tries how often another run may create a container of this name meanwhile */
  private async bring(spec: ContainerSpec, tries: number): Promise<void> {
    const found = await this.docker.container(spec.name);
    if (found !== undefined) this.refuseForeign("Adopting", spec, found);
    if (found !== undefined && (await this.revive(spec, found))) return;
    if (found !== undefined) await this.docker.removeContainer(spec.name);
    await this.run(spec, tries);
  }

  private refuseForeign(
    operation: string,
    { name, owner }: Pick<ContainerSpec, "name" | "owner">,
    { labels }: FoundContainer,
  ): void {
    if (isOwn(labels, owner)) return;
    throw foreignError(operation, `container "${name}"`, { labels, owner }, `docker rm ${name}`);
  }

  private async untilAnswers(spec: ContainerSpec): Promise<void> {
    const { hostAddress } = outputs(spec);
    if (await answersInTime(this.answers, this.clock, hostAddress)) return;
    const words = (await this.docker.logs(spec.name).catch(() => "")).trim().split("\n").join(" ");
    // A container that does not answer is removed: the next run makes it again, and its data is on the volume.
    await this.docker.removeContainer(spec.name).catch(() => undefined);
    const said = words === "" ? "It wrote nothing." : `Its last output: ${sentence(words.slice(-600))}`;
    throw new Error(
      `Starting container "${spec.name}" failed: it did not answer at ${hostAddress} within ${answerMilliseconds / 1000} s. ${said} Fix the cause and run again.`,
    );
  }

  /** @returns whether a container of this very spec runs again */
  private async revive(spec: ContainerSpec, found: FoundContainer): Promise<boolean> {
    const { labels } = found;
    // Docker cannot change a label: a container with the label of an earlier version is made again.
    if (labels?.[ownerLabel] !== spec.owner || labels[fingerprintLabel] !== fingerprint(spec)) return false;
    if (found.status === "running") return true;
    // A container that does not start is made again, for example because its volume or network has changed.
    try {
      await (found.status === "paused" ? this.docker.unpause(spec.name) : this.docker.start(spec.name));
      return true;
    } catch {
      return false;
    }
  }

  private async run(spec: ContainerSpec, tries: number): Promise<void> {
    try {
      await this.docker.run(spec, { [ownerLabel]: spec.owner, [fingerprintLabel]: fingerprint(spec) });
    } catch (error) {
      const { message } = error as Error;
      // The container of a killed run appeared meanwhile: it is checked again.
      if (/is already in use by container/.test(message)) {
        if (tries > 0) {
          await this.bring(spec, tries - 1);
          return;
        }
        throw new Error(
          `Starting container "${spec.name}" failed: again and again another container takes its name. Stop what makes it and run again.`,
          { cause: error },
        );
      }
      // Docker keeps a container that it could not start.
      await this.docker.removeContainer(spec.name).catch(() => undefined);
      throw new Error(
        /port is already allocated|address already in use/.test(message)
          ? `Starting container "${spec.name}" failed: port ${spec.port.host} on 127.0.0.1 is taken. Stop what listens there, or set platform:registry.port.`
          : `Starting container "${spec.name}" failed: ${sentence(message)} Fix the cause and run again.`,
        { cause: error },
      );
    }
  }
}

function fingerprint({ image, network, port, volume, env }: ContainerSpec): string {
  const variables = Object.entries(env).sort();
  const parts = [image, network, port.container, port.host, volume.name, volume.path, variables];
  return hash("sha256", JSON.stringify(parts));
}

/** The addresses of a container. */
export function addressesOf({ name, port }: Pick<ContainerSpec, "name" | "port">): ContainerAddresses {
  return { hostAddress: `127.0.0.1:${port.host}`, networkAddress: `${name}:${port.container}` };
}

function outputs(spec: ContainerSpec): ContainerOutputs {
  return { ...spec, ...addressesOf(spec), running: true };
}
