import { fork, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readdir, readFile, statfs } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import type { LayerResult } from "../core/release/wait";
import type { Manifest } from "../clients/kubernetes/client";
import { clusterKindOf } from "../core/cluster/kinds";
import { asPulumiConfig, contextOf, parseConfig, readStackFile } from "../core/settings/config";
import { causeOf } from "../system/file-error";
import { slowdown } from "../system/load";
import { ScratchDirectory } from "../system/scratch-directory";
import type { ProgressReceiver } from "../tools/progress";
import { findOptional, installTools, programTools } from "../tools/tools";
import { prepareCharts, RehearsedCluster } from "./cluster";
import { controlPlaneTools, type ControlPlane } from "./control-plane";
import type { StackState } from "./live-mocks";
import type { ProgramMessage, ProgramRequest } from "./program";
import { objectsOf, rehearsedSettings } from "./settings";
import { killGroup } from "../system/process";
import { directLoopback } from "../system/proxy";

/** Options of a rehearsal. */
export interface RehearsalOptions {
  readonly stack: string;
  /** Absolute path of the directory that holds Pulumi.yaml. */
  readonly project: string;
  /** Open the encrypted secrets with the stack's own identity instead of generating values. @default false */
  readonly identity?: boolean;
  /** How long one run may take until every layer is Ready. @default 120, and longer on a busy machine */
  readonly timeoutSeconds?: number;
  /** Whether the control plane keeps an audit log, Secrets in plain text. @default false */
  readonly audit?: boolean;
  /** Takes a line of progress. */
  readonly report: (line: string) => void;
  /** Takes every change of the progress of the tools. @default `report` takes a line now and then */
  readonly progress?: ProgressReceiver;
}

/** A run of the program that ended with every layer Ready. */
export interface RehearsalResult {
  readonly stack: string;
  /** The revision at which the layers are Ready: `<channel>@sha256:…`. */
  readonly revision: string;
  readonly ready: boolean;
  /** Seconds from the start of the run. */
  readonly seconds: number;
  readonly layers: readonly LayerResult[];
  /** Every simulated object, by name. */
  readonly simulated: readonly string[];
  /** The number of objects of all layers. */
  readonly objects: number;
}

/** The tools that every rehearsal runs. */
export const rehearsalTools = [...controlPlaneTools, ...programTools] as const;

/**
 * The platform on a throw-away control plane: the project's own program on a real API server, with the real Flux
 * controllers and a real registry. Everything is in one temporary directory, which `stop` removes.
 */
export class Rehearsal {
  /** A loaded program that waits for its first request. */
  private program: ChildProcess | undefined;
  /** The current run, or the last one. */
  private running: ChildProcess | undefined;
  /** The state of the stack after the last run, with its secrets: only in memory. */
  state: Readonly<StackState> = {};

  private constructor(
    private readonly options: RehearsalOptions,
    private readonly settings: Readonly<Record<string, unknown>>,
    private readonly scratch: ScratchDirectory,
    private readonly cluster: RehearsedCluster,
    program: ChildProcess,
    /** Settles when every tool is there. */
    private readonly installed: Promise<unknown>,
    /** Ends the installation of tools. */
    private readonly ended: AbortController,
  ) {
    this.program = program;
  }

  /**
   * Starts the control plane, while the tools that only `up` needs may still be built.
   *
   * @throws Error when the stack is unknown, a tool cannot be built, or a process does not start
   */
  static async start(options: RehearsalOptions): Promise<Rehearsal> {
    const settings = await readStackFile(options.stack, options.project);
    const { chartMirror, cluster, rehearsal } = parseConfig(
      options.stack,
      asPulumiConfig(settings),
      await contextOf(options.project),
    );
    const definitions =
      rehearsal?.definitions === undefined ? [] : await readDefinitions(rehearsal.definitions);
    await checkDisk();
    const ended = new AbortController();
    const { paths, all } = installTools([...rehearsalTools, ...clusterKindOf(cluster).tools], {
      ...{ report: options.report, progress: options.progress, signal: ended.signal },
    });
    // The charts for a real helm-controller are packed as soon as the control plane answers.
    const packer = findOptional("helm-controller") === undefined ? [] : [paths.helm];
    await Promise.all([paths.etcd, paths["kube-apiserver"], ...packer]);
    const scratch = temporaryDirectory();
    const directory = scratch.path;
    // The program loads while the control plane starts.
    const program = forkProgram(directory);
    const starting = RehearsedCluster.start({
      ...{ directory, tools: paths, chartMirror, definitions, signal: ended.signal },
      ...{ report: options.report, audit: options.audit },
    });
    try {
      const [made] = await Promise.all([starting, prepareCharts(directory)]);
      return new Rehearsal(options, settings, scratch, made, program, all, ended);
    } catch (error) {
      ended.abort();
      const stopped = starting.then(
        (made) => made.stop(),
        () => undefined,
      );
      await Promise.all([stopped, endProgram(program)]);
      await scratch.remove();
      throw error;
    }
  }

