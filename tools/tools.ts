import { execFile, spawn } from "node:child_process";
import { hash } from "node:crypto";
import {
  accessSync,
  constants,
  lstatSync,
  mkdirSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { availableParallelism } from "node:os";
import { delimiter, dirname, join, sep } from "node:path";
import { environmentOf, goEnvironment } from "./command";
import { binDirectory, sharedBinDirectory } from "./bin";
import { cacheDirectory } from "../system/cache";
import { readGoModule, versionOf, type GoModule } from "./go-module";
import { withLock } from "../system/lock";

interface Tool {
  /** Folder of the go.mod that pins the tool. */
  readonly module: "cli" | "control-plane" | "monitoring" | "policies" | "tree";
  /** The Go package of the tool. */
  readonly package: string;
  /** CPU seconds of a first build, after the tools above it (measured, Go 1.26). */
  readonly cost: number;
  /** Build tags that leave unused parts out. @default none */
  readonly tags?: readonly string[];
  /** Arguments that print its version; without them, a tool on PATH cannot be recognised and is not used. */
  readonly versionArgs?: readonly string[];
  /** Go variable that the linker sets to the version, as upstream's own build does. */
  readonly versionVariable?: string;
}

const versionFlag = ["--version"];
const versionCommand = ["version"];
const prometheusVersion = "github.com/prometheus/common/version.Version";
const controlPlane = { module: "control-plane", versionArgs: versionFlag } as const;

/** A component of Kubernetes. */
const kubernetes = (name: string, cost: number) => ({
  ...controlPlane,
  ...{ package: `k8s.io/kubernetes/cmd/${name}`, cost },
  versionVariable: "k8s.io/component-base/version.gitVersion",
});

const tools = {
  etcd: { ...controlPlane, package: "go.etcd.io/etcd/server/v3", cost: 42 },
  "kube-apiserver": kubernetes("kube-apiserver", 616),
  "kube-controller-manager": kubernetes("kube-controller-manager", 101),
  "kube-scheduler": kubernetes("kube-scheduler", 9),
  "source-controller": { module: "control-plane", package: "github.com/fluxcd/source-controller", cost: 61 },
  "kustomize-controller": {
    ...{ module: "control-plane", package: "github.com/fluxcd/kustomize-controller", cost: 82 },
  },
  kwok: { ...controlPlane, package: "sigs.k8s.io/kwok/cmd/kwok", cost: 179 },
  registry: { ...controlPlane, package: "github.com/distribution/distribution/v3/cmd/registry", cost: 150 },
  "platform-tree": { module: "tree", package: "platform/tools/tree", cost: 90 },
  helm: {
    ...{ module: "cli", package: "helm.sh/helm/v4/cmd/helm", cost: 175 },
    versionArgs: ["version", "--short"],
    versionVariable: "helm.sh/helm/v4/internal/version.version",
  },
  kustomize: {
    ...{ module: "cli", package: "sigs.k8s.io/kustomize/kustomize/v5", cost: 23 },
    versionArgs: versionCommand,
  },
  sops: {
    ...{ module: "cli", package: "github.com/getsops/sops/v3/cmd/sops", cost: 148 },
    versionArgs: ["--disable-version-check", "--version"],
  },
  "age-keygen": {
    ...{ module: "cli", package: "filippo.io/age/cmd/age-keygen", cost: 7 },
    versionArgs: versionFlag,
  },
  crane: {
    ...{ module: "cli", package: "github.com/google/go-containerregistry/cmd/crane", cost: 12 },
    versionArgs: versionCommand,
  },
  kind: { module: "cli", package: "sigs.k8s.io/kind", cost: 9, versionArgs: versionCommand },
  kyverno: {
    ...{ module: "policies", package: "github.com/kyverno/kyverno/cmd/cli/kubectl-kyverno", cost: 406 },
    versionArgs: versionCommand,
  },
  prometheus: {
    ...{ module: "monitoring", package: "github.com/prometheus/prometheus/cmd/prometheus", cost: 194 },
    tags: ["remove_all_sd"],
  },
  promtool: {
    ...{ module: "monitoring", package: "github.com/prometheus/prometheus/cmd/promtool", cost: 83 },
    tags: ["remove_all_sd"],
  },
  "kube-state-metrics": {
    ...{ module: "monitoring", package: "k8s.io/kube-state-metrics/v2", cost: 98 },
    ...{ versionArgs: versionCommand, versionVariable: prometheusVersion },
  },
  amtool: {
    ...{ module: "monitoring", package: "github.com/prometheus/alertmanager/cmd/amtool", cost: 30 },
    ...{ versionArgs: versionFlag, versionVariable: prometheusVersion },
  },
} as const satisfies Record<string, Tool>;

/** A tool that a go.mod of this folder pins. */
export type ToolName = keyof typeof tools;

/** Every tool, in the order of the builds. */
export const toolNames = Object.keys(tools) as readonly ToolName[];

/** A controller that no Go module offers: used if it is installed. */
export type OptionalToolName = "helm-controller" | "notification-controller" | "reloader";

/** Options of {@link ensureTools}. */
export interface EnsureToolsOptions {
  /** Receives a line of progress. @default nothing is reported */
  readonly report?: (line: string) => void;
  /** Gives `PATH`, `HOME` and `XDG_CACHE_HOME`, and the variables that Go needs. @default process.env */
  readonly env?: NodeJS.ProcessEnv;
}

/** The version that this project pins, such as `v4.3.1`. */
export function pinnedVersion(name: ToolName): string {
  return pin(name, moduleReader()).version;
}

/** The path of a controller on PATH or in {@link sharedBinDirectory}; `undefined` when both lack it. */
export function findOptional(
  name: OptionalToolName,
  env: NodeJS.ProcessEnv = process.env,
): string | undefined {
  return findExecutable(name, [...searchPath(env), sharedBinDirectory(env)]);
}

/**
 * Makes the pinned version of each tool available and returns its absolute path by name. A tool on PATH that reports
 * the pinned version is used as it is. Any other tool is built with Go, once for all of the user's checkouts. If
 * everything is built already, the call reads a few files and starts no process.
 *
 * @throws when a tool cannot be built: Go is missing or too old, a download is refused, the disk is full.
 */
export async function ensureTools<Name extends ToolName>(
  names: readonly Name[],
  { report = () => undefined, env = process.env }: EnsureToolsOptions = {},
): Promise<Record<Name, string>> {
  const read = moduleReader();
  const pins = toolNames
    .filter((name) => (names as readonly ToolName[]).includes(name))
    .map((name) => pin(name, read));
  const missing = () => pins.filter((tool) => !isInstalled(tool, env));

  if (missing().length > 0) {
    const onWait = (pid: number) => {
      report(`waiting for process ${pid}, which is building tools`);
    };
    await withLock(join(cacheDirectory(env), "tools"), () => install(missing(), report, env), { onWait });
  }
  for (const tool of pins)
    for (const directory of [binDirectory(env), sharedBinDirectory(env)])
      link(installedPath(tool, env), join(directory, tool.name));
  const paths = pins.map((tool) => [tool.name, installedPath(tool, env)]);
  return Object.fromEntries(paths) as Record<Name, string>;
}

interface PinnedTool extends Tool {
  readonly name: ToolName;
  readonly version: string;
  readonly goModule: GoModule;
}

type ModuleReader = (name: Tool["module"]) => GoModule;

function moduleReader(): ModuleReader {
  const known = new Map<string, GoModule>();
  return (name) => {
    const module = known.get(name) ?? readGoModule(join(__dirname, name));
    known.set(name, module);
    return module;
  };
}

function pin(name: ToolName, read: ModuleReader): PinnedTool {
  const tool: Tool = tools[name];
  const goModule = read(tool.module);
  const version = versionOf(goModule, tool.package);
  if (version === undefined)
    throw new Error(
      `Tool "${name}": ${goModule.directory}/go.mod requires no module of ${tool.package}. ` +
        `Run \`go get -tool ${tool.package}\` there.`,
    );
  return { ...tool, name, version, goModule };
}

/** The path of a tool. All inputs of the binary are in the path, so an existing file never needs a check. */
function installedPath(tool: PinnedTool, env: NodeJS.ProcessEnv): string {
  const flags = [...linkerFlags(tool), ...(tool.tags ?? [])];
  const recipe = [tool.goModule.hash, process.platform, process.arch, ...flags].join("\n");
  const key = hash("sha256", recipe).slice(0, 12);
  return join(cacheDirectory(env), "tools", tool.name, `${tool.version}-${key}`, tool.name);
}

function isInstalled(tool: PinnedTool, env: NodeJS.ProcessEnv): boolean {
  const path = installedPath(tool, env);
  const target = statSync(path, { throwIfNoEntry: false });
  if (!target?.isFile()) return false;
  const own = lstatSync(path);
  // A file of PATH that changed after it was linked may have another version now.
  return !own.isSymbolicLink() || target.ctimeMs < own.mtimeMs;
}

async function install(
  missing: readonly PinnedTool[],
  report: (line: string) => void,
  env: NodeJS.ProcessEnv,
): Promise<void> {
  const found = await Promise.all(missing.map((tool) => findPinned(tool, env)));
  missing.forEach((tool, index) => {
    const path = found[index];
    if (path !== undefined) link(path, installedPath(tool, env));
  });
  const builds = missing.filter((_, index) => found[index] === undefined);
  for (const [index, tool] of builds.entries())
    await build(tool, `${index + 1} of ${builds.length}`, report, env);
}

/** The real path of the tool on PATH, if it reports the pinned version. */
async function findPinned(tool: PinnedTool, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  const { versionArgs } = tool;
  const path = versionArgs && findExecutable(tool.name, searchPath(env));
  if (path === undefined) return undefined;
  return new Promise((resolve) => {
    execFile(
      path,
      versionArgs,
      { env: environmentOf(tool.name, env), timeout: 5_000 },
      (error, stdout, stderr) => {
        resolve(!error && saysVersion(stdout + stderr, tool.version) ? realpathSync(path) : undefined);
      },
    );
  });
}

/** Whether a tool's output names exactly this version: `v1.2.3` in "x 1.2.3" or "v1.2.3+build", not "1.2.3-rc.1". */
export function saysVersion(output: string, version: string): boolean {
  const digits = version.replace(/^v/, "").replaceAll(".", "\\.");
  return new RegExp(`(?<![\\w.-])v?${digits}(?![\\w-]|\\.\\d)`).test(output);
}

/** Builds one tool next to its place and moves it there when it is complete. The caller holds the lock. */
async function build(
  tool: PinnedTool,
  position: string,
  report: (line: string) => void,
  env: NodeJS.ProcessEnv,
): Promise<void> {
  const building = join(cacheDirectory(env), "tools", "building");
  rmSync(building, { recursive: true, force: true }); // what a killed build left behind
  try {
    mkdirSync(building, { recursive: true });
    const output = join(building, tool.name);
    await goBuild(tool, output, building, position, report, env);
    const path = installedPath(tool, env);
    mkdirSync(dirname(path), { recursive: true });
    renameSync(output, path);
  } catch (error) {
    throw (error as NodeJS.ErrnoException).code === "ENOSPC"
      ? new Error(failure(tool, "no space left on device", env), { cause: error })
      : error;
  } finally {
    rmSync(building, { recursive: true, force: true });
  }
}

function goBuild(
  tool: PinnedTool,
  output: string,
  scratch: string,
  position: string,
  report: (line: string) => void,
  env: NodeJS.ProcessEnv,
): Promise<void> {
  const title = `building ${tool.name} ${tool.version} (${position})`;
  report(`${title}, about ${duration(tool.cost / availableParallelism())} on first use`);
  const started = Date.now();
  return new Promise((resolve, reject) => {
    const child = spawn(
      "go",
      [
        ...["build", "-ldflags", linkerFlags(tool).join(" ")],
        ...(tool.tags ? ["-tags", tool.tags.join(",")] : []),
        ...["-o", output, tool.package],
      ],
      {
        cwd: tool.goModule.directory,
        env: { ...goEnvironment(env), CGO_ENABLED: "0", GOTMPDIR: scratch },
        stdio: ["ignore", "ignore", "pipe"],
      },
    );
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => (stderr += chunk));

    const ticker = setInterval(() => {
      report(`${title}: ${duration((Date.now() - started) / 1000)}`);
    }, 15_000);
    // A caller may end this process at once, in a handler of its own.
    const abandon = () => {
      child.kill("SIGKILL");
      rmSync(scratch, { recursive: true, force: true });
    };
    const interrupt = (signal: NodeJS.Signals) => {
      abandon();
      settle();
      process.kill(process.pid, signal);
    };
    const settle = () => {
      clearInterval(ticker);
      process.off("SIGINT", interrupt).off("SIGTERM", interrupt).off("exit", abandon);
    };
    process.on("SIGINT", interrupt).on("SIGTERM", interrupt).on("exit", abandon);

    child.on("error", (error) => {
      settle();
      reject(new Error(failure(tool, error.message, env), { cause: error }));
    });
    child.on("close", (code, signal) => {
      settle();
      if (code === 0) resolve();
      else
        reject(
          new Error(failure(tool, stderr || `go was ended by ${signal ?? `code ${String(code)}`}`, env)),
        );
    });
  });
}

