import { isNotOf, isOwn, ownerLabel } from "../../../clients/docker/ownership";
import { checkPort, labelled, type Host, type Need } from "../../host/host";
import type { KindSettings } from "./settings";

/** Limits below which Cilium and kubelet run out of watches. Source: https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files */
const inotify = { max_user_watches: 524_288, max_user_instances: 512 } as const;

/** The needs of a Kind cluster. */
export function kindNeeds(
  { name, ports }: KindSettings,
  host: Host,
  owner: string,
  docker: boolean,
): Promise<Need[]>[] {
  return [
    checkInotify(host),
    ...(docker ? [checkOwner(host, name, owner)] : []),
    ...ports
      .filter(({ protocol }) => protocol === "TCP")
      .map(({ hostPort }) => checkPort(host, hostPort, "platform:cluster.ports", `${name}-control-plane`)),
  ];
}

async function checkInotify(host: Host): Promise<Need[]> {
  const findings: Need[] = [];
  for (const [limit, least] of Object.entries(inotify)) {
    const text = await host.read(`/proc/sys/fs/inotify/${limit}`);
    if (text === undefined || Number(text) >= least) continue;
    findings.push({
      check: "inotify",
      message: `fs.inotify.${limit} is ${text.trim()}: Cilium and the kubelet need ${least}.`,
      remedy: `Run "sudo sysctl fs.inotify.${limit}=${least}".`,
    });
  }
  return findings;
}

/** A Kind cluster of that name with another owner would have to be deleted for this one. */
async function checkOwner(host: Host, cluster: string, owner: string): Promise<Need[]> {
  const nodes = await host.run(
    ...(["docker", "ps", "--all", "--filter", `label=io.x-k8s.kind.cluster=${cluster}`] as const),
    ...(["--format", `{{.Names}}={{.Label "${ownerLabel}"}}`] as const),
  );
  const stranger = nodes
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => ({
      node: line.slice(0, line.indexOf("=")),
      labels: labelled(line.slice(line.indexOf("=") + 1)),
    }))
    .find(({ labels }) => !isOwn(labels, owner));
  if (stranger === undefined) return [];
  return [
    {
      check: "kind-cluster",
      message: `A Kind cluster "${cluster}" is there and ${isNotOf(owner, `its node ${stranger.node}`, stranger.labels)}.`,
      remedy: `Set platform:cluster.name to another name, or delete it with "kind delete cluster --name ${cluster}".`,
    },
  ];
}
