import { hash } from "node:crypto";
import { kustomizationLabel } from "../../clients/flux/kinds";
import type { Clock } from "../../system/clock";
import type { Manifest } from "../../clients/kubernetes/client";
import {
  nameOf,
  throwUnlessOwn,
  refOf,
  type KubernetesApi,
  type ManifestRef,
} from "../../clients/kubernetes/client";
import { applyInOrder } from "../../clients/kubernetes/apply";
import { renderCluster } from "../tree/render";
import { refuseOtherNetwork, type NetworkSetting } from "../cluster/existing/network";
import { chartOf, type ChartRenderer } from "../../clients/helm/chart";

/** The input of a seed: an object of the tree. */
export interface SeedInputs {
  readonly kubeconfig: string;
  /** Whether this project makes the cluster; see `throwUnlessOwn`. */
  readonly ownCluster: boolean;
  /** The uid of the namespace of Flux: a new namespace does not have the seed, even if a refresh still saw it. */
  readonly namespaceUid: string;
  /** Absolute path of the gitops tree. */
  readonly tree: string;
  readonly cluster: string;
  /** A HelmRelease, whose rendered chart is applied, or any other object, which is applied itself. */
  readonly object: { readonly kind: string; readonly namespace: string; readonly name: string };
  /** Values of the variables that Flux substitutes: name → value. */
  readonly variables: Readonly<Record<string, string>>;
  /** Whether the object is the network of an existing cluster; see `refuseOtherNetwork`. */
  readonly network?: NetworkSetting;
  /** Replaces every chart source; see `Helm`. */
  readonly chartMirror?: string;
}

/** A seed's traces: `sentinel` shows whether the seed still exists. */
export interface SeedOutputs {
  readonly kubeconfig: string;
  readonly ownCluster?: boolean;
  readonly namespaceUid: string;
  readonly sentinel: ManifestRef;
  /**
   * The field manager of the applied objects; state from before fields had the names of their later managers lacks it.
   */
  readonly fieldManager?: string;
  /** SHA-256 of the applied objects; the state does not keep the objects themselves. */
  readonly fingerprint: string;
}

/**
 * The field manager of a seed: the name of the controller that takes the seed over (`controllerName` in its main.go).
 * So a field disappears when the controller stops applying it.
 */
export function fieldManagerOf(kind: string): string {
  return kind === "HelmRelease" ? "helm-controller" : "kustomize-controller";
}

/** The field manager of all seeds before they had the names of their later managers. */
const formerFieldManager = "platform-seed";

/** Labels with which Flux marks an object as its own. */
const ownership = ["helm.toolkit.fluxcd.io/name", kustomizationLabel];

/** The layer of the objects that Flux itself needs. */
const seedLayer = "controllers";

/** A workload shows best whether a seed exists. */
const workloads = ["Deployment", "DaemonSet"];

/**
 * Applies the objects that Flux needs before it can run, from the same files that Flux uses later, and leaves them
 * alone as soon as Flux owns them.
 */
export class SeedLifecycle {
  constructor(
    /** The cluster for objects that name no namespace: they get this namespace. */
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
    // Objects that are applied together have the same managers; the sentinel comes last, because it shows whether all
    // is done.
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
      fingerprint: hash("sha256", JSON.stringify(objects)),
    };
  }

  /**
   * The seed, or the object that Flux made of it.
   *
   * @returns undefined when it is gone
   * @throws Error when a cluster that is not this project's does not answer
   */
  async read(state: SeedOutputs): Promise<SeedOutputs | undefined> {
    const { sentinel, ownCluster } = state;
    try {
      const found = await this.api(sentinel.namespace ?? "default").get(sentinel);
      return found === undefined ? undefined : state;
    } catch (error) {
      throwUnlessOwn(ownCluster, error);
      return undefined;
    }
  }

  /** Flux owns an applied seed; only another cluster, namespace or field manager needs a new one. */
  diff(olds: SeedOutputs, news: SeedInputs): boolean {
    return (
      olds.kubeconfig !== news.kubeconfig ||
      olds.ownCluster !== news.ownCluster ||
      olds.namespaceUid !== news.namespaceUid ||
      olds.fieldManager !== fieldManagerOf(news.object.kind)
    );
  }

  /** The objects to apply, and the namespace of objects that name none. */
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
    if (kind !== "HelmRelease") {
      checkSource(object, inputs.variables);
      return { namespace, objects: [object] };
    }

    const chart = chartOf(object, manifests);
    const objects = await this.charts.template(chart);
    return { namespace: chart.namespace, objects: objects.map((rendered) => helmOwned(rendered, chart)) };
  }
}

/**
 * Checks that the instance of Flux follows the repository and the channel of the release; the run would wait in vain for
 * any other one.
 *
 * @throws Error that names both
 */
export function checkSource(
  instance: Manifest,
  { artifact_repository: repository, channel }: SeedInputs["variables"],
): void {
  const { sync } = (instance.spec ?? {}) as { sync?: { url?: string; ref?: string } };
  const operation = `Seeding ${nameOf(refOf(instance))} failed: its "spec.sync`;
  const url = `oci://${repository ?? ""}`;
  if (sync?.url !== undefined && repository !== undefined && sync.url !== url) {
    throw new Error(
      `${operation}.url" is ${sync.url}, but the stack releases to ${url}. Set it to "oci://\${artifact_repository}", and choose the registry with platform:registry.`,
    );
  }
  if (sync?.ref !== undefined && channel !== undefined && sync.ref !== channel) {
    throw new Error(
      `${operation}.ref" is ${sync.ref}, but the stack releases to tag ${channel}. Set it to "\${channel}".`,
    );
  }
}

/** Whether an object was seeded, or belongs to Flux. */
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
 * Gives up the fields of the former field manager. Fields that the new manager applies too stay, the others are
 * removed. If the new manager does not use server-side apply, nothing is given up, because it needs those fields.
 */
async function disown(api: KubernetesApi, ref: ManifestRef, taker: string): Promise<void> {
  const found = await api.get(ref);
  if (!applies(found, formerFieldManager) || !applies(found, taker)) return;
  const { apiVersion, kind, ...metadata } = ref;
  // With a uid, the API server refuses to create an object that was deleted meanwhile.
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
