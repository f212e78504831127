import { readdir, readFile } from "node:fs/promises";
import { BlockList, isIP, isIPv4 } from "node:net";
import { homedir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { parse } from "yaml";
import type { Mount, PortMapping } from "../cluster/kind/config";
import { isImageReference, isRegistryHost, isRepository } from "../../clients/registry/image-reference";
import type { RegistryLogin } from "../../clients/registry/login";
import { sentence } from "../../system/sentence";

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
  /**
   * Cilium of the gitops tree, or the network that the cluster has. `auto` is Cilium where no network is found, and
   * refuses the rest. @default auto
   */
  readonly cni: "auto" | "cilium" | "existing";
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
  /** `project/stack`, which everything carries that the stack makes in Docker and owns in the cluster. */
  readonly owner: string;
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
  /** What a rehearsal of the stack needs beside it. @default nothing */
  readonly rehearsal?: {
    /** Absolute path of a directory with CustomResourceDefinitions of charts that a rehearsal cannot render. */
    readonly definitions: string;
  };
  /** `pulumi destroy` refuses this stack. @default false */
  readonly protect: boolean;
  /** Absolute path of what the stack leaves on this machine, such as its audit log. */
  readonly directory: string;
}

/** Where a stack's settings are read: the place of the program and of the user's own files. */
export interface ConfigContext {
  /** The project's name, from Pulumi.yaml. */
  readonly name: string;
  /** Absolute path of the directory that holds Pulumi.yaml. */
  readonly project: string;
  readonly env: NodeJS.ProcessEnv;
}

/**
 * Reads the settings of a stack.
 *
 * @param all every setting, `namespace:key` → text, as Pulumi gives it: objects and numbers are JSON
 * @throws Error with one sentence for each setting that is unknown, missing or wrong, the unknown ones first
 */
