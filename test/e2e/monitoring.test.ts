import { deepEqual, ok } from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parse, stringify } from "yaml";
import { applyInOrder } from "../../clients/kubernetes/apply";
import { SystemClock } from "../../system/clock";
import { KubernetesClient, type Manifest } from "../../clients/kubernetes/client";
import { httpProbe, ProcessGroup } from "../../system/process";
import { Rehearsal } from "../../rehearsal/rehearsal";
import { ensureTools } from "../../tools/tools";
import { upstreamCrds, upstreamFiles } from "../../tools/upstream";
import {
  alertsOf,
  readMonitoring,
  type Monitoring,
  type Panel,
  type Target,
} from "../gitops/monitoring/tree";
import { asked } from "./monitoring/expression";
import { freePort, Prometheus, type ScrapeJob } from "./monitoring/prometheus";
import { logs, pod, quota, release, report, wrong } from "./monitoring/states";

const project = join(__dirname, "..", "..");

/** The controllers that run, and what they are scraped as. */
const controllers = ["source-controller", "kustomize-controller"] as const;

/** Metrics whose exporters run in no rehearsal, by the first part of their names, and what is done about it. */
const notRunning: Readonly<Record<string, string>> = {
  certmanager: "cert-manager does not run; names and labels are those of its source",
};

/** An alert and what it is about, in the states that this test makes. */
const expected: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  FluxReconciliationFailing: { customresource_kind: "Kustomization", name: "failing" },
  FluxReconciliationStalled: { customresource_kind: "Kustomization", name: "stalled" },
  FluxReconciliationStuck: { customresource_kind: "HelmChart", name: "stuck" },
  FluxSuspended: { customresource_kind: "HelmRelease", name: "suspended" },
  FluxDriftCorrected: { customresource_kind: "HelmRelease", name: "traefik" },
  FluxSecretUndecryptable: { customresource_kind: "Kustomization", name: "undecryptable" },
  PolicyViolation: { exported_namespace: "whoami", policy: "require-labels" },
  PolicyError: { exported_namespace: "whoami", policy: "disallow-latest-tag" },
  QuotaExceeded: { namespace: "quota", resource: "pods" },
  QuotaNearlyExceeded: { namespace: "quota", resource: "requests.memory" },
  LokiDown: {},
  AlloyDown: {},
};

/** A query of a panel, with the intervals that Grafana would fill in. */
interface Query {
  readonly where: string;
  readonly expr: string;
  readonly panel: Panel;
  readonly target: Target;
}

