import { readFile } from "node:fs/promises";
import type { Built, BuiltKustomization } from "../../core/tree/build";
import type { KubernetesClient, Manifest } from "../../clients/kubernetes/client";

/** What became of a Flux Kustomization: in a cluster, or in what this project says of it. */
export interface Outcome {
  readonly source: { readonly kind: string; readonly namespace: string; readonly name: string };
  /** Its inventory, and the body of each object that it sent. @default it was not built */
  readonly objects?: Readonly<Record<string, Manifest | typeof notSent>>;
  /** Why it does not build, in Flux's words. */
  readonly error?: string;
}

/** An object that Flux keeps account of and does not touch: it is marked so. */
const notSent = "not sent";

/** Outcomes by `namespace/name` of the Flux Kustomization. */
export type Outcomes = Readonly<Record<string, Outcome>>;

const group = "kustomize.toolkit.fluxcd.io";

/** `namespace_name_group_kind`: an object's name in the inventory of a Flux Kustomization. */
function inventoryId({ apiVersion, kind, metadata }: Manifest): string {
  const apiGroup = apiVersion.includes("/") ? apiVersion.slice(0, apiVersion.indexOf("/")) : "";
  return [metadata.namespace ?? "", metadata.name.replaceAll(":", "__"), apiGroup, kind].join("_");
}

/** A Flux Kustomization as the API server has it. */
interface FluxKustomization extends Manifest {
  readonly spec: {
    readonly sourceRef: { readonly kind: string; readonly name: string; readonly namespace?: string };
    readonly suspend?: boolean;
  };
  readonly status?: {
    readonly conditions?: readonly Condition[];
    readonly inventory?: { readonly entries?: readonly { readonly id: string }[] };
  };
}

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration?: number;
}

/**
 * Waits until every Flux Kustomization has applied what it has, or said why it does not.
 *
 * @param roots those to begin with, `namespace/name`; what a Kustomization brings is there before it is Ready
 * @param auditLog of the control plane
 * @throws Error naming those that did not settle in time, and what they say
 */
