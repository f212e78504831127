import { readdir, readFile } from "node:fs/promises";
import { isIPv4 } from "node:net";
import { homedir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { parse } from "yaml";
import type { Mount, PortMapping } from "./components/cluster/kind-cluster";
import { sentence } from "./components/sentence";

/** A cluster that Kind makes on this machine. */
export interface KindClusterConfig {
  readonly kind: "kind";
  /** @default the stack's name */
  readonly name: string;
  /** From "nodeImage", or the image of "kubernetesVersion". @default Kind's own */
  readonly nodeImage?: string;
  /** Nodes beside the control plane. @default 0 */
  readonly workers: number;
  /** @default 10.244.0.0/16 */
  readonly podSubnet?: string;
  /** @default 10.96.0.0/16 */
  readonly serviceSubnet?: string;
  /** Cilium of the gitops tree, kube-proxy's part included, or Kind's own CNI and kube-proxy. @default cilium */
  readonly cni: "cilium" | "kindnet";
  /** What namespaces enforce that do not say. @default baseline */
  readonly podSecurity: "privileged" | "baseline" | "restricted";
  /** Ports of this machine that lead into the cluster. @default none */
  readonly ports: readonly PortMapping[];
  /** Directories of this machine in every node. @default none */
  readonly mounts: readonly Mount[];
  /** Kind's `kubeadmConfigPatches`, each a YAML text. @default none */
  readonly kubeadmConfigPatches: readonly string[];
  /** `merge` also adds the cluster to the user's own kubeconfig. @default output */
  readonly kubeconfig: "output" | "merge";
  /** Delete a cluster that Kind cannot change in place, with all that its volumes hold. @default false */
  readonly allowReplace: boolean;
}

/** A cluster that is there already, such as one that Omni made. */
export interface ExistingClusterConfig {
  readonly kind: "existing";
  /** Absolute path of its admin kubeconfig. */
  readonly kubeconfigFile: string;
  /** Addresses that load balancers may take, in CIDR form. */
  readonly loadBalancerCidr: string;
}

/** What the cluster of a stack is made of. */
export type ClusterConfig = KindClusterConfig | ExistingClusterConfig;

/** A registry container on this machine. */
export interface LocalRegistryConfig {
  readonly kind: "local";
  /** Port on 127.0.0.1; mirrors take the ports that follow. @default 5050 */
  readonly port: number;
  /** @default registry:3 */
  readonly image?: string;
  /** Registries whose images are kept on this machine, by host. @default none */
  readonly mirrors: readonly string[];
  /** Nothing is pulled from any other place than the mirrors and the Docker Engine. @default false */
  readonly airGapped: boolean;
  /** How many revisions of the artifact are kept. @default 20 */
  readonly keep: number;
  /** Keep the volume when the stack is destroyed. @default false */
  readonly retain: boolean;
}

/** A registry somewhere else; `docker login` gives its credentials to this machine. */
export interface RemoteRegistryConfig {
  readonly kind: "remote";
  /** `host[:port]/path`. */
  readonly repository: string;
  /** It speaks plain HTTP. @default false */
  readonly insecure: boolean;
}

/** Where the artifacts of a stack are stored. */
export type RegistryConfig = LocalRegistryConfig | RemoteRegistryConfig;

/** The settings of a stack, from `Pulumi.<stack>.yaml`. */
export interface PlatformConfig {
  readonly stack: string;
  readonly cluster: ClusterConfig;
  readonly registry: RegistryConfig;
  /** Domain of the applications: `homepage.<domain>`. */
  readonly domain: string;
  readonly gitops: {
    /** Absolute path of the tree. @default gitops */
    readonly tree: string;
    /** Directory below `clusters/`. @default the stack's name */
    readonly cluster: string;
    /** Refuse a tree with uncommitted changes. @default false */
    readonly requireClean: boolean;
  };
  readonly sops: {
    /**
     * Which secrets the stack makes up itself, with an identity of its own: none; the empty ones; or all of them,
     * for a stack that is thrown away. @default none
     */
    readonly generate: "none" | "empty" | "all";
    /** Absolute path of the identity. @default ~/.config/platform/age/<stack>.agekey */
    readonly identityFile: string;
    /** A command, such as that of a password manager, whose output is the identity. @default none */
    readonly ageKeyCommand?: readonly string[];
    /** Whom the secrets are encrypted for, `age1…`, the stack's own identity among them. @default none */
    readonly recipients?: readonly string[];
    /** The public half of a key that is kept offline and also opens the secrets. @default none */
    readonly recoveryRecipient?: string;
    /** Another number makes up the values of generated secrets anew. @default 0 */
    readonly valuesRevision?: number;
  };
  readonly release: {
    /** How long a release may take until every layer is Ready. @default 900 */
    readonly timeoutSeconds: number;
  };
  /** Stands in for every chart source of the seeds: `oci://…` or an absolute directory. @default none */
  readonly chartMirror?: string;
  /** `pulumi destroy` refuses this stack. @default false */
  readonly protect: boolean;
  /** Absolute path of what the stack leaves on this machine, such as its audit log. */
  readonly directory: string;
}

/** Where a stack's settings are read: the place of the program and of the user's own files. */
export interface ConfigContext {
  /** Absolute path of the directory that holds Pulumi.yaml. */
  readonly project: string;
  readonly env: NodeJS.ProcessEnv;
}

/**
 * Reads the settings of a stack.
 *
 * @param all every setting, `namespace:key` → text, as Pulumi gives it: objects and numbers are JSON
 * @throws Error naming the key, what it holds and what it takes
 */
export function parseConfig(
  stack: string,
  all: Readonly<Record<string, string>>,
  context: ConfigContext,
): PlatformConfig {
  const root = new Section(
    `stack "${stack}"`,
    "platform:",
    Object.fromEntries(
      Object.entries(all)
        .filter(([key]) => key.startsWith("platform:"))
        .map(([key, text]) => [key.slice("platform:".length), fromJson(text)]),
    ),
  );
  const path = (value: string) => resolvePath(value, context);
  const userConfig = context.env.XDG_CONFIG_HOME ?? join(homedir(), ".config");

  const cluster = root.section("cluster");
  const registry = root.section("registry");
  const gitops = root.section("gitops");
  const sops = root.section("sops");
  const release = root.section("release");
  const chartMirror = root.optionalString("chartMirror");
  const config: PlatformConfig = {
    stack,
    cluster: clusterConfig(cluster, stack, path, context.env),
    registry: registryConfig(registry),
    domain: root.string("domain"),
    gitops: {
      tree: path(gitops.string("tree", "gitops")),
      cluster: gitops.string("cluster", stack),
      requireClean: gitops.boolean("requireClean", false),
    },
    sops: {
      generate: sops.oneOf("generate", ["none", "empty", "all"], "none"),
      identityFile: path(sops.string("identityFile", join(userConfig, "platform", "age", `${stack}.agekey`))),
      ...sopsRecipients(sops),
    },
    release: { timeoutSeconds: release.integer("timeoutSeconds", 900, 10, 7200) },
    ...(chartMirror === undefined
      ? {}
      : { chartMirror: chartMirror.startsWith("oci://") ? chartMirror : path(chartMirror) }),
    protect: root.boolean("protect", false),
    directory: join(stateDirectory(context.env), stack),
  };
  for (const section of [root, cluster, registry, gitops, sops, release]) section.refuseUnknown();
  if (config.registry.kind === "local" && config.registry.airGapped && chartMirror === undefined) {
    throw new Error(
      `Reading the config of stack "${stack}" failed: "platform:registry.airGapped" is true, but the charts of the seeds come from elsewhere. Set "platform:chartMirror" to a directory or registry that holds them.`,
    );
  }
  return config;
}

/**
 * The settings of `Pulumi.<stack>.yaml`, as they stand there: `namespace:key` → value.
 *
 * @param project absolute path of the directory that holds Pulumi.yaml
 * @throws Error when there is no such stack, naming those there are
 */
export async function readStackFile(stack: string, project: string): Promise<Record<string, unknown>> {
  try {
    const text = await readFile(join(project, `Pulumi.${stack}.yaml`), "utf8");
    const { config = {} } = (parse(text) ?? {}) as { config?: unknown };
    if (typeof config !== "object" || config === null || Array.isArray(config)) {
      throw new Error(`"config" is ${JSON.stringify(config)}, not a map.`);
    }
    return config as Record<string, unknown>;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
      const [reason = ""] = (error as Error).message.split("\n");
      throw new Error(
        `Reading Pulumi.${stack}.yaml failed: ${sentence(reason.replace(/:\s*$/, ""))} Correct the file.`,
        {
          cause: error,
        },
      );
    }
    throw new Error(
      `Reading stack "${stack}" failed: there is no Pulumi.${stack}.yaml. Stacks here are ${(await stacksOf(project)).join(", ")}.`,
      { cause: error },
    );
  }
}

