import { chartOf, type Chart } from "../../clients/helm/chart";
import { nameOf, refOf, type Manifest } from "../../clients/kubernetes/client";
import { sentence } from "../../system/sentence";
import { kustomized } from "./build";
import { inOrder } from "./check";
import { renderCluster } from "./render";
import type { TreeSource } from "./source";

/** A layer as the cluster gets it: variables filled in, charts rendered. */
export interface FinalLayer {
  readonly name: string;
  /** Sorted by API group, kind, namespace and name. */
  readonly objects: readonly FinalObject[];
}

/** An object of a layer. */
export interface FinalObject {
  readonly manifest: Manifest;
  /** The HelmRelease that brings it; undefined for objects that Flux applies itself. */
  readonly release?: string;
}

/** Renders a chart as Helm does, or says that the chart is not available. */
export type RenderChart = (chart: Chart) => Promise<readonly Manifest[] | undefined>;

/**
 * Builds every object of a cluster's part of the tree, as Flux and Helm do.
 *
 * @param runtime values of the ConfigMap `platform-runtime`
 * @param only the name of the wanted layer. @default all
 * @param tell receives a sentence for each part that is left out or not exactly known. @default nothing is told
 * @returns the layers, dependencies before dependents
 * @throws Error naming the part that does not build, the variable that is not set, or the unknown layer
 */
export async function finalLayers(
  source: TreeSource,
  cluster: string,
  runtime: Readonly<Record<string, string>>,
  render: RenderChart,
  only?: string,
  tell: (note: string) => void = () => undefined,
): Promise<FinalLayer[]> {
  const { layers, notes } = await renderCluster(source, cluster, { runtime, layer: only });
  for (const note of notes) tell(note);
  return Promise.all(
    inOrder(layers).map(async ({ name, manifests: concrete }) => {
      const releases = concrete.filter(({ kind }) => kind === "HelmRelease");
      const charts = releases.map(async (manifest) => {
        let chart: Chart;
        try {
          chart = chartOf(manifest, concrete);
        } catch (error) {
          tell(`${sentence((error as Error).message)} The objects of its chart are left out.`);
          return [];
        }
        let rendered = (await render(chart)) ?? [];
        const { commonMetadata, postRenderers = [] } = manifest.spec as {
          commonMetadata?: CommonMetadata;
          postRenderers?: readonly { kustomize?: object }[];
        };
        for (const { kustomize } of rendered.length === 0 ? [] : postRenderers) {
          if (kustomize !== undefined) rendered = await kustomized(rendered, kustomize);
        }
        return rendered.map((object) => ({
          manifest: withMetadata(object, chart.namespace, commonMetadata),
          release: nameOf(refOf(manifest)),
        }));
      });
      const brought = (await Promise.all(charts)).flat();
      return { name, objects: sorted([...concrete.map((manifest) => ({ manifest })), ...brought]) };
    }),
  );
}

/** Kinds of charts' objects that have no namespace. */
const clusterWide = new Set([
  ...["APIService", "CSIDriver", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"],
  ...["GatewayClass", "IngressClass", "Namespace", "PriorityClass", "StorageClass", "VolumeSnapshotClass"],
  ...["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "MutatingWebhookConfiguration"],
  ...["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration"],
]);

/** Labels and annotations that a HelmRelease puts on everything it installs. */
type CommonMetadata = Pick<Manifest["metadata"], "labels" | "annotations">;

/** Charts leave the release's namespace out, and Helm adds it; the helm-controller adds its labels to all objects. */
function withMetadata(object: Manifest, namespace: string, common: CommonMetadata = {}): Manifest {
  const { metadata } = object;
  const merged = (key: keyof CommonMetadata) =>
    common[key] === undefined ? {} : { [key]: { ...metadata[key], ...common[key] } };
  const scope = clusterWide.has(object.kind) ? {} : { namespace: metadata.namespace ?? namespace };
  return { ...object, metadata: { ...metadata, ...scope, ...merged("labels"), ...merged("annotations") } };
}

function sorted(objects: readonly FinalObject[]): FinalObject[] {
  const key = ({ manifest: { apiVersion, kind, metadata } }: FinalObject) =>
    [apiVersion.includes("/") ? apiVersion : `/${apiVersion}`, kind, metadata.namespace ?? "", metadata.name]
      .join("\0")
      .toLowerCase();
  const keyed = objects.map((object) => ({ object, key: key(object) }));
  return keyed.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0)).map(({ object }) => object);
}
