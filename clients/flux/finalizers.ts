import { alertApi, helmApi, kustomizeApi, operatorApi, receiverApi, sourceApi } from "./kinds";
import { refOf, type KubernetesApi, type Manifest } from "../kubernetes/client";

/** The namespace of Flux, of its operator and of the objects of both. */
export const fluxNamespace = "flux-system";

const fluxInstance = { apiVersion: operatorApi, kind: "FluxInstance" };

/** Kinds that Flux reconciles, and whose reconciliation `spec.suspend` stops. */
const reconciled = [
  { apiVersion: kustomizeApi, kind: "Kustomization" },
  { apiVersion: helmApi, kind: "HelmRelease" },
];

/** Kinds of Flux whose objects keep a finalizer until a controller removes it. */
const finalized = [
  fluxInstance,
  ...reconciled,
  { apiVersion: operatorApi, kind: "FluxReport" },
  { apiVersion: operatorApi, kind: "ResourceSet" },
  { apiVersion: sourceApi, kind: "OCIRepository" },
  { apiVersion: sourceApi, kind: "GitRepository" },
  { apiVersion: sourceApi, kind: "HelmRepository" },
  { apiVersion: sourceApi, kind: "HelmChart" },
  { apiVersion: sourceApi, kind: "Bucket" },
  { apiVersion: receiverApi, kind: "Receiver" },
  { apiVersion: alertApi, kind: "Alert" },
  { apiVersion: alertApi, kind: "Provider" },
];

/** Tells the Flux Operator to leave an instance alone. */
const disabled = { key: "fluxcd.controlplane.io/reconcile", value: "disabled" };

/** The mark on objects that this project suspended, so that it resumes only those. */
const mark = { key: "platform.pulumi.com/suspended", value: "true" };

/**
 * Stops all changes by Flux, because its namespace is about to be deleted: the operator leaves its instance alone, and
 * Flux neither reconciles a Kustomization or HelmRelease, nor prunes their objects when they are deleted.
 */
export async function suspendFlux(api: Pick<KubernetesApi, "list" | "merge">): Promise<void> {
  for (const object of await listAll(api, [fluxInstance])) {
    if (has(object, disabled)) continue;
    const annotations = { [disabled.key]: disabled.value, [mark.key]: mark.value };
    await api.merge(refOf(object), { metadata: { annotations } });
  }
  for (const object of await listAll(api, reconciled)) {
    if (isSuspended(object)) continue;
    await api.merge(refOf(object), {
      metadata: { annotations: { [mark.key]: mark.value } },
      spec: { suspend: true },
    });
  }
}

/**
 * Undoes `suspendFlux`, if the namespace still exists; objects that another user suspended stay suspended.
 *
 * Versions from before the mark disabled the operator and suspended everything: then everything is resumed.
 */
export async function resumeFlux(api: Pick<KubernetesApi, "list" | "merge">): Promise<void> {
  const instances = (await listAll(api, [fluxInstance])).filter((instance) => has(instance, disabled));
  const all = await listAll(api, reconciled);
  const unmarked = [...instances, ...all].every((object) => !has(object, mark));
  const everything = unmarked && instances.length > 0 && all.every(isSuspended);
  const isOurs = (object: Manifest) => everything || has(object, mark);
  for (const object of all.filter(isSuspended).filter(isOurs)) {
    await api.merge(refOf(object), {
      metadata: { annotations: { [mark.key]: null } },
      spec: { suspend: null },
    });
  }
  for (const object of instances.filter(isOurs)) {
    await api.merge(refOf(object), { metadata: { annotations: { [disabled.key]: null, [mark.key]: null } } });
  }
}

function isSuspended({ spec }: Manifest): boolean {
  return (spec as { suspend?: boolean } | undefined)?.suspend === true;
}

function has({ metadata }: Manifest, annotation: { readonly key: string; readonly value: string }): boolean {
  return metadata.annotations?.[annotation.key] === annotation.value;
}

/**
 * Removes the finalizers from objects in deletion in the namespace of Flux. The controllers that would remove them are
 * in deletion too. The objects that Flux applied stay, and the next instance takes them over.
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
