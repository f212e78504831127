import { KindCli } from "../../../clients/kind/client";
import type { ClusterKind } from "../cluster-kind";
import { kindNeeds } from "./needs";
import { kindSettings, type KindSettings } from "./settings";

/** Kind makes the cluster in containers of this machine. */
export const kindCluster = {
  name: "kind",
  settings: kindSettings,
  exists: false,
  onThisMachine: true,
  tools: ["kind"],
  needs: kindNeeds,
  kubeconfig: ({ name }) => new KindCli().kubeconfig(name),
  loadBalancerCidr: () => undefined,
  checkTree: () => Promise.resolve([]),
  rehearsed: (settings) => settings,
  standIns: [
    {
      type: "pulumi-nodejs:dynamic/cluster:Kind",
      describe: ({ name }) => `Kind cluster ${String(name)}`,
      outputs: ({ kubeconfig }) => ({ kubeconfig }),
    },
  ],
} as const satisfies ClusterKind<KindSettings>;
