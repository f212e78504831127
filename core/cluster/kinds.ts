import * as z from "zod";
import type { ReadonlyDeep, SettingsContext } from "../fields/fields";
import type { ClusterKind } from "./cluster-kind";
import { existingCluster } from "./existing/existing";
import { kindCluster } from "./kind/kind";

/** The registry of cluster kinds. `components/cluster/kinds.ts` lists their components. */
export const clusterKinds = [kindCluster, existingCluster] as const;

type Schema = ReturnType<(typeof clusterKinds)[number]["settings"]>;

/** The schema of `platform:cluster`. */
export function clusterSettings(context: SettingsContext) {
  const [first, ...others] = clusterKinds;
  return z.discriminatedUnion("kind", [
    first.settings(context),
    ...others.map((kind) => kind.settings(context)),
  ] as [Schema, ...Schema[]]);
}

/** The settings of a stack's cluster. */
export type ClusterConfig = ReadonlyDeep<z.output<Schema>>;

/** The kind of a cluster, from its settings. */
export function clusterKindOf(config: { readonly kind: ClusterConfig["kind"] }): ClusterKind<ClusterConfig> {
  return clusterKinds.find(({ name }) => name === config.kind) ?? existingCluster;
}