export function parseConfig(
  stack: string,
  all: Readonly<Record<string, string>>,
  context: ConfigContext,
): PlatformConfig {
  const problems: Problem[] = [];
  const root = new Section(
    problems,
    "platform:",
    Object.fromEntries(
      Object.entries(all)
        .filter(([key]) => key.startsWith("platform:"))
        .map(([key, text]) => [key.slice("platform:".length), fromJson(text)]),
    ),
  );
  for (const key of Object.keys(all)) {
    const [namespace = "", ...rest] = key.split(":");
    const meant = ["platform", ...rest].join(":");
    // The settings of other packages, such as "aws:region", are none of this project's.
    if (namespace === "platform" || nearest(namespace, ["platform"]) === undefined) continue;
    const sentence = `there is no setting "${key}". Did you mean "${meant}"?`;
    problems.push({ key, sentence, unknown: { meant } });
  }
  const path = (value: string) => resolvePath(value, context);
  const userConfig = context.env.XDG_CONFIG_HOME ?? join(homedir(), ".config");

  const cluster = root.section("cluster");
  const registry = root.section("registry");
  const gitops = root.section("gitops");
  const sops = root.section("sops");
  const release = root.section("release");
  const rehearsal = root.section("rehearsal");
  const definitions = rehearsal.optionalString("definitions");
  const chartMirror = root.optionalString("chartMirror");
  if (chartMirror?.includes("://") === true && !isOciPrefix(chartMirror)) {
    root.wrong(
      "chartMirror",
      chartMirror,
      'a directory, or a prefix such as "oci://registry.example.com/charts"',
    );
  }
  const clusterSettings = clusterConfig(cluster, stack, path, context.env);
  const registrySettings = registryConfig(registry);
  if (clusterSettings?.kind === "kind") refuseTakenPorts(cluster, clusterSettings.ports, registrySettings);
  if (registrySettings?.kind === "local" && registrySettings.airGapped && chartMirror === undefined) {
    registry.refuse(
      "airGapped",
      "is true, but the charts of the seeds come from elsewhere",
      'Set "platform:chartMirror" to a directory or registry that holds them.',
    );
  }
  const rest = {
    domain: root.stringOf(isDomain, 'a DNS name in lower case, such as "example.com"', "domain"),
    gitops: {
      tree: path(gitops.string("tree", "gitops")),
      cluster: gitops.stringOf(isDirectoryName, 'the name of a directory below "clusters"', "cluster", stack),
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
    ...(definitions === undefined ? {} : { rehearsal: { definitions: path(definitions) } }),
    protect: root.boolean("protect", false),
    directory: join(stateDirectory(context.env), stack),
  };
  for (const section of [root, cluster, registry, gitops, sops, release, rehearsal]) section.refuseUnknown();
  const sentences = sentencesOf(problems);
  if (sentences.length > 0 || clusterSettings === undefined || registrySettings === undefined) {
    throw new Error(
      sentences.map((text) => `Reading the config of stack "${stack}" failed: ${text}`).join("\n"),
    );
  }
  const owner = `${context.name}/${stack}`;
  return { stack, owner, cluster: clusterSettings, registry: registrySettings, ...rest };
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

/**
 * The login with which the cluster pulls from a remote registry, where the settings hold one. Like the age identity it
 * is no part of `PlatformConfig`.
 *
 * @param all as `parseConfig` takes it, decrypted
 * @throws Error when only one half of it is set
 */
export function pullLoginOf(all: Readonly<Record<string, string>>): RegistryLogin | undefined {
  const { pullUsername: username, pullPassword: password } = (fromJson(all["platform:registry"] ?? "{}") ??
    {}) as { pullUsername?: unknown; pullPassword?: unknown };
  if (username === undefined && password === undefined) return undefined;
  if (typeof username === "string" && typeof password === "string" && password !== "") {
    return { username, password };
  }
  const missing = typeof username === "string" ? "pullPassword" : "pullUsername";
  throw new Error(
    `Reading the login of the registry failed: "platform:registry.${missing}" is not set, but the other half is. Set both, or neither to use Docker's own login.`,
  );
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
  return parseConfig(
    stack,
    asPulumiConfig(await readStackFile(stack, project)),
    await contextOf(project, env),
  );
}

/** Where the settings of a project's stacks are read. @param project absolute path of the directory that holds Pulumi.yaml */
export async function contextOf(
  project: string,
  env: NodeJS.ProcessEnv = process.env,
): Promise<ConfigContext> {
  const { name } = parse(await readFile(join(project, "Pulumi.yaml"), "utf8")) as { name: string };
  return { name, project, env };
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
): ClusterConfig | undefined {
  const kind = section.kind(["kind", "existing"]);
  if (kind === undefined) return undefined;
  if (kind === "existing") {
    return {
      kind,
      kubeconfigFile: path(section.string("kubeconfigFile")),
      loadBalancerCidr: section.stringOf(isSubnet, 'a subnet such as "10.20.0.0/24"', "loadBalancerCidr"),
      cni: section.oneOf("cni", ["auto", "cilium", "existing"], "auto"),
    };
  }
  const image = section.optionalStringOf(
    isImageReference,
    'an image such as "kindest/node:v1.37.0"',
    "nodeImage",
  );
  const version = section.optionalStringOf(
    (text) => /^v?\d+\.\d+\.\d+$/.test(text),
    'a version such as "1.37.0"',
    "kubernetesVersion",
  );
  if (image !== undefined && version !== undefined) {
    section.wrong("kubernetesVersion", version, 'nothing, or remove "platform:cluster.nodeImage"');
  }
  const nodeImage = image ?? (version && `kindest/node:v${version.replace(/^v/, "")}`);
  const workers = section.integer("workers", 0, 0, 20);
  return {
    kind,
    name: section.stringOf(
      // Kind's own rule; Docker and Kubernetes want a letter or digit at both ends, and host names end at 63.
      (text) => /^[a-z0-9]([a-z0-9.-]{0,48}[a-z0-9])?$/.test(text),
      'up to 50 of a-z, 0-9, "-" and ".", with a letter or digit at both ends',
      "name",
      stack,
    ),
    workers,
    cni: section.oneOf("cni", ["cilium", "kindnet"], "cilium"),
    podSecurity: section.oneOf("podSecurity", ["privileged", "baseline", "restricted"], "baseline"),
    ports: section.list("ports").map(portMapping),
    mounts: mounts(section, path),
    kubeadmConfigPatches: section.strings(
      "kubeadmConfigPatches",
      isYamlMap,
      "a list of YAML texts, each a map",
    ),
    kubeconfig: section.oneOf("kubeconfig", ["output", "merge"], "output"),
    allowReplace: section.boolean("allowReplace", false) || env.PLATFORM_ALLOW_REPLACE === "true",
    ...(nodeImage === undefined ? {} : { nodeImage }),
    ...subnets(section, workers + 1),
  };
}

/** What Kind takes where a stack says nothing. */
const defaultSubnets = { podSubnet: "10.244.0.0/16", serviceSubnet: "10.96.0.0/16" } as const;

/** @param nodes each of them gets a /24 of the pods' subnet */
function subnets(section: Section, nodes: number): Partial<Record<keyof typeof defaultSubnets, string>> {
  const read = (key: keyof typeof defaultSubnets) =>
    section.optionalStringOf((text) => isSubnet(text, 4), 'a subnet such as "10.244.0.0/16"', key);
  const [podSubnet, serviceSubnet] = [read("podSubnet"), read("serviceSubnet")];
  const pods = podSubnet ?? defaultSubnets.podSubnet;
  const services = serviceSubnet ?? defaultSubnets.serviceSubnet;
  // Source: ValidatePodSubnetNodeMask in kubernetes/cmd/kubeadm/app/apis/kubeadm/validation
  const narrowest = 24 - Math.ceil(Math.log2(nodes));
  if (podSubnet !== undefined && (bits(pods) < 8 || bits(pods) > narrowest)) {
    section.wrong(
      "podSubnet",
      podSubnet,
      `a subnet from /8 to /${narrowest}: each of the ${nodes} nodes takes a /24`,
    );
  }
  // Source: validateClusterIPFlags in kubernetes/cmd/kube-apiserver/app/options
  if (serviceSubnet !== undefined && (bits(services) < 12 || bits(services) > 29)) {
    section.wrong("serviceSubnet", serviceSubnet, "a subnet from /12 to /29, which the API server takes");
  }
  if (overlap(pods, services)) {
    const [key, value, other] =
      podSubnet === undefined
        ? (["serviceSubnet", services, `podSubnet" (${pods})`] as const)
        : (["podSubnet", pods, `serviceSubnet" (${services})`] as const);
    section.wrong(key, value, `a subnet apart from "platform:cluster.${other}`);
  }
  return {
    ...(podSubnet === undefined ? {} : { podSubnet }),
    ...(serviceSubnet === undefined ? {} : { serviceSubnet }),
  };
}

function portMapping(entry: Section): PortMapping {
  const listenAddress = entry.optionalStringOf((text) => isIP(text) > 0, "an IP address", "listenAddress");
  const mapping = {
    containerPort: entry.integer("containerPort", undefined, 1, 65_535),
    hostPort: entry.integer("hostPort", undefined, 1, 65_535),
    protocol: entry.oneOf("protocol", ["TCP", "UDP"], "TCP"),
    ...(listenAddress === undefined ? {} : { listenAddress }),
  };
  entry.refuseUnknown();
  return mapping;
}

/** Refuses ports of the cluster that another port of it, or the registry of the stack, listens on. */
function refuseTakenPorts(
  section: Section,
  ports: readonly PortMapping[],
  registry: RegistryConfig | undefined,
): void {
  interface Listener {
    readonly address: string;
    readonly protocol: string;
    readonly port: number;
    readonly owner: string;
  }
  const taken: Listener[] =
    registry?.kind === "local"
      ? ["registry.port", ...registry.mirrors.map((host) => `registry.mirrors (${host})`)].map(
          (owner, index) => ({
            ...{ address: "127.0.0.1", protocol: "TCP", port: registry.port + index },
            owner: `"platform:${owner}"`,
          }),
        )
      : [];
  const everywhere = ["0.0.0.0", "::"];
  ports.forEach(({ listenAddress: address = "127.0.0.1", protocol = "TCP", hostPort: port }, index) => {
    const other = taken.find(
      (listener) =>
        listener.port === port &&
        listener.protocol === protocol &&
        (listener.address === address || [listener.address, address].some((any) => everywhere.includes(any))),
    );
    const key = `ports[${index}].hostPort`;
    if (other !== undefined) section.wrong(key, port, `another port: ${other.owner} takes this one`);
    taken.push({ address, protocol, port, owner: `"platform:cluster.${key}"` });
  });
}

function mounts(section: Section, path: (value: string) => string): Mount[] {
  const found = section.list("mounts").map((entry) => {
    const mapping = {
      hostPath: path(entry.string("hostPath")),
      containerPath: entry.stringOf(
        (text) => isAbsolute(text) && resolve(text) !== "/",
        'an absolute path below "/"',
        "containerPath",
      ),
      readOnly: entry.boolean("readOnly", false),
    };
    entry.refuseUnknown();
    return mapping;
  });
  const paths = found.map(({ containerPath }) => resolve(containerPath));
  paths.forEach((containerPath, index) => {
    if (paths.indexOf(containerPath) < index) {
      section.wrong(`mounts[${index}].containerPath`, containerPath, "a path that no other mount has");
    }
  });
  return found;
}

function registryConfig(section: Section): RegistryConfig | undefined {
  const kind = section.kind(["local", "remote"]);
  if (kind === undefined) return undefined;
  if (kind === "remote") {
    const expected = 'a host and a path, such as "ghcr.io/example/platform", without scheme and tag';
    // Read by pullLoginOf: no part of what is shown and handed on.
    section.optionalString("pullUsername");
    section.secret("pullPassword", 'a password, with "pulumi config set --secret --path"');
    return {
      kind,
      repository: section.stringOf(isRepository, expected, "repository"),
      insecure: section.boolean("insecure", false),
    };
  }
  const image = section.optionalStringOf(isImageReference, 'an image such as "registry:3"', "image");
  const mirrors = section.strings("mirrors");
  const bad = mirrors.find((host) => !isRegistryHost(host));
  if (bad !== undefined) section.wrong("mirrors", bad, 'hosts of registries, such as "ghcr.io"');
  if (new Set(mirrors).size < mirrors.length) section.wrong("mirrors", mirrors, "each host once");
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

/** A name that hosts of applications go in front of: labels in lower case, as Gateway API takes them; no address. */
function isDomain(text: string): boolean {
  const label = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
  // 253 in all, and 63 and a dot for the host in front.
  return text.length <= 189 && text.split(".").every((part) => label.test(part)) && !/(^|\.)\d+$/.test(text);
}

function isDirectoryName(text: string): boolean {
  return /^[\w-][\w.-]*$/.test(text);
}

function isOciPrefix(text: string): boolean {
  const place = /^oci:\/\/(.+?)\/?$/.exec(text)?.[1] ?? "";
  return isRegistryHost(place) || isRepository(place);
}

function isYamlMap(text: string): boolean {
  try {
    const value: unknown = parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

/** `address/length` of a subnet, of one family or of either. */
function isSubnet(text: string, family?: 4 | 6): boolean {
  const [, address = "", length = ""] = /^([^/]+)\/(\d{1,3})$/.exec(text) ?? [];
  const found = isIP(address);
  return (
    found > 0 &&
    (family ?? found) === found &&
    Number(length) > 0 &&
    Number(length) <= (found === 4 ? 32 : 128)
  );
}

function bits(subnet: string): number {
  return Number(subnet.split("/")[1]);
}

/** Whether two IPv4 subnets share an address: the wider one holds the other's. */
function overlap(one: string, other: string): boolean {
  const [wide = "", narrow = ""] = [one, other].sort((a, b) => bits(a) - bits(b));
  const [address = "", inside = ""] = [wide, narrow].map((subnet) => subnet.split("/")[0] ?? "");
  if (!isIPv4(address) || !isIPv4(inside)) return false;
  const list = new BlockList();
  list.addSubnet(address, bits(wide), "ipv4");
  return list.check(inside, "ipv4");
}

/** The public half of an age identity. Source: https://github.com/C2SP/C2SP/blob/main/age.md#the-x25519-recipient-type */
export function isRecipient(text: string): boolean {
  return /^age1[02-9ac-hj-np-z]{58}$/.test(text);
}

function sopsRecipients(section: Section): Omit<PlatformConfig["sops"], "generate" | "identityFile"> {
  const expected = 'recipients, each once, such as "age-keygen -y" prints them: "age1…"';
  const recipients = section.strings("recipients");
  if (!recipients.every(isRecipient) || new Set(recipients).size < recipients.length) {
    section.wrong("recipients", recipients, expected);
  }
  const recoveryRecipient = section.optionalString("recoveryRecipient");
  if (
    recoveryRecipient !== undefined &&
    (!isRecipient(recoveryRecipient) || recipients.includes(recoveryRecipient))
  ) {
    section.wrong(
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

/** What is wrong with one setting. */
interface Problem {
  /** The setting's whole key. */
  readonly key: string;
  readonly sentence: string;
  /** For a key that no setting has: the setting that it seems to mean. */
  readonly unknown?: { readonly meant: string | undefined };
  readonly missing?: boolean;
}

/** Unknown keys first; a setting that is missing because its key is misspelt is told once. */
function sentencesOf(problems: readonly Problem[]): string[] {
  const unknown = problems.filter((problem) => problem.unknown !== undefined);
  const misspelt = unknown.map((problem) => problem.unknown?.meant);
  const known = problems.filter(
    ({ key, missing, unknown }) => unknown === undefined && !(missing === true && misspelt.includes(key)),
  );
  return [...new Set([...unknown, ...known].map(({ sentence }) => sentence))];
}

/** The name that differs least from one, by letters added, left out, changed or swapped: at most a third of them. */
function nearest(name: string, names: readonly string[]): string | undefined {
  const [best] = names
    .map((candidate) => ({ candidate, distance: distance(name.toLowerCase(), candidate.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance);
  return best !== undefined && best.distance <= Math.max(1, Math.floor(name.length / 3))
    ? best.candidate
    : undefined;
}

/** The optimal string alignment distance. Source: https://en.wikipedia.org/wiki/Damerau-Levenshtein_distance */
function distance(a: string, b: string): number {
  const rows = Array.from({ length: a.length + 1 }, (_, i) =>
    Array.from({ length: b.length + 1 }, (_, j) => (i === 0 ? j : i)),
  );
  const at = (i: number, j: number) => rows[i]?.[j] ?? 0;
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      rows[i]?.splice(
        j,
        1,
        Math.min(
          at(i - 1, j) + 1,
          at(i, j - 1) + 1,
          at(i - 1, j - 1) + same,
          ...(swapped ? [at(i - 2, j - 2) + 1] : []),
        ),
      );
    }
  }
  return at(a.length, b.length);
}

/**
 * Settings below one key, read one by one, so that what nobody read is known to be unknown. What is wrong is noted in
 * `problems`, and a value of the right type takes its place: all of it is told at once.
 */
class Section {
  private readonly read = new Set<string>();
  /** Where its kind is not known, the settings that it takes are not. */
  private kindless = false;

  constructor(
    private readonly problems: Problem[],
    private readonly prefix: string,
    private readonly values: Readonly<Record<string, unknown>>,
  ) {}

  section(key: string): Section {
    const value = this.take(key) ?? {};
    const map = typeof value === "object" && !Array.isArray(value);
    const section = new Section(
      this.problems,
      `${this.prefix}${key}.`,
      map ? (value as Record<string, unknown>) : {},
    );
    if (!map) {
      this.wrong(key, value, "a map");
      section.kindless = true;
    }
    return section;
  }

  /** Which kind of thing the section is about: its other settings depend on it. */
  kind<T extends string>(choices: readonly [T, ...T[]]): T | undefined {
    if (this.kindless) return undefined;
    const before = this.problems.length;
    const kind = this.oneOf("kind", choices);
    this.kindless = this.problems.length > before;
    return this.kindless ? undefined : kind;
  }

  string(key: string, fallback?: string): string {
    const value = this.take(key) ?? fallback;
    if (value === undefined) this.missing(key, "a text");
    else if (typeof value !== "string" || value === "") this.wrong(key, value, "a text");
    else return value;
    return "";
  }

  optionalString(key: string): string | undefined {
    return this.take(key) === undefined ? undefined : this.string(key);
  }

  /** A text that a test passes; `expected` completes "Set it to". */
  stringOf(test: (text: string) => boolean, expected: string, key: string, fallback?: string): string {
    const value = this.string(key, fallback);
    if (value !== "" && !test(value)) this.wrong(key, value, expected);
    return value;
  }

  /** The same, or undefined where it is not set, or wrong. */
  optionalStringOf(test: (text: string) => boolean, expected: string, key: string): string | undefined {
    const before = this.problems.length;
    const value = this.take(key) === undefined ? undefined : this.stringOf(test, expected, key);
    return this.problems.length > before ? undefined : value;
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.take(key) ?? fallback;
    if (typeof value === "boolean") return value;
    this.wrong(key, value, "true or false");
    return fallback;
  }

  /** A list of texts, each of which a test passes; `expected` completes "Set it to". */
  strings(key: string, test: (text: string) => boolean = () => true, expected = "a list of texts"): string[] {
    const value = this.take(key) ?? [];
    const isText = (entry: unknown): entry is string =>
      typeof entry === "string" && entry !== "" && test(entry);
    if (Array.isArray(value) && value.every(isText)) return value;
    this.wrong(key, value, expected);
    return [];
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
    this.refuse(key, "is no text and no secret", `Set it to ${expected}.`);
  }

  /** A list of maps, each a section of its own. */
  list(key: string): Section[] {
    const value = this.take(key) ?? [];
    const isMap = (entry: unknown) => typeof entry === "object" && entry !== null && !Array.isArray(entry);
    if (!Array.isArray(value) || !value.every(isMap)) {
      this.wrong(key, value, "a list of maps");
      return [];
    }
    return value.map(
      (entry, index) =>
        new Section(this.problems, `${this.prefix}${key}[${index}].`, entry as Record<string, unknown>),
    );
  }

  integer(key: string, fallback: number | undefined, least: number, most: number): number {
    const value = this.take(key) ?? fallback;
    const expected = `a whole number from ${least} to ${most}`;
    if (typeof value === "number" && Number.isInteger(value) && value >= least && value <= most) return value;
    if (value === undefined) this.missing(key, expected);
    else this.wrong(key, value, expected);
    return fallback ?? Number.NaN;
  }

  oneOf<T extends string>(key: string, choices: readonly [T, ...T[]], fallback?: T): T {
    const value = this.take(key) ?? fallback;
    const expected = choices.map((choice) => `"${choice}"`).join(" or ");
    const found = choices.find((choice) => choice === value);
    if (value === undefined) this.missing(key, expected);
    else if (found === undefined) this.wrong(key, value, expected);
    return found ?? choices[0];
  }

  /** Notes every key that no setting reads, and the key that it seems to mean, or the keys that there are. */
  refuseUnknown(): void {
    const known = [...this.read];
    for (const key of Object.keys(this.values).filter((name) => !this.read.has(name))) {
      const meant = nearest(
        key,
        known.filter((name) => this.values[name] === undefined),
      );
      if (this.kindless && meant === undefined) continue;
      const name = (of: string) => `"${this.prefix}${of}"`;
      this.problems.push({
        key: this.prefix + key,
        sentence: `there is no setting ${name(key)}. ${meant === undefined ? `Here are ${known.map(name).join(", ")}.` : `Did you mean ${name(meant)}?`}`,
        unknown: { meant: meant && this.prefix + meant },
      });
    }
  }

  private take(key: string): unknown {
    this.read.add(key);
    return this.values[key];
  }

  private missing(key: string, expected: string): void {
    const sentence = `"${this.prefix}${key}" is not set. Set it to ${expected}.`;
    this.problems.push({ key: this.prefix + key, sentence, missing: true });
  }

  /** Notes what a setting holds; `expected` completes "Set it to". */
  wrong(key: string, value: unknown, expected: string): void {
    this.refuse(key, `is ${JSON.stringify(value)}`, `Set it to ${expected}.`);
  }

  refuse(key: string, fault: string, remedy: string): void {
    this.problems.push({ key: this.prefix + key, sentence: `"${this.prefix}${key}" ${fault}. ${remedy}` });
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
