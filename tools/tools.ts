import { execFile } from "node:child_process";
import { hash } from "node:crypto";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { userInfo } from "node:os";
import { delimiter, dirname, join, sep } from "node:path";
import { cacheDirectory } from "../system/cache";
import { withLock } from "../system/lock";
import { isProgram } from "../system/programs";
import { binDirectory, sharedBinDirectory } from "./bin";
import { environmentOf } from "./command";
import { goBuild, GoBuildError } from "./go-build";
import { ownVersion, readGoModule, versionOf, type GoModule } from "./go-module";
import { downloadOfficial, isOffered, type DownloadOptions, type Publisher } from "./official";
import { duration, plainProgress, type ProgressReceiver, type ToolProgress } from "./progress";

interface Tool {
  /** Folder of the go.mod that pins the tool. @default this folder */
  readonly module?: "cli" | "monitoring" | "policies" | "pulumi" | "pulumi-kubernetes";
  /** The Go package of the tool. */
  readonly package: string;
  /** Build tags that leave unused parts out. @default none */
  readonly tags?: readonly string[];
  /** Who offers it as a program. @default nobody in this project's list */
  readonly publisher?: Publisher;
  /** Arguments that print its version; without them, a tool on PATH cannot be recognised and is not used. */
  readonly versionArgs?: readonly string[];
  /** Directories where its own installer puts it, beside PATH. @default none */
  readonly installedIn?: (env: NodeJS.ProcessEnv, version: string) => readonly string[];
  /** Go variable that the linker sets to the version, as upstream's own build does. */
  readonly versionVariable?: string;
}

const versionFlag = ["--version"];
const versionCommand = ["version"];
const prometheusVersion = "github.com/prometheus/common/version.Version";

/** A component of Kubernetes. */
const kubernetes = (name: string): Tool => ({
  ...{ package: `k8s.io/kubernetes/cmd/${name}`, publisher: "kubernetes" },
  ...{ versionArgs: versionFlag, versionVariable: "k8s.io/component-base/version.gitVersion" },
});

/** Every tool, in the order in which a rehearsal needs them. */
const tools = {
  etcd: { package: "go.etcd.io/etcd/server/v3", versionArgs: versionFlag, publisher: "etcd" },
  "kube-apiserver": kubernetes("kube-apiserver"),
  registry: { package: "github.com/distribution/distribution/v3/cmd/registry", versionArgs: versionFlag },
  "kube-controller-manager": kubernetes("kube-controller-manager"),
  "kube-scheduler": kubernetes("kube-scheduler"),
  kwok: { package: "sigs.k8s.io/kwok/cmd/kwok", versionArgs: versionFlag },
  "platform-tree": { package: "platform/tools/tree" },
  "age-keygen": { package: "filippo.io/age/cmd/age-keygen", versionArgs: versionFlag },
  crane: { package: "github.com/google/go-containerregistry/cmd/crane", versionArgs: versionCommand },
  helm: {
    package: "helm.sh/helm/v4/cmd/helm",
    versionArgs: ["version", "--short"],
    versionVariable: "helm.sh/helm/v4/internal/version.version",
  },
  "kustomize-controller": { package: "github.com/fluxcd/kustomize-controller" },
  sops: {
    package: "github.com/getsops/sops/v3/cmd/sops",
    versionArgs: ["--disable-version-check", "--version"],
  },
  "source-controller": { package: "github.com/fluxcd/source-controller" },
  kind: { module: "cli", package: "sigs.k8s.io/kind", versionArgs: versionCommand },
  kustomize: {
    ...{ module: "cli", package: "sigs.k8s.io/kustomize/kustomize/v5" },
    versionArgs: versionCommand,
  },
  kyverno: {
    ...{ module: "policies", package: "github.com/kyverno/kyverno/cmd/cli/kubectl-kyverno" },
    versionArgs: versionCommand,
  },
  prometheus: {
    ...{ module: "monitoring", package: "github.com/prometheus/prometheus/cmd/prometheus" },
    tags: ["remove_all_sd"],
  },
  promtool: {
    ...{ module: "monitoring", package: "github.com/prometheus/prometheus/cmd/promtool" },
    tags: ["remove_all_sd"],
  },
  "kube-state-metrics": {
    ...{ module: "monitoring", package: "k8s.io/kube-state-metrics/v2" },
    ...{ versionArgs: versionCommand, versionVariable: prometheusVersion },
  },
  amtool: {
    ...{ module: "monitoring", package: "github.com/prometheus/alertmanager/cmd/amtool" },
    ...{ versionArgs: versionFlag, versionVariable: prometheusVersion },
  },
  pulumi: {
    ...{ module: "pulumi", package: "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi" },
    versionArgs: versionCommand,
    versionVariable: "github.com/pulumi/pulumi/sdk/v3/go/common/version.Version",
    // Of npm's package "pulumi", and of Pulumi's own script.
    installedIn: (env: NodeJS.ProcessEnv, version: string) =>
      [`versions/${version.slice(1)}/bin`, "bin"].map((path) => join(pulumiHome(env), path)),
  },
  "pulumi-resource-kubernetes": { module: "pulumi-kubernetes", package: "platform/tools/pulumi-kubernetes" },
} as const satisfies Record<string, Tool>;

