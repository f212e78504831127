import { deepEqual, equal, match, ok } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import { presumedRuntime } from "../../commands/render";
import { finalLayers, type RenderChart } from "../../core/tree/final";
import type { Manifest } from "../../clients/kubernetes/client";
import { readStackConfig } from "../../core/settings/config";
import { ensureTools } from "../../tools/tools";

const project = join(__dirname, "..", "..");

function render(...args: string[]) {
  return spawnSync(
    process.execPath,
    ["-r", "ts-node/register/transpile-only", "commands/main.ts", "render", ...args],
    {
      ...{ cwd: project, encoding: "utf8", maxBuffer: 256 * 1024 * 1024 },
    },
  );
}

describe("npx platform render", function () {
  this.timeout(600_000);

  before(() => ensureTools(["helm", "platform-tree"], { report: console.error }));

  it("prints the final objects of each layer, sorted, and the same each time", () => {
    const { status, stdout, stderr } = render("--stack", "prod");
    equal(status, 0, stderr);
    equal(render("--stack", "prod").stdout, stdout);
    deepEqual(
      [...stdout.matchAll(/^# Layer (\w+): \d+ objects$/gm)].map(([, name]) => name),
      ["controllers", "certs", "apps"],
    );
    for (const layer of stdout.split(/^# Layer /m).slice(1)) {
      const objects = parseAllDocuments(layer.slice(layer.indexOf("\n")))
        .map((document) => document.toJS() as Manifest | null)
        .filter((object) => object !== null);
      equal(objects.length, Number(/: (\d+) objects/.exec(layer)?.[1]));
      const groups = objects.map(({ apiVersion }) =>
        apiVersion.includes("/") ? apiVersion : `/${apiVersion}`,
      );
      deepEqual(groups, [...groups].sort());
    }
    // A variable is filled in, a chart is rendered, and what all releases have in common is on it.
    match(stdout, /- homepage\.example\.com$/m);
    match(stdout, /^# HelmRelease kube-system\/cilium\napiVersion: apps\/v1\nkind: DaemonSet$/m);
    ok(!/\$\{(domain|cluster|app_replicas)\}/.test(stdout));
  });

  it("prints one layer", () => {
    const { stdout } = render("--stack", "local", "--layer", "certs");
    equal([...stdout.matchAll(/^# Layer /gm)].length, 1);
  });

  it("renders no chart of another layer than the one that is asked for", async () => {
    const config = await readStackConfig("prod", project, process.env);
    const { tree, cluster } = config.gitops;
    const charts: string[] = [];
    const note: RenderChart = ({ name }) => {
      charts.push(name);
      return Promise.resolve(undefined);
    };
    const layers = await finalLayers(tree, cluster, presumedRuntime(config), note, "controllers");
    deepEqual(
      layers.map(({ name }) => name),
      ["controllers"],
    );
    deepEqual([charts.includes("cilium"), charts.includes("nextcloud")], [true, false]);
  });

  for (const [what, args, message] of [
    [
      "a layer that is not there",
      ["--stack", "local", "--layer", "none"],
      /there is no layer "none"\. Layers are/,
    ],
    ["a stack that is not there", ["--stack", "none"], /there is no Pulumi\.none\.yaml\. Stacks here are/],
  ] as const) {
    it(`names ${what}`, () => {
      const { status, stdout, stderr } = render(...args);
      deepEqual([status, stdout], [1, ""]);
      match(stderr, message);
    });
  }
});