describe("monitoring of a rehearsal", function () {
  this.timeout(300_000);
  let monitoring: Monitoring;
  let queries: readonly Query[];
  let rehearsal: Rehearsal;
  let group: ProcessGroup;
  let api: KubernetesClient;
  let prometheus: Prometheus;
  let scratch: string;
  let tools: Readonly<Record<"prometheus" | "kube-state-metrics", string>>;

  before("tools", async function () {
    this.timeout(1_200_000);
    tools = await ensureTools(["prometheus", "kube-state-metrics"], { report: console.error });
  });

  before(async () => {
    monitoring = await readMonitoring("local");
    queries = monitoring.dashboards.flatMap(({ title, panels }) =>
      panels.flatMap((panel) =>
        panel.targets.map((target) => ({
          where: `${title}: ${panel.title}`,
          expr: target.expr.replaceAll("$__rate_interval", "15s").replaceAll("$__range", "5m"),
          ...{ panel, target },
        })),
      ),
    );
    scratch = await mkdtemp(join(tmpdir(), "platform-monitoring-"));
    group = new ProcessGroup(join(scratch, "processes"));
    rehearsal = await Rehearsal.start({ stack: "local", project, report: () => undefined });
    api = new KubernetesClient(rehearsal.controlPlane.kubeconfig);
    const jobs: ScrapeJob[] = [];
    for (const name of controllers) {
      const labels = { namespace: "flux-system", pod: name, container: "manager" };
      jobs.push({ job: "monitoring/flux", address: `127.0.0.1:${await freePort()}`, labels });
    }
    const tree = await treeWithMetrics(jobs.map(({ address }) => address));
    await rehearsal.up({ "platform:gitops": { tree } });

    jobs.push(await startKubeStateMetrics(tools["kube-state-metrics"]));
    await release(api, false);
    const definitions = (await upstreamCrds("kyverno")) as unknown as Manifest[];
    await applyInOrder(
      api,
      new SystemClock(),
      definitions.filter(({ spec }) => (spec as { group: string }).group === "wgpolicyk8s.io"),
      "test",
    );
    for (const object of [...wrong, ...quota, report]) await api.apply(object, "test");
    await eventually("the pod is admitted", async () => {
      await api.apply(pod, "test");
      return true;
    });
    const data = join(scratch, "prometheus");
    prometheus = await Prometheus.start(group, tools.prometheus, data, jobs, monitoring.rules);

    await eventually("Prometheus knows when the release last drifted", async () =>
      isAnswered('gotk_resource_condition_transition_timestamp_seconds{name="traefik", type="Drifted"}'),
    );
    await sleep(1_000); // the time of a condition has no fractions of a second
    await release(api, true);
    await eventually("Prometheus knows of the drift", async () =>
      isAnswered('gotk_resource_condition_info{name="traefik", type="Drifted", status="True"}'),
    );
    await release(api, false);
  });

  after(async () => {
    await group.stop();
    await rehearsal.stop();
    await rm(scratch, { recursive: true, force: true });
  });

  /** The tree, with the controllers' metrics served at an address of this machine each. */
  async function treeWithMetrics(addresses: readonly string[]): Promise<string> {
    const tree = join(scratch, "tree");
    await cp(join(project, "gitops"), tree, { recursive: true });
    const file = join(tree, "bases/controllers/flux/flux-instance.yaml");
    const instance = parse(await readFile(file, "utf8")) as {
      spec: { kustomize: { patches: object[] } };
    };
    controllers.forEach((name, index) => {
      const flag = `--metrics-addr=${addresses[index] ?? ""}`;
      instance.spec.kustomize.patches.push({
        target: { kind: "Deployment", name },
        patch: stringify([{ op: "add", path: "/spec/template/spec/containers/0/args/-", value: flag }]),
      });
    });
    await writeFile(file, stringify(instance));
    return tree;
  }

  /** Starts kube-state-metrics with the configuration of the HelmRelease's values. */
  async function startKubeStateMetrics(command: string): Promise<ScrapeJob> {
    const { customResourceState, prometheus: scrape } = monitoring.stack["kube-state-metrics"];
    const config = join(scratch, "custom-resource-state.yaml");
    await writeFile(config, stringify({ kind: "CustomResourceStateMetrics", ...customResourceState.config }));
    const [port, telemetry] = [await freePort(), await freePort()];
    const address = `127.0.0.1:${port}`;
    const process = group.start({
      ...{ name: "kube-state-metrics", command },
      args: [
        `--kubeconfig=${rehearsal.controlPlane.kubeconfigPath}`,
        ...["--host=127.0.0.1", `--port=${port}`, "--telemetry-host=127.0.0.1"],
        `--telemetry-port=${telemetry}`,
        `--custom-resource-state-config-file=${config}`,
      ],
    });
    await process.ready(httpProbe({ url: `http://${address}/metrics` }));
    return {
      job: "kube-state-metrics",
      labels: { namespace: "monitoring", pod: "kube-state-metrics", container: "kube-state-metrics" },
      address,
      honorLabels: true,
      metricRelabelings: scrape.monitor.http.metricRelabelings.map(inSnakeCase),
    };
  }

  async function isAnswered(expression: string): Promise<boolean> {
    return (await prometheus.query(expression)).length > 0;
  }

  /** The queries whose metrics run here. */
  function running(): Query[] {
    return queries.filter(
      ({ expr, target }) =>
        target.datasource.type === "prometheus" &&
        !Object.keys(notRunning).some((prefix) => expr.includes(`${prefix}_`)),
    );
  }

  it("has every metric and label that a panel or a rule asks for", async () => {
    const inRules = alertsOf(monitoring.rules).map(({ alert, expr }) => ({ where: alert, expr }));
    const inPanels = queries.filter(({ target }) => target.datasource.type === "prometheus");
    ok(inRules.length > 0 && inPanels.length > 0);
    const labelsOf = new Map<string, ReadonlySet<string>>();
    const inSource = await certManagerMetrics();
    const findings: string[] = [];
    for (const { where, expr } of [...inRules, ...inPanels]) {
      const { metrics, labels } = asked(await prometheus.parse(expr));
      ok(metrics.size > 0, `${where} asks for no metric`);
      for (const metric of metrics) {
        const isRunning = notRunning[metric.split("_")[0] ?? ""] === undefined;
        const found = isRunning ? await prometheus.labelsOf(metric) : inSource.get(metric);
        labelsOf.set(metric, found ?? new Set());
        if (labelsOf.get(metric)?.size === 0) findings.push(`${where}: there is no ${metric}`);
      }
      for (const { label, of } of labels)
        if (!of.some((metric) => labelsOf.get(metric)?.has(label)))
          findings.push(`${where}: ${of.join(", ")} has no label ${label}`);
    }
    deepEqual([...new Set(findings)], []);

    console.log(`    checked: ${[...labelsOf.keys()].sort().join(", ")}`);
    for (const [prefix, why] of Object.entries(notRunning))
      console.log(`    not evaluated: ${prefix}_*, because ${why}`);
    for (const { where, target } of queries)
      if (target.datasource.type === "loki")
        console.log(`    not evaluated: ${where}, because Loki does not run`);
  });

  it("shows something in every panel, with every column and name", async () => {
    const findings: string[] = [];
    for (const { where, expr, panel, target } of running()) {
      const labels = new Set((await prometheus.query(expr)).flatMap(({ metric }) => Object.keys(metric)));
      if (!(await isAnswered(expr))) findings.push(`${where} is empty: ${expr}`);
      const legend = [...(target.legendFormat ?? "").matchAll(/\{\{(\w+)\}\}/g)].map(([, name = ""]) => name);
      const wanted = [...legend, ...columnsOf(panel).filter((name) => !/^(Value|Time)/.test(name))];
      findings.push(
        ...wanted.filter((name) => !labels.has(name)).map((name) => `${where} has no ${name}: ${expr}`),
      );
    }
    deepEqual(findings, []);
  });

  it("raises every alert for what it is about, and says what it knows", async () => {
    const silent = alertsOf(monitoring.rules)
      .filter(({ alert }) => expected[alert] === undefined)
      .map(({ alert }) => alert);
    deepEqual(silent.sort(), [
      ...["CertificateNearExpiry", "CertificateNotReady", "CertificateRenewalOverdue"],
      // It would say that nothing here can be tested.
      "FluxMetricsMissing",
    ]);
    const missing = async () => {
      const active = await prometheus.alerts();
      return Object.entries(expected).flatMap(([alertname, labels]) =>
        active.some((alert) => matches(alert.labels, { alertname, ...labels })) ? [] : [alertname],
      );
    };
    await eventually("every alert is raised", async () => (await missing()).length === 0, missing);
    deepEqual(await prometheus.brokenRules(), []);
    for (const { labels, annotations } of await prometheus.alerts())
      for (const [key, text] of Object.entries(annotations))
        ok(!/<no value>|<error|\{\{|%!|\n/.test(text), `${key} of ${labels.alertname ?? ""} is "${text}"`);
    const said = async (alertname: string) =>
      (await prometheus.alerts()).find(({ labels }) => matches(labels, { alertname, ...expected[alertname] }))
        ?.annotations.description ?? "";
    await eventually("the alert says why the layer fails", async () =>
      /It says: .*path not found/.test(await said("FluxReconciliationFailing")),
    );
    await eventually("the alert says what cannot be decrypted", async () =>
      /It says: .*decrypt/.test(await said("FluxSecretUndecryptable")),
    );
  });

  it("raises no alert for a layer that is as it should be", async () => {
    for (const { labels } of await prometheus.alerts())
      ok(
        !["flux-system", "controllers", "certs", "apps"].includes(labels.name ?? ""),
        `${labels.alertname ?? ""} for ${labels.name ?? ""}`,
      );
  });

  it("ends an alert when its reason ends", async () => {
    for (const object of logs) await api.apply(object, "test");
    await api.delete({
      ...{ apiVersion: "helm.toolkit.fluxcd.io/v2", kind: "HelmRelease" },
      ...{ name: "suspended", namespace: "flux-system" },
    });
    await api.delete({ apiVersion: "v1", kind: "Pod", name: "only", namespace: "quota" });
    const ended = ["LokiDown", "AlloyDown", "FluxSuspended", "QuotaExceeded", "QuotaNearlyExceeded"];
    const left = async () => {
      const active = await prometheus.alerts();
      // HelmChart "stuck" stays suspended, and so does what is said of it.
      return ended.filter((alertname) =>
        active.some(({ labels }) => matches(labels, { alertname, ...expected[alertname] })),
      );
    };
    await eventually("the alerts end", async () => (await left()).length === 0, left);
  });

  it("finds Flux's events where the panels look for them", async () => {
    const patterns = queries.flatMap(({ expr }) =>
      [...expr.matchAll(/objectAPIversion=~"([^"]*)"/g)].map(([, pattern = ""]) => pattern),
    );
    ok(patterns.length > 0);
    const events = await api.list("v1", "Event", "flux-system");
    const involved = events.map(
      ({ involvedObject }) => involvedObject as { apiVersion: string; kind: string },
    );
    const ofFlux = involved.filter(({ kind }) => kind === "Kustomization");
    ok(ofFlux.length > 0, "Flux has written no event");
    for (const { apiVersion } of ofFlux)
      for (const pattern of patterns) ok(new RegExp(`^(?:${pattern})$`).test(apiVersion), apiVersion);
  });
});

/** The columns that a table panel shows. */
function columnsOf({ transformations = [] }: Panel): string[] {
  return transformations
    .filter(({ id }) => id === "filterFieldsByName")
    .flatMap(({ options }) => (options as { include: { names: string[] } }).include.names);
}

function matches(
  labels: Readonly<Record<string, string>>,
  wanted: Readonly<Record<string, string>>,
): boolean {
  return Object.entries(wanted).every(([name, value]) => labels[name] === value);
}

/** A relabeling as Prometheus itself takes it: `sourceLabels` is `source_labels`. */
function inSnakeCase(relabeling: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(relabeling).map(([key, value]) => [
      key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      value,
    ]),
  );
}

/** Metric → labels, read from the source of the cert-manager that the tree installs. */
async function certManagerMetrics(): Promise<Map<string, ReadonlySet<string>>> {
  const files = await upstreamFiles("github.com/cert-manager/cert-manager", "metrics", (path) =>
    /^(internal\/collectors|pkg\/metrics)\/[a-z_]+(?<!_test)\.go$/.test(path),
  );
  const metrics = new Map<string, ReadonlySet<string>>();
  const add = (name: string, labels: string) =>
    metrics.set(name, new Set([...labels.matchAll(/"(\w+)"/g)].map(([, label = ""]) => label)));
  for (const text of [...files.values()].map(String)) {
    for (const [, name = "", labels = ""] of text.matchAll(
      /NewDesc\("(\w+)", "[^"]*", \[\]string\{([^}]*)\}/g,
    ))
      add(name, labels);
    for (const [, options = "", labels = ""] of text.matchAll(
      /Opts\{\n([^}]*Namespace: *namespace,[^}]*)\},\s*\[\]string\{([^}]*)\}/g,
    )) {
      const part = (field: string) => new RegExp(`\\b${field}: *"(\\w+)"`).exec(options)?.[1];
      add(["certmanager", part("Subsystem"), part("Name")].filter(Boolean).join("_"), labels);
    }
  }
  ok(metrics.size > 0, "the source of cert-manager has no metrics where they were");
  return metrics;
}

/** Resolves when `condition` holds; fails with `what`, and what `rest` still waits for, after a minute. */
async function eventually(
  what: string,
  condition: () => Promise<boolean>,
  rest?: () => Promise<readonly string[]>,
): Promise<void> {
  let reason = "";
  for (let attempt = 0; attempt < 240; attempt++) {
    try {
      if (await condition()) return;
      reason = "";
    } catch (error) {
      reason = (error as Error).message;
    }
    await sleep(250);
  }
  throw new Error(`Timed out: ${what}. ${[reason, ...((await rest?.()) ?? [])].join(" ")}`);
}
