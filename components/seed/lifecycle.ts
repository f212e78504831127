import { createHash } from "node:crypto";
import type { Clock } from "../clock";
import type { Manifest } from "../kubernetes";
import { refOf, type KubernetesApi, type ManifestRef } from "../kubernetes";
import { applyInOrder } from "../apply";
import { renderCluster } from "../artifact/render";
import { chartOf, type ChartRenderer } from "../chart";

/** What is seeded: an object of the tree. */
export interface SeedInputs {
  readonly kubeconfig: string;
  /** Of the namespace of Flux: in another one the seed is not there, whatever a refresh saw. */
  readonly namespaceUid: string;
  /** Absolute path of the gitops tree. */
  readonly tree: string;
  readonly cluster: string;
  /** A HelmRelease, whose chart is rendered and applied, or any other object, which is applied itself. */
  readonly object: { readonly kind: string; readonly namespace: string; readonly name: string };
  /** Values of the variables that Flux substitutes: name → value. */
  readonly variables: Readonly<Record<string, string>>;
  /** Stands in for every chart source; see `Helm`. */
  readonly chartMirror?: string;
}

/** A seed's traces: `sentinel` tells whether it is still there. */
export interface SeedOutputs {
  readonly kubeconfig: string;
  readonly namespaceUid: string;
  readonly sentinel: ManifestRef;
  /** SHA-256 of what was applied; the objects themselves are not kept. */
  readonly fingerprint: string;
}

/** The field manager of everything that Pulumi seeds and Flux takes over. */
export const fieldManager = "platform-seed";

/** Labels by which Flux says that an object is its own. */
const ownership = ["helm.toolkit.fluxcd.io/name", "kustomize.toolkit.fluxcd.io/name"];

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
    private readonly api: KubernetesApi,
    private readonly charts: ChartRenderer,
    private readonly clock: Clock,
  ) {}

  async create(inputs: SeedInputs): Promise<SeedOutputs> {
    const objects = await this.objects(inputs);
    const sentinel = objects.find((object) => workloads.includes(object.kind)) ?? objects.at(-1);
    if (sentinel === undefined) {
      throw new Error(`Seeding ${inputs.object.name} failed: its chart renders no object. Check its values.`);
    }
    if (!(await this.ownedByFlux(refOf(sentinel)))) {
      await applyInOrder(this.api, this.clock, objects, fieldManager);
    }
    return {
      kubeconfig: inputs.kubeconfig,
      namespaceUid: inputs.namespaceUid,
      sentinel: refOf(sentinel),
      fingerprint: createHash("sha256").update(JSON.stringify(objects)).digest("hex"),
    };
  }

  /** Whether the seed, or what Flux made of it, is there; a cluster that does not answer has none. */
  async exists(state: SeedOutputs): Promise<boolean> {
    try {
      return (await this.api.get(state.sentinel)) !== undefined;
    } catch {
      return false;
    }
  }

  private async ownedByFlux(ref: ManifestRef): Promise<boolean> {
    const labels = (await this.api.get(ref))?.metadata.labels ?? {};
    return ownership.some((label) => label in labels);
  }

  private async objects(inputs: SeedInputs): Promise<Manifest[]> {
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
    if (kind !== "HelmRelease") return [object];

    const chart = chartOf(object, manifests);
    return (await this.charts.template(chart)).map((rendered) => helmOwned(rendered, chart));
  }
}

/** Marks an object as belonging to a Helm release, so that Helm takes it over instead of refusing it. */
function helmOwned(object: Manifest, chart: { release: string; namespace: string }): Manifest {
  const { metadata } = object;
  return {
    ...object,
    metadata: {
      ...metadata,
      ...(workloads.includes(object.kind) ? { namespace: metadata.namespace ?? chart.namespace } : {}),
      labels: { ...metadata.labels, "app.kubernetes.io/managed-by": "Helm" },
      annotations: {
        ...metadata.annotations,
        "meta.helm.sh/release-name": chart.release,
        "meta.helm.sh/release-namespace": chart.namespace,
      },
    },
  };
}
