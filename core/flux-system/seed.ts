import { createHash } from "node:crypto";
import { kustomizationLabel } from "../../clients/flux/kinds";
import type { Clock } from "../../system/clock";
import type { Manifest } from "../../clients/kubernetes/client";
import { goneWith, refOf, type KubernetesApi, type ManifestRef } from "../../clients/kubernetes/client";
import { applyInOrder } from "../../clients/kubernetes/apply";
import { renderCluster } from "../tree/render";
import { refuseOtherNetwork, type NetworkSetting } from "../cluster/existing/network";
import { chartOf, type ChartRenderer } from "../../clients/helm/chart";

/** What is seeded: an object of the tree. */
export interface SeedInputs {
  readonly kubeconfig: string;
  /** Whether this project makes the cluster; see `goneWith`. */
  readonly ownCluster: boolean;
  /** Of the namespace of Flux: in another one the seed is not there, whatever a refresh saw. */
  readonly namespaceUid: string;
  /** Absolute path of the gitops tree. */
  readonly tree: string;
  readonly cluster: string;
  /** A HelmRelease, whose chart is rendered and applied, or any other object, which is applied itself. */
  readonly object: { readonly kind: string; readonly namespace: string; readonly name: string };
  /** Values of the variables that Flux substitutes: name → value. */
  readonly variables: Readonly<Record<string, string>>;
  /** Where the object is the network of a cluster of somebody else; see `refuseOtherNetwork`. */
  readonly network?: NetworkSetting;
  /** Stands in for every chart source; see `Helm`. */
  readonly chartMirror?: string;
}

/** A seed's traces: `sentinel` tells whether it is still there. */
export interface SeedOutputs {
  readonly kubeconfig: string;
  readonly ownCluster?: boolean;
  readonly namespaceUid: string;
  readonly sentinel: ManifestRef;
  /** The field manager of what was applied; state of before fields had the names of their takers lacks it. */
  readonly fieldManager?: string;
  /** SHA-256 of what was applied; the objects themselves are not kept. */
  readonly fingerprint: string;
}

/**
 * The field manager of a seed: that of the controller that takes it over (`controllerName` in its main.go), so that a
 * field that the controller stops applying goes away.
 */
export function fieldManagerOf(kind: string): string {
  return kind === "HelmRelease" ? "helm-controller" : "kustomize-controller";
}

/** The field manager of all seeds until they had those of their takers. */
const formerFieldManager = "platform-seed";

/** Labels by which Flux says that an object is its own. */
const ownership = ["helm.toolkit.fluxcd.io/name", kustomizationLabel];

/** The layer that holds what Flux itself needs. */
const seedLayer = "controllers";

/** Workloads tell best whether a seed is there. */
const workloads = ["Deployment", "DaemonSet"];

/**
 * Brings into a cluster what Flux needs before it can run, out of the same files that Flux uses later, and
 * leaves it alone as soon as it is Flux's.
 */
export class SeedLifecycle {
  constructor(
    /** The cluster, as its objects see it that name no namespace and get this one. */
    private readonly api: (namespace: string) => KubernetesApi,
    private readonly charts: ChartRenderer,
    private readonly clock: Clock,
  ) {}

  async create(inputs: SeedInputs): Promise<SeedOutputs> {
    const { namespace, objects } = await this.objects(inputs);
    const sentinel = objects.find((object) => workloads.includes(object.kind)) ?? objects.at(-1);
    if (sentinel === undefined) {
      throw new Error(`Seeding ${inputs.object.name} failed: its chart renders no object. Check its values.`);
    }
    const api = this.api(namespace);
    const fieldManager = fieldManagerOf(inputs.object.kind);
    const ref = { ...refOf(sentinel), namespace: sentinel.metadata.namespace ?? namespace };
    const found = await api.get(ref);
    if (!ownedByFlux(found)) {
      if (inputs.network !== undefined) {
        await refuseOtherNetwork(api, objects, inputs.network, (object) => isOurs(object, fieldManager));
      }
      await applyInOrder(api, this.clock, objects, fieldManager);
    }
    // What is applied together has the same managers; the sentinel comes last, for it tells whether all is done.
    if (applies(found, formerFieldManager)) {
      const others = objects.filter((object) => object !== sentinel);
      await Promise.all(others.map((object) => disown(api, refOf(object), fieldManager)));
      await disown(api, ref, fieldManager);
    }
    return {
      kubeconfig: inputs.kubeconfig,
      ownCluster: inputs.ownCluster,
      namespaceUid: inputs.namespaceUid,
      sentinel: ref,
      fieldManager,
      fingerprint: createHash("sha256").update(JSON.stringify(objects)).digest("hex"),
    };
  }

