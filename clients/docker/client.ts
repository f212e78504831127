import { Agent, get } from "node:http";
import type { Clock } from "../../system/clock";
import { run } from "../../tools/command";
import { networkLabel, ownerLabel, type Labels } from "./ownership";

/** A container that exists. */
export interface FoundContainer {
  readonly labels: Labels;
  /** `running`, `paused`, `exited`, `created`, `restarting`, `dead`. */
  readonly status: string;
}

/** A network that exists. */
export interface FoundNetwork {
  readonly labels: Labels;
  /** IPv4, in CIDR form; undefined when it has none. */
  readonly subnet: string | undefined;
}

/** The container that a lifecycle wants. */
export interface ContainerSpec {
  readonly name: string;
  /** The owner of the container: `project/stack`. */
  readonly owner: string;
  readonly image: string;
  /** Docker network; the container's name is its host name there. */
  readonly network: string;
  /** Port inside, and the port of 127.0.0.1 that leads to it; the container never listens on another address. */
  readonly port: { readonly container: number; readonly host: number };
  readonly volume: { readonly name: string; readonly path: string };
  readonly env: Readonly<Record<string, string>>;
}

/** The calls of the lifecycles to a Docker Engine. Every method throws one sentence when the engine does not answer. */
export interface Docker {
  /** @returns undefined when no container has that name */
  container(name: string): Promise<FoundContainer | undefined>;
  /**
   * Runs a container in the background, and again after every restart of the engine; `labels` are added to the owner's.
   */
  run(spec: ContainerSpec, labels: Readonly<Record<string, string>>): Promise<void>;
  /** The last lines that a container wrote. */
  logs(container: string): Promise<string>;
  /** The number of blobs that a running registry holds without a reference to them. */
  garbage(container: string): Promise<number>;
  /** Deletes them. The registry must not run: see `GarbageLifecycle`. */
  collectGarbage(container: string): Promise<void>;
  stop(container: string): Promise<void>;
  start(container: string): Promise<void>;
  unpause(container: string): Promise<void>;
  /** Ends and removes a container; its named volumes stay. */
  removeContainer(name: string): Promise<void>;
  /** @returns undefined when no network has that name */
  network(name: string): Promise<FoundNetwork | undefined>;
  /** @param owner of the network: `project/stack` */
  createNetwork(name: string, owner: string): Promise<void>;
  /** Removes a network, and the images that were made for its nodes. */
  removeNetwork(name: string): Promise<void>;
}

/** The official `docker` program. */
export class DockerCli implements Docker {
  async container(name: string): Promise<FoundContainer | undefined> {
    const found = await this.inspect<{ Config: { Labels: Labels }; State: { Status: string } }>(
      "container",
      name,
    );
    return found && { labels: found.Config.Labels, status: found.State.Status };
  }

  async run(spec: ContainerSpec, labels: Readonly<Record<string, string>>): Promise<void> {
    const pairs = (flag: string, values: Readonly<Record<string, string>>) =>
      Object.entries(values).flatMap(([key, value]) => [flag, `${key}=${value}`]);
    await docker(
      ...["run", "--detach", "--restart", "unless-stopped", "--name", spec.name],
      ...["--network", spec.network, "--volume", `${spec.volume.name}:${spec.volume.path}`],
      ...["--publish", `127.0.0.1:${spec.port.host}:${spec.port.container}`],
      ...pairs("--label", labels),
      ...pairs("--env", spec.env),
      spec.image,
    );
  }

  async logs(container: string): Promise<string> {
    // For a container's standard error, "docker logs" also writes to standard error.
    const env = Object.fromEntries(
      Object.entries(process.env).filter(([name]) => name.startsWith("DOCKER_")),
    );
    return run("sh", ["-c", 'docker logs --tail 5 "$1" 2>&1', "sh", container], { env });
  }

  async garbage(container: string): Promise<number> {
    const { program, config } = await this.registry(container);
    const said = await docker("exec", container, ...program, ...collection, "--dry-run", config);
    const count = /(\d+) blobs and \d+ manifests eligible for deletion/.exec(said)?.[1];
    if (count === undefined) throw new Error(`"registry garbage-collect" of ${container} counts no blobs.`);
    return Number(count);
  }

  async collectGarbage(container: string): Promise<void> {
    const { image, config } = await this.registry(container);
    const beside = ["--rm", "--network", "none", "--volumes-from", container];
    await docker("run", ...beside, image, ...collection, config);
  }

  async stop(container: string): Promise<void> {
    await docker("stop", container);
  }

  async start(container: string): Promise<void> {
    await docker("start", container);
  }