/** The names of a project's stacks, sorted: each has a file `Pulumi.<stack>.yaml`. */
export async function stacksOf(project: string): Promise<string[]> {
  return (await readdir(project)).flatMap((name) => /^Pulumi\.(.+)\.yaml$/.exec(name)?.[1] ?? []).sort();
}

/**
 * The age identity that the settings hold, as a Pulumi config secret. It is no part of `PlatformConfig`, which is
 * shown and handed on.
 *
 * @param all as `parseConfig` takes it, decrypted
 */
export function ageKeyOf(all: Readonly<Record<string, string>>): string | undefined {
  const { ageKey } = (fromJson(all["platform:sops"] ?? "{}") ?? {}) as { ageKey?: unknown };
  return typeof ageKey === "string" && ageKey !== "" ? ageKey : undefined;
}

/** Settings as Pulumi hands them to a program: what is no text is JSON. */
export function asPulumiConfig(settings: Readonly<Record<string, unknown>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(settings).map(([key, value]) => [
      key,
      typeof value === "string" ? value : JSON.stringify(value),
    ]),
  );
}

/** `readStackFile` and `parseConfig` in one, for what runs beside the program. */
export async function readStackConfig(
  stack: string,
  project: string,
  env: NodeJS.ProcessEnv,
): Promise<PlatformConfig> {
  return parseConfig(stack, asPulumiConfig(await readStackFile(stack, project)), { project, env });
}