  /**
   * Whether the seed, or what Flux made of it, is there.
   *
   * @throws Error when a cluster that is not this project's does not say
   */
  async exists({ sentinel, ownCluster }: SeedOutputs): Promise<boolean> {
    try {
      return (await this.api(sentinel.namespace ?? "default").get(sentinel)) !== undefined;
    } catch (error) {
      goneWith(ownCluster, error);
      return false;
    }
  }

  /** What is applied, and the namespace of what names none. */
  private async objects(inputs: SeedInputs): Promise<{ namespace: string; objects: Manifest[] }> {
    const { kind, namespace, name } = inputs.object;
    const { layers } = await renderCluster(inputs.tree, inputs.cluster, {
      layer: seedLayer,
      runtime: inputs.variables,
    });
    const manifests = layers.flatMap((layer) => layer.manifests);
    const object = manifests.find(
      ({ kind: k, metadata }) => k === kind && metadata.name === name && metadata.namespace === namespace,
    );
    if (object === undefined) {
      throw new Error(
        `Seeding ${kind} ${namespace}/${name} failed: layer "${seedLayer}" of cluster "${inputs.cluster}" does not hold it. Add it there.`,
      );
    }
    if (kind !== "HelmRelease") return { namespace, objects: [object] };

    const chart = chartOf(object, manifests);
    const objects = await this.charts.template(chart);
    return { namespace: chart.namespace, objects: objects.map((rendered) => helmOwned(rendered, chart)) };
  }
}

/** Whether an object was seeded, or is Flux's. */
function isOurs(object: Manifest, fieldManager: string): boolean {
  return ownedByFlux(object) || applies(object, fieldManager) || applies(object, formerFieldManager);
}

function ownedByFlux(object: Manifest | undefined): boolean {
  const labels = object?.metadata.labels ?? {};
  return ownership.some((label) => label in labels);
}

/** Whether a field manager applied fields of an object, server-side. */
function applies(object: Manifest | undefined, fieldManager: string): boolean {
  const managers = object?.metadata.managedFields ?? [];
  return managers.some(({ manager, operation }) => manager === fieldManager && operation === "Apply");
}

/**
 * Gives up the fields of the former field manager: what the taker applies too stays, the rest goes. Where the taker
 * does not apply server-side nothing is given up, for it would take fields away that it counts on.
 */
async function disown(api: KubernetesApi, ref: ManifestRef, taker: string): Promise<void> {
  const found = await api.get(ref);
  if (!applies(found, formerFieldManager) || !applies(found, taker)) return;
  const { apiVersion, kind, ...metadata } = ref;
  // With a uid the API server refuses to make an object that went meanwhile.
  const { uid } = found?.metadata ?? {};
  await api.apply(
    { apiVersion, kind, metadata: { ...metadata, ...(uid === undefined ? {} : { uid }) } },
    formerFieldManager,
  );
}

/** Marks an object as belonging to a Helm release, so that Helm takes it over instead of refusing it. */
function helmOwned(object: Manifest, chart: { release: string; namespace: string }): Manifest {
  const { metadata } = object;
  return {
    ...object,
    metadata: {
      ...metadata,
      labels: { ...metadata.labels, "app.kubernetes.io/managed-by": "Helm" },
      annotations: {
        ...metadata.annotations,
        "meta.helm.sh/release-name": chart.release,
        "meta.helm.sh/release-namespace": chart.namespace,
      },
    },
  };
}