  async unpause(container: string): Promise<void> {
    await docker("unpause", container);
  }

  async removeContainer(name: string): Promise<void> {
    await docker("rm", "--force", name);
  }

  async network(name: string): Promise<FoundNetwork | undefined> {
    const found = await this.inspect<{ Labels: Labels; IPAM: { Config: { Subnet: string }[] | null } }>(
      "network",
      name,
    );
    if (found === undefined) return undefined;
    const subnets = (found.IPAM.Config ?? []).map(({ Subnet }) => Subnet);
    return { labels: found.Labels, subnet: subnets.find((subnet) => !subnet.includes(":")) };
  }

  async createNetwork(name: string, owner: string): Promise<void> {
    await docker("network", "create", "--label", `${ownerLabel}=${owner}`, name);
  }

  async removeNetwork(name: string): Promise<void> {
    // The network goes last: after it, nothing of the stack is left.
    await pruneImages(name);
    await docker("network", "rm", name);
  }

  /**
   * The image of a registry container, its program, and the path of its configuration: the last word of its command.
   */
  private async registry(container: string): Promise<{ image: string; program: string[]; config: string }> {
    const found = await this.inspect<{
      Image: string;
      Config: { Entrypoint: string[] | null; Cmd: string[] | null };
    }>("container", container);
    const config = found?.Config.Cmd?.at(-1);
    if (found === undefined || config === undefined) {
      throw new Error(`Container "${container}" is not a registry: its command names no configuration.`);
    }
    return { image: found.Image, program: found.Config.Entrypoint ?? [], config };
  }

  private async inspect<T>(type: "container" | "network", name: string): Promise<T | undefined> {
    try {
      return (JSON.parse(await docker("inspect", "--type", type, name)) as T[])[0];
    } catch (error) {
      // The cause is the text that Docker wrote, or the error of an engine that does not answer.
      const { cause } = error as Error;
      const isMissing = /No such (container|network|object)|network .* not found/i;
      if (typeof cause === "string" && isMissing.test(cause)) return undefined;
      throw error;
    }
  }
}

/**
 * The registry's own garbage collection; a manifest without a tag stays, for it may belong to a release in progress.
 */
const collection = ["garbage-collect", "--delete-untagged=false"] as const;

/** Whether an HTTP server answers, with any status. @param address `host:port`, never reached through a proxy */
export function answers(address: string): Promise<boolean> {
  return new Promise((resolve) => {
    const request = get(`http://${address}/`, { agent: new Agent(), timeout: 5_000 }, (response) => {
      response.resume();
      resolve(true);
    });
    request
      .once("timeout", () => request.destroy())
      .once("error", () => {
        resolve(false);
      });
  });
}

/** The time that a container may take until it answers. */
export const answerMilliseconds = 60_000;

/** Waits for a container's HTTP server. @returns whether it answered in time */
export async function answersInTime(
  isAnswering: (address: string) => Promise<boolean>,
  clock: Clock,
  address: string,
): Promise<boolean> {
  const deadline = clock.now() + answerMilliseconds;
  while (!(await isAnswering(address))) {
    if (clock.now() >= deadline) return false;
    await clock.sleep(200);
  }
  return true;
}

/**
 * Removes the images that this project made for the nodes of a network, except images that a container uses. Where the
 * engine refuses, for example while another program prunes, the images stay: they add only a few kilobytes to the node
 * image.
 */
export async function pruneImages(network: string): Promise<void> {
  const filter = `label=${networkLabel}=${network}`;
  await docker("image", "prune", "--all", "--force", "--filter", filter).catch(() => undefined);
}

/** The message of the engine's client when no engine answers; its version 29 has another message. */
const silence =
  /Cannot connect to the Docker daemon|failed to connect to the docker API|error during connect|permission denied.*docker/i;

/**
 * Runs `docker` and returns its standard output.
 *
 * @throws Error with one sentence, which says so if the engine does not answer
 */
export async function docker(...args: string[]): Promise<string> {
  try {
    return await run("docker", args, { timeout: 600_000 });
  } catch (error) {
    const { cause } = error as Error;
    if (typeof cause !== "string" || !silence.test(cause)) throw error;
    const said = cause
      .trim()
      .replaceAll("\n", " ")
      .replace(/[.?]+$/, "");
    const silent = new Error(
      `Asking Docker for "${args.slice(0, 2).join(" ")}" failed: the engine does not answer (${said}). Start it, let this user reach it, and run again.`,
      { cause: error },
    );
    // Pulumi prints the stack of an error that `read` throws.
    silent.stack = "";
    throw silent;
  }
}