/** A tool that a go.mod of this folder pins. */
export type ToolName = keyof typeof tools;

/** Every tool, in the order of the builds. */
export const toolNames = Object.keys(tools) as readonly ToolName[];

/** The tools that the platform's program runs, besides those of its kind of cluster. */
export const programTools = [
  "age-keygen",
  "crane",
  "helm",
  "platform-tree",
  "sops",
] as const satisfies ToolName[];

/** A controller that no Go module offers: used if it is installed. */
export type OptionalToolName = "helm-controller" | "notification-controller" | "reloader";

/** Options of {@link ensureTools}. */
export interface EnsureToolsOptions {
  /** Receives a line of progress. @default nothing is reported */
  readonly report?: (line: string) => void;
  /** Receives every change of the progress. @default `report` receives a line now and then */
  readonly progress?: ProgressReceiver;
  /**
   * Gives `PATH`, `HOME` and `XDG_CACHE_HOME`, and the variables that Go and downloads need. With
   * `PLATFORM_BUILD_TOOLS=true`, no official program is downloaded.
   *
   * @default process.env
   */
  readonly env?: NodeJS.ProcessEnv;
  /** The publishers of official programs. @default their own addresses */
  readonly publishers?: Pick<DownloadOptions, "origins" | "ca" | "patience">;
  /** Ends every build and download. The caller also ends the process on SIGINT and SIGTERM. @default never */
  readonly signal?: AbortSignal;
}

/** Tools that become available one after another. */
export interface Installation<Name extends ToolName> {
  /** The absolute path of each tool, as soon as it is there. */
  readonly paths: Readonly<Record<Name, Promise<string>>>;
  /** The absolute paths of all of them. */
  readonly all: Promise<Record<Name, string>>;
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
 * the pinned version is used as it is. Any other tool is downloaded from its publisher or built with Go, once for all of
 * the user's checkouts. If everything is there already, the call reads a few files and starts no process.
 *
 * @throws when a tool cannot be built: Go is missing or too old, a download is refused, the disk is full.
 */
export async function ensureTools<Name extends ToolName>(
  names: readonly Name[],
  options: EnsureToolsOptions = {},
): Promise<Record<Name, string>> {
  return await installTools(names, options).all;
}

/** As {@link ensureTools}, for a caller that needs some tools before the others. */
export function installTools<Name extends ToolName>(
  names: readonly Name[],
  { report = () => undefined, env = process.env, ...options }: EnsureToolsOptions = {},
): Installation<Name> {
  const read = moduleReader();
  const pins = toolNames
    .filter((name) => (names as readonly ToolName[]).includes(name))
    .map((name) => pin(name, read));
  const waiting = new Map(pins.map((tool) => [tool, Promise.withResolvers<string>()]));
  const installed = (tool: PinnedTool) => {
    const path = installedPath(tool, env);
    for (const directory of [binDirectory(env), sharedBinDirectory(env)])
      link(path, join(directory, tool.name));
    waiting.get(tool)?.resolve(path);
  };
  const progress = options.progress ?? plainProgress(report);
  const all = untilInstalled(pins, { ...options, report, env, progress, installed }).then(
    () => {
      const paths = pins.map((tool) => [tool.name, installedPath(tool, env)]);
      return Object.fromEntries(paths) as Record<Name, string>;
    },
    (error: unknown) => {
      for (const { reject } of waiting.values()) reject(error);
      throw error;
    },
  );
  const paths = pins.map((tool) => [tool.name, waiting.get(tool)?.promise] as const);
  // Whoever waits for a tool gets the failure; a caller may wait for some of them only.
  for (const promise of [all, ...paths.map(([, path]) => path)]) promise?.catch(() => undefined);
  return { paths: Object.fromEntries(paths) as Record<Name, Promise<string>>, all };
}

/** The options of the work under the lock. */
interface Work extends EnsureToolsOptions {
  readonly report: (line: string) => void;
  readonly progress: ProgressReceiver;
  readonly env: NodeJS.ProcessEnv;
  /** Takes each tool that is in its place. */
  readonly installed: (tool: PinnedTool) => void;
}

async function untilInstalled(pins: readonly PinnedTool[], work: Work): Promise<void> {
  const { env, installed, signal } = work;
  const take = () => {
    const [there, missing] = [[] as PinnedTool[], [] as PinnedTool[]];
    for (const tool of pins) (isInstalled(tool, env) ? there : missing).push(tool);
    there.forEach(installed);
    return missing;
  };
  if (take().length === 0) return;
  const directory = toolsDirectory(env);
  // The holder of the lock may put the wanted tools in their places long before it has all of its own.
  const served = new AbortController();
  const follower = new Follower(directory, work, () => {
    if (take().length === 0) served.abort();
  });
  const wait = {
    onWait: (pid: number) => {
      follower.begin(pid);
    },
    signal: AbortSignal.any([served.signal, ...(signal ? [signal] : [])]),
  };
  try {
    await withLock(
      directory,
      async () => {
        follower.end();
        const missing = take();
        if (missing.length > 0) await install(missing, work);
      },
      wait,
    );
  } catch (error) {
    if (!served.signal.aborted) throw error;
  } finally {
    follower.end();
  }
}

/** Tells the progress of the process that holds the lock. */
class Follower {
  #timer: NodeJS.Timeout | undefined;
  #last = "";

