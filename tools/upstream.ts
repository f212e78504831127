import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import type { KubernetesObject, V1CustomResourceDefinition } from "@kubernetes/client-node";
import { unzipSync } from "fflate";
import { parseAllDocuments, parseDocument } from "yaml";
import { cacheDirectory } from "../system/cache";
import { goEnvironment } from "./command";
import { readGoModule, type GoModule } from "./go-module";

/** A component whose CustomResourceDefinitions come from its Go module. */
export type CrdComponent =
  "cilium" | "cert-manager" | "kyverno" | "traefik" | "gateway-api" | "flux-operator" | "prometheus-operator";

/** A component whose Go module has its Helm chart. */
export type ChartComponent = "cilium" | "cert-manager" | "kyverno" | "metrics-server";

const modules: Readonly<Record<CrdComponent | ChartComponent, string>> = {
  cilium: "github.com/cilium/cilium",
  "cert-manager": "github.com/cert-manager/cert-manager",
  kyverno: "github.com/kyverno/kyverno",
  traefik: "github.com/traefik/traefik/v3",
  "gateway-api": "sigs.k8s.io/gateway-api",
  "flux-operator": "github.com/controlplaneio-fluxcd/flux-operator",
  "prometheus-operator": "github.com/prometheus-operator/prometheus-operator",
  "metrics-server": "sigs.k8s.io/metrics-server",
};

const crdPaths: Readonly<Record<CrdComponent, RegExp>> = {
  cilium: /^pkg\/k8s\/apis\/cilium\.io\/client\/crds\/.*\.yaml$/,
  "cert-manager": /^deploy\/crds\/.*\.yaml$/,
  kyverno: /^config\/crds\/.*\.yaml$/,
  traefik: /^docs\/content\/reference\/dynamic-configuration\/kubernetes-crd-definition-v1\.yml$/,
  "gateway-api": /^config\/crd\/standard\/.*\.yaml$/,
  "flux-operator": /^config\/crd\/bases\/.*\.yaml$/,
  "prometheus-operator": /^example\/prometheus-operator-crd\/.*\.yaml$/,
};

const chartPaths: Readonly<Record<ChartComponent, string>> = {
  cilium: "install/kubernetes/cilium/",
  "cert-manager": "deploy/charts/cert-manager/",
  kyverno: "charts/kyverno/",
  "metrics-server": "charts/metrics-server/",
};

/** Whether a chart of this name comes with a Go module. */
export function isChartComponent(name: string): name is ChartComponent {
  return name in chartPaths;
}

/**
 * Files of a Go module at the version that a go.mod under `tools/` pins, by their path inside the module. The user's
 * cache keeps the selected files, so only the first run opens the module's zip (up to 100 MB).
 *
 * @param selection names the choice of `select`; a changed choice needs a new name.
 * @throws when no go.mod requires the module, the download fails, or its checksum is not the one in go.sum.
 */
export async function upstreamFiles(
  module: string,
  selection: string,
  select: (path: string) => boolean,
): Promise<Map<string, Buffer>> {
  const directory = await extracted(module, selection, select);
  const paths = readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  const contents = await Promise.all(paths.map((path) => readFile(path)));
  return new Map(paths.map((path, index) => [path.slice(directory.length + 1), contents[index] as Buffer]));
}

/** The CustomResourceDefinitions of a component. @throws as {@link upstreamFiles} does. */
export async function upstreamCrds(component: CrdComponent): Promise<V1CustomResourceDefinition[]> {
  const parsed = await objects(modules[component], "crds", (path) => crdPaths[component].test(path));
  const kind = "CustomResourceDefinition";
  return parsed.filter((object): object is V1CustomResourceDefinition => object.kind === kind);
}

/**
 * The objects that the Flux Operator applies for a Flux version: its CRDs, roles, policies and the deployments of four
 * controllers.
 *
 * @param range a version such as `2.9.5`, or a range such as `2.x`, whose newest version is taken, as in the operator
 * @throws when the operator's module has no such version.
 */