function linkerFlags({ versionVariable, version }: PinnedTool): string[] {
  return ["-s", "-w", ...(versionVariable ? ["-X", `${versionVariable}=${version}`] : [])];
}

/** Says in one sentence why a tool could not be built, and the remedy, from Go's output. */
function failure(tool: PinnedTool, output: string, env: NodeJS.ProcessEnv): string {
  const subject = `Building tool "${tool.name}" ${tool.version}`;
  const { go } = tool.goModule;
  const instead = tool.versionArgs ? `, or put ${tool.name} ${tool.version} on PATH` : "";
  if (output.includes("spawn go ENOENT"))
    return `${subject}: Go is not installed. Install Go ${go} or newer from https://go.dev/dl${instead}.`;

  const old = /requires go >= \S+ \(running go (\S+?)[;)]|invalid go version|toolchain not available/.exec(
    output,
  );
  if (old)
    return (
      `${subject}: the Go on PATH${old[1] ? ` is ${old[1]}, which` : ""} is older than ${go}, which go.mod asks for. ` +
      `Install Go ${go} or newer from https://go.dev/dl${instead}.`
    );
  if (/no space left on device|disk quota exceeded/i.test(output))
    return (
      `${subject}: no disk space is left. Free some 12 GB where ${cacheDirectory(env)} and Go's own caches ` +
      `(\`go env GOCACHE GOMODCACHE GOTMPDIR\`) are, and run again: what was built is kept.`
    );
  const last = output.trim().split("\n").slice(-3).join(" ");
  if (
    /dial tcp|proxyconnect|no such host|i\/o timeout|TLS handshake|x509:|: (40\d|410|429|50\d) |module lookup disabled/.test(
      output,
    )
  )
    return (
      `${subject}: a download was refused or failed (${last}). Allow proxy.golang.org and sum.golang.org, ` +
      `or set GOPROXY to a mirror you may use, and run again.`
    );
  return `${subject}: go build failed (${last}). Run it in ${tool.goModule.directory} to see all of its output.`;
}

