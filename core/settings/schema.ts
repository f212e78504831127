import { BlockList } from "node:net";
import { isAbsolute, join, resolve } from "node:path";
import { parse } from "yaml";
import * as z from "zod";
import { isImageReference, isRegistryHost, isRepository } from "../../clients/registry/image-reference";

/*
 * The only definition of a stack's settings: this schema checks them, types them, and gives the README's table and the
 * JSON Schema for editors. Each error completes the sentence "Set it to …".
 */

/** The facts on which defaults and paths of the settings depend. */
export interface SettingsContext {
  readonly stack: string;
  /** Directory of the user's own configuration, such as `~/.config`. */
  readonly userConfig: string;
  /** Makes a path absolute. */
  readonly path: (value: string) => string;
}

/** A wrong setting takes no part in the rules between settings. */
const abort = true;
/** Separates the faults of such a rule from the faults of one setting. */
const rule = { rule: true };

const text = z.string("a text").min(1, { abort });
const flag = z.boolean("true or false");

function textOf(form: RegExp | ((value: string) => boolean), error: string) {
  return form instanceof RegExp ? text.regex(form, { error, abort }) : text.refine(form, { error, abort });
}

function whole(least: number, most: number) {
  return z.int(`a whole number from ${least} to ${most}`).min(least, { abort }).max(most, { abort });
}

function eachOnce(entry: typeof text, name: string) {
  return z
    .array(entry, "a list of texts")
    .refine((list) => new Set(list).size === list.length, { error: `each ${name} once`, params: rule });
}

/** A config secret: decrypted by Pulumi, or sealed as in the file. The value is not part of the parsed settings. */
function secret(error: string) {
  return z
    .unknown()
    .refine(
      (value) =>
        typeof value === "string" || typeof (value as { secure?: unknown } | null)?.secure === "string",
      { error, abort, params: { fault: "is no text and no secret" } },
    )
    .meta({
      anyOf: [
        { type: "string" },
        { type: "object", properties: { secure: { type: "string" } }, required: ["secure"] },
      ],
    })
    .transform(() => undefined)
    .optional();
}

/** Refuses a setting that does not go with another one. */
function refuse(context: z.RefinementCtx, path: PropertyKey[], message: string): void {
  context.addIssue({ code: "custom", path, message, params: rule });
}

const emptyIsUnset = <T>(list: T[]) => (list.length === 0 ? undefined : list);
const port = whole(1, 65_535);
const ipv4Subnet = z.cidrv4({ error: 'a subnet such as "10.244.0.0/16"', abort });
const defaultSubnets = { podSubnet: "10.244.0.0/16", serviceSubnet: "10.96.0.0/16" };
/** The public half of an age identity. Source: https://github.com/C2SP/C2SP/blob/main/age.md#the-x25519-recipient-type */
const recipient = /^age1[02-9ac-hj-np-z]{58}$/;

export function isRecipient(value: string): boolean {
  return recipient.test(value);
}

const portMapping = z.strictObject({
  containerPort: port.describe("port of the control plane's node"),
  hostPort: port.describe("port of this machine"),
  protocol: z.enum(["TCP", "UDP"]).default("TCP").describe("`TCP` or `UDP`"),
  listenAddress: z
    .union([z.ipv4(), z.ipv6()], "an IP address")
    .optional()
    .meta({ description: "address of this machine that the port listens on", default: "127.0.0.1" }),
});

