import { hash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { parse, stringify } from "yaml";
import type { Clock } from "../../../system/clock";
import { isNotOf, isOwn } from "../../../clients/docker/ownership";
import type { KubernetesApi } from "../../../clients/kubernetes/client";
import { sentence } from "../../../system/sentence";
import type { Kind, KindNode } from "../../../clients/kind/client";

/** The Kind cluster that the stack wants. */
export interface KindInputs {
  readonly name: string;
  /** The owner of the cluster: `project/stack`. */
  readonly owner: string;
  /** Docker network of the nodes. */
  readonly network: string;
  /** Image of the nodes. */
  readonly image: string;
  /** Pull the image when the Docker Engine does not hold it. */
  readonly pull: boolean;
  /**
   * Kind's own configuration, YAML, without the image. Kind cannot change it in place: another configuration replaces
   * the cluster.
   */
  readonly config: string;
  /** Files of the API server, from the image of the nodes: absolute path in a node → content. */
  readonly files: Readonly<Record<string, string>>;
  /** The user agrees to delete a cluster that Kind cannot change in place, with all data of its volumes. */
  readonly allowReplace: boolean;
  /** containerd's `hosts.toml` by registry host; changed in place. */
  readonly hosts: Readonly<Record<string, string>>;
  /** Also add the cluster to the user's own kubeconfig; changed in place. */
  readonly mergeKubeconfig: boolean;
}

/** A Kind cluster that exists. */
export interface KindOutputs extends KindInputs {
  /** Admin kubeconfig; a secret output. */
  readonly kubeconfig: string;
  /** Whether, at the last look, every node ran and had its description of the cluster. */
  readonly running: boolean;
}

/** The path of the API server's files in a node, and the path of the API server's log. */
export const inNode = { config: "/etc/kubernetes/platform", log: "/var/log/kubernetes" } as const;

/**
 * The directory in which a node describes its cluster: `settings`, the settings that the cluster was made from; and
 * `unfinished`, from the image. The lifecycle removes `unfinished` when the cluster is complete, and writes it again
 * when the deletion begins.
 */
const marksDirectory = "/kind/platform";
const unfinished = {
  [`${marksDirectory}/unfinished`]:
    "This cluster is being made or deleted: nothing in it is kept when a run of this project finds this file.\n",
};
const certs = "/etc/containerd/certs.d";
/** The time in which an API server must answer after its node was started. */
const answerMilliseconds = 90_000;

/**
 * The placeholder for a value that a preview does not know yet. Source: `unknownValue` in `@pulumi/pulumi/runtime/rpc`
 */
const unknownValue = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";

/** The settings that only another cluster can have, without this project's own paths on this machine. */
interface Settings {
  readonly network: string;
  readonly image: string;
  readonly config: unknown;
  /** By name. */
  readonly files: Readonly<Record<string, string>>;
}

/** The description of a cluster, from its nodes. */
interface Marks {
  /** The cluster is half-made or half-deleted: it holds nothing of value. */
  readonly unfinished: boolean;
  /** The settings that the cluster was made from; undefined when no node has them. */
  readonly settings: Settings | undefined;
  /** The mark of a cluster that an earlier version of this project made: a hash. */
  readonly fingerprint: string | undefined;
  /** Every node has the settings of the cluster. */
  readonly complete: boolean;
}

/** Makes, adopts, revives and deletes a Kind cluster. */
export class KindLifecycle {
  constructor(
    private readonly kind: Kind,
    private readonly connect: (kubeconfig: string) => Pick<KubernetesApi, "get">,
    private readonly clock: Clock,
  ) {}

  /** The reasons against the creation of the cluster, in sentences; changes nothing. */
  async check(inputs: KindInputs): Promise<string[]> {
    const nodes = await this.kind.nodes(inputs.name);
    if (nodes.length === 0 || !nodes.every(({ labels }) => isOwn(labels, inputs.owner))) return [];
    const reasons = await this.lossOf(inputs, nodes);
    if (reasons.length === 0) return [];
    if (!inputs.allowReplace) return [refusal(inputs.name, reasons)];
    console.warn(warning(inputs.name, reasons));
    return [];
  }

  async create(inputs: KindInputs): Promise<KindOutputs> {
    const nodes = await this.kind.nodes(inputs.name);
    if (nodes.length > 0) {
      refuseForeign("Adopting", inputs, nodes);
      const found = await this.look(inputs.name, nodes);
      if (!found.unfinished) {
        const reasons = await this.lossOf(inputs, nodes);
        if (reasons.length === 0) return this.update(inputs);
        if (!inputs.allowReplace) throw new Error(refusal(inputs.name, reasons));
      }
      await this.remove(inputs.name, nodes);
    }
    await this.make(inputs);
    return this.configure(inputs);
  }

  /**
   * A stopped cluster exists: the result says that it does not run.
   *
   * @returns undefined when the cluster is gone, half-made, half-deleted, or has another owner
   */
  async read(state: KindOutputs): Promise<KindOutputs | undefined> {
    const nodes = await this.kind.nodes(state.name);
    if (nodes.length === 0 || !nodes.every(({ labels }) => isOwn(labels, state.owner))) return undefined;
    const found = await this.look(state.name, nodes);
    if (found.unfinished) return undefined;
    const running = nodes.every(({ status }) => status === "running");
    return {
      ...state,
      // Another run may have remade the cluster without this state.
      ...(found.settings === undefined || differences(found.settings, settingsOf(state)).length === 0
        ? {}
        : { ...found.settings, config: stringify(found.settings.config) }),
      kubeconfig: running ? await this.kubeconfig(state.name, nodes) : state.kubeconfig,
      running: running && found.complete,
    };
  }

  /** The changed inputs, separately those that replace the cluster, and the reason in words. */
  diff(
    olds: KindInputs & Partial<KindOutputs>,
    news: KindInputs,
  ): { changes: boolean; replaces: string[]; reasons: string[] } {
    const [before, after] = [
      { name: olds.name, ...settingsOf(olds) },
      { name: news.name, ...settingsOf(news) },
    ];
    const keys = ["name", "network", "image", "config", "files"] as const;
    const replaces = keys.filter((key) => reasonsOf(key, before[key], after[key]).length > 0);
    const changed = (key: keyof KindInputs) => JSON.stringify(olds[key]) !== JSON.stringify(news[key]);
    return {
      changes:
        replaces.length > 0 ||
        changed("hosts") ||
        changed("mergeKubeconfig") ||
        olds.running === false ||
        // State of an earlier version, whose code and marks this version replaces.
        (olds as Partial<KindInputs>).allowReplace === undefined,
      replaces,
      reasons: replaces.flatMap((key) => reasonsOf(key, before[key], after[key])),
    };
  }

  /** Starts stopped nodes, and makes all changes that are possible in place. */
  async update(inputs: KindInputs): Promise<KindOutputs> {
    const nodes = await this.kind.nodes(inputs.name);
    if (nodes.some(({ status }) => status !== "running")) await this.revive(inputs, nodes);
    await this.untilAnswers(inputs);
    return this.configure(inputs);
  }

  async delete(state: KindInputs): Promise<void> {
    const nodes = await this.kind.nodes(state.name);
    if (nodes.length === 0) return;
    refuseForeign("Deleting", state, nodes);
    await this.remove(state.name, nodes);
    await this.kind.removeImages(state.network);
  }

  /** Deletes a cluster; after a kill, the next run finds the cluster half-deleted. */
  private async remove(name: string, nodes: readonly KindNode[]): Promise<void> {
    // A node that accepts no file any more must not block its deletion.
    for (const node of nodes) await this.kind.copyFiles(node.name, unfinished).catch(() => undefined);
    await this.kind.delete(name);
  }

  /** The reasons why an existing cluster cannot become the wanted cluster; empty if it is adopted or made again. */
  private async lossOf(inputs: KindInputs, nodes: readonly KindNode[]): Promise<string[]> {
    const found = await this.look(inputs.name, nodes);
    if (found.unfinished) return [];
    const asked = settingsOf(inputs);
    if (found.settings !== undefined) {
      const { settings } = found;
      return (["network", "image", "config", "files"] as const).flatMap((key) =>
        reasonsOf(key, settings[key], asked[key]),
      );
    }
    if (found.fingerprint !== undefined && found.fingerprint !== earlierFingerprint(inputs)) {
      return ["settings that an earlier version of this project made it of"];
    }
    return [];
  }

  private async revive(inputs: KindInputs, nodes: readonly KindNode[]): Promise<void> {
    for (const node of nodes.filter(({ status }) => status !== "running")) {
      await this.kind.revive(node).catch((error: unknown) => {
        throw new Error(
          `Starting node ${node.name} of Kind cluster "${inputs.name}" failed: ${sentence((error as Error).message)} Fix the cause, or delete the cluster with all that its volumes hold ("kind delete cluster --name ${inputs.name}"), and run again.`,
          { cause: error },
        );
      });
    }
  }

  private async untilAnswers(inputs: KindInputs): Promise<void> {
    const api = this.connect(await this.kind.kubeconfig(inputs.name));
    const deadline = this.clock.now() + answerMilliseconds;
    for (;;) {
      try {
        await api.get({ apiVersion: "v1", kind: "Namespace", name: "kube-system" });
        return;
      } catch (error) {
        if (this.clock.now() > deadline) {
          throw new Error(
            `Adopting Kind cluster "${inputs.name}" failed: its nodes run, but its API server did not answer within ${answerMilliseconds / 1000} s (${sentence((error as Error).message)}) Fix the cause, or delete the cluster with all that its volumes hold ("kind delete cluster --name ${inputs.name}"), and run again.`,
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
      // Docker would make the directory of the log as root.
      for (const directory of logsOf(inputs.config)) await mkdir(directory, { recursive: true });
      await this.kind.makeImage(inputs, tag, { ...inputs.files, ...unfinished });
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
    for (const node of nodes) await this.kind.replaceFiles(node.name, certs, hosts);
    const settings = `${JSON.stringify(settingsOf(inputs))}\n`;
    for (const node of nodes) {
      const found = await this.kind.readFiles(node.name, marksDirectory);
      if (found.settings !== settings) {
        await this.kind.writeFile(node.name, `${marksDirectory}/settings`, settings);
      }
    }
    // The removal of this mark on the first node makes the cluster complete; all its data comes later.
    for (const node of nodes) await this.kind.removeFile(node.name, `${marksDirectory}/unfinished`);
    if (inputs.mergeKubeconfig) await this.kind.mergeKubeconfig(inputs.name);
    return { ...inputs, kubeconfig: await this.kubeconfig(inputs.name, nodes), running: true };
  }

  /**
   * The kubeconfig, with a comment that changes whenever a node starts. A Kubernetes provider that found no cluster
   * behind a kubeconfig treats the cluster as lost until the text of the kubeconfig changes.
   */
  private async kubeconfig(name: string, nodes: readonly KindNode[]): Promise<string> {
    const starts = nodes.map(({ startedAt }) => startedAt).sort();
    return `${(await this.kind.kubeconfig(name)).trimEnd()}\n# Started ${starts.join(", ")}\n`;
  }

  private async look(cluster: string, nodes: readonly KindNode[]): Promise<Marks> {
    const found = await Promise.all(nodes.map(({ name }) => this.kind.readFiles(name, marksDirectory)));
    const settings = found.map((files) => parsed(files.settings));
    return {
      unfinished:
        found.some((files) => "unfinished" in files) ||
        // The remaining nodes are no cluster without the node that stored the objects of Kubernetes.
        !nodes.some(({ name }) => name === `${cluster}-control-plane`),
      settings: settings.find((one) => one !== undefined),
      fingerprint: found.map((files) => files.fingerprint?.trim()).find((one) => one !== undefined),
      complete: settings.every((one) => one !== undefined),
    };
  }
}

function refuseForeign(operation: string, { name, owner }: KindInputs, nodes: readonly KindNode[]): void {
  const stranger = nodes.find(({ labels }) => !isOwn(labels, owner));
  if (stranger === undefined) return;
  throw new Error(
    `${operation} Kind cluster "${name}" failed: it exists and ${isNotOf(owner, `its node ${stranger.name}`, stranger.labels)}. Set platform:cluster.name to another name, or delete it with "kind delete cluster --name ${name}".`,
  );
}

/** The loss, and the way to agree to it. */
export function refusal(name: string, reasons: readonly string[]): string {
  return `Replacing Kind cluster "${name}" was refused: all that its volumes hold would be lost, because Kind cannot change in place ${reasons.join(", ")}. Set it back; or, to lose it, run "npx platform up" with --replace or set platform:cluster.allowReplace to true.`;
}

/** The loss to which the user agreed. */
export function warning(name: string, reasons: readonly string[]): string {
  return `Kind cluster "${name}" is replaced, with all that its volumes hold: Kind cannot change in place ${reasons.join(", ")}.`;
}

interface KindConfig {
  readonly nodes?: readonly { readonly extraMounts?: readonly KindMount[] }[];
}

interface KindMount {
  readonly hostPath: string;
  readonly containerPath: string;
}

const isOwnMount = ({ containerPath }: KindMount) => Object.values<string>(inNode).includes(containerPath);

function settingsOf({ network, image, config, files }: KindInputs): Settings {
  const { nodes, ...whole } = (parse(config) ?? {}) as KindConfig;
  return {
    network,
    image,
    config: {
      ...whole,
      nodes: nodes?.map((node) => ({
        ...node,
        extraMounts: (node.extraMounts ?? []).filter((mount) => !isOwnMount(mount)),
      })),
    },
    // State of an earlier version has paths of this machine.
    files: Object.fromEntries(
      Object.entries(files)
        .map(([path, content]) => [basename(path), content] as const)
        .sort(([a], [b]) => (a < b ? -1 : 1)),
    ),
  };
}

/** The settings from a node; undefined when the node holds none. */
function parsed(text: string | undefined): Settings | undefined {
  try {
    return JSON.parse(text ?? "") as Settings;
  } catch {
    return undefined;
  }
}

/** Directories of this machine for the log of the API server. */
function logsOf(config: string): string[] {
  return ((parse(config) as KindConfig).nodes ?? [])
    .flatMap(({ extraMounts = [] }) => extraMounts)
    .filter(isOwnMount)
    .map(({ hostPath }) => hostPath);
}

/** The mark of an earlier version, which mounted the files from the directory next to the log. */
function earlierFingerprint({ network, image, config, files }: KindInputs): string {
  const { nodes: [first, ...rest] = [], ...whole } = parse(config) as KindConfig;
  const from = join(dirname(logsOf(config)[0] ?? ""), "api-server");
  const mount = { hostPath: from, containerPath: inNode.config, readOnly: true };
  const nodes = [{ ...first, extraMounts: [mount, ...(first?.extraMounts ?? [])] }, ...rest];
  const mounted = Object.entries(files).map(([path, content]) => [join(from, basename(path)), content]);
  return hash("sha256", JSON.stringify([network, image, { ...whole, nodes }, mounted.sort()]));
}

/** The image of a cluster's nodes, which only the Docker Engine holds. */
function imageTag({ name, image }: KindInputs): string {
  return `platform-node-${name}:${hash("sha256", image).slice(0, 12)}`;
}

function withImage(config: string, image: string): string {
  const parsed = parse(config) as { nodes: object[] };
  return stringify({ ...parsed, nodes: parsed.nodes.map((node) => ({ ...node, image })) });
}

/** The reason why a setting replaces a cluster; empty when the setting is the same. */
function reasonsOf(key: string, olds: unknown, news: unknown): string[] {
  // A preview does not know a network that does not exist yet.
  if (news === unknownValue || differences(olds, news).length === 0) return [];
  if (key === "config") return differences(olds, news);
  return key === "files" ? ["files of the API server"] : differences(olds, news, key);
}

/** Paths whose values differ: `networking.podSubnet: "a" → "b"`. */
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

/** The remedy after a failed creation of a cluster, from the messages of Docker and Kind. */
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
  return "Fix the cause and run again.";
}
