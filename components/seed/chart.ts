import { isAbsolute, join } from "node:path";
import { parseAllDocuments, stringify } from "yaml";
import { run } from "../command";
import type { Manifest } from "../kubernetes";

/** A HelmRelease and its chart source, as they stand in the tree. */
export interface Chart {
  readonly release: string;
  readonly namespace: string;
  /** `oci://…` without a tag. */
  readonly url: string;
  readonly version: string;
  readonly values: Readonly<Record<string, unknown>>;
}

/** What a seed asks of Helm. */
export interface ChartRenderer {
  /** `helm template`, CRDs included. */
  template(chart: Chart): Promise<Manifest[]>;
}

/**
 * Finds a HelmRelease and the OCIRepository that it takes its chart from.
 *
 * @throws Error when the release uses what a seed cannot read: `valuesFrom`, or a source that is no OCIRepository
 */
export function chartOf(release: Manifest, manifests: readonly Manifest[]): Chart {
  const { name, namespace = "default" } = release.metadata;
  const spec = release.spec as {
    chartRef?: { kind: string; name: string; namespace?: string };
    releaseName?: string;
    targetNamespace?: string;
    values?: Record<string, unknown>;
    valuesFrom?: unknown;
  };
  const operation = `Reading the seed from HelmRelease ${namespace}/${name} failed:`;
  if (spec.valuesFrom !== undefined) {
    throw new Error(`${operation} it uses "valuesFrom". Put the values of a seed into "values".`);
  }
  const source = manifests.find(
    ({ kind, metadata }) =>
      kind === "OCIRepository" &&
      metadata.name === spec.chartRef?.name &&
      metadata.namespace === (spec.chartRef.namespace ?? namespace),
  );
  const { url, ref } = (source?.spec ?? {}) as { url?: string; ref?: { tag?: string } };
  if (spec.chartRef?.kind !== "OCIRepository" || url === undefined || ref?.tag === undefined) {
    throw new Error(
      `${operation} its "chartRef" names no OCIRepository with "ref.tag". Add one to its layer.`,
    );
  }
  const target = spec.targetNamespace;
  return {
    release: spec.releaseName ?? (target === undefined ? name : `${target}-${name}`),
    namespace: target ?? namespace,
    url,
    version: ref.tag,
    values: spec.values ?? {},
  };
}

/**
 * The official `helm` program.
 *
 * A mirror stands in for every chart source: `oci://host/prefix` gets the upstream address appended without its
 * scheme; an absolute directory holds unpacked charts by name.
 */
export class Helm implements ChartRenderer {
  constructor(private readonly mirror: string | undefined) {}

  async template(chart: Chart): Promise<Manifest[]> {
    const { reference, version } = this.locate(chart);
    const text = await run(
      "helm",
      [
        ...["template", chart.release, reference, ...version, "--namespace", chart.namespace],
        ...["--include-crds", "--no-hooks", "--values", "-"],
      ],
      { input: stringify(chart.values) },
    );
    return parseAllDocuments(text)
      .map((document) => document.toJS() as Manifest | null)
      .filter((object) => object !== null);
  }

  private locate(chart: Chart): { reference: string; version: readonly string[] } {
    const name = chart.url.slice(chart.url.lastIndexOf("/") + 1);
    if (this.mirror !== undefined && isAbsolute(this.mirror)) {
      return { reference: join(this.mirror, name), version: [] };
    }
    const upstream = chart.url.replace(/^oci:\/\//, "");
    const reference = this.mirror === undefined ? chart.url : `${this.mirror.replace(/\/$/, "")}/${upstream}`;
    return { reference, version: ["--version", chart.version] };
  }
}