function kindCluster({ stack, path }: SettingsContext) {
  const mount = z.strictObject({
    hostPath: text.transform(path).describe("directory of this machine"),
    containerPath: textOf(
      (value) => isAbsolute(value) && resolve(value) !== "/",
      'an absolute path below "/"',
    ).describe("its path in every node"),
    readOnly: flag.default(false).describe("nodes cannot write to the directory"),
  });
  return z
    .strictObject({
      kind: z.literal("kind").describe("Kind makes the cluster on this machine"),
      // Kind's own rule; Docker and Kubernetes want a letter or digit at both ends, and host names end at 63.
      name: textOf(
        /^[a-z0-9]([a-z0-9.-]{0,48}[a-z0-9])?$/,
        'up to 50 of a-z, 0-9, "-" and ".", with a letter or digit at both ends',
      )
        .prefault(stack)
        .describe("name of the cluster"),
      workers: whole(0, 20).default(0).describe("nodes beside the control plane"),
      nodeImage: textOf(isImageReference, 'an image such as "kindest/node:v1.37.0"')
        .optional()
        .describe(
          "image of the nodes, with tag or digest; without it and `kubernetesVersion`, Kind's own image",
        ),
      kubernetesVersion: textOf(/^v?\d+\.\d+\.\d+$/, 'a version such as "1.37.0"')
        .optional()
        .describe("takes `kindest/node` of this version, in place of `nodeImage`"),
      podSubnet: ipv4Subnet
        .default(defaultSubnets.podSubnet)
        .describe("IPv4 subnet of the pods; each node takes a /24 of it"),
      serviceSubnet: ipv4Subnet
        .default(defaultSubnets.serviceSubnet)
        .describe("IPv4 subnet of the services; it does not overlap `podSubnet`"),
      cni: z
        .enum(["cilium", "kindnet"])
        .default("cilium")
        .describe(
          "`cilium` of the gitops tree, which also replaces kube-proxy, or `kindnet`, Kind's own network",
        ),
      podSecurity: z
        .enum(["privileged", "baseline", "restricted"])
        .default("baseline")
        .describe("level of namespaces that set no level themselves: `privileged`, `baseline`, `restricted`"),
      ports: z
        .array(portMapping, "a list of maps")
        .default([])
        .describe("ports of this machine that lead into the cluster"),
      mounts: z
        .array(mount, "a list of maps")
        .superRefine((mounts, context) => {
          const paths = mounts.map(({ containerPath }) => resolve(containerPath));
          for (const [index, value] of paths.entries()) {
            if (paths.indexOf(value) < index) {
              refuse(context, [index, "containerPath"], "a path that no other mount has");
            }
          }
        })
        .prefault([])
        .describe("directories of this machine in every node"),
      kubeadmConfigPatches: z
        .array(
          z.string("a YAML text that holds a map").refine(isYamlMap, { abort }),
          "a list of YAML texts, each a map",
        )
        .default([])
        .describe("Kind's `kubeadmConfigPatches`, each a YAML text"),
      kubeconfig: z
        .enum(["output", "merge"])
        .default("output")
        .describe("`merge` also adds the cluster to your own kubeconfig"),
      allowReplace: flag
        .default(false)
        .describe("delete a cluster that Kind cannot change in place, with all data of its volumes"),
    })
    .superRefine((cluster, context) => {
      if (cluster.nodeImage !== undefined && cluster.kubernetesVersion !== undefined) {
        refuse(context, ["kubernetesVersion"], 'nothing, or remove "platform:cluster.nodeImage"');
      }
      checkSubnets(cluster, context);
    })
    .transform(({ kubernetesVersion: version, nodeImage, ...cluster }) => {
      const image = nodeImage ?? (version && `kindest/node:v${version.replace(/^v/, "")}`);
      return { ...cluster, ...(image === undefined ? {} : { nodeImage: image }) };
    });
}

function existingCluster({ path }: SettingsContext) {
  return z.strictObject({
    kind: z.literal("existing").describe("the cluster exists already, such as Talos through Omni"),
    kubeconfigFile: text.transform(path).describe("path of the cluster's admin kubeconfig"),
    loadBalancerCidr: z
      .union([z.cidrv4(), z.cidrv6()], 'a subnet such as "10.20.0.0/24"')
      .refine((value) => !value.endsWith("/0"), { error: 'a subnet such as "10.20.0.0/24"', abort })
      .describe("addresses that load balancers may take, in CIDR form"),
    cni: z
      .enum(["auto", "cilium", "existing"])
      .default("auto")
      .describe(
        "`auto`, `cilium`, `existing`: [the choice of the network](docs/platform.md#a-cluster-with-its-own-network)",
      ),
  });
}

const localRegistry = z
  .strictObject({
    kind: z.literal("local").describe("a container on 127.0.0.1"),
    port: port.default(5050).describe("port on 127.0.0.1; mirrors take the ports that follow"),
    image: textOf(isImageReference, 'an image such as "registry:3"')
      .default("registry:3")
      .describe("image of the container"),
    mirrors: eachOnce(textOf(isRegistryHost, 'the host of a registry, such as "ghcr.io"'), "host")
      .default([])
      .describe(
        "hosts of registries whose images this machine keeps; see [Without the internet](#without-the-internet)",
      ),
    airGapped: flag
      .default(false)
      .describe(
        "pull only from the mirrors and the Docker Engine; see [Without the internet](#without-the-internet)",
      ),
    keep: whole(1, 10_000)
      .default(20)
      .describe(
        "number of revisions of the artifact to keep; the channel's revision and the last good one always stay",
      ),
    retain: flag.default(false).describe("keep the volume when the stack is destroyed"),
  })
  .superRefine((registry, context) => {
    const most = 65_535 - registry.mirrors.length;
    if (registry.port > most) refuse(context, ["port"], `a whole number from 1 to ${most}`);
  });

