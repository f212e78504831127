import { renderCluster } from "../../tree/render";
import type { TreeSource } from "../../tree/source";
import type { Finding } from "../../findings/finding";
import { condition } from "../../../clients/kubernetes/condition";
import { nameOf, refOf, type KubernetesApi, type Manifest } from "../../../clients/kubernetes/client";

/** The choice of the cluster's network, from `platform:cluster.cni` of an existing cluster. */
export type NetworkSetting = "auto" | "cilium";

/** Networks by the DaemonSet that their own manifests and charts bring. */
const networks: Readonly<Record<string, string>> = {
  anetd: "Dataplane V2",
  "antrea-agent": "Antrea",
  "aws-node": "Amazon VPC CNI",
  "azure-cns": "Azure CNI",
  "calico-node": "Calico",
  canal: "Canal",
  cilium: "Cilium",
  kindnet: "kindnet",
  "kube-flannel": "Flannel",
  "kube-flannel-ds": "Flannel",
  "kube-ovn-cni": "Kube-OVN",
  "kube-router": "kube-router",
  "ovnkube-node": "OVN-Kubernetes",
  "weave-net": "Weave Net",
};

/**
 * Refuses to bring a network into an existing cluster that has a network.
 *
 * @param objects the objects to apply
 * @param setting "cilium" refuses networks with a known name; "auto" refuses any network, which Ready nodes reveal
 * @param isOurs whether an object was seeded before, or belongs to Flux
 * @throws Error naming the network, and the setting that leaves it alone
 */
export async function refuseOtherNetwork(
  api: Pick<KubernetesApi, "get" | "list">,
  objects: readonly Manifest[],
  setting: NetworkSetting,
  isOurs: (object: Manifest) => boolean,
): Promise<void> {
  const daemonSets = await api.list("apps/v1", "DaemonSet");
  const other = daemonSets.find(
    (object) => object.metadata.name in networks && !(object.metadata.name === "cilium" && isOurs(object)),
  );
  if (other !== undefined) {
    throw refusal(`${nameOf(refOf(other))}, ${networks[other.metadata.name] ?? ""}`);
  }
  if (setting === "cilium") return;
  const ready = (await api.list("v1", "Node")).find((node) => condition(node, "Ready")?.status === "True");
  if (ready === undefined) return;
  const found = await Promise.all(objects.map((object) => api.get(refOf(object))));
  // Nodes are also Ready when our own network lost only a part of its objects.
  if (found.some((object) => object !== undefined && isOurs(object))) return;
  throw refusal(`node ${ready.metadata.name} is Ready without Cilium`);
}

function refusal(found: string): Error {
  return new Error(
    `Seeding Cilium failed: the cluster has a network already (${found}). Keep it with platform:cluster.cni "existing" and take Cilium out of the tree (see docs/platform.md), or remove it and set "cilium".`,
  );
}

/**
 * The faults in the tree of a cluster that keeps its own network: the tree brings Cilium all the same.
 *
 * @returns findings; empty for a tree that does not build, which other checks report
 */
export async function findSecondNetwork(source: TreeSource, cluster: string): Promise<Finding[]> {
  const { layers } = await renderCluster(source, cluster).catch(() => ({ layers: [] }));
  return layers.flatMap(({ name, manifests }) =>
    manifests
      .filter(({ kind, metadata }) => kind === "HelmRelease" && metadata.name === "cilium")
      .map((release) => ({
        ...{ check: "network", layer: name },
        object: { kind: "HelmRelease", namespace: release.metadata.namespace, name: "cilium" },
        message: `Checking the network of cluster "${cluster}" failed: platform:cluster.cni is "existing", and layer "${name}" brings ${nameOf(refOf(release))}.`,
        remedy: 'Take Cilium out of the layer (see docs/platform.md), or set "cilium".',
      })),
  );
}
