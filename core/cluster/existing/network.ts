import { renderCluster } from "../../tree/render";
import { nameOf, refOf, type KubernetesApi, type Manifest } from "../../../clients/kubernetes/client";

/** The cluster's network, as `platform:cluster.cni` of an existing cluster asks for it. */
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
 * Refuses to bring a network into a cluster of somebody else that has one.
 *
 * @param objects what would be applied
 * @param setting "cilium" refuses networks that are known by name; "auto" any, told by nodes that are Ready
 * @param isOurs whether an object was seeded before, or is Flux's
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
  const ready = (await api.list("v1", "Node")).find(isReady);
  if (ready === undefined) return;
  const found = await Promise.all(objects.map((object) => api.get(refOf(object))));
  // What was ours, and lost only a part, leaves its nodes Ready too.
  if (found.some((object) => object !== undefined && isOurs(object))) return;
  throw refusal(`node ${ready.metadata.name} is Ready without Cilium`);
}

function refusal(found: string): Error {
  return new Error(
    `Seeding Cilium failed: the cluster has a network already (${found}). Keep it with platform:cluster.cni "existing" and take Cilium out of the tree (see docs/platform.md), or remove it and set "cilium".`,
  );
}

function isReady(node: Manifest): boolean {
  const { conditions = [] } = (node.status ?? {}) as {
    conditions?: readonly { type: string; status: string }[];
  };
  return conditions.some(({ type, status }) => type === "Ready" && status === "True");
}

/**
 * What is wrong with the tree of a cluster that keeps its own network: it brings Cilium all the same.
 *
 * @returns findings; none for a tree that cannot be built, of which others say more
 */
export async function findSecondNetwork(tree: string, cluster: string): Promise<string[]> {
  const { layers } = await renderCluster(tree, cluster).catch(() => ({ layers: [] }));
  return layers.flatMap(({ name, manifests }) =>
    manifests
      .filter(({ kind, metadata }) => kind === "HelmRelease" && metadata.name === "cilium")
      .map(
        (release) =>
          `Checking the network of cluster "${cluster}" failed: platform:cluster.cni is "existing", and layer "${name}" brings ${nameOf(refOf(release))}. Take Cilium out of the layer (see docs/platform.md), or set "cilium".`,
      ),
  );
}