const remoteRegistry = z.strictObject({
  kind: z.literal("remote").describe("a registry that exists already"),
  repository: textOf(
    isRepository,
    'a host and a path, such as "ghcr.io/example/platform", without scheme and tag',
  ).describe("`host[:port]/path`, without scheme and tag"),
  insecure: flag.default(false).describe("the registry speaks plain HTTP"),
  pullUsername: text
    .transform(() => undefined)
    .optional()
    .describe(
      "user name with which the cluster pulls, in place of Docker's own login; see [Private registries](#private-registries)",
    ),
  pullPassword: secret('a password, with "pulumi config set --secret --path"').describe(
    "password of `pullUsername`, as a config secret",
  ),
});

/** @param context gives defaults and absolute paths */
export function settings(context: SettingsContext) {
  const { stack, userConfig, path } = context;
  return z
    .strictObject({
      cluster: z.discriminatedUnion("kind", [kindCluster(context), existingCluster(context)]),
      registry: z.discriminatedUnion("kind", [localRegistry, remoteRegistry]),
      domain: textOf(isDomain, 'a DNS name in lower case, such as "example.com"').describe(
        "domain of the applications: `homepage.<domain>`",
      ),
      gitops: z
        .strictObject({
          tree: text.prefault("gitops").transform(path).describe("directory of the tree"),
          cluster: textOf(/^[\w-][\w.-]*$/, 'the name of a directory below "clusters"')
            .prefault(stack)
            .describe("directory below the tree's `clusters/`"),
          requireClean: flag.default(false).describe("refuse a tree with uncommitted changes"),
        })
        .prefault({}),
      sops: z
        .strictObject({
          generate: z
            .enum(["none", "empty", "all"])
            .default("none")
            .describe(
              "secrets whose values the stack generates: `none`, the `empty` ones, or `all` for a temporary stack",
            ),
          identityFile: text
            .prefault(join(userConfig, "platform", "age", `${stack}.agekey`))
            .transform(path)
            .describe(
              "file of the stack's age identity, if `SOPS_AGE_KEY` and `SOPS_AGE_KEY_FILE` are not set",
            ),
          recipients: eachOnce(
            textOf(recipient, 'a recipient such as "age-keygen -y" prints it: "age1…"'),
            "recipient",
          )
            .transform(emptyIsUnset)
            .optional()
            .describe(
              "recipients of the secrets, `age1…`, including the stack's own recipient; see [docs/secrets.md](docs/secrets.md)",
            ),
          recoveryRecipient: textOf(recipient, 'the "age1…" of a key that is not among the recipients')
            .optional()
            .describe("recipient of an offline key that also opens the secrets"),
          ageKeyCommand: z
            .union(
              [
                // No shell reads the command.
                text.transform((words) => words.split(" ").filter((word) => word !== "")),
                z.array(text),
              ],
              "a list of texts",
            )
            .transform(emptyIsUnset)
            .optional()
            .describe(
              "command that prints the identity, such as `pass show platform/prod`: a text, or a list of its words",
            ),
          ageKey: secret('an age identity, with "npx platform secrets init"').describe(
            "the identity itself, as a config secret",
          ),
          valuesRevision: whole(0, 1_000_000)
            .default(0)
            .describe("a new number gives generated secrets new values"),
        })
        .superRefine(({ recipients, recoveryRecipient }, context) => {
          if (recoveryRecipient !== undefined && recipients?.includes(recoveryRecipient) === true) {
            refuse(context, ["recoveryRecipient"], 'the "age1…" of a key that is not among the recipients');
          }
        })
        .prefault({}),
      release: z
        .strictObject({
          timeoutSeconds: whole(10, 7200).default(900).describe("time until every layer is Ready"),
        })
        .prefault({}),
      hooks: z
        .strictObject({
          afterReady: z
            .array(text)
            .default([])
            .describe(
              "shell commands that run one after another when a release is Ready, such as a smoke test; see [hooks](#hooks)",
            ),
        })
        .prefault({}),
      protect: flag.default(false).describe("`pulumi destroy` refuses the stack"),
      rehearsal: z
        .strictObject({
          definitions: text
            .transform(path)
            .optional()
            .describe("directory with the CRDs of charts that a rehearsal cannot render"),
        })
        .optional(),
      chartMirror: textOf(
        (value) => !value.includes("://") || isOciPrefix(value),
        'a directory, or a prefix such as "oci://registry.example.com/charts"',
      )
        .transform((value) => (value.startsWith("oci://") ? value : path(value)))
        .optional()
        .describe(
          "source of every chart of the seeds: `oci://host/prefix`, or a directory of unpacked charts",
        ),
    })
    .superRefine(({ cluster, registry, chartMirror }, context) => {
      if (registry.kind === "local" && registry.airGapped && chartMirror === undefined) {
        refuse(
          context,
          ["chartMirror"],
          'a directory or registry that holds the charts of the seeds: "platform:registry.airGapped" is true',
        );
      }
      if (cluster.kind === "kind") checkPorts(cluster.ports, registry, context);
    });
}

