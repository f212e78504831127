import { createHash } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { parse, stringify } from "yaml";
import type { Clock } from "../../clock";
import { isOwn, owner, ownerLabel } from "../../docker/ownership";
import type { KubernetesApi } from "../../kubernetes";
import { sentence } from "../../sentence";
import type { Kind, KindNode } from "./client";

/** A Kind cluster as it is asked for. */
export interface KindInputs {
  readonly name: string;
  /** Docker network of the nodes. */
  readonly network: string;
  /** Image of the nodes. */
  readonly image: string;
  /** Pull the image when the Docker Engine does not hold it. */
  readonly pull: boolean;
  /** Kind's own configuration, YAML, without the image. Kind cannot change a cluster in place: another replaces it. */
  readonly config: string;
  /** Files that the configuration mounts into the nodes: absolute path on this machine → content. */
  readonly files: Readonly<Record<string, string>>;
  /** containerd's `hosts.toml` by registry host; changed in place. */
  readonly hosts: Readonly<Record<string, string>>;
  /** Also add the cluster to the user's own kubeconfig; changed in place. */
  readonly mergeKubeconfig: boolean;
}

/** A running Kind cluster. */
export interface KindOutputs extends KindInputs {
  /** Admin kubeconfig; a secret output. */
  readonly kubeconfig: string;
}

/** Written into each node once the cluster is whole: the fingerprint of what it was made of. */
const marker = "/kind/platform";
const certs = "/etc/containerd/certs.d";
/** How long an API server may take to answer after its node was started. */
const answerMilliseconds = 90_000;

/** Inputs that only another cluster can have. */
const fixed = ["name", "network", "image", "config", "files"] as const;

/** Makes, adopts, revives and deletes a Kind cluster. */
export class KindLifecycle {
  constructor(
    private readonly kind: Kind,
    private readonly connect: (kubeconfig: string) => Pick<KubernetesApi, "get">,
    private readonly clock: Clock,
  ) {}

  async create(inputs: KindInputs): Promise<KindOutputs> {
    const nodes = await this.kind.nodes(inputs.name);
    if (nodes.length > 0) {
      refuseForeign("Adopting", inputs.name, nodes);
      if (await this.adopt(inputs, nodes)) return this.configure(inputs);
      // A run was killed before the cluster was whole, or it is of other settings: only a new one will do.
      await this.kind.delete(inputs.name);
    }
    await this.make(inputs);
    return this.configure(inputs);
  }

  /** @returns undefined when the cluster is gone, half-made, or does not run */
  async read(state: KindOutputs): Promise<KindOutputs | undefined> {
    const nodes = await this.kind.nodes(state.name);
    if (nodes.length === 0 || nodes.some(({ status }) => status !== "running")) return undefined;
    if (!nodes.every(({ labels }) => isOwn(labels)) || !(await this.isWhole(state, nodes))) return undefined;
    return { ...state, kubeconfig: await this.kubeconfig(state.name, nodes) };
  }

  /** The inputs that changed, those that replace the cluster apart, and why in words. */
  diff(olds: KindInputs, news: KindInputs): { changes: boolean; replaces: string[]; reasons: string[] } {
    const meaning = (inputs: KindInputs, key: keyof KindInputs) =>
      JSON.stringify(key === "config" ? parse(inputs.config) : inputs[key]);
    const changed = (key: keyof KindInputs) => meaning(olds, key) !== meaning(news, key);
    const replaces = fixed.filter(changed);
    return {
      changes: replaces.length > 0 || changed("hosts") || changed("mergeKubeconfig"),
      replaces,
      reasons: replaces.flatMap((key) =>
        key === "config"
          ? differences(parse(olds.config), parse(news.config))
          : [key === "files" ? "files of the API server" : key],
      ),
    };
  }

  async update(inputs: KindInputs): Promise<KindOutputs> {
    return this.configure(inputs);
  }

  async delete(state: KindInputs): Promise<void> {
    const nodes = await this.kind.nodes(state.name);
    if (nodes.length === 0) return;
    refuseForeign("Deleting", state.name, nodes);
    await this.kind.delete(state.name);
    // Another cluster of this project may still use the image.
    await this.kind.removeImage(imageTag(state)).catch(() => undefined);
  }

  /**
   * Takes a cluster that is there, started again when it was stopped.
   *
   * @returns false when it never became whole, or is of other settings
   */
  private async adopt(inputs: KindInputs, nodes: readonly KindNode[]): Promise<boolean> {
    for (const node of nodes.filter(({ status }) => status !== "running")) {
      await this.kind.revive(node).catch((error: unknown) => {
        throw new Error(
          `Starting node ${node.name} of Kind cluster "${inputs.name}" failed: ${sentence((error as Error).message)} Mend it, or delete the cluster with all that its volumes hold ("kind delete cluster --name ${inputs.name}"), and run again.`,
          { cause: error },
        );
      });
    }
    if (!(await this.isWhole(inputs, nodes))) return false;
    const api = this.connect(await this.kind.kubeconfig(inputs.name));
    const deadline = this.clock.now() + answerMilliseconds;
    for (;;) {
      try {
        await api.get({ apiVersion: "v1", kind: "Namespace", name: "kube-system" });
        return true;
      } catch (error) {
        if (this.clock.now() > deadline) {
          throw new Error(
            `Adopting Kind cluster "${inputs.name}" failed: its nodes run, but its API server did not answer within ${answerMilliseconds / 1000} s (${sentence((error as Error).message)}) Mend it, or delete it with all that its volumes hold ("kind delete cluster --name ${inputs.name}"), and run again.`,
            { cause: error },
          );
        }
        await this.clock.sleep(1_000);
      }
    }
  }