/** Absolute path of what the stacks of this user leave on the machine. */
export function stateDirectory(env: NodeJS.ProcessEnv): string {
  return join(env.XDG_STATE_HOME ?? join(homedir(), ".local", "state"), "platform");
}

function clusterConfig(
  section: Section,
  stack: string,
  path: (value: string) => string,
  env: NodeJS.ProcessEnv,
): ClusterConfig {
  const kind = section.oneOf("kind", ["kind", "existing"]);
  if (kind === "existing") {
    return {
      kind,
      kubeconfigFile: path(section.string("kubeconfigFile")),
      loadBalancerCidr: section.string("loadBalancerCidr"),
    };
  }
  const nodeImage = section.optionalString("nodeImage");
  const version = section.optionalString("kubernetesVersion");
  if (nodeImage !== undefined && version !== undefined) {
    throw section.wrong("kubernetesVersion", version, 'nothing, or remove "platform:cluster.nodeImage"');
  }
  if (version !== undefined && !/^v?\d+\.\d+\.\d+$/.test(version)) {
    throw section.wrong("kubernetesVersion", version, 'a version such as "1.37.0"');
  }
  const image = nodeImage ?? (version && `kindest/node:v${version.replace(/^v/, "")}`);
  const allowReplace = section.boolean("allowReplace", false);
  const podSubnet = section.optionalCidr("podSubnet");
  const serviceSubnet = section.optionalCidr("serviceSubnet");
  return {
    kind,
    name: section.string("name", stack),
    workers: section.integer("workers", 0, 0, 20),
    cni: section.oneOf("cni", ["cilium", "kindnet"], "cilium"),
    podSecurity: section.oneOf("podSecurity", ["privileged", "baseline", "restricted"], "baseline"),
    ports: section.list("ports").map(portMapping),
    mounts: section.list("mounts").map((entry) => mount(entry, path)),
    kubeadmConfigPatches: section.strings("kubeadmConfigPatches"),
    kubeconfig: section.oneOf("kubeconfig", ["output", "merge"], "output"),
    allowReplace: allowReplace || env.PLATFORM_ALLOW_REPLACE === "true",
    ...(image === undefined ? {} : { nodeImage: image }),
    ...(podSubnet === undefined ? {} : { podSubnet }),
    ...(serviceSubnet === undefined ? {} : { serviceSubnet }),
  };
}

