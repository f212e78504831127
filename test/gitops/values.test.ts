import { deepEqual, ok } from "node:assert/strict";
import { join } from "node:path";
import { finalLayers } from "../../core/tree/final";
import { helmTemplate, type Chart } from "../../clients/helm/chart";
import { presumedRuntime } from "../../commands/render";
import { readStackConfig } from "../../core/settings/config";
import { findChart } from "../../clients/helm/local-charts";
import { ensureTools } from "../../tools/tools";
import { readChart, unknownKeys, type ChartInterface } from "./values";

const project = join(__dirname, "..", "..");

describe("the values of the charts", function () {
  this.timeout(600_000);

  before(() => ensureTools(["helm", "platform-tree"], { report: console.error }));

  for (const stack of ["local", "dev", "prod"]) {
    it(`of ${stack} render, and every setting is one that its chart knows`, async () => {
      const config = await readStackConfig(stack, project, process.env);
      const charts: Chart[] = [];
      await finalLayers(config.gitops.tree, config.gitops.cluster, presumedRuntime(config), (chart) => {
        charts.push(chart);
        return Promise.resolve(undefined);
      });
      const checked: string[] = [];
      const unchecked: string[] = [];
      const findings: string[] = [];
      for (const chart of charts) {
        const found = await findChart(chart);
        (found === undefined ? unchecked : checked).push(`${chart.name} ${chart.version}`);
        if (found === undefined) continue;
        ok((await helmTemplate(chart, [found.path])).length > 0, `chart ${chart.name} renders nothing`);
        const unknown = unknownKeys(chart.values, await readChart(found.path));
        findings.push(
          ...unknown.map(
            (key) => `HelmRelease ${chart.namespace}/${chart.release}: chart ${chart.name} has no "${key}"`,
          ),
        );
      }
      console.log(
        `    ${stack}: checked ${checked.join(", ")}; not on this machine ${unchecked.join(", ") || "none"}`,
      );
      ok(checked.length > 0);
      deepEqual(findings, []);
    });
  }

  describe("are checked against", () => {
    const chart: ChartInterface = {
      name: "web",
      text: "replicas: 1\nimage:\n  tag: v1\nresources: {}\n# -- Extra arguments\n# extraArgs: []\ndb:\n  user: web\n",
      schema: { properties: { service: { properties: { port: {} } } } },
      parts: new Map([["db", { name: "db", text: "size: 1Gi\n", schema: {}, parts: new Map() }]]),
    };
    for (const [what, values, unknown] of [
      ["defaults", { replicas: 2, image: { tag: "v2" } }, []],
      ["defaults, where one is mistyped", { replica: 2, image: { tags: "v2" } }, ["replica", "image.tags"]],
      ["defaults that are the user's to fill", { resources: { limits: { memory: "1Gi" } } }, []],
      ["commented examples", { extraArgs: ["-v"] }, []],
      ["the schema", { service: { port: 80 } }, []],
      ["the charts inside", { db: { size: "2Gi", user: "me", sise: "3Gi" } }, ["db.sise"]],
      [
        "what charts share, where this one does not",
        { global: { imageRegistry: "example.com" } },
        ["global"],
      ],
    ] as const) {
      it(what, () => {
        deepEqual(unknownKeys(values, chart), unknown);
      });
    }
  });
});
