import type { KubernetesFailure } from "../../../clients/kubernetes/client";
import type { Host, Need } from "../../host/host";

/** The objects that layer 0 applies to a cluster: verb, API group, resource, namespace. */
const needed = [
  ["create", "", "namespaces"],
  ["patch", "", "secrets", "flux-system"],
  ["patch", "", "configmaps", "flux-system"],
  ["patch", "apps", "deployments", "flux-system"],
  ["patch", "apiextensions.k8s.io", "customresourcedefinitions"],
  ["patch", "rbac.authorization.k8s.io", "clusterroles"],
  ["patch", "rbac.authorization.k8s.io", "clusterrolebindings"],
  // Only a user with the role's rights, or with these two verbs, may bind a role and give it rights.
  ["bind", "rbac.authorization.k8s.io", "clusterroles"],
  ["escalate", "rbac.authorization.k8s.io", "clusterroles"],
] as const;

/** An existing cluster: its kubeconfig, its API server, and the rights of its user. */
export async function checkCluster(host: Host, file: string): Promise<Need[]> {
  const set = "et platform:cluster.kubeconfigFile to an admin kubeconfig of the cluster.";
  const finding = (message: string, remedy: string) => [
    { check: "cluster", message, remedy, rehearsable: true },
  ];
  const kubeconfig = await host.read(file);
  if (kubeconfig === undefined)
    return finding(`The kubeconfig ${file} is missing, or this user cannot read it.`, `S${set}`);
  const api = host.kubernetes(kubeconfig);
  try {
    await api.ready();
    if (await api.allows("*", "*", "*")) return [];
    const answers = await Promise.all(
      needed.map(async ([verb, group, resource, namespace]) =>
        (await api.allows(verb, group, resource, namespace)) ? [] : [`${verb} ${resource}`],
      ),
    );
    const refused = answers.flat();
    if (refused.length === 0) return [];
    return finding(
      `The user of kubeconfig ${file} may not ${refused.join(", ")}, which the first layer needs.`,
      `Bind it to the ClusterRole cluster-admin, or s${set}`,
    );
  } catch (error) {
    const { message, reason = message } = error as Partial<KubernetesFailure> & Error;
    return finding(
      `The cluster of kubeconfig ${file} is out of reach: ${reason}`,
      `Start the cluster or the VPN to it, or s${set}`,
    );
  }
}