function portMapping(entry: Section): PortMapping {
  const listenAddress = entry.optionalString("listenAddress");
  const mapping = {
    containerPort: entry.integer("containerPort", undefined, 1, 65_535),
    hostPort: entry.integer("hostPort", undefined, 1, 65_535),
    protocol: entry.oneOf("protocol", ["TCP", "UDP"], "TCP"),
    ...(listenAddress === undefined ? {} : { listenAddress }),
  };
  entry.refuseUnknown();
  return mapping;
}

function mount(entry: Section, path: (value: string) => string): Mount {
  const mapping = {
    hostPath: path(entry.string("hostPath")),
    containerPath: entry.absolutePath("containerPath"),
    readOnly: entry.boolean("readOnly", false),
  };
  entry.refuseUnknown();
  return mapping;
}

function registryConfig(section: Section): RegistryConfig {
  const kind = section.oneOf("kind", ["local", "remote"]);
  if (kind === "remote") {
    return { kind, repository: section.string("repository"), insecure: section.boolean("insecure", false) };
  }
  const image = section.optionalString("image");
  const mirrors = section.strings("mirrors");
  if (new Set(mirrors).size < mirrors.length) throw section.wrong("mirrors", mirrors, "each host once");
  const bad = mirrors.find((host) => !/^[a-z0-9.-]+(:\d+)?$/.test(host));
  if (bad !== undefined) throw section.wrong("mirrors", bad, 'hosts of registries, such as "ghcr.io"');
  return {
    kind,
    port: section.integer("port", 5050, 1, 65_535 - mirrors.length),
    mirrors,
    airGapped: section.boolean("airGapped", false),
    keep: section.integer("keep", 20, 1, 10_000),
    retain: section.boolean("retain", false),
    ...(image === undefined ? {} : { image }),
  };
}

/** The public half of an age identity. Source: https://github.com/C2SP/C2SP/blob/main/age.md#the-x25519-recipient-type */
export function isRecipient(text: string): boolean {
  return /^age1[02-9ac-hj-np-z]{58}$/.test(text);
}

function sopsRecipients(section: Section): Omit<PlatformConfig["sops"], "generate" | "identityFile"> {
  const expected = 'recipients, each once, such as "age-keygen -y" prints them: "age1…"';
  const recipients = section.strings("recipients");
  if (!recipients.every(isRecipient) || new Set(recipients).size < recipients.length) {
    throw section.wrong("recipients", recipients, expected);
  }
  const recoveryRecipient = section.optionalString("recoveryRecipient");
  if (
    recoveryRecipient !== undefined &&
    (!isRecipient(recoveryRecipient) || recipients.includes(recoveryRecipient))
  ) {
    throw section.wrong(
      "recoveryRecipient",
      recoveryRecipient,
      'the "age1…" of a key that is not among the recipients',
    );
  }
  section.secret("ageKey", 'an age identity, with "npm run secrets -- init"');
  const ageKeyCommand = section.words("ageKeyCommand");
  const valuesRevision = section.integer("valuesRevision", 0, 0, 1_000_000);
  return {
    ...(recipients.length === 0 ? {} : { recipients }),
    ...(recoveryRecipient === undefined ? {} : { recoveryRecipient }),
    ...(ageKeyCommand.length === 0 ? {} : { ageKeyCommand }),
    ...(valuesRevision === 0 ? {} : { valuesRevision }),
  };
}

/** Settings below one key, read one by one, so that what nobody read is known to be unknown. */
class Section {
  private readonly read = new Set<string>();

  constructor(
    private readonly owner: string,
    private readonly prefix: string,
    private readonly values: Readonly<Record<string, unknown>>,
  ) {}

  section(key: string): Section {
    const value = this.take(key) ?? {};
    if (typeof value !== "object" || Array.isArray(value)) throw this.wrong(key, value, "a map");
    return new Section(this.owner, `${this.prefix}${key}.`, value as Record<string, unknown>);
  }

  string(key: string, fallback?: string): string {
    const value = this.take(key) ?? fallback;
    if (value === undefined) throw this.missing(key, "a text");
    if (typeof value !== "string" || value === "") throw this.wrong(key, value, "a text");
    return value;
  }

