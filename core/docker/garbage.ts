import type { Clock } from "../../system/clock";
import { sentence } from "../../system/sentence";
import { answerMilliseconds, answersInTime, type Docker } from "../../clients/docker/client";
import { isOwn } from "../../clients/docker/ownership";

/** A registry container and its garbage collection. */
export interface GarbageInputs {
  /** Name of the container. */
  readonly container: string;
  /** The owner of the container: `project/stack`. */
  readonly owner: string;
  /** `host:port` as this machine reaches the registry. */
  readonly address: string;
  /** A new value, such as the digest of the next release, starts another collection. */
  readonly after: string;
}

/**
 * Frees the space of deleted content in a registry, with the registry's own garbage collection.
 *
 * The collection deletes blobs of a push in progress, and a running registry still answers for deleted blobs from its
 * memory. So the registry is stopped during the collection. Source:
 * https://distribution.github.io/distribution/about/garbage-collection/
 */
export class GarbageLifecycle {
  constructor(
    private readonly docker: Docker,
    /** Whether an HTTP server answers at `host:port`. */
    private readonly answers: (address: string) => Promise<boolean>,
    private readonly clock: Clock,
  ) {}

  /** Collects if there is garbage. A failed collection is reported, and the next collection does its work. */
  async create({ container, owner, address, after }: GarbageInputs): Promise<GarbageInputs> {
    const warn = (error: unknown) => {
      console.warn(
        `Collecting the garbage of "${container}" failed: ${sentence((error as Error).message)} The next release tries again.`,
      );
    };
    if ((await this.hasGarbage(container, owner).catch(warn)) === true) {
      await this.docker.stop(container);
      await this.docker.collectGarbage(container).catch(warn);
      await this.docker.start(container);
      if (!(await answersInTime(this.answers, this.clock, address))) {
        throw new Error(
          `Starting container "${container}" after its garbage was collected failed: it did not answer at ${address} within ${answerMilliseconds / 1000} s. Look at "docker logs ${container}" and run again.`,
        );
      }
    }
    return { container, owner, address, after };
  }

  diff(olds: GarbageInputs, news: GarbageInputs): boolean {
    return olds.container !== news.container || olds.after !== news.after;
  }

  private async hasGarbage(container: string, owner: string): Promise<boolean> {
    const found = await this.docker.container(container);
    const isOurs = found !== undefined && isOwn(found.labels, owner) && found.status === "running";
    return isOurs && (await this.docker.garbage(container)) > 0;
  }
}