export async function fluxDistribution(range: string): Promise<KubernetesObject[]> {
  const operator = modules["flux-operator"];
  const marker = /^config\/data\/flux\/v([^/]+)\/source-controller\.yaml$/;
  const files = await upstreamFiles(operator, "flux-versions", (path) => marker.test(path));
  const versions = [...files.keys()].flatMap((path) => marker.exec(path)?.[1] ?? []);
  const version = newestOf(versions, range);
  if (version === undefined)
    throw new Error(
      `Reading Flux "${range}": module ${operator} has ${versions.sort(compareVersions).join(", ")}. ` +
        `Set "distribution.version" of the FluxInstance to one of them, or to a range such as "2.x".`,
    );
  const directory = `config/data/flux/v${version}/`;
  const controllers = ["source", "kustomize", "helm", "notification"].map((name) => `${name}-controller`);
  const wanted = new Set(["rbac", "policies", ...controllers].map((part) => `${directory}${part}.yaml`));
  return objects(operator, `flux-${version}`, (path) => wanted.has(path));
}

/**
 * The newest version in a range, in the forms that Flux's documentation uses: `2.9.5`, `2.x`, `2.9.*`, `~2.9`, `^2.8`,
 * `>=2.8 <2.10`, `*`, joined by `||`. Source: https://github.com/Masterminds/semver#checking-version-constraints
 */
export function newestOf(versions: readonly string[], range: string): string | undefined {
  return versions
    .filter((version) => range.split("||").some((alternative) => isIn(version, alternative)))
    .sort(compareVersions)
    .at(-1);
}

function isIn(version: string, comparators: string): boolean {
  const parts = comparators
    .replaceAll(",", " ")
    .replace(/([<>=~^]+)\s+/g, "$1")
    .trim()
    .split(/\s+/);
  return parts.every((part) => {
    const [, operator = "", bound = ""] =
      /^(>=|<=|>|<|=|~|\^)?v?((?:\d+|[xX*])(?:\.(?:\d+|[xX*])){0,2})$/.exec(part) ?? [];
    if (bound === "") return false;
    const given = bound.replace(/(^|\.)[xX*].*$/, "");
    const length = given === "" ? 0 : given.split(".").length;
    const cut = (count: number) => version.split(".").slice(0, count).join(".");
    const difference = length === 0 ? 0 : compareVersions(cut(length), given);
    const first = (count: number) => cut(count) === given.split(".").slice(0, count).join(".");
    if (operator === ">=") return difference >= 0;
    if (operator === "<=") return difference <= 0;
    if (operator === ">") return difference > 0;
    if (operator === "<") return difference < 0;
    if (operator === "~") return difference >= 0 && first(Math.min(2, length));
    if (operator === "^") return difference >= 0 && first(Math.min(1, length));
    return difference === 0;
  });
}

function compareVersions(one: string, other: string): number {
  return one.localeCompare(other, "en", { numeric: true });
}

/** A chart in the form of its Go module. */
export interface UpstreamChart {
  /** Absolute path of the chart. */
  readonly directory: string;
  /** Charts that it depends on and that the module lacks; its `Chart.yaml` loses them. */
  readonly absent: readonly { readonly name: string; readonly condition?: string }[];
}

/** A component's Helm chart, with the version of the module. @throws as {@link upstreamFiles} does. */
export async function upstreamChart(component: ChartComponent): Promise<UpstreamChart> {
  const root = chartPaths[component];
  const module = modules[component];
  const directory = await extracted(
    module,
    "whole-chart",
    (path) => path.startsWith(root),
    (files) => {
      const manifest = `${root}Chart.yaml`;
      const chart = parseDocument(new TextDecoder().decode(files.get(manifest)));
      // cert-manager's own build fills its versions in; the template has no version, or a placeholder.
      if (component === "cert-manager")
        for (const key of ["version", "appVersion"]) chart.set(key, pinnedModule(module).version);
      const { dependencies = [] } = chart.toJS() as { dependencies?: { name: string; condition?: string }[] };
      const absent = dependencies.filter(({ name }) => !files.has(`${root}charts/${name}/Chart.yaml`));
      chart.set(
        "dependencies",
        dependencies.filter((dependency) => !absent.includes(dependency)),
      );
      return new Map<string, Uint8Array | string>([
        ...files,
        [manifest, chart.toString()],
        [absentFile, JSON.stringify(absent)],
      ]);
    },
  );
  const absent = JSON.parse(await readFile(join(directory, absentFile), "utf8")) as UpstreamChart["absent"];
  return { directory: join(directory, root), absent };
}

const absentFile = "absent.json";

function pinnedModule(module: string): { goModule: GoModule; version: string } {
  for (const folder of ["upstream", "."]) {
    const goModule = readGoModule(join(__dirname, folder));
    const version = goModule.versions.get(module);
    if (version !== undefined) return { goModule, version };
  }
  throw new Error(
    `Reading module ${module}: no go.mod under tools/ requires it. Add it to tools/upstream/go.mod.`,
  );
}