export async function outcomes(
  api: KubernetesClient,
  roots: readonly string[],
  auditLog: string,
  timeoutSeconds: number,
): Promise<Outcomes> {
  const deadline = Date.now() + timeoutSeconds * 1000;
  for (;;) {
    const all = (await api.list(`${group}/v1`, "Kustomization")) as FluxKustomization[];
    const byName = new Map(all.map((one) => [`${one.metadata.namespace ?? ""}/${one.metadata.name}`, one]));
    const waiting = [...byName].filter(([, one]) => !isSettled(one)).map(([name]) => name);
    waiting.push(...roots.filter((root) => !byName.has(root)));
    if (waiting.length === 0) {
      const sent = await readApplied(auditLog);
      return Object.fromEntries(
        [...byName].map(([name, one]) => [name, outcome(name, one, sent.get(name) ?? {})]),
      );
    }
    if (Date.now() > deadline) {
      const said = waiting.map((name) => `${name}: ${readyOf(byName.get(name))?.message ?? "nothing"}`);
      throw new Error(`Not settled within ${timeoutSeconds} s: ${said.join("\n")}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

function outcome(name: string, one: FluxKustomization, sent: Readonly<Record<string, Manifest>>): Outcome {
  const source = { namespace: one.metadata.namespace ?? "", ...one.spec.sourceRef };
  if (isLeftAlone(one)) return { source };
  const ready = readyOf(one);
  if (ready?.status !== "True") return { source, error: withoutPlaces(ready?.message ?? "") };
  const ids = (one.status?.inventory?.entries ?? []).map(({ id }) => id);
  const stray = Object.keys(sent).filter((id) => !ids.includes(id));
  if (stray.length > 0) throw new Error(`${name} sent what is not in its inventory: ${stray.join(", ")}.`);
  return { source, objects: Object.fromEntries(ids.map((id) => [id, sent[id] ?? notSent])) };
}

/** The outcomes that this project foretells. */
export function foretell({ root, kustomizations }: Built): Outcomes {
  const all = [root, ...kustomizations];
  return Object.fromEntries(all.map((one) => [`${one.namespace}/${one.name}`, foretold(one)]));
}

function foretold({ namespace, name, source, objects, error }: BuiltKustomization): Outcome {
  if (error !== undefined) return { source, error: withoutPlaces(error) };
  if (objects === undefined) return { source };
  const sent = objects.map(
    (object) => [inventoryId(object), isLeft(object) ? notSent : owned(object)] as const,
  );
  if (new Set(sent.map(([id]) => id)).size < sent.length) throw new Error(`${name} has an object twice.`);
  return { source, objects: Object.fromEntries(sent) };

  function owned({ metadata, ...object }: Manifest): Manifest {
    const labels = { ...metadata.labels, [`${group}/name`]: name, [`${group}/namespace`]: namespace };
    return { ...object, metadata: { ...metadata, labels } };
  }
}

/** Whether an object is marked as one that Flux leaves alone. */
function isLeft({ metadata: { labels = {}, annotations = {} } }: Manifest): boolean {
  return [labels, annotations].some(
    (marks) => marks[`${group}/reconcile`] === "disabled" || marks[`${group}/ssa`] === "Ignore",
  );
}

/** A message without the directory that the kustomize-controller unpacked the tree to, and without its last line end. */
function withoutPlaces(message: string): string {
  return message
    .trimEnd()
    .replaceAll(/[^\s'"[]*\/kustomization-\d+(\/?)/g, (_, slash: string) => (slash === "" ? "." : ""));
}

/** Whether its source is another one, or Flux is told to do nothing with it. */
function isLeftAlone({ spec: { sourceRef, suspend = false } }: FluxKustomization): boolean {
  return suspend || sourceRef.kind !== "OCIRepository" || sourceRef.name !== "flux-system";
}

/** Reasons of a Kustomization that is not done yet. */
const passing = ["Progressing", "DependencyNotReady"];

function isSettled(one: FluxKustomization): boolean {
  if (isLeftAlone(one)) return true;
  const ready = readyOf(one);
  if (ready === undefined || ready.observedGeneration !== one.metadata.generation) return false;
  // Its source may not have been pulled yet.
  const isPulling = ready.reason === "ArtifactFailed" && !ready.message.includes("path not found");
  return (
    ready.status === "True" || (ready.status === "False" && !passing.includes(ready.reason) && !isPulling)
  );
}

function readyOf(one: FluxKustomization | undefined): Condition | undefined {
  return one?.status?.conditions?.find(({ type }) => type === "Ready");
}

interface AuditEvent {
  readonly requestURI: string;
  readonly objectRef?: { readonly subresource?: string };
  readonly responseStatus?: { readonly code?: number };
  readonly requestObject?: Manifest;
}

/**
 * The last body that the kustomize-controller sent for each object, by its Kustomization (`namespace/name`).
 *
 * This is the strictest thing to compare with. Live objects hold what the API server filled in; a dry run of our object
 * that changes nothing lets pass what the server rewrites, such as `0.5` for `500m`.
 */
async function readApplied(auditLog: string): Promise<Map<string, Record<string, Manifest>>> {
  const applied = new Map<string, Record<string, Manifest>>();
  for (const line of (await readFile(auditLog, "utf8")).split("\n")) {
    if (!line.includes(`${group}/namespace`)) continue;
    const { requestURI, objectRef, responseStatus, requestObject } = JSON.parse(line) as AuditEvent;
    const query = new URLSearchParams(requestURI.slice(requestURI.indexOf("?")));
    const isApply = query.get("fieldManager") === "kustomize-controller" && query.get("force") === "true";
    const isDone = (responseStatus?.code ?? 500) < 300;
    if (!isApply || !isDone || objectRef?.subresource !== undefined || requestObject === undefined) continue;
    const { labels = {} } = requestObject.metadata;
    const owner = `${labels[`${group}/namespace`] ?? ""}/${labels[`${group}/name`] ?? ""}`;
    const objects = applied.get(owner) ?? {};
    objects[inventoryId(requestObject)] = requestObject;
    applied.set(owner, objects);
  }
  return applied;
}
