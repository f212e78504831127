import { BlockList } from "node:net";
import { isAbsolute, resolve } from "node:path";
import { parse } from "yaml";
import * as z from "zod";
import { isImageReference } from "../../../clients/registry/image-reference";
import {
  abort,
  flag,
  port,
  refuse,
  text,
  textOf,
  whole,
  type ReadonlyDeep,
  type SettingsContext,
} from "../../fields/fields";

const ipv4Subnet = z.cidrv4({ error: 'a subnet such as "10.244.0.0/16"', abort });
const defaultSubnets = { podSubnet: "10.244.0.0/16", serviceSubnet: "10.96.0.0/16" };

const portMapping = z.strictObject({
  containerPort: port.describe("port of the control plane's node"),
  hostPort: port.describe("port of this machine"),
  protocol: z.enum(["TCP", "UDP"]).default("TCP").describe("`TCP` or `UDP`"),
  listenAddress: z
    .union([z.ipv4(), z.ipv6()], "an IP address")
    .optional()
    .meta({ description: "address of this machine that the port listens on", default: "127.0.0.1" }),
});

/** The settings of a Kind cluster, below `platform:cluster`. */
export function kindSettings({ stack, path }: SettingsContext) {
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

/** The settings of a Kind cluster. */
export type KindSettings = ReadonlyDeep<z.output<ReturnType<typeof kindSettings>>>;
