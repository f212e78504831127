import { run } from "../../command";

/** What the lifecycle asks of Kind and of the Docker Engine below it. */
export interface Kind {
  clusters(): Promise<string[]>;
  /** @param network Docker network of the nodes */
  create(name: string, network: string, config: string): Promise<void>;
  kubeconfig(name: string): Promise<string>;
  delete(name: string): Promise<void>;
  /** IPv4 subnet of a Docker network, in CIDR form. */
  subnet(network: string): Promise<string>;
}

/** The official `kind` and `docker` programs. */
export class KindCli implements Kind {
  async clusters(): Promise<string[]> {
    return (await run("kind", ["get", "clusters", "--quiet"])).split("\n").filter((name) => name !== "");
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

  async delete(name: string): Promise<void> {
    await run("kind", ["delete", "cluster", "--name", name, "--kubeconfig", "/dev/null"]);
  }

  async subnet(network: string): Promise<string> {
    const text = await run("docker", ["network", "inspect", network, "--format", "{{json .IPAM.Config}}"]);
    const configs = JSON.parse(text) as { Subnet: string }[] | null;
    const subnet = configs?.map((config) => config.Subnet).find((candidate) => !candidate.includes(":"));
    if (subnet === undefined) {
      throw new Error(
        `Reading Docker network "${network}" failed: it has no IPv4 subnet. Remove it and run again.`,
      );
    }
    return subnet;
  }
}
