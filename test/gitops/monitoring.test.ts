import { deepEqual, equal, ok } from "node:assert/strict";
import { copyFile, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import { run } from "../../tools/command";
import { ensureTools } from "../../tools/tools";
import { alertsOf, readMonitoring, type Monitoring, type Panel } from "./monitoring/tree";

const stacks = ["local", "dev", "prod"];
const testFiles = join(__dirname, "monitoring");

/** A test of promtool: a query and what it should give, at a moment. */
interface RuleTest {
  readonly tests: readonly {
    readonly promql_expr_test: readonly { readonly expr: string; readonly exp_samples: readonly unknown[] }[];
  }[];
}

describe("monitoring", function () {
  this.timeout(600_000);
  const monitoring = new Map<string, Monitoring>();
  let directory: string;
  let prod: Monitoring;

  before(async () => {
    await ensureTools(["amtool", "platform-tree", "promtool"], { report: console.error });
    directory = await mkdtemp(join(tmpdir(), "platform-monitoring-"));
    for (const stack of stacks) monitoring.set(stack, await readMonitoring(stack));
    prod = monitoring.get("prod") as Monitoring;
    for (const [name, rules] of prod.rules)
      await writeFile(join(directory, `${name}.yaml`), stringify(rules, { lineWidth: 0 }));
  });

  after(() => rm(directory, { recursive: true, force: true }));

  describe("alerts", () => {
    it("are the same in every stack", () => {
      for (const stack of stacks)
        deepEqual([...(monitoring.get(stack)?.rules ?? [])], [...prod.rules], stack);
    });

    it("are rules that Prometheus takes", async () => {
      const files = [...prod.rules.keys()].map((name) => join(directory, `${name}.yaml`));
      ok(files.length > 0);
      await run("promtool", ["check", "rules", "--lint=all", "--lint-fatal", ...files]);
    });

    it("say how bad it is, what it is and what to do", () => {
      for (const { alert, labels, annotations } of alertsOf(prod.rules)) {
        ok(["critical", "warning", "info"].includes(labels.severity ?? ""), `severity of ${alert}`);
        for (const key of ["summary", "description"]) {
          const text = annotations[key] ?? "";
          ok(text.length > 0 && !text.includes("\n"), `${key} of ${alert}`);
        }
      }
    });

    it("fire when they should, and are silent when they should not", async () => {
      const files = (await readdir(testFiles)).filter((name) => name.endsWith("-test.yaml"));
      for (const file of files) await copyFile(join(testFiles, file), join(directory, file));
      await run("promtool", ["test", "rules", ...files.map((file) => join(directory, file))]);

      const parsed = files.map((file) => readFile(join(testFiles, file), "utf8"));
      const cases = (await Promise.all(parsed))
        .flatMap((text) => (parse(text) as RuleTest).tests)
        .flatMap((test) => test.promql_expr_test);
      for (const { alert } of alertsOf(prod.rules)) {
        const own = cases.filter(({ expr }) => expr === `ALERTS{alertname="${alert}", alertstate="firing"}`);
        ok(
          own.some(({ exp_samples }) => exp_samples.length > 0),
          `no test has ${alert} fire`,
        );
        ok(
          own.some(({ exp_samples }) => exp_samples.length === 0),
          `no test has ${alert} silent`,
        );
      }
    });

    for (const [stack, receiver] of [
      ["local", "none"],
      ["dev", "webhook"],
      ["prod", "webhook"],
    ] as const)
      it(`of ${stack} go to receiver "${receiver}"`, async () => {
        const file = join(directory, `alertmanager-${stack}.yaml`);
        await writeFile(file, stringify(monitoring.get(stack)?.stack.alertmanager.config));
        await run("amtool", ["check-config", file]);
        for (const [expected, ...labels] of [
          [receiver, "alertname=FluxReconciliationFailing", "severity=warning"],
          [receiver, "alertname=FluxSecretUndecryptable", "severity=critical"],
          // What Flux itself sends
          [receiver, "alertname=FluxKustomizationBuildfailed", "severity=error"],
          ["none", "alertname=Watchdog", "severity=none"],
          ["none", "alertname=QuotaNearlyExceeded", "severity=info"],
        ] as const)
          await run("amtool", [
            ...["config", "routes", "test", `--config.file=${file}`, `--verify.receivers=${expected}`],
            ...labels,
          ]);
      });

    it("come from Flux itself, for every layer", () => {
      const find = (kind: string) => prod.objects.filter((object) => object.kind === kind);
      const providers = find("Provider").map(
        ({ metadata }) => `${metadata.namespace ?? ""}/${metadata.name}`,
      );
      const watching = find("Alert").filter(({ metadata, spec }) => {
        const { providerRef, eventSources } = spec as {
          providerRef: { name: string };
          eventSources: readonly { kind: string; name: string }[];
        };
        ok(providers.includes(`${metadata.namespace ?? ""}/${providerRef.name}`), metadata.name);
        return (
          metadata.namespace === "flux-system" &&
          eventSources.some(({ kind, name }) => kind === "Kustomization" && name === "*")
        );
      });
      equal(watching.length, 1);
    });
  });

  it("reads only what it may: kube-state-metrics has a role for each kind that it is asked about", () => {
    const { customResourceState, rbac } = prod.stack["kube-state-metrics"];
    const { resources } = customResourceState.config.spec;
    ok(resources.length > 0);
    for (const { group, kind } of resources.map(({ groupVersionKind }) => groupVersionKind)) {
      const plural = `${kind.toLowerCase()}s`.replace(/ys$/, "ies");
      ok(
        rbac.extraRules.some((rule) => rule.apiGroups.includes(group) && rule.resources.includes(plural)),
        `${plural}.${group}`,
      );
    }
  });

  describe("dashboards", () => {
    it("are left as they are by Flux, and found by Grafana", () => {
      ok(prod.dashboards.length > 0);
      for (const { configMap } of prod.dashboards) {
        equal(configMap.metadata.annotations?.["kustomize.toolkit.fluxcd.io/substitute"], "disabled");
        equal(configMap.metadata.labels?.grafana_dashboard, "1");
        equal(configMap.metadata.namespace, "monitoring");
      }
      const uids = prod.dashboards.map(({ uid }) => uid);
      deepEqual([...new Set(uids)], uids);
    });

    it("ask data sources that Grafana has", () => {
      const sources = Object.values(prod.stack.grafana.datasources).flatMap(({ datasources }) => datasources);
      const known = sources.map(({ uid, type }) => `${type} ${uid}`);
      for (const { title, panels } of prod.dashboards)
        for (const panel of panels) {
          ok(panel.targets.length > 0, `${title}: ${panel.title} asks nothing`);
          for (const { datasource } of panel.targets)
            ok(known.includes(`${datasource.type} ${datasource.uid}`), `${title}: ${panel.title}`);
        }
    });

    it("have panels that can be told apart, side by side", () => {
      for (const { title, panels } of prod.dashboards) {
        equal(new Set(panels.map(({ id }) => id)).size, panels.length, title);
        for (const [index, panel] of panels.entries()) {
          ok(panel.gridPos.x + panel.gridPos.w <= 24, `${title}: ${panel.title} is too wide`);
          const over = panels.slice(index + 1).find((other) => overlap(panel, other));
          equal(over, undefined, `${title}: ${panel.title} covers ${over?.title ?? ""}`);
        }
      }
    });
  });
});

function overlap({ gridPos: a }: Panel, { gridPos: b }: Panel): boolean {
  return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
}
