import { join } from "node:path";
import { clusterKindOf, type ClusterConfig } from "../core/cluster/kinds";
import type { Manifest } from "../clients/kubernetes/client";
import { contextOf, parseConfig } from "../core/settings/config";
import { renderCluster } from "../core/tree/render";
import { chartsIn } from "./cluster";

/** The parts of a rehearsal that its settings name. */
export interface RehearsedPlace {
  /** Absolute path of the directory of all files of the rehearsal. */
  readonly directory: string;
  /** How long a release may take until every layer is Ready. */
  readonly timeoutSeconds: number;
  /** Open the encrypted secrets with the stack's own identity instead of generating values. */
  readonly identity: boolean;
  /** What stands in for a cluster that exists and for a remote registry. */
  readonly standIn: { readonly kubeconfigPath: string; readonly registry: string };
}

/**
 * The settings of a stack, changed as far as a throw-away control plane needs it.
 *
 * @param settings of `Pulumi.<stack>.yaml`: `platform:key` → value
 */
export function rehearsedSettings(
  settings: Readonly<Record<string, unknown>>,
  { directory, timeoutSeconds, identity, standIn }: RehearsedPlace,
): Record<string, unknown> {
  const section = (key: string) => (settings[key] ?? {}) as Record<string, unknown>;
  const cluster = settings["platform:cluster"] as { kind: ClusterConfig["kind"] };
  const { recipients, recoveryRecipient } = section("platform:sops");
  const identityFile = join(directory, "rehearsal.agekey");
  const registry = { kind: "remote", repository: `${standIn.registry}/platform`, insecure: true };
  return {
    ...settings,
    "platform:gitops": { ...section("platform:gitops"), requireClean: false },
    ...(identity
      ? {}
      : { "platform:sops": { recipients, recoveryRecipient, generate: "all", identityFile } }),
    "platform:release": { timeoutSeconds },
    "platform:chartMirror": chartsIn(directory),
    "platform:cluster": clusterKindOf(cluster).rehearsed(cluster, standIn.kubeconfigPath),
    ...(section("platform:registry").kind === "remote" ? { "platform:registry": registry } : {}),
  };
}

/**
 * The objects of all layers; empty if the tree or a setting is bad, which the program refuses.
 *
 * @param config of the stack, as Pulumi has it
 */
export async function objectsOf(
  stack: string,
  config: Readonly<Record<string, string>>,
  project: string,
): Promise<readonly Manifest[]> {
  try {
    const { gitops } = parseConfig(stack, config, await contextOf(project));
    const { layers } = await renderCluster(gitops.tree, gitops.cluster);
    return layers.flatMap(({ manifests }) => manifests);
  } catch {
    return [];
  }
}