  private async make(inputs: KindInputs): Promise<void> {
    const tag = imageTag(inputs);
    try {
      for (const [path, content] of Object.entries(inputs.files)) {
        await mkdir(dirname(path), { recursive: true });
        await writeFile(path, content);
      }
      await this.kind.labelImage(inputs.image, tag, inputs.pull);
      await this.kind.create(inputs.name, inputs.network, withImage(inputs.config, tag));
    } catch (error) {
      throw new Error(
        `Creating Kind cluster "${inputs.name}" failed: ${sentence((error as Error).message)} ${remedy((error as Error).message, inputs)}`,
        { cause: error },
      );
    }
  }

  private async configure(inputs: KindInputs): Promise<KindOutputs> {
    const nodes = await this.kind.nodes(inputs.name);
    const hosts = Object.fromEntries(
      Object.entries(inputs.hosts).map(([host, toml]) => [join(host, "hosts.toml"), toml]),
    );
    for (const { name } of nodes) await this.kind.writeFiles(name, certs, hosts);
    for (const { name } of nodes) {
      await this.kind.writeFiles(name, marker, { fingerprint: fingerprint(inputs) });
    }
    if (inputs.mergeKubeconfig) await this.kind.mergeKubeconfig(inputs.name);
    const { name, network, image, pull, config, files, mergeKubeconfig } = inputs;
    return {
      ...{ name, network, image, pull, config, files, hosts: inputs.hosts, mergeKubeconfig },
      kubeconfig: await this.kubeconfig(name, nodes),
    };
  }

  /**
   * The kubeconfig, with a comment that changes whenever a node starts: a Kubernetes provider that found no cluster
   * behind a kubeconfig takes it for lost until it is given another text.
   */
  private async kubeconfig(name: string, nodes: readonly KindNode[]): Promise<string> {
    const starts = nodes.map(({ startedAt }) => startedAt).sort();
    return `${(await this.kind.kubeconfig(name)).trimEnd()}\n# Started ${starts.join(", ")}\n`;
  }

  private async isWhole(inputs: KindInputs, nodes: readonly KindNode[]): Promise<boolean> {
    const marks = await Promise.all(
      nodes.map(({ name }) => this.kind.readFile(name, `${marker}/fingerprint`)),
    );
    return marks.every((mark) => mark?.trim() === fingerprint(inputs));
  }
}

function refuseForeign(operation: string, name: string, nodes: readonly KindNode[]): void {
  const stranger = nodes.find(({ labels }) => !isOwn(labels));
  if (stranger === undefined) return;
  throw new Error(
    `${operation} Kind cluster "${name}" failed: it exists and is not this project's (its node ${stranger.name} lacks the label ${ownerLabel}=${owner}). Set platform:cluster.name to another name, or delete it with "kind delete cluster --name ${name}".`,
  );
}

function fingerprint(inputs: KindInputs): string {
  const files = Object.entries(inputs.files).sort();
  return createHash("sha256")
    .update(JSON.stringify([inputs.network, inputs.image, parse(inputs.config), files]))
    .digest("hex");
}

/** The image of a cluster's nodes, in the Docker Engine alone. */
function imageTag({ name, image }: KindInputs): string {
  return `platform-node-${name}:${createHash("sha256").update(image).digest("hex").slice(0, 12)}`;
}

function withImage(config: string, image: string): string {
  const parsed = parse(config) as { nodes: object[] };
  return stringify({ ...parsed, nodes: parsed.nodes.map((node) => ({ ...node, image })) });
}

/** Paths of a configuration whose values differ: `networking.podSubnet: "a" → "b"`. */
function differences(olds: unknown, news: unknown, path = ""): string[] {
  if (JSON.stringify(olds) === JSON.stringify(news)) return [];
  const isMap = (value: unknown): value is Record<string, unknown> =>
    typeof value === "object" && value !== null;
  if (!isMap(olds) || !isMap(news)) {
    const show = (value: unknown) => (value === undefined ? "unset" : JSON.stringify(value));
    return [`${path}: ${show(olds)} → ${show(news)}`];
  }
  return [...new Set([...Object.keys(olds), ...Object.keys(news)])].flatMap((key) =>
    differences(olds[key], news[key], path === "" ? key : `${path}.${key}`),
  );
}

/** What mends a cluster that could not be made, from what Docker and Kind say. */
function remedy(message: string, { image, pull }: KindInputs): string {
  if (/port is already allocated|address already in use/.test(message)) {
    return "Stop what listens on that port, or change platform:cluster.ports.";
  }
  if (
    /No such image|not found: manifest|manifest unknown|pull access denied|Unable to find image/.test(message)
  ) {
    return pull
      ? `Set platform:cluster.nodeImage or platform:cluster.kubernetesVersion to an image that exists; "${image}" does not.`
      : `Load "${image}" into the Docker Engine ("docker load"): platform:registry.airGapped forbids to pull it.`;
  }
  return "Mend it and run again.";
}
