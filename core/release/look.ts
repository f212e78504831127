import { kustomizationLabel } from "../../clients/flux/kinds";
import { nameOf, refOf, type Manifest, type ManifestRef } from "../../clients/kubernetes/client";
import { fluxNamespace } from "../../clients/flux/finalizers";

/** The release that the cluster should run. */
export interface Expected {
  /** In Flux's form: `<channel>@sha256:…`. */
  readonly revision: string;
  /** Address that Flux's source should follow, `oci://…`; undefined when the stack does not specify it. */
  readonly url?: string;
}

/** The objects of Flux in a cluster, in every namespace. */
export interface Observed {
  /** The source of the release; undefined when there is none. */
  readonly source: Manifest | undefined;
  readonly kustomizations: readonly Manifest[];
  readonly helmReleases: readonly Manifest[];
}

/** The result of a look at the cluster for one release. */
export interface Look {
  /** Whether Flux's source serves the expected revision, from the expected address. */
  readonly served: boolean;
  /** Every object of the release; empty while the source does not serve it. */
  readonly members: readonly Member[];
  /** Every member is Ready at the release. */
  readonly ready: boolean;
  /** Every member runs the release, as far as this is known while Flux reconciles the member again. */
  readonly settled: boolean;
  /** Members that run a revision from another address, while the source still follows that address. */
  readonly strays: readonly Member[];
  /** The reason why the source does not serve the release, and whether waiting can help. */
  readonly source: Trouble;
}

/** The reason why an object is not Ready. */
export interface Trouble {
  /** Flux's message; empty when Flux gives none. */
  readonly message: string;
  /** `final`: no retry can help. `suspected`: probably final, but Flux may have checked before the cause was gone. */
  readonly verdict: "passing" | "suspected" | "final";
  /** The last request to reconcile that Flux followed. */
  readonly handled: string;
}

/** A Kustomization or HelmRelease that comes from the release. */
export interface Member extends Trouble {
  readonly ref: ManifestRef;
  /** `Kustomization namespace/name`. */
  readonly key: string;
  /** Whether the member is a Kustomization. */
  readonly layer: boolean;
  /** Keys of the Kustomizations that the member waits for. */
  readonly dependsOn: readonly string[];
  readonly ready: boolean;
  readonly settled: boolean;
  /** The member was tried and failed; waiting for another object is not a failure. */
  readonly failing: boolean;
  /** The Kustomization that brings the member has applied this release: the member's status belongs to this release. */
  readonly current: boolean;
  /** Objects in its inventory. */
  readonly objects: number;
  readonly substitutes: readonly Substitute[];
}

/** A ConfigMap or Secret whose values a Kustomization substitutes. */
export interface Substitute {
  readonly ref: ManifestRef;
  /** The object may be missing. */
  readonly optional: boolean;
}

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly observedGeneration?: number;
  readonly reason?: string;
  readonly message?: string;
}

/** Fields that the Flux kinds share. */
interface FluxStatus {
  readonly observedGeneration?: number;
  readonly conditions?: readonly Condition[];
  readonly lastAppliedRevision?: string;
  readonly lastAttemptedRevision?: string;
  readonly lastHandledReconcileAt?: string;
  readonly artifact?: { readonly revision: string };
  readonly inventory?: { readonly entries?: readonly { readonly id?: string }[] };
}

interface KustomizationSpec {
  readonly suspend?: boolean;
  readonly sourceRef?: { readonly kind?: string; readonly name?: string; readonly namespace?: string };
  readonly dependsOn?: readonly { readonly name: string; readonly namespace?: string }[];
  readonly postBuild?: {
    readonly substituteFrom?: readonly {
      readonly kind: string;
      readonly name: string;
      readonly optional?: boolean;
    }[];
  };
}

/** The annotation that asks a controller of Flux to reconcile now. */
export const requestAnnotation = "reconcile.fluxcd.io/requestedAt";

/** The FluxInstance gives its source and its root Kustomization the name of their namespace. */
const rootKey = `Kustomization ${fluxNamespace}/${fluxNamespace}`;

/**
 * Compares the state of a cluster with a release. A member is a Kustomization of the release's source, in any
 * namespace, and every Kustomization and HelmRelease that a member brings, from any source.
 *
 * @returns undefined when there is no source: this cluster never had a release
 */
export function look(observed: Observed, expected: Expected): Look | undefined {
  const { source } = observed;
  if (source === undefined) return undefined;
  const url = (source.spec as { url?: string } | undefined)?.url;
  const follows = expected.url === undefined || url === undefined || url === expected.url;
  const served = follows && statusOf(source).artifact?.revision === expected.revision;
  const all = served || !follows ? membersOf(observed, expected.revision) : [];
  const members = served ? all : [];
  const complete = members.some(({ key }) => key === rootKey);
  return {
    served,
    members,
    ready: complete && members.every(({ ready }) => ready),
    settled: complete && members.every(({ settled }) => settled),
    strays: follows ? [] : all.filter(({ layer }) => layer),
    source: sourceTrouble(source, follows ? undefined : expected.url),
  };
}

