import { refOf, type KubernetesApi, type Manifest } from "../kubernetes";

/** The namespace of Flux, its operator and what both work on. */
export const fluxNamespace = "flux-system";

const fluxInstance = { apiVersion: "fluxcd.controlplane.io/v1", kind: "FluxInstance" };

/** Kinds that Flux reconciles: what `spec.suspend` holds back. */
const reconciled = [
  { apiVersion: "kustomize.toolkit.fluxcd.io/v1", kind: "Kustomization" },
  { apiVersion: "helm.toolkit.fluxcd.io/v2", kind: "HelmRelease" },
];

/** Kinds of Flux that a finalizer holds until a controller has let go of them. */
const finalized = [
  fluxInstance,
  ...reconciled,
  { apiVersion: "fluxcd.controlplane.io/v1", kind: "FluxReport" },
  { apiVersion: "fluxcd.controlplane.io/v1", kind: "ResourceSet" },
  { apiVersion: "source.toolkit.fluxcd.io/v1", kind: "OCIRepository" },
  { apiVersion: "source.toolkit.fluxcd.io/v1", kind: "GitRepository" },
  { apiVersion: "source.toolkit.fluxcd.io/v1", kind: "HelmRepository" },
  { apiVersion: "source.toolkit.fluxcd.io/v1", kind: "HelmChart" },
  { apiVersion: "source.toolkit.fluxcd.io/v1", kind: "Bucket" },
  { apiVersion: "notification.toolkit.fluxcd.io/v1", kind: "Receiver" },
  { apiVersion: "notification.toolkit.fluxcd.io/v1beta3", kind: "Alert" },
  { apiVersion: "notification.toolkit.fluxcd.io/v1beta3", kind: "Provider" },
];

/**
 * Tells Flux to change nothing any more: the operator leaves its instance alone, and no Kustomization or HelmRelease
 * is reconciled, nor pruned when it is deleted.
 */
export async function suspendFlux(api: Pick<KubernetesApi, "list" | "merge" | "annotate">): Promise<void> {
  for (const object of await listAll(api, [fluxInstance])) {
    await api.annotate(refOf(object), { "fluxcd.controlplane.io/reconcile": "disabled" });
  }
  for (const object of await listAll(api, reconciled))
    await api.merge(refOf(object), { spec: { suspend: true } });
}

/**
 * Takes the finalizers off what is being deleted in the namespace of Flux. Its controllers, which would do so, are
 * being deleted too; what they made stays, for the next instance to take over.
 */
export async function releaseFinalizers(api: Pick<KubernetesApi, "list" | "merge">): Promise<void> {
  for (const object of await listAll(api, finalized)) {
    if (object.metadata.deletionTimestamp === undefined) continue;
    await api.merge(refOf(object), { metadata: { finalizers: null } });
  }
}

async function listAll(
  api: Pick<KubernetesApi, "list">,
  kinds: readonly { readonly apiVersion: string; readonly kind: string }[],
): Promise<Manifest[]> {
  const found = await Promise.all(
    kinds.map(({ apiVersion, kind }) => api.list(apiVersion, kind, fluxNamespace)),
  );
  return found.flat();
}
