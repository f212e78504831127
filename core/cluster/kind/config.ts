import { join } from "node:path";
import { stringify } from "yaml";
import type { KindSettings } from "./settings";
import { inNode } from "./lifecycle";

/** The node image of Kind 0.33.0, which it names in `pkg/apis/config/defaults/image.go`. */
export const defaultNodeImage =
  "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5";

/** The inputs of Kind's configuration; the defaults are those of the settings. */
export interface KindConfigArgs extends Partial<
  Pick<KindSettings, "workers" | "podSubnet" | "serviceSubnet" | "cni" | "mounts" | "kubeadmConfigPatches">
> {
  /** Absolute path of a directory for the log of the API server on this machine; not part of the cluster's identity. */
  readonly directory: string;
  /** @default none */
  readonly ports?: readonly (Partial<KindSettings["ports"][number]> &
    Pick<KindSettings["ports"][number], "containerPort" | "hostPort">)[];
}

/** Kind's configuration file. Source: https://kind.sigs.k8s.io/docs/user/configuration/ */
export function kindConfig(args: KindConfigArgs): string {
  const controlPlane = {
    role: "control-plane",
    extraMounts: [
      { hostPath: join(args.directory, "audit"), containerPath: inNode.log },
      ...(args.mounts ?? []),
    ],
    extraPortMappings: (args.ports ?? []).map((port) => ({
      listenAddress: "127.0.0.1",
      protocol: "TCP",
      ...port,
    })),
  };
  const worker = { role: "worker", extraMounts: args.mounts ?? [] };
  const cilium = (args.cni ?? "cilium") === "cilium";
  return stringify({
    kind: "Cluster",
    apiVersion: "kind.x-k8s.io/v1alpha4",
    networking: {
      ...(cilium ? { disableDefaultCNI: true, kubeProxyMode: "none" } : {}),
      podSubnet: args.podSubnet ?? "10.244.0.0/16",
      serviceSubnet: args.serviceSubnet ?? "10.96.0.0/16",
    },
    kubeadmConfigPatches: [...apiServerPatches(), ...(args.kubeadmConfigPatches ?? [])],
    nodes: [controlPlane, ...Array.from({ length: args.workers ?? 0 }, () => worker)],
  });
}

/** Flags and mounts of the API server, in both forms of kubeadm's configuration: each Kubernetes takes its own. */
function apiServerPatches(): string[] {
  const flags = {
    "admission-control-config-file": `${inNode.config}/admission.yaml`,
    "audit-policy-file": `${inNode.config}/audit-policy.yaml`,
    "audit-log-path": `${inNode.log}/audit.log`,
    "audit-log-maxage": "30",
    "audit-log-maxbackup": "5",
    "audit-log-maxsize": "50",
  };
  const extraVolumes = [
    {
      ...{ name: "platform", hostPath: inNode.config, mountPath: inNode.config },
      ...{ readOnly: true, pathType: "Directory" },
    },
    { name: "audit", hostPath: inNode.log, mountPath: inNode.log, pathType: "DirectoryOrCreate" },
  ];
  const patch = (version: string, extraArgs: unknown) =>
    stringify({
      apiVersion: `kubeadm.k8s.io/${version}`,
      kind: "ClusterConfiguration",
      apiServer: { extraArgs, extraVolumes },
    });
  return [
    patch("v1beta3", flags),
    patch(
      "v1beta4",
      Object.entries(flags).map(([name, value]) => ({ name, value })),
    ),
  ];
}

/** The namespaces whose pods belong to the node, such as its network. */
const exempt = ["kube-system", "local-path-storage"];

/**
 * The files that the API server reads: absolute path in its node → content.
 *
 * The audit policy records the author of each change, without the values of Secrets. Sources:
 * https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/ and
 * https://kubernetes.io/docs/tasks/configure-pod-container/enforce-standards-admission-controller/
 */
export function apiServerFiles({
  podSecurity = "baseline",
}: Partial<Pick<KindSettings, "podSecurity">>): Record<string, string> {
  const level = {
    enforce: podSecurity,
    "enforce-version": "latest",
    warn: podSecurity,
    "warn-version": "latest",
  };
  const files = {
    "audit-policy.yaml": {
      apiVersion: "audit.k8s.io/v1",
      kind: "Policy",
      omitStages: ["RequestReceived"],
      rules: [
        { level: "None", verbs: ["get", "list", "watch"] },
        { level: "None", resources: [{ group: "coordination.k8s.io", resources: ["leases"] }] },
        { level: "None", resources: [{ group: "", resources: ["events"] }] },
        { level: "None", resources: [{ group: "events.k8s.io" }] },
        { level: "Metadata" },
      ],
    },
    "admission.yaml": {
      apiVersion: "apiserver.config.k8s.io/v1",
      kind: "AdmissionConfiguration",
      plugins: [
        {
          name: "PodSecurity",
          configuration: {
            apiVersion: "pod-security.admission.config.k8s.io/v1",
            kind: "PodSecurityConfiguration",
            defaults: level,
            exemptions: { namespaces: exempt },
          },
        },
      ],
    },
  };
  return Object.fromEntries(
    Object.entries(files).map(([file, content]) => [join(inNode.config, file), stringify(content)]),
  );
}
