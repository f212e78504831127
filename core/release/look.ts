import { fluxNamespace } from "../../clients/flux/finalizers";
import { kustomizationLabel } from "../../clients/flux/kinds";
import { nameOf, refOf, type Manifest, type ManifestRef } from "../../clients/kubernetes/client";
import { condition, type Condition } from "../../clients/kubernetes/condition";

/** The release that the cluster should run. Revisions have Flux's form: `<channel>@sha256:…`. */
export interface Expected {
  /** The revision that Flux's source should serve. */
  readonly revision: string;
  /** The revision that a Kustomization must have applied; undefined for a Kustomization of another source. */
  readonly revisionOf: (kustomization: FluxObject) => string | undefined;
  /** Address that Flux's source should follow, `oci://…`; undefined when the stack does not specify it. */
  readonly url?: string;
}

/** The objects of Flux in a cluster, in every namespace. */
export interface Observed {
  /** The source of the release; undefined when there is none. */
  readonly source: FluxObject | undefined;
  readonly kustomizations: readonly FluxObject[];
  readonly helmReleases: readonly FluxObject[];
}

/** The fields that a look reads from the kinds of Flux. */
export interface FluxObject extends Manifest {
  readonly spec?: {
    readonly url?: string;
    readonly ref?: { readonly tag?: string };
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
  };
  readonly status?: {
    readonly observedGeneration?: number;
    readonly lastAppliedRevision?: string;
    readonly lastAttemptedRevision?: string;
    readonly lastHandledReconcileAt?: string;
    readonly artifact?: { readonly revision: string };
    readonly inventory?: { readonly entries?: readonly { readonly id?: string }[] };
  };
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
  readonly name: string;
  /** Whether the member is a Kustomization. */
  readonly layer: boolean;
  /** Names of the Kustomizations that the member waits for. */
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

/** The FluxInstance gives its source and its root Kustomization the name of their namespace. */
const rootName = `Kustomization ${fluxNamespace}/${fluxNamespace}`;

/** A release of one artifact: every Kustomization of Flux's source, in any namespace, must have applied its revision. */
export function oneRevision(revision: string): Expected {
  return {
    revision,
    revisionOf: ({ spec, metadata }) => {
      const { kind = "OCIRepository", name, namespace = metadata.namespace } = spec?.sourceRef ?? {};
      const follows = kind === "OCIRepository" && name === fluxNamespace && namespace === fluxNamespace;
      return follows ? revision : undefined;
    },
  };
}

/**
 * Compares the state of a cluster with a release. A member is a Kustomization that the release expects, and every
 * Kustomization and HelmRelease that a member brings, from any source.
 *
 * @returns undefined when there is no source: this cluster never had a release
 */
export function look(observed: Observed, expected: Expected): Look | undefined {
  const { source } = observed;
  if (source === undefined) return undefined;
  const url = source.spec?.url;
  const follows = expected.url === undefined || url === undefined || url === expected.url;
  const served = follows && source.status?.artifact?.revision === expected.revision;
  const all = served || !follows ? membersOf(observed, expected) : [];
  const members = served ? all : [];
  const complete = members.some(({ name }) => name === rootName);
  return {
    served,
    members,
    ready: complete && members.every(({ ready }) => ready),
    settled: complete && members.every(({ settled }) => settled),
    strays: follows ? [] : all.filter(({ layer }) => layer),
    source: sourceTrouble(source, expected, follows),
  };
}

/** The operator's complaint about the instance of Flux; undefined when there is none. */
export function instanceTrouble(instances: readonly FluxObject[]): Trouble | undefined {
  const failed = instances.find((instance) => condition(instance, "Ready")?.status === "False");
  return failed && { ...troubleOf(failed), verdict: isStalled(failed) ? "final" : "passing" };
}

/** The messages of HelmReleases that a failure names: Flux's message of a failed health check has only their names. */
export function reasonsOf(failure: string, helmReleases: readonly FluxObject[]): string[] {
  return helmReleases
    .filter((release) => isStalled(release) && failure.includes(release.metadata.name))
    .map((release) => troubleOf(release).message)
    .filter((reason) => !failure.includes(reason));
}

/** The ConfigMaps and Secrets whose values a Kustomization substitutes. */
export function substitutesOf({ spec, metadata }: FluxObject): Substitute[] {
  return (spec?.postBuild?.substituteFrom ?? []).map(({ kind, name, optional = false }) => ({
    ref: { apiVersion: "v1", kind, name, namespace: metadata.namespace ?? "default" },
    optional,
  }));
}

function membersOf({ kustomizations, helmReleases }: Observed, { revisionOf }: Expected): Member[] {
  const byName = new Map(kustomizations.map((object) => [nameOf(refOf(object)), object]));
  const ownerOf = (object: Manifest) => byName.get(ownerName(object) ?? "");
  const expectedOf = (object: FluxObject) =>
    object.kind === "Kustomization" ? revisionOf(object) : undefined;
  const known = new Map<Manifest, boolean>();
  /** Whether the release expects an object, or a member brings it. */
  const isMember = (object: FluxObject): boolean => {
    if (!known.has(object)) {
      // An object that brings itself is no member.
      known.set(object, false);
      const owner = ownerOf(object);
      known.set(object, expectedOf(object) !== undefined || (owner !== undefined && isMember(owner)));
    }
    return known.get(object) === true;
  };
  return [...kustomizations, ...helmReleases].filter(isMember).flatMap((object) => {
    const owner = ownerOf(object);
    // Flux still prunes objects that the release no longer holds.
    if (isGoing(object) && owner !== undefined && !holds(owner, object)) return [];
    const current = owner === undefined || hasApplied(owner, expectedOf(owner));
    return [memberOf(object, current, expectedOf(object))];
  });
}

function memberOf(object: FluxObject, current: boolean, revision: string | undefined): Member {
  const { spec, status } = object;
  const ready = condition(object, "Ready");
  const layer = object.kind === "Kustomization";
  const { namespace = "default" } = object.metadata;
  const suspended = spec?.suspend === true;
  const applied =
    isCurrent(object) &&
    !suspended &&
    !isGoing(object) &&
    (revision === undefined || status?.lastAppliedRevision === revision);
  const failing = isFailure(object);
  const ref = refOf(object);
  const shared = {
    handled: handledOf(object),
    ref,
    name: nameOf(ref),
    layer,
    current,
    dependsOn: (spec?.dependsOn ?? []).map(
      (dependency) => `Kustomization ${dependency.namespace ?? namespace}/${dependency.name}`,
    ),
    ready: applied && ready?.status === "True",
    // Flux sets Unknown whenever it reconciles, and False on objects that wait for a dependency during its
    // reconciliation.
    settled: applied && (ready?.status === "True" || ready?.status === "Unknown" || isWaiting(ready)),
    objects: status?.inventory?.entries?.length ?? 0,
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
  return { ...shared, failing, message: ready?.message ?? "", verdict: verdictOf(object, failing) };
}

/**
 * A retry cannot help a stalled HelmRelease; a Kustomization gets one more, because its causes lie in other objects.
 */
function verdictOf(object: FluxObject, failing: boolean): Trouble["verdict"] {
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
function sourceTrouble(source: FluxObject, { url, revision }: Expected, follows: boolean): Trouble {
  const name = nameOf(refOf(source));
  const trouble = { handled: handledOf(source), verdict: "passing" } as const;
  if (source.spec?.suspend === true) {
    const remedy = `Resume it with "flux resume source oci ${source.metadata.name}"`;
    return { ...trouble, verdict: "final", message: `${name}: it is suspended. ${remedy}` };
  }
  const set = (field: string, variable: string) =>
    `Set "spec.sync.${field}" of the FluxInstance to "${variable}"`;
  if (!follows) {
    const remedy = set("url", "oci://${artifact_repository}");
    const message = `${name} follows ${source.spec?.url ?? ""}, but the stack releases to ${url ?? ""}. ${remedy}`;
    return { ...trouble, message };
  }
  const ready = condition(source, "Ready");
  const tag = source.spec?.ref?.tag;
  const channel = revision.slice(0, revision.indexOf("@"));
  if (tag !== undefined && tag !== channel) {
    const remedy = set("ref", "${channel}");
    return {
      ...trouble,
      message: `${name} follows tag ${tag}, but the stack releases to ${channel}. ${remedy}`,
    };
  }
  if (ready?.status !== "False" || ready.message === undefined) {
    return { ...trouble, message: `${name} does not serve it` };
  }
  const permanent =
    isStalled(source) ||
    /\b40[13]\b|UNAUTHORIZED|DENIED|NAME_UNKNOWN|NAME_INVALID|MANIFEST_UNKNOWN|x509:|HTTP response to HTTPS client/.test(
      ready.message,
    );
  return { ...troubleOf(source), verdict: permanent ? "suspected" : "passing" };
}

/** Flux's message about an object, with its name. */
function troubleOf(object: FluxObject): Omit<Trouble, "verdict"> {
  const message = `${nameOf(refOf(object))}: ${condition(object, "Ready")?.message ?? ""}`;
  return { message, handled: handledOf(object) };
}

function handledOf({ status }: FluxObject): string {
  return status?.lastHandledReconcileAt ?? "";
}

function isCurrent({ status, metadata }: FluxObject): boolean {
  return status?.observedGeneration === metadata.generation;
}

function isGoing(object: FluxObject): boolean {
  return object.metadata.deletionTimestamp !== undefined;
}

function isStalled(object: FluxObject): boolean {
  return hasNow(object, condition(object, "Stalled"), "True");
}

function isWaiting(ready: Condition | undefined): boolean {
  return ["DependencyNotReady", "Progressing", "HealthCheckCanceled"].includes(ready?.reason ?? "");
}

/** Whether the last reconciliation failed. */
function isFailure(object: FluxObject): boolean {
  const ready = condition(object, "Ready");
  return hasNow(object, ready, "False") && !isWaiting(ready);
}

/**
 * Whether a condition has a status at the object's generation. Flux moves `status.observedGeneration` only on success;
 * the condition's own generation shows how old a failure is.
 */
function hasNow({ metadata }: FluxObject, found: Condition | undefined, status: "True" | "False"): boolean {
  return (
    found?.status === status && (found.observedGeneration ?? metadata.generation) === metadata.generation
  );
}

/** Whether a Kustomization has applied its objects at its revision; it may still wait for their health. */
function hasApplied(object: FluxObject, revision: string | undefined): boolean {
  if (revision === undefined) return isCurrent(object);
  const { lastAppliedRevision, lastAttemptedRevision } = object.status ?? {};
  return (
    lastAppliedRevision === revision ||
    (lastAttemptedRevision === revision &&
      (condition(object, "Ready")?.reason === "HealthCheckFailed" ||
        (condition(object, "Reconciling")?.message ?? "").startsWith(
          `Running health checks for revision ${revision}`,
        )))
  );
}

/** Whether a Kustomization's inventory lists an object; its ids are `namespace_name_group_kind`. */
function holds({ status }: FluxObject, { apiVersion, kind, metadata }: Manifest): boolean {
  const id = [metadata.namespace ?? "", metadata.name, apiVersion.split("/")[0], kind].join("_");
  return status?.inventory?.entries?.some((entry) => entry.id === id) === true;
}

/** The name of the Kustomization that applied an object, by the labels that kustomize-controller puts on it. */
function ownerName({ metadata }: Manifest): string | undefined {
  const name = metadata.labels?.[kustomizationLabel];
  const namespace = metadata.labels?.["kustomize.toolkit.fluxcd.io/namespace"];
  return name === undefined ? undefined : `Kustomization ${namespace ?? "default"}/${name}`;
}
