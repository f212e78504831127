import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { run } from "../../tools/command";
import { docker, pruneImages } from "../docker/client";
import { networkLabel, ownerLabel, type Labels } from "../docker/ownership";

/** A node of a Kind cluster: a container. */
export interface KindNode {
  readonly name: string;
  readonly labels: Labels;
  /** `running`, `paused`, `exited`, `created`. */
  readonly status: string;
  /** The time of its last start, as Docker prints it. */
  readonly startedAt: string;
}

/** The parts of the image of a cluster's nodes. */
export interface NodeImage {
  readonly image: string;
  /** Pull the image when the Docker Engine does not hold it. */
  readonly pull: boolean;
  /** The owner of the nodes: `project/stack`. */
  readonly owner: string;
  /** Docker network of the nodes. */
  readonly network: string;
}

/** The calls of the lifecycle to Kind and to the Docker Engine below it. */
export interface Kind {
  /** The nodes of a cluster, half-made ones included; none when there is no such cluster. */
  nodes(cluster: string): Promise<KindNode[]>;
  /**
   * Makes the image of a cluster's nodes: `image` with the labels of owner and network, which its containers inherit,
   * and files. Earlier images that no container uses are removed.
   *
   * @param files absolute path in the image → content; the second-last directory of a path must exist in `image`
   */
  makeImage(nodes: NodeImage, tag: string, files: Readonly<Record<string, string>>): Promise<void>;
  /** Removes the images that `makeImage` made for a network, except images that a container uses. */
  removeImages(network: string): Promise<void>;
  /** @param network Docker network of the nodes */
  create(name: string, network: string, config: string): Promise<void>;
  kubeconfig(name: string): Promise<string>;
  /** Adds the cluster to the user's own kubeconfig, as its current context. */
  mergeKubeconfig(name: string): Promise<void>;
  /** Deletes the cluster, and its entry in the user's own kubeconfig. */
  delete(name: string): Promise<void>;
  /** Starts or unpauses a node. */
  revive(node: KindNode): Promise<void>;
  /** Reads the files of a directory of a node, running or not: name → content; empty when there is no directory. */
  readFiles(node: string, directory: string): Promise<Readonly<Record<string, string>>>;
  /** Copies files into a node, running or not: absolute path → content. */
  copyFiles(node: string, files: Readonly<Record<string, string>>): Promise<void>;
  /** Writes a file of a running node: at every moment the file has the old content or the new content. */
  writeFile(node: string, path: string, content: string): Promise<void>;
  /** Removes a file of a running node. */
  removeFile(node: string, path: string): Promise<void>;
  /** Writes files of a running node, and removes all other content of `directory`: path relative to it → content. */
  replaceFiles(node: string, directory: string, files: Readonly<Record<string, string>>): Promise<void>;
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

  async makeImage(
    { image, pull, owner, network }: NodeImage,
    tag: string,
    files: Readonly<Record<string, string>>,
  ): Promise<void> {
    await this.removeImages(network);
    const scratch = `${tag.replace(/[^a-z0-9_.-]/g, "-")}-label`;
    await docker("rm", "--force", scratch).catch(() => undefined);
    await docker(
      ...["create", "--name", scratch, "--label", `${ownerLabel}=${owner}`],
      ...["--pull", pull ? "missing" : "never", image],
    );
    try {
      await this.copyFiles(scratch, files);
      const labels = `LABEL ${ownerLabel}=${owner} ${networkLabel}=${network}`;
      await docker("commit", "--change", labels, scratch, tag);
    } finally {
      await docker("rm", "--force", "--volumes", scratch);
    }
  }

  removeImages(network: string): Promise<void> {
    return pruneImages(network);
  }

  async create(name: string, network: string, config: string): Promise<void> {
    // The user's own kubeconfig stays as it is.
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

  async readFiles(node: string, directory: string): Promise<Readonly<Record<string, string>>> {
    const scratch = await mkdtemp(join(tmpdir(), "platform-node-"));
    try {
      const copy = join(scratch, "copy");
      // Unlike "docker exec", "docker cp" reads a node that is stopped.
      await docker("cp", `${node}:${directory}`, copy);
      const names = await readdir(copy);
      return Object.fromEntries(
        await Promise.all(
          names.map(async (name) => [name, await readFile(join(copy, name), "utf8")] as const),
        ),
      );
    } catch (error) {
      if (/Could not find the file|No such container:path/.test((error as Error).message)) return {};
      throw error;
    } finally {
      await rm(scratch, { recursive: true, force: true });
    }
  }

  async copyFiles(node: string, files: Readonly<Record<string, string>>): Promise<void> {
    const scratch = await mkdtemp(join(tmpdir(), "platform-node-"));
    try {
      for (const [path, content] of Object.entries(files)) {
        const copy = join(scratch, path);
        await mkdir(dirname(copy), { recursive: true });
        await writeFile(copy, content);
        // The copies keep their modes in the node, so they must not depend on this user's umask.
        await chmod(copy, 0o644);
        await chmod(dirname(copy), 0o755);
      }
      const directories = new Set(Object.keys(files).map((path) => dirname(path)));
      for (const directory of directories) {
        // The command copies the directory itself, which may not exist in the node yet.
        await docker("cp", join(scratch, directory), `${node}:${dirname(directory)}`);
      }
    } finally {
      await rm(scratch, { recursive: true, force: true });
    }
  }

  async writeFile(node: string, path: string, content: string): Promise<void> {
    const script = 'mkdir -p "$(dirname "$1")" && cat > "$1.new" && mv "$1.new" "$1"';
    await run("docker", ["exec", "--interactive", node, "sh", "-c", script, "sh", path], { input: content });
  }

  async removeFile(node: string, path: string): Promise<void> {
    await docker("exec", node, "rm", "-f", path);
  }

  async replaceFiles(
    node: string,
    directory: string,
    files: Readonly<Record<string, string>>,
  ): Promise<void> {
    const beside = `${directory}.new`;
    await docker("exec", node, "sh", "-c", 'rm -rf "$1" && mkdir -p "$1"', "sh", beside);
    for (const [path, content] of Object.entries(files)) {
      await this.writeFile(node, `${beside}/${path}`, content);
    }
    await docker("exec", node, "sh", "-c", 'rm -rf "$2" && mv "$1" "$2"', "sh", beside, directory);
  }
}
