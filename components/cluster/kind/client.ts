import { run } from "../../command";
import { docker } from "../../docker/client";
import { owner, ownerLabel, type Labels } from "../../docker/ownership";

/** A node of a Kind cluster: a container. */
export interface KindNode {
  readonly name: string;
  readonly labels: Labels;
  /** `running`, `paused`, `exited`, `created`. */
  readonly status: string;
  /** When it started last, as Docker tells it. */
  readonly startedAt: string;
}

/** What the lifecycle asks of Kind and of the Docker Engine below it. */
export interface Kind {
  /** The nodes of a cluster, half-made ones included; none when there is no such cluster. */
  nodes(cluster: string): Promise<KindNode[]>;
  /** Makes the image of this project's nodes: `image` with the owner's label, which its containers inherit. */
  labelImage(image: string, tag: string, pull: boolean): Promise<void>;
  removeImage(tag: string): Promise<void>;
  /** @param network Docker network of the nodes */
  create(name: string, network: string, config: string): Promise<void>;
  kubeconfig(name: string): Promise<string>;
  /** Adds the cluster to the user's own kubeconfig, as its current context. */
  mergeKubeconfig(name: string): Promise<void>;
  /** Deletes the cluster, and its entry in the user's own kubeconfig. */
  delete(name: string): Promise<void>;
  /** Starts or unpauses a node. */
  revive(node: KindNode): Promise<void>;
  /** Reads a file of a running node; undefined when there is none. */
  readFile(node: string, path: string): Promise<string | undefined>;
  /** Writes files of a running node, in place of all that `directory` holds: path relative to it → content. */
  writeFiles(node: string, directory: string, files: Readonly<Record<string, string>>): Promise<void>;
}

/** The official `kind` and `docker` programs. */
export class KindCli implements Kind {
  async nodes(cluster: string): Promise<KindNode[]> {
    const filter = `label=io.x-k8s.kind.cluster=${cluster}`;
    const ids = (await docker("ps", "--all", "--no-trunc", "--quiet", "--filter", filter)).split("\n");
    const found = ids.filter((id) => id !== "");
    if (found.length === 0) return [];
    const text = await docker("inspect", "--type", "container", ...found);
    return (
      JSON.parse(text) as {
        Name: string;
        Config: { Labels: Labels };
        State: { Status: string; StartedAt: string };
      }[]
    ).map(({ Name, Config, State }) => ({
      name: Name.replace(/^\//, ""),
      labels: Config.Labels,
      status: State.Status,
      startedAt: State.StartedAt,
    }));
  }

  async labelImage(image: string, tag: string, pull: boolean): Promise<void> {
    const scratch = `${tag.replace(/[^a-z0-9_.-]/g, "-")}-label`;
    await docker("rm", "--force", scratch).catch(() => undefined);
    await docker(
      ...["create", "--name", scratch, "--label", `${ownerLabel}=${owner}`],
      ...["--pull", pull ? "missing" : "never", image],
    );
    try {
      await docker("commit", "--change", `LABEL ${ownerLabel}=${owner}`, scratch, tag);
    } finally {
      await docker("rm", "--force", "--volumes", scratch);
    }
  }

  async removeImage(tag: string): Promise<void> {
    await docker("rmi", "--force", tag);
  }

  async create(name: string, network: string, config: string): Promise<void> {
    // The user's own kubeconfig is left alone.
    await run("kind", ["create", "cluster", "--name", name, "--config", "-", "--kubeconfig", "/dev/null"], {
      input: config,
      env: { KIND_EXPERIMENTAL_DOCKER_NETWORK: network },
      timeout: 600_000,
    });
  }

  async kubeconfig(name: string): Promise<string> {
    return run("kind", ["get", "kubeconfig", "--name", name]);
  }

  async mergeKubeconfig(name: string): Promise<void> {
    await run("kind", ["export", "kubeconfig", "--name", name]);
  }

  async delete(name: string): Promise<void> {
    await run("kind", ["delete", "cluster", "--name", name]);
  }

  async revive({ name, status }: KindNode): Promise<void> {
    await docker(status === "paused" ? "unpause" : "start", name);
  }

  async readFile(node: string, path: string): Promise<string | undefined> {
    try {
      return await docker("exec", node, "cat", path);
    } catch (error) {
      if (/No such file/.test((error as Error).message)) return undefined;
      throw error;
    }
  }

  async writeFiles(node: string, directory: string, files: Readonly<Record<string, string>>): Promise<void> {
    await docker("exec", node, "sh", "-c", 'rm -rf "$1" && mkdir -p "$1"', "sh", directory);
    for (const [path, content] of Object.entries(files)) {
      const script = 'mkdir -p "$(dirname "$1")" && cat > "$1"';
      await run("docker", ["exec", "--interactive", node, "sh", "-c", script, "sh", `${directory}/${path}`], {
        input: content,
      });
    }
  }
}