/** The path of a selection in the cache; its parts cannot be confused. */
function cachePath(module: string, version: string, selection: string): string {
  return join(cacheDirectory(), "upstream", `${module.replaceAll("/", "_")}@${version}`, selection);
}

/** The parsed YAML documents of the selected files. Kept as JSON, which loads 50 times as fast. */
async function objects(
  module: string,
  selection: string,
  select: (path: string) => boolean,
): Promise<KubernetesObject[]> {
  const cached = `${cachePath(module, pinnedModule(module).version, selection)}.json`;
  if (!existsSync(cached)) {
    const files = await readModule(module, selection, select);
    const parsed = [...files.keys()].sort().flatMap((path) =>
      parseAllDocuments(new TextDecoder().decode(files.get(path)))
        .map((document) => document.toJS() as KubernetesObject | null)
        .filter((object) => object !== null),
    );
    mkdirSync(dirname(cached), { recursive: true });
    writeFileSync(`${cached}.${process.pid}`, JSON.stringify(parsed));
    renameSync(`${cached}.${process.pid}`, cached);
  }
  return JSON.parse(await readFile(cached, "utf8")) as KubernetesObject[];
}

/** The directory of the selected files, which `edit` changes when they are first written. */
async function extracted(
  module: string,
  selection: string,
  select: (path: string) => boolean,
  edit: (files: ReadonlyMap<string, Uint8Array>) => ReadonlyMap<string, Uint8Array | string> = (files) =>
    files,
): Promise<string> {
  const directory = cachePath(module, pinnedModule(module).version, selection);
  if (existsSync(directory)) return directory;
  const draft = `${directory}.${process.pid}`;
  try {
    for (const [path, content] of edit(await readModule(module, selection, select))) {
      mkdirSync(dirname(join(draft, path)), { recursive: true });
      writeFileSync(join(draft, path), content);
    }
    renameSync(draft, directory);
  } catch (error) {
    if (!existsSync(directory)) throw error; // another run was faster
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
  return directory;
}

/** Reads files out of a module's zip, and downloads the zip first if needed. */
async function readModule(
  module: string,
  selection: string,
  select: (path: string) => boolean,
): Promise<Map<string, Uint8Array>> {
  const { goModule, version } = pinnedModule(module);
  const { zip, sum } = await download(module, version, goModule.directory);
  const expected = goModule.sums.get(`${module} ${version}`);
  // Go checks this too, but not for a module that requires a newer Go.
  if (sum !== expected)
    throw new Error(
      `Reading module ${module} ${version}: its checksum is ${sum}, and ${goModule.directory}/go.sum ` +
        `${expected === undefined ? "has none" : `says ${expected}`}. ` +
        `Run \`go clean -modcache\`, and see whether the module was tampered with.`,
    );
  const root = `${module}@${version}/`;
  const files = unzipSync(await readFile(zip), { filter: ({ name }) => select(name.slice(root.length)) });
  const selected = Object.entries(files).map(([name, content]): [string, Uint8Array] => [
    name.slice(root.length),
    content,
  ]);
  if (selected.length === 0)
    throw new Error(
      `Reading module ${module} ${version}: it has no file of "${selection}". ` +
        `Choose files that this version has, or change the selection in tools/upstream.ts.`,
    );
  return new Map(selected);
}

async function download(module: string, version: string, cwd: string): Promise<{ zip: string; sum: string }> {
  const run = promisify(execFile)("go", ["mod", "download", "-json", `${module}@${version}`], {
    cwd,
    // A module that requires a newer Go is only read, never compiled, so that Go is not downloaded.
    env: { ...goEnvironment(process.env), GOTOOLCHAIN: "local" },
  });
  // Go answers in JSON even if it fails.
  const { stdout, message } = await run.then(
    ({ stdout }) => ({ stdout, message: "" }),
    (error: unknown) => {
      const { stdout, stderr, message } = error as Error & { stdout?: string; stderr?: string };
      return { stdout: stdout ?? "", message: stderr ? stderr : message };
    },
  );
  const answer = JSON.parse(stdout.trim() || "{}") as { Zip?: string; Sum?: string; Error?: string };
  if (answer.Zip === undefined || answer.Sum === undefined)
    throw new Error(
      `Downloading module ${module} ${version}: ${(answer.Error ?? message).trim().split("\n").slice(-2).join(" ")}. ` +
        `Is Go installed, and may this machine reach proxy.golang.org or the GOPROXY you set?`,
    );
  return { zip: answer.Zip, sum: answer.Sum };
}