/** The operator's complaint about the instance of Flux; undefined when there is none. */
export function instanceTrouble(instances: readonly Manifest[]): Trouble | undefined {
  const failed = instances.find((instance) => condition(instance, "Ready")?.status === "False");
  if (failed === undefined) return undefined;
  return {
    handled: handledOf(failed),
    message: `${nameOf(refOf(failed))}: ${condition(failed, "Ready")?.message ?? ""}`,
    verdict: isStalled(failed) ? "final" : "passing",
  };
}

/** The messages of HelmReleases that a failure names: Flux's message of a failed health check has only their names. */
export function reasonsOf(failure: string, helmReleases: readonly Manifest[]): string[] {
  return helmReleases
    .filter((release) => isStalled(release) && failure.includes(release.metadata.name))
    .map((release) => `${nameOf(refOf(release))}: ${condition(release, "Ready")?.message ?? ""}`)
    .filter((reason) => !failure.includes(reason));
}

/** The ConfigMaps and Secrets whose values a Kustomization substitutes. */
export function substitutesOf({ spec, metadata }: Manifest): Substitute[] {
  const { postBuild } = (spec ?? {}) as KustomizationSpec;
  return (postBuild?.substituteFrom ?? []).map(({ kind, name, optional = false }) => ({
    ref: { apiVersion: "v1", kind, name, namespace: metadata.namespace ?? "default" },
    optional,
  }));
}

function membersOf({ kustomizations, helmReleases }: Observed, revision: string): Member[] {
  const byKey = new Map(kustomizations.map((object) => [keyOf(object), object]));
  const brought = new Map<string, boolean>();
  /** Whether an object comes from the release: by its source, or by the member that brings it. */
  const isMember = (object: Manifest, seen: readonly string[] = []): boolean => {
    const key = keyOf(object);
    const known = brought.get(key);
    if (known !== undefined) return known;
    const owner = byKey.get(ownerKey(object) ?? "");
    const result =
      isOfRelease(object) || (owner !== undefined && !seen.includes(key) && isMember(owner, [...seen, key]));
    brought.set(key, result);
    return result;
  };
  return [...kustomizations, ...helmReleases]
    .filter((object) => isMember(object))
    .flatMap((object) => {
      const owner = byKey.get(ownerKey(object) ?? "");
      // Flux still prunes objects that the release no longer holds.
      if (isGoing(object) && owner !== undefined && !holds(owner, object)) return [];
      return [memberOf(object, owner === undefined || hasApplied(owner, revision), revision)];
    });
}

function memberOf(object: Manifest, current: boolean, revision: string): Member {
  const status = statusOf(object);
  const spec = (object.spec ?? {}) as KustomizationSpec;
  const ready = condition(object, "Ready");
  const layer = object.kind === "Kustomization";
  const { namespace = "default" } = object.metadata;
  const suspended = spec.suspend === true;
  const applied =
    isCurrent(object) &&
    !suspended &&
    !isGoing(object) &&
    (!isOfRelease(object) || status.lastAppliedRevision === revision);
  const failing = isFailure(object);
  const ref = refOf(object);
  const shared = {
    handled: handledOf(object),
    ref,
    key: keyOf(object),
    layer,
    current,
    dependsOn: (spec.dependsOn ?? []).map(
      (dependency) => `Kustomization ${dependency.namespace ?? namespace}/${dependency.name}`,
    ),
    ready: applied && ready?.status === "True",
    // Flux sets Unknown whenever it reconciles, and False on objects that wait for a dependency during its
    // reconciliation.
    settled: applied && (ready?.status === "True" || ready?.status === "Unknown" || isWaiting(ready)),
    objects: status.inventory?.entries?.length ?? 0,
    substitutes: substitutesOf(object),
  };
  if (suspended) {
    const remedy = `Resume it with "flux resume ${layer ? "kustomization" : "helmrelease"} ${ref.name} --namespace ${namespace}", or take spec.suspend out of Git`;
    return { ...shared, failing: true, verdict: "final", message: `it is suspended. ${remedy}` };
  }
  if (isGoing(object)) {
    const message = "it is being deleted, though the release holds it";
    return { ...shared, failing: false, verdict: "passing", message };
  }
  return {
    ...shared,
    failing,
    message: ready?.message ?? "",
    verdict: verdictOf(object, failing),
  };
}

/**
 * A retry cannot help a stalled HelmRelease; a Kustomization gets one more, because its causes lie in other objects.
 */
function verdictOf(object: Manifest, failing: boolean): Trouble["verdict"] {
  if (object.kind !== "Kustomization") return isStalled(object) ? "final" : "passing";
  if (!failing) return "passing";
  const { reason = "", message = "" } = condition(object, "Ready") ?? {};
  const permanent =
    isStalled(object) ||
    reason === "BuildFailed" ||
    // Of all causes of a failed health check, only this one does not depend on time.
    /failed early due to stalled resources|kustomization path not found/.test(message) ||
    /\((Invalid|BadRequest)\)|is immutable|is invalid:|strict decoding error|field not declared in schema/.test(
      message,
    );
  return permanent ? "suspected" : "passing";
}