  optionalString(key: string): string | undefined {
    return this.take(key) === undefined ? undefined : this.string(key);
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.take(key) ?? fallback;
    if (typeof value !== "boolean") throw this.wrong(key, value, "true or false");
    return value;
  }

  absolutePath(key: string): string {
    const value = this.string(key);
    if (isAbsolute(value)) return value;
    throw this.wrong(key, value, "an absolute path");
  }

  optionalCidr(key: string): string | undefined {
    const value = this.optionalString(key);
    const [address = "", length = ""] = value?.split("/") ?? [];
    if (value === undefined || (isIPv4(address) && /^\d+$/.test(length) && Number(length) <= 32))
      return value;
    throw this.wrong(key, value, 'a subnet such as "10.244.0.0/16"');
  }

  strings(key: string): string[] {
    const value = this.take(key) ?? [];
    const isText = (entry: unknown): entry is string => typeof entry === "string" && entry !== "";
    if (!Array.isArray(value) || !value.every(isText)) throw this.wrong(key, value, "a list of texts");
    return value;
  }

  /** A command: a list of texts, or one text whose words are separated by spaces. No shell reads it. */
  words(key: string): string[] {
    const value = this.take(key);
    return typeof value === "string" ? value.split(" ").filter((word) => word !== "") : this.strings(key);
  }

  /** A secret that stands here as Pulumi decrypted it, or as it is in the file; it is not shown. */
  secret(key: string, expected: string): void {
    const value = this.take(key);
    const sealed = (value as { secure?: unknown } | null | undefined)?.secure;
    if (value === undefined || typeof value === "string" || typeof sealed === "string") return;
    throw new Error(
      `Reading the config of ${this.owner} failed: "${this.prefix}${key}" is no text and no secret. Set it to ${expected}.`,
    );
  }

  /** A list of maps, each a section of its own. */
  list(key: string): Section[] {
    const value = this.take(key) ?? [];
    const isMap = (entry: unknown) => typeof entry === "object" && entry !== null && !Array.isArray(entry);
    if (!Array.isArray(value) || !value.every(isMap)) throw this.wrong(key, value, "a list of maps");
    return value.map(
      (entry, index) =>
        new Section(this.owner, `${this.prefix}${key}[${index}].`, entry as Record<string, unknown>),
    );
  }

  integer(key: string, fallback: number | undefined, least: number, most: number): number {
    const value = this.take(key) ?? fallback;
    if (value === undefined) throw this.missing(key, `a whole number from ${least} to ${most}`);
    if (typeof value !== "number" || !Number.isInteger(value) || value < least || value > most) {
      throw this.wrong(key, value, `a whole number from ${least} to ${most}`);
    }
    return value;
  }

  oneOf<T extends string>(key: string, choices: readonly T[], fallback?: T): T {
    const value = this.take(key) ?? fallback;
    const expected = choices.map((choice) => `"${choice}"`).join(" or ");
    if (value === undefined) throw this.missing(key, expected);
    const found = choices.find((choice) => choice === value);
    if (found === undefined) throw this.wrong(key, value, expected);
    return found;
  }

  /** @throws Error naming the first key that no setting reads, and the keys there are */
  refuseUnknown(): void {
    const unknown = Object.keys(this.values).find((key) => !this.read.has(key));
    if (unknown === undefined) return;
    throw new Error(
      `Reading the config of ${this.owner} failed: there is no setting "${this.prefix}${unknown}". Here are ${[...this.read].map((key) => `"${this.prefix}${key}"`).join(", ")}.`,
    );
  }

  private take(key: string): unknown {
    this.read.add(key);
    return this.values[key];
  }

  private missing(key: string, expected: string): Error {
    return new Error(
      `Reading the config of ${this.owner} failed: "${this.prefix}${key}" is not set. Set it to ${expected}.`,
    );
  }

  /** An error about what a setting holds; `expected` completes "Set it to". */
  wrong(key: string, value: unknown, expected: string): Error {
    return new Error(
      `Reading the config of ${this.owner} failed: "${this.prefix}${key}" is ${JSON.stringify(value)}. Set it to ${expected}.`,
    );
  }
}

function fromJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

function resolvePath(value: string, context: ConfigContext): string {
  if (value.startsWith("~/")) return join(homedir(), value.slice(2));
  return isAbsolute(value) ? value : resolve(context.project, value);
}