type Settings = z.output<ReturnType<typeof settings>>;

function checkSubnets(
  { workers, podSubnet, serviceSubnet }: { workers: number; podSubnet: string; serviceSubnet: string },
  context: z.RefinementCtx,
): void {
  const nodes = workers + 1;
  // Source: ValidatePodSubnetNodeMask in kubernetes/cmd/kubeadm/app/apis/kubeadm/validation
  const narrowest = 24 - Math.ceil(Math.log2(nodes));
  if (bits(podSubnet) < 8 || bits(podSubnet) > narrowest) {
    const remedy = `a subnet from /8 to /${narrowest}: each of the ${nodes} nodes takes a /24`;
    refuse(context, ["podSubnet"], remedy);
  }
  // Source: validateClusterIPFlags in kubernetes/cmd/kube-apiserver/app/options
  if (bits(serviceSubnet) < 12 || bits(serviceSubnet) > 29) {
    refuse(context, ["serviceSubnet"], "a subnet from /12 to /29, which the API server takes");
  }
  if (overlap(podSubnet, serviceSubnet)) {
    const [key, other, taken] =
      podSubnet === defaultSubnets.podSubnet
        ? ["serviceSubnet", "podSubnet", podSubnet]
        : ["podSubnet", "serviceSubnet", serviceSubnet];
    refuse(context, [key], `a subnet apart from "platform:cluster.${other}" (${taken})`);
  }
}

/** Refuses ports of the cluster that another port of the cluster, or the registry of the stack, listens on. */
function checkPorts(
  ports: readonly z.output<typeof portMapping>[],
  registry: Settings["registry"],
  context: z.RefinementCtx,
): void {
  const taken =
    registry.kind === "local"
      ? ["registry.port", ...registry.mirrors.map((host) => `registry.mirrors (${host})`)].map(
          (owner, index) => ({ address: "127.0.0.1", protocol: "TCP", port: registry.port + index, owner }),
        )
      : [];
  const everywhere = ["0.0.0.0", "::"];
  for (const [index, { listenAddress: address = "127.0.0.1", protocol, hostPort: port }] of ports.entries()) {
    const other = taken.find(
      (listener) =>
        listener.port === port &&
        listener.protocol === protocol &&
        (listener.address === address || [listener.address, address].some((any) => everywhere.includes(any))),
    );
    if (other !== undefined) {
      const remedy = `another port: "platform:${other.owner}" takes this one`;
      refuse(context, ["cluster", "ports", index, "hostPort"], remedy);
    }
    taken.push({ address, protocol, port, owner: `cluster.ports[${index}].hostPort` });
  }
}

/** A name to which the hosts of applications are added: labels in lower case, as Gateway API takes them; no address. */
function isDomain(value: string): boolean {
  const label = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
  // 253 in all, minus 63 and a dot for the host.
  return (
    value.length <= 189 && value.split(".").every((part) => label.test(part)) && !/(^|\.)\d+$/.test(value)
  );
}

function isOciPrefix(value: string): boolean {
  const place = /^oci:\/\/(.+?)\/?$/.exec(value)?.[1] ?? "";
  return isRegistryHost(place) || isRepository(place);
}

function isYamlMap(value: string): boolean {
  try {
    const content: unknown = parse(value);
    return typeof content === "object" && content !== null && !Array.isArray(content);
  } catch {
    return false;
  }
}

function bits(subnet: string): number {
  return Number(subnet.split("/")[1]);
}

/** Whether two IPv4 subnets share an address: then the wider subnet holds the other. */
function overlap(one: string, other: string): boolean {
  const [wide = "", narrow = ""] = [one, other].sort((a, b) => bits(a) - bits(b));
  const [address = "", inside = ""] = [wide, narrow].map((subnet) => subnet.split("/")[0] ?? "");
  const list = new BlockList();
  list.addSubnet(address, bits(wide), "ipv4");
  return list.check(inside, "ipv4");
}