/**
 * The reason why a source serves nothing new; messages of registries and TLS that no waiting changes are `suspected`.
 */
function sourceTrouble(source: Manifest, wanted: string | undefined): Trouble {
  const name = nameOf(refOf(source));
  const handled = handledOf(source);
  if ((source.spec as KustomizationSpec | undefined)?.suspend === true) {
    const remedy = `Resume it with "flux resume source oci ${source.metadata.name}"`;
    return { handled, verdict: "final", message: `${name}: it is suspended. ${remedy}` };
  }
  if (wanted !== undefined) {
    const { url } = source.spec as { url: string };
    return { handled, verdict: "passing", message: `${name} follows ${url}, not ${wanted}` };
  }
  const ready = condition(source, "Ready");
  if (ready?.status !== "False" || ready.message === undefined) {
    return { handled, verdict: "passing", message: `${name} does not serve it` };
  }
  const permanent =
    isStalled(source) ||
    /\b40[13]\b|UNAUTHORIZED|DENIED|NAME_UNKNOWN|NAME_INVALID|MANIFEST_UNKNOWN|x509:|HTTP response to HTTPS client/.test(
      ready.message,
    );
  return {
    handled,
    verdict: permanent ? "suspected" : "passing",
    message: `${name}: ${ready.message}`,
  };
}

function handledOf(object: Manifest): string {
  return statusOf(object).lastHandledReconcileAt ?? "";
}

function statusOf(object: Manifest): FluxStatus {
  return object.status ?? {};
}

function condition(object: Manifest, type: string): Condition | undefined {
  return statusOf(object).conditions?.find((entry) => entry.type === type);
}

function isCurrent(object: Manifest): boolean {
  return statusOf(object).observedGeneration === object.metadata.generation;
}

function isGoing(object: Manifest): boolean {
  return object.metadata.deletionTimestamp !== undefined;
}

function isStalled(object: Manifest): boolean {
  const stalled = condition(object, "Stalled");
  return (
    stalled?.status === "True" &&
    (stalled.observedGeneration ?? object.metadata.generation) === object.metadata.generation
  );
}

function isWaiting(ready: Condition | undefined): boolean {
  return ["DependencyNotReady", "Progressing", "HealthCheckCanceled"].includes(ready?.reason ?? "");
}

/**
 * Flux moves `status.observedGeneration` only on success; the condition's own generation shows how old a failure is.
 */
function isFailure(object: Manifest): boolean {
  const ready = condition(object, "Ready");
  return (
    ready?.status === "False" &&
    (ready.observedGeneration ?? object.metadata.generation) === object.metadata.generation &&
    !isWaiting(ready)
  );
}

/** Whether a Kustomization has applied its objects of a release; it may still wait for their health. */
function hasApplied(object: Manifest, revision: string): boolean {
  const { lastAppliedRevision, lastAttemptedRevision } = statusOf(object);
  if (!isOfRelease(object)) return isCurrent(object);
  return (
    lastAppliedRevision === revision ||
    (lastAttemptedRevision === revision &&
      (condition(object, "Ready")?.reason === "HealthCheckFailed" ||
        (condition(object, "Reconciling")?.message ?? "").startsWith(
          `Running health checks for revision ${revision}`,
        )))
  );
}

/** Whether an object is a Kustomization with the source of the release. */
function isOfRelease({ kind, spec, metadata }: Manifest): boolean {
  if (kind !== "Kustomization") return false;
  const { sourceRef } = (spec ?? {}) as KustomizationSpec;
  return (
    (sourceRef?.kind ?? "OCIRepository") === "OCIRepository" &&
    sourceRef?.name === fluxNamespace &&
    (sourceRef.namespace ?? metadata.namespace ?? "default") === fluxNamespace
  );
}

/** Whether a Kustomization's inventory lists an object; its ids are `namespace_name_group_kind`. */
function holds(owner: Manifest, { apiVersion, kind, metadata }: Manifest): boolean {
  const id = [metadata.namespace ?? "", metadata.name, apiVersion.split("/")[0], kind].join("_");
  return statusOf(owner).inventory?.entries?.some((entry) => entry.id === id) === true;
}

function keyOf({ kind, metadata }: Manifest): string {
  return `${kind} ${metadata.namespace ?? "default"}/${metadata.name}`;
}

/** The key of the Kustomization that applied an object, by the labels that kustomize-controller puts on it. */
function ownerKey({ metadata }: Manifest): string | undefined {
  const name = metadata.labels?.[kustomizationLabel];
  const namespace = metadata.labels?.["kustomize.toolkit.fluxcd.io/namespace"];
  return name === undefined ? undefined : `Kustomization ${namespace ?? "default"}/${name}`;
}
