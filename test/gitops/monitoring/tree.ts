import { join } from "node:path";
import { finalLayers } from "../../../core/tree/final";
import type { Manifest } from "../../../clients/kubernetes/client";
import { presumedRuntime } from "../../../commands/render";
import { readStackConfig } from "../../../core/settings/config";

const project = join(__dirname, "..", "..", "..");

/** What a stack's tree says of monitoring, its variables filled in. */
export interface Monitoring {
  /** Every object of every layer. */
  readonly objects: readonly Manifest[];
  /** A rules file as Prometheus takes it, by the name of its PrometheusRule. */
  readonly rules: ReadonlyMap<string, RulesFile>;
  readonly dashboards: readonly Dashboard[];
  /** The values of the HelmRelease kube-prometheus-stack, as far as tests need them. */
  readonly stack: StackValues;
}

/** A rules file of Prometheus. */
export interface RulesFile {
  readonly groups: readonly { readonly name: string; readonly rules: readonly Rule[] }[];
}

/** A rule that alerts. */
export interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

/** A dashboard, and the ConfigMap that Grafana's sidecar takes it from. */
export interface Dashboard {
  readonly configMap: Manifest;
  readonly uid: string;
  readonly title: string;
  readonly panels: readonly Panel[];
}

/** A panel of a dashboard. */
export interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets: readonly Target[];
  readonly transformations?: readonly { readonly id: string; readonly options: unknown }[];
}

/** A query of a panel. */
export interface Target {
  readonly refId: string;
  readonly datasource: { readonly type: string; readonly uid: string };
  readonly expr: string;
  readonly legendFormat?: string;
}

/** What `customResourceState.config` of kube-state-metrics holds. */
export interface CustomResourceState {
  readonly spec: {
    readonly resources: readonly {
      readonly groupVersionKind: { readonly group: string; readonly kind: string };
    }[];
  };
}

/** A relabeling as the Prometheus Operator writes it. */
export type Relabeling = Readonly<Record<string, unknown>>;

/** See {@link Monitoring.stack}. */
export interface StackValues {
  readonly alertmanager: {
    readonly config: { readonly receivers: readonly { readonly name: string }[] };
  };
  readonly grafana: {
    readonly datasources: Readonly<
      Record<string, { readonly datasources: readonly { readonly uid: string; readonly type: string }[] }>
    >;
  };
  readonly "kube-state-metrics": {
    readonly customResourceState: { readonly config: CustomResourceState };
    readonly prometheus: {
      readonly monitor: { readonly http: { readonly metricRelabelings: Relabeling[] } };
    };
    readonly rbac: {
      readonly extraRules: readonly { readonly apiGroups: string[]; readonly resources: string[] }[];
    };
  };
}

/** Reads what a stack's tree says of monitoring. @throws when the tree does not build, or lacks the HelmRelease */
export async function readMonitoring(stack: string): Promise<Monitoring> {
  const config = await readStackConfig(stack, project, process.env);
  const { tree, cluster } = config.gitops;
  const layers = await finalLayers(tree, cluster, presumedRuntime(config), () => Promise.resolve(undefined));
  const objects = layers.flatMap((layer) => layer.objects.map(({ manifest }) => manifest));
  const rules = objects.filter(({ kind }) => kind === "PrometheusRule");
  const release = objects.find(
    ({ kind, metadata }) => kind === "HelmRelease" && metadata.name === "kube-prometheus-stack",
  );
  if (release === undefined)
    throw new Error(`Reading monitoring of "${stack}": no HelmRelease kube-prometheus-stack.`);
  return {
    objects,
    rules: new Map(rules.map(({ metadata, spec }) => [metadata.name, spec as RulesFile])),
    dashboards: objects
      .filter(
        ({ kind, metadata }) => kind === "ConfigMap" && metadata.labels?.grafana_dashboard !== undefined,
      )
      .flatMap((configMap) =>
        Object.values(configMap.data as Record<string, string>).map((text) => ({
          configMap,
          ...(JSON.parse(text) as Omit<Dashboard, "configMap">),
        })),
      ),
    stack: (release.spec as { values: StackValues }).values,
  };
}

/** Every alert of a set of rules files. */
export function alertsOf(rules: Monitoring["rules"]): Rule[] {
  return [...rules.values()].flatMap(({ groups }) => groups.flatMap((group) => group.rules));
}
