import { isAbsolute, join } from "node:path";
import { parseAllDocuments, stringify } from "yaml";
import { sentence } from "../../system/sentence";
import { run } from "../../tools/command";
import type { Manifest } from "../kubernetes/client";

/** A HelmRelease and its chart, as the tree has them. */
export interface Chart {
  readonly release: string;
  readonly namespace: string;
  /** `oci://…` or `https://…`, without the chart's name. */
  readonly repository: string;
  readonly name: string;
  readonly version: string;
  readonly values: Readonly<Record<string, unknown>>;
}

/** The calls of a seed to Helm. */
export interface ChartRenderer {
  /** `helm template`, CRDs included. */
  template(chart: Chart): Promise<Manifest[]>;
}

interface Source {
  readonly kind: string;
  readonly name: string;
  readonly namespace?: string;
}

/**
 * Finds a HelmRelease and the OCIRepository or HelmRepository that it takes its chart from.
 *
 * @throws Error when the release needs values that only the cluster knows (`valuesFrom`), or the tree does not pin its
 *   chart
 */
export function chartOf(release: Manifest, manifests: readonly Manifest[]): Chart {
  const { name, namespace = "default" } = release.metadata;
  const spec = release.spec as {
    chartRef?: Source;
    chart?: { spec?: { chart: string; version?: string; sourceRef: Source } };
    releaseName?: string;
    targetNamespace?: string;
    values?: Record<string, unknown>;
    valuesFrom?: unknown;
  };
  const operation = `Reading the chart of HelmRelease ${namespace}/${name} failed:`;
  if (spec.valuesFrom !== undefined) {
    throw new Error(`${operation} it uses "valuesFrom". Put the values into "values".`);
  }
  const reference = spec.chartRef ?? spec.chart?.spec?.sourceRef;
  const source = manifests.find(
    ({ kind, metadata }) =>
      kind === reference?.kind &&
      metadata.name === reference.name &&
      metadata.namespace === (reference.namespace ?? namespace),
  );
  const { url = "", ref } = (source?.spec ?? {}) as { url?: string; ref?: { tag?: string } };
  const { chart, version } = spec.chart?.spec ?? {};
  const slash = url.lastIndexOf("/");
  const found =
    spec.chartRef === undefined
      ? { repository: url, name: chart, version, kind: "HelmRepository" }
      : {
          repository: url.slice(0, slash),
          name: url.slice(slash + 1),
          version: ref?.tag,
          kind: "OCIRepository",
        };
  if (
    url === "" ||
    reference?.kind !== found.kind ||
    found.name === undefined ||
    found.version === undefined
  ) {
    throw new Error(
      `${operation} it names no OCIRepository with "ref.tag" by "chartRef", and no HelmRepository with a version by "chart.spec". Add one to its layer.`,
    );
  }
  const target = spec.targetNamespace;
  return {
    release: spec.releaseName ?? (target === undefined ? name : `${target}-${name}`),
    namespace: target ?? namespace,
    repository: found.repository,
    name: found.name,
    version: found.version,
    values: spec.values ?? {},
  };
}

/**
 * The official `helm` program.
 *
 * A mirror stands in for every chart repository: `oci://host/prefix` gets the upstream address appended without its
 * scheme; an absolute directory holds unpacked charts by name.
 */
export class Helm implements ChartRenderer {
  constructor(private readonly mirror: string | undefined) {}

  async template(chart: Chart): Promise<Manifest[]> {
    const located = this.locate(chart);
    try {
      return await helmTemplate(chart, located);
    } catch (error) {
      const { message } = error as Error;
      // An error of a template or of values names its file.
      if (!/\b(FetchReference|dial tcp|cannot be reached|Get "https?:)|path "[^"]*" not found/.test(message))
        throw error;
      const reason = sentence(message.replace(/^.*?" failed: (Error: )?/, ""));
      const remedy =
        this.mirror === undefined
          ? "Let this machine reach that address, also through HTTPS_PROXY, or set platform:chartMirror to a registry or a directory that has the chart."
          : "Put the chart there, or correct platform:chartMirror.";
      throw new Error(
        `Fetching chart ${chart.name} ${chart.version} from ${addressIn(located)} failed: ${reason} ${remedy}`,
        { cause: error },
      );
    }
  }

  private locate({ repository, name, version }: Chart): string[] {
    const { mirror } = this;
    if (mirror !== undefined && isAbsolute(mirror)) return [join(mirror, name)];
    const base =
      mirror === undefined
        ? repository
        : `${mirror.replace(/\/$/, "")}/${repository.replace(/^\w+:\/\//, "").replace(/\/$/, "")}`;
    return base.startsWith("oci://")
      ? [`${base}/${name}`, "--version", version]
      : [name, "--repo", base, "--version", version];
  }
}

/** The address among Helm's arguments for a chart. */
function addressIn(located: readonly string[]): string {
  const repository = located.indexOf("--repo") + 1;
  return located[repository] ?? "";
}

/**
 * `helm template`, CRDs included and hooks left out.
 *
 * @param located the chart in the form of Helm's arguments: a path, or an address with its version
 */
export async function helmTemplate(chart: Chart, located: readonly string[]): Promise<Manifest[]> {
  const text = await run(
    "helm",
    [
      ...["template", chart.release, ...located, "--namespace", chart.namespace],
      ...["--include-crds", "--no-hooks", "--values", "-"],
    ],
    { input: stringify(chart.values) },
  );
  return parseAllDocuments(text)
    .map((document) => document.toJS() as Manifest | null)
    .filter((object) => object !== null);
}