  /** The control plane that stands in for a cluster. */
  get controlPlane(): ControlPlane {
    return this.cluster.controlPlane;
  }

  /** Absolute path of the directory of all files of the rehearsal. */
  get directory(): string {
    return this.scratch.path;
  }

  /** Every object simulated so far, by name. */
  get simulated(): string[] {
    return ["pods and nodes (KWOK)", "volumes", ...this.cluster.simulation.simulated].sort();
  }

  /**
   * Runs the program once, as `pulumi up` does.
   *
   * @param config settings that replace those of `Pulumi.<stack>.yaml`: `platform:key` → value
   * @throws Error with the program's own sentence when it fails
   */
  async up(config: Readonly<Record<string, unknown>> = {}): Promise<RehearsalResult> {
    await this.installed;
    const start = Date.now();
    const child = this.program ?? forkProgram(this.directory);
    this.program = undefined;
    this.running = child;
    const request = this.request(config);
    this.cluster.simulation.use(() => objectsOf(request.stack, request.config, this.options.project));
    const [message] = await Promise.all([this.run(child, request), this.controlPlane.ready()]);
    this.state = message.state;
    const simulated = [...new Set([...this.simulated, ...(message.simulated ?? [])])].sort();
    if (message.kind !== "done") {
      const explained = [message.message, this.cluster.simulation.explain(message.message)];
      const named = message.simulated === undefined ? "" : `Simulated: ${simulatedText(simulated)}.`;
      throw new Error([...explained, named].filter((line) => line !== "").join("\n"));
    }
    return {
      stack: this.options.stack,
      revision: `${this.options.stack}@${message.digest}`,
      ready: message.ready,
      seconds: (Date.now() - start) / 1000,
      layers: message.layers,
      simulated,
      objects: message.layers.reduce((sum, layer) => sum + layer.objects, 0),
    };
  }

  /** Applies the definitions that a run left out because no object waits for them. */
  async completeCrds(): Promise<void> {
    await this.cluster.simulation.completeCrds();
  }

  /** Ends every process and removes every file; safe to call twice. */
  async stop(): Promise<void> {
    this.ended.abort();
    await Promise.all([endProgram(this.program), endProgram(this.running)]);
    await this.cluster.stop();
    await this.scratch.remove();
  }

  private run(
    child: ChildProcess,
    request: ProgramRequest,
  ): Promise<Exclude<ProgramMessage, { kind: "progress" }>> {
    return new Promise((resolve, reject) => {
      child.on("message", (message: ProgramMessage) => {
        if (message.kind === "progress") this.options.report(message.line);
        else resolve(message);
      });
      child.once("error", reject);
      child.once("exit", (code, signal) => {
        reject(new Error(`Running the program failed: it ended with ${signal ?? `exit code ${code ?? 0}`}.`));
      });
      const end = () => {
        reject(this.cluster.broken.reason as Error);
        void endProgram(child);
      };
      if (this.cluster.broken.aborted) end();
      else this.cluster.broken.addEventListener("abort", end, { once: true });
      child.send(request);
    });
  }

  private request(config: Readonly<Record<string, unknown>>): ProgramRequest {
    const { stack, timeoutSeconds = defaultTimeout(), identity = false } = this.options;
    const { directory, controlPlane } = this;
    const place = { directory, timeoutSeconds, identity, standIn: controlPlane };
    const rehearsed = { ...rehearsedSettings(this.settings, place), ...config };
    const { kubeconfig, registry: address } = this.controlPlane;
    return {
      ...{ stack, config: asPulumiConfig(rehearsed), state: this.state },
      ...{ kubeconfig, registry: address },
    };
  }
}

/**
 * The time in seconds that a run may take if the user says nothing: 120 on an idle machine.
 *
 * @param times how many times longer work takes
 */
