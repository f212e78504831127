import { readFile } from "node:fs/promises";
import { causeOf } from "../../../system/file-error";
import type { ClusterKind } from "../cluster-kind";
import { checkCluster } from "./needs";
import { findSecondNetwork } from "./network";
import { existingSettings, type ExistingSettings } from "./settings";

/** A cluster that exists already. */
export const existingCluster = {
  name: "existing",
  settings: existingSettings,
  exists: true,
  onThisMachine: false,
  tools: [],
  needs: ({ kubeconfigFile }, host) => [checkCluster(host, kubeconfigFile)],
  kubeconfig: async ({ kubeconfigFile }) => {
    try {
      return await readFile(kubeconfigFile, "utf8");
    } catch (error) {
      throw new Error(
        `Reading the kubeconfig of the cluster failed: ${causeOf(error, kubeconfigFile)}. Set platform:cluster.kubeconfigFile to the path of the kubeconfig.`,
        { cause: error },
      );
    }
  },
  loadBalancerCidr: ({ loadBalancerCidr }) => loadBalancerCidr,
  checkTree: async ({ cni }, source, cluster) =>
    cni === "existing" ? findSecondNetwork(source, cluster) : [],
  // Nodes of a rehearsal are Ready without a network.
  rehearsed: (settings, kubeconfigFile) => ({
    ...settings,
    cni: settings.cni === "existing" ? "existing" : "cilium",
    kubeconfigFile,
  }),
  standIns: [],
} as const satisfies ClusterKind<ExistingSettings>;
