import { fluxNamespace } from "../../clients/flux/finalizers";
import { helmApi, kustomizeApi, sourceApi } from "../../clients/flux/kinds";
import { nameOf, type KubernetesApi, type ManifestRef } from "../../clients/kubernetes/client";
import { substitutesOf, type Observed } from "./look";

/** Flux's source of the release. */
export const sourceRef: ManifestRef = {
  ...{ apiVersion: sourceApi, kind: "OCIRepository" },
  ...{ name: fluxNamespace, namespace: fluxNamespace },
};

/** The objects of Flux in a cluster. */
export async function observe(api: Pick<KubernetesApi, "get" | "list">): Promise<Observed> {
  const [source, kustomizations, helmReleases] = await Promise.all([
    api.get(sourceRef),
    api.list(kustomizeApi, "Kustomization"),
    api.list(helmApi, "HelmRelease"),
  ]);
  return { source, kustomizations, helmReleases };
}

/** Name of a ConfigMap or Secret → its version, empty where there is none. */
export type Versions = ReadonlyMap<string, string>;

/** The versions of the ConfigMaps and Secrets that the Kustomizations of a cluster substitute. */
export async function versionsOf(
  api: Pick<KubernetesApi, "get">,
  { kustomizations }: Observed,
): Promise<Versions> {
  const versions = new Map<string, string>();
  const used = kustomizations.flatMap(substitutesOf);
  for (const ref of new Map(used.map(({ ref }) => [nameOf(ref), ref])).values()) {
    versions.set(nameOf(ref), (await api.get(ref))?.metadata.resourceVersion ?? "");
  }
  return versions;
}