export function defaultTimeout(times = slowdown()): number {
  return Math.round(120 * times);
}

/** A directory that disappears with this process, from the first moment on. */
export function temporaryDirectory(): ScratchDirectory {
  try {
    return new ScratchDirectory(join(tmpdir(), `platform-rehearsal-${randomBytes(4).toString("hex")}`));
  } catch (error) {
    throw new Error(
      `Rehearsing failed: nothing can be written to ${tmpdir()} (${causeOf(error, tmpdir())}). Set TMPDIR to a directory of yours.`,
      { cause: error },
    );
  }
}

/** The names of simulated objects by kind, `Kind namespace/name`; anything else stands for itself, without names. */
export function byKind(simulated: readonly string[]): ReadonlyMap<string, readonly string[]> {
  const groups = new Map<string, string[]>();
  for (const item of simulated) {
    const [, kind, name] = /^(\w+) [\w-]+\/([\w-]+)$/.exec(item) ?? [];
    if (kind === undefined || name === undefined) groups.set(item, []);
    else groups.set(kind, [...(groups.get(kind) ?? []), name]);
  }
  return groups;
}

/** The simulated objects as a text: "HelmRelease cilium, traefik; network platform-local". */
function simulatedText(simulated: readonly string[]): string {
  return [...byKind(simulated)].map(([kind, names]) => [kind, names.join(", ")].join(" ").trim()).join("; ");
}

/** The CustomResourceDefinitions in the YAML files of a directory. @throws Error naming the directory or the file */
export async function readDefinitions(directory: string): Promise<Manifest[]> {
  const operation = `Reading the definitions of "platform:rehearsal.definitions" failed:`;
  const names = await readdir(directory, { recursive: true }).catch((error: unknown) => {
    throw new Error(`${operation} ${causeOf(error, directory)}. Set it to a directory.`, { cause: error });
  });
  const files = names.filter((name) => /\.ya?ml$/.test(name)).sort();
  const found = await Promise.all(
    files.map(async (file) => {
      try {
        const documents = parseAllDocuments(await readFile(join(directory, file), "utf8"), {
          uniqueKeys: false,
        });
        return documents.map((document) => document.toJS() as Manifest);
      } catch (error) {
        throw new Error(`${operation} ${file} is no YAML. Correct it, or take it away.`, { cause: error });
      }
    }),
  );
  return found.flat().filter(({ kind }) => kind === "CustomResourceDefinition");
}

/** The files of a rehearsal: etcd, the registry, Flux's copies of artifacts, logs. */
const diskBytes = 512 * 1024 ** 2;

/** @throws Error when the temporary directory has too little room */
export async function checkDisk(): Promise<void> {
  const { bavail, bsize } = await statfs(tmpdir()).catch((error: unknown) => {
    throw new Error(
      `Rehearsing failed: ${tmpdir()} cannot be used (${causeOf(error, tmpdir())}). Set TMPDIR to a directory.`,
      { cause: error },
    );
  });
  if (bavail * bsize >= diskBytes) return;
  const mib = (bytes: number) => Math.floor(bytes / 1024 ** 2);
  throw new Error(
    `Rehearsing failed: ${tmpdir()} has ${mib(bavail * bsize)} MiB free, ${mib(diskBytes)} MiB are needed. Free space, or set TMPDIR to a directory with room.`,
  );
}

/**
 * The program writes its temporary files into the rehearsal's directory, so that they disappear with it. The tools that
 * the program runs are in its process group, so that they end with it.
 */
function forkProgram(directory: string): ChildProcess {
  const program = fork(join(__dirname, "program.ts"), [], {
    detached: true,
    execArgv: ["-r", "ts-node/register/transpile-only"],
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    env: { ...directLoopback(process.env), TMPDIR: directory },
  });
  // A loading program does not notice the end of its parent, and would write into a removed directory.
  const end = () => {
    if (program.pid !== undefined) killGroup(program.pid);
  };
  process.once("exit", end);
  program.once("exit", () => process.off("exit", end));
  return program;
}

/** Ends a program and the tools that it runs, so that nothing writes any more. */
async function endProgram(program: ChildProcess | undefined): Promise<void> {
  if (program?.pid === undefined) return;
  const ended =
    program.exitCode !== null || program.signalCode !== null
      ? Promise.resolve()
      : new Promise((resolve) => program.once("exit", resolve));
  killGroup(program.pid);
  await ended;
}