function duration(seconds: number): string {
  return seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}

/** The directories of PATH, without directories in which this module put tools. */
function searchPath(env: NodeJS.ProcessEnv): string[] {
  return (env["PATH"] ?? "")
    .split(delimiter)
    .filter((directory) => directory && ![binDirectory(env), sharedBinDirectory(env)].includes(directory));
}

function findExecutable(name: string, directories: readonly string[]): string | undefined {
  return directories.map((directory) => directory + sep + name).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** Makes `path` a link to `target` in one step: a reader sees the old link or the new link. */
function link(target: string, path: string): void {
  const entry = lstatSync(path, { throwIfNoEntry: false });
  // A correct link stays, except a link to PATH, which gets a new date (see isInstalled).
  if (entry?.isSymbolicLink() && readlinkSync(path) === target && lstatSync(target).ctimeMs < entry.mtimeMs)
    return;
  mkdirSync(dirname(path), { recursive: true });
  const draft = `${path}.${process.pid}`;
  rmSync(draft, { force: true });
  symlinkSync(target, draft);
  renameSync(draft, path);
}

async function main(names: readonly string[]): Promise<void> {
  const unknown = names.filter((name) => !(name in tools));
  if (unknown.length > 0)
    throw new Error(
      `Tools: no tool has the name ${unknown.join(", ")}. Choose from: ${toolNames.join(", ")}.`,
    );
  const wanted = names.length > 0 ? (names as ToolName[]) : toolNames;
  const paths = await ensureTools(wanted, { report: console.error });
  for (const path of Object.values(paths)) console.log(path);
}

if (require.main === module)
  main(process.argv.slice(2)).catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  });