  constructor(
    private readonly directory: string,
    private readonly work: Work,
    private readonly look: () => void,
  ) {}

  begin(pid: number): void {
    this.work.report(`waiting for process ${pid}, which is getting the tools ready`);
    this.#timer = setInterval(() => {
      this.look();
      const told = readProgress(this.directory);
      if (told === undefined || told === this.#last) return;
      this.#last = told;
      this.work.progress({ ...(JSON.parse(told) as ToolProgress), pid });
    }, 1_000);
  }

  end(): void {
    if (this.#timer !== undefined) this.work.progress(undefined);
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

/** The progress as the holder of the lock writes it; undefined before the first, and in the moment of a change. */
function readProgress(directory: string): string | undefined {
  try {
    return readFileSync(join(directory, buildDirectory, progressFile), "utf8") || undefined;
  } catch {
    return undefined;
  }
}

/** Holds what is half made; the caller of {@link install} has it for itself. */
const buildDirectory = "building";
const progressFile = "progress.json";

function toolsDirectory(env: NodeJS.ProcessEnv): string {
  return join(cacheDirectory(env), "tools");
}

interface PinnedTool extends Tool {
  readonly linkerFlags: readonly string[];
  readonly name: ToolName;
  readonly version: string;
  readonly goModule: GoModule;
}

type ModuleReader = (name: string) => GoModule;

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
  const goModule = read(tool.module ?? ".");
  const version = versionOf(goModule, tool.package);
  if (version === undefined)
    throw new Error(
      `Tool "${name}": ${goModule.directory}/go.mod requires no module of ${tool.package}. ` +
        `Run \`go get -tool ${tool.package}\` there.`,
    );
  const { versionVariable } = tool;
  const linkerFlags = ["-s", "-w", ...(versionVariable ? ["-X", `${versionVariable}=${version}`] : [])];
  return { ...tool, name, version, goModule, linkerFlags };
}

/** The directory of Pulumi's own files. */
function pulumiHome(env: NodeJS.ProcessEnv): string {
  return env["PULUMI_HOME"] || join(userInfo().homedir, ".pulumi");
}

/** The path of a tool. All inputs of the binary are in the path, so an existing file never needs a check. */
function installedPath(tool: PinnedTool, env: NodeJS.ProcessEnv): string {
  const { pins, hash: sources } = tool.goModule;
  const flags = [...tool.linkerFlags, ...(tool.tags ?? [])];
  const source = tool.version === ownVersion ? sources : pins;
  const recipe = [source, process.platform, process.arch, ...flags].join("\n");
  const key = hash("sha256", recipe).slice(0, 12);
  return join(toolsDirectory(env), tool.name, `${tool.version}-${key}`, tool.name);
}

function isInstalled(tool: PinnedTool, env: NodeJS.ProcessEnv): boolean {
  const path = installedPath(tool, env);
  const target = statSync(path, { throwIfNoEntry: false });
  if (!target?.isFile()) return false;
  const own = lstatSync(path);
  // A file of PATH that changed after it was linked may have another version now.
  return !own.isSymbolicLink() || target.ctimeMs < own.mtimeMs;
}

/** Puts tools in their places, from PATH, from their publishers, or built. The caller holds the lock. */
async function install(missing: readonly PinnedTool[], work: Work): Promise<void> {
  const { env, report } = work;
  const scratch = join(toolsDirectory(env), buildDirectory);
  // A caller may end this process at once, in a handler of its own.
  const abandon = () => {
    // Go, which was killed a moment ago, may still write.
    rmSync(scratch, { recursive: true, force: true, maxRetries: 10, retryDelay: 20 });
  };
  const ended = new AbortController();
  const interrupt = (signal: NodeJS.Signals) => {
    ended.abort();
    abandon();
    process.off("SIGINT", interrupt).off("SIGTERM", interrupt);
    if (work.signal === undefined) process.kill(process.pid, signal);
  };
  const begin = Date.now();
  abandon(); // what a killed process left there
  mkdirSync(scratch, { recursive: true, mode: 0o700 });
  process.on("SIGINT", interrupt).on("SIGTERM", interrupt).on("exit", abandon);
  try {
    const found = await Promise.all(missing.map((tool) => findPinned(tool, env)));
    missing.forEach((tool, index) => {
      const path = found[index];
      if (path === undefined) return;
      link(path, installedPath(tool, env));
      work.installed(tool);
    });
    const wanted = missing.filter((_, index) => found[index] === undefined);
    if (wanted.length === 0) return;
    const signal = AbortSignal.any([ended.signal, ...(work.signal ? [work.signal] : [])]);
    let changes = 0;
    const share = shared(work.progress, scratch);
    const progress: ProgressReceiver = (each) => {
      changes++;
      share(each);
    };
    const inner: Work = { ...work, signal, progress };
    let isBuilding = true;
    let bytes = 0;
    const received = (count: number) => {
      bytes += count;
      if (!isBuilding) inner.progress({ step: "programs", done: bytes / 1e6 });
    };
    const downloads = await startDownloads(wanted, scratch, { ...inner, received });
    const placed = placeDownloads(downloads, scratch, inner);
    placed.catch(() => undefined);
    await build(
      wanted.filter((tool) => !downloads.has(tool)),
      scratch,
      inner,
    );
    isBuilding = false;
    await build(await placed, scratch, inner);
    if (changes === 0) return;
    work.progress(undefined);
    report(`the tools are ready after ${duration((Date.now() - begin) / 1000)}`);
  } finally {
    process.off("SIGINT", interrupt).off("SIGTERM", interrupt).off("exit", abandon);
    abandon();
  }
}

/** The real path of the tool on PATH, if it reports the pinned version. */
async function findPinned(tool: PinnedTool, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  const { versionArgs, installedIn = () => [] } = tool;
  const directories = [...installedIn(env, tool.version), ...searchPath(env)];
  const path = versionArgs && findExecutable(tool.name, directories);
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

/** For each tool whose publisher answers: nothing after its download, or the reason of its failure. */
type Downloads = ReadonlyMap<PinnedTool, Promise<string | undefined>>;

/** Begins the downloads of official programs. If a publisher does not answer, one line says so. */
async function startDownloads(
  wanted: readonly PinnedTool[],
  scratch: string,
  work: Work & { readonly received: (bytes: number) => void },
): Promise<Downloads> {
  const { env, publishers, signal, received } = work;
  if (env.PLATFORM_BUILD_TOOLS === "true" || !isOffered()) return new Map();
  const offered = Map.groupBy(
    wanted.filter((tool) => tool.publisher !== undefined),
    ({ publisher }) => publisher ?? "kubernetes",
  );
  const downloads = new Map<PinnedTool, Promise<string | undefined>>();
  const failures = new Map<PinnedTool, string>();
  await Promise.all(
    [...offered].map(async ([publisher, tools]) => {
      const options = { ...publishers, env, signal, received };
      const begun = await downloadOfficial(publisher, tools, scratch, options);
      tools.forEach((tool, index) => {
        const download = typeof begun === "string" ? begun : begun[index];
        if (typeof download === "string") failures.set(tool, download);
        else if (download !== undefined) downloads.set(tool, download);
      });
    }),
  );
  tellFailures(failures, work);
  return downloads;
}

/** Puts each downloaded tool in its place. @returns the tools whose download failed, which one line names */
async function placeDownloads(downloads: Downloads, scratch: string, work: Work): Promise<PinnedTool[]> {
  const failures = new Map<PinnedTool, string>();
  await Promise.all(
    [...downloads].map(async ([tool, download]) => {
      const reason = await download;
      if (reason === undefined) place(tool, join(scratch, tool.name), work);
      else failures.set(tool, reason);
    }),
  );
  tellFailures(failures, work);
  return [...failures.keys()];
}

function tellFailures(failures: ReadonlyMap<PinnedTool, string>, { report }: Work): void {
  if (failures.size === 0) return;
  const reasons = [...Map.groupBy(failures, ([, reason]) => reason)].map(
    ([reason, tools]) => `${tools.map(([{ name }]) => name).join(", ")} (${reason})`,
  );
  report(`built here, not downloaded: ${reasons.join("; ")}`);
}

/** Puts a complete program in its place in one step. */
function place(tool: PinnedTool, from: string, { env, installed }: Work): void {
  const path = installedPath(tool, env);
  mkdirSync(dirname(path), { recursive: true });
  renameSync(from, path);
  installed(tool);
}

/** Builds tools, those of one go.mod in one run. */
async function build(tools: readonly PinnedTool[], scratch: string, work: Work): Promise<void> {
  const { env, progress, signal } = work;
  const runs = Map.groupBy(tools, ({ goModule, tags = [] }) => [goModule.directory, ...tags].join("\n"));
  for (const programs of runs.values()) {
    const [{ goModule: module, tags = [] }] = programs as [PinnedTool];
    const built = (tool: PinnedTool, path: string) => {
      place(tool, path, work);
    };
    try {
      await goBuild({ module, tags, programs }, { scratch, env, progress, built, signal });
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const output = code === "ENOSPC" ? "no space left on device" : undefined;
      if (output === undefined && !(error instanceof GoBuildError)) throw error;
      throw new Error(failure(programs, output ?? (error as GoBuildError).output, env), { cause: error });
    }
  }
}

/** Passes the progress on, also to the processes that wait for the lock. */
function shared(progress: ProgressReceiver, scratch: string): ProgressReceiver {
  let written = 0;
  return (each) => {
    progress(each);
    // After a signal, the directory is gone before the last lines of Go come.
    if (each === undefined || Date.now() - written < 1_000 || !existsSync(scratch)) return;
    written = Date.now();
    writeFileSync(join(scratch, progressFile), JSON.stringify(each));
  };
}

/** Says in one sentence why a tool could not be built, and the remedy, from Go's output. */
function failure(tools: readonly PinnedTool[], output: string, env: NodeJS.ProcessEnv): string {
  const [{ name, version, versionArgs, goModule }] = tools as [PinnedTool];
  const only = tools.length === 1;
  const subject = only ? `Building tool "${name}" ${version}` : `Building ${tools.length} tools`;
  const { go, directory } = goModule;
  const instead = only && versionArgs ? `, or put ${name} ${version} on PATH` : "";
  if (/\bgo: (command )?not found/.test(output))
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
  return `${subject}: go build failed (${last}). Run it in ${directory} to see all of its output.`;
}

/** The directories of PATH without those of this project, and without npm's: its "pulumi" is an installer. */
function searchPath(env: NodeJS.ProcessEnv): string[] {
  const own = [binDirectory(env), sharedBinDirectory(env)];
  const isOther = (directory: string) =>
    directory !== "" && !own.includes(directory) && !directory.endsWith(join("node_modules", ".bin"));
  return (env["PATH"] ?? "").split(delimiter).filter(isOther);
}

function findExecutable(name: string, directories: readonly string[]): string | undefined {
  return directories.map((directory) => directory + sep + name).find(isProgram);
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
