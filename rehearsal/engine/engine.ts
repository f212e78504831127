import { fork, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { delimiter, dirname, join } from "node:path";
import type { EngineEvent } from "@pulumi/pulumi/automation";
import { parse, stringify } from "yaml";
import type { Manifest } from "../../clients/kubernetes/client";
import { asPulumiConfig, contextOf, parseConfig, readStackFile } from "../../core/settings/config";
import { isPortTaken } from "../../system/port";
import { killGroup } from "../../system/process";
import { directLoopback } from "../../system/proxy";
import type { ScratchDirectory } from "../../system/scratch-directory";
import type { ProgressReceiver } from "../../tools/progress";
import { ensureTools } from "../../tools/tools";
import { prepareCharts, RehearsedCluster } from "../cluster";
import { checkDisk, defaultTimeout, readDefinitions, rehearsalTools, temporaryDirectory } from "../rehearsal";
import { objectsOf, rehearsedSettings } from "../settings";
import { SimulatedMachine } from "./machine";
import { providePulumi } from "./pulumi";
import type { Command, RunMessage, RunRequest } from "./run";

/** Options of an {@link EngineRehearsal}. */
export interface EngineOptions {
  readonly stack: string;
  /** Absolute path of the directory that holds Pulumi.yaml. */
  readonly project: string;
  /** Open the encrypted secrets with the stack's own identity instead of generating values. @default false */
  readonly identity?: boolean;
  /** How long a release may take until every layer is Ready, in seconds. @default as the machine is busy */
  readonly timeoutSeconds?: number;
  /** Settings that replace those of `Pulumi.<stack>.yaml`: `platform:key` → value. @default none */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Absolute path of a module that exports another program, to compare with. @default the project's own */
  readonly program?: string;
  /** Takes a line of progress. */
  readonly report: (line: string) => void;
  /** Takes every change of the progress of the tools. @default `report` takes a line now and then */
  readonly progress?: ProgressReceiver;
}

/** A run of Pulumi that has ended. */
export interface EngineResult {
  /** Undefined when the run succeeded; the reason when it failed; "killed" when it was killed. */
  readonly failure: string | undefined;
  /** Everything that Pulumi printed. */
  readonly output: string;
  readonly events: readonly EngineEvent[];
  /** The operations that changed or would change a resource: `create platform-network`, sorted. */
  readonly operations: readonly string[];
  /** The outputs of the stack that are no secrets. */
  readonly outputs: Readonly<Record<string, unknown>>;
}

/** A run of Pulumi that goes on. */
export interface EngineRun {
  /** Resolves when Pulumi and everything that it started have ended. */
  readonly ended: Promise<EngineResult>;
  /** Resolves at the first change of a resource, or at the end. */
  readonly changes: Promise<void>;
  /** Kills Pulumi and the program. */
  kill(): void;
}

/** Options of a run. */
export interface RunOptions {
  /** Receives what Pulumi prints. @default nothing is received */
  readonly onOutput?: (text: string) => void;
  /** @default false */
  readonly colour?: boolean;
}

/** Files of the checkout that belong to a stack: the host of dynamic providers needs all the others. */
const ofStacks = /^(Pulumi\..*|gitops|\..*)$/;

/**
 * A stack under the real Pulumi engine on a throw-away control plane: the real command line, state, previews, host of
 * dynamic providers and Kubernetes plugin; a {@link SimulatedMachine} stands in for Docker and Kind. Everything is in
 * one temporary directory, which `stop` removes.
 */
export class EngineRehearsal {
  private running: ChildProcess | undefined;
  /** The settings of the stack now. */
  private current: Readonly<Record<string, unknown>> = {};

  private constructor(
    private readonly options: EngineOptions,
    private readonly scratch: ScratchDirectory,
    private readonly settings: Readonly<Record<string, unknown>>,
    /** Docker and Kind. */
    readonly machine: SimulatedMachine,
    private readonly clusters: Set<RehearsedCluster>,
    /** The environment of Pulumi. */
    readonly env: NodeJS.ProcessEnv,
    /** Everything that is simulated, for a person. */
    readonly simulated: readonly string[],
  ) {}

  /**
   * Prepares a machine without a cluster; the platform comes with `run`.
   *
   * @throws Error when the stack is unknown, a tool cannot be built, or a process does not start
   */
  static async start(options: EngineOptions): Promise<EngineRehearsal> {
    const { stack, project, report, timeoutSeconds = defaultTimeout(), identity = false } = options;
    const own = { ...(await readStackFile(stack, project)), ...options.config };
    const parsed = parseConfig(stack, asPulumiConfig(own), await contextOf(project));
    const { chartMirror, rehearsal, cluster, registry } = parsed;
    const definitions =
      rehearsal?.definitions === undefined ? [] : await readDefinitions(rehearsal.definitions);
    await checkDisk();
    const paths = await ensureTools([...rehearsalTools, "kind", "pulumi"], {
      report,
      progress: options.progress,
    });
    const scratch = temporaryDirectory();
    const directory = scratch.path;
    const clusters = new Set<RehearsedCluster>();
    let objects = (): Promise<readonly Manifest[]> => Promise.resolve([]);
    const makeCluster = async (clusterDirectory: string, httpProxy?: string, signal?: AbortSignal) => {
      const made = await RehearsedCluster.start({
        ...{ directory: clusterDirectory, tools: paths, chartMirror, definitions, signal, httpProxy },
        report,
      });
      clusters.add(made);
      made.simulation.use(() => objects());
      return made;
    };
    try {
      await prepareCharts(directory);
      const existing =
        cluster.kind === "existing" || registry.kind === "remote" ? await makeCluster(directory) : undefined;
      const machine = await SimulatedMachine.start({
        directory: join(directory, "machine"),
        registry: paths.registry,
        makeCluster: async (...args) => {
          const made = await makeCluster(...args);
          return {
            kubeconfig: made.controlPlane.kubeconfig,
            stop: async () => {
              clusters.delete(made);
              await made.stop();
            },
          };
        },
      });
      const pulumi = await providePulumi(join(directory, "pulumi-home"), {
        ...{ env: process.env, realPlugins: false, report },
      });
      const standIn = existing?.controlPlane ?? { kubeconfigPath: "", registry: "" };
      const settings = rehearsedSettings(own, { directory, timeoutSeconds, identity, standIn });
      const env = {
        ...directLoopback(process.env),
        ...pulumi.env,
        PATH: [machine.path, dirname(process.execPath), pulumi.env.PATH].join(delimiter),
        PLATFORM_STAND_INS: machine.path,
        TMPDIR: join(directory, "tmp"),
        XDG_STATE_HOME: join(directory, "state"),
        PULUMI_BACKEND_URL: `file://${join(directory, "pulumi")}`,
        PULUMI_CONFIG_PASSPHRASE: "of a rehearsal",
      };
      for (const name of ["tmp", "pulumi", "work"]) mkdirSync(join(directory, name), { recursive: true });
      for (const name of readdirSync(project).filter((each) => !ofStacks.test(each)))
        symlinkSync(join(project, name), join(directory, "work", name));
      await copyFile(join(project, "Pulumi.yaml"), join(directory, "work", "Pulumi.yaml"));
      const withPort = await onFreePort(settings);
      const engine = new EngineRehearsal(options, scratch, withPort, machine, clusters, env, pulumi.standIns);
      engine.configure();
      objects = () => engine.objects();
      return engine;
    } catch (error) {
      await Promise.all([...clusters].map((made) => made.stop()));
      await scratch.remove();
      throw error;
    }
  }

  /** Absolute path of the directory of all files. */
  get directory(): string {
    return this.scratch.path;
  }

  /** Port of 127.0.0.1 of the local registry. */
  get port(): number {
    return (this.settings["platform:registry"] as { port: number }).port;
  }

  /** Absolute path of the directory of Pulumi's state. */
  get stateDirectory(): string {
    return join(this.directory, "pulumi");
  }

  /** Replaces settings of the stack for all runs from now on: `platform:key` → value. */
  configure(change: Readonly<Record<string, unknown>> = {}): void {
    const config = { ...this.settings, ...change };
    writeFileSync(this.settingsFile, stringify({ ...this.salt(), config }));
    this.current = config;
    for (const { simulation } of this.clusters) simulation.use(() => this.objects());
  }

  /** Runs a command of Pulumi. One run at a time. */
  start(command: Command, { onOutput = () => undefined, colour = false }: RunOptions = {}): EngineRun {
    const child = forkRun(this.env);
    this.running = child;
    let output = "";
    const events: EngineEvent[] = [];
    let changed: () => void = () => undefined;
    const changes = new Promise<void>((resolve) => (changed = resolve));
    const ended = new Promise<EngineResult>((resolve, reject) => {
      let last: RunMessage | undefined;
      child.on("message", (message: RunMessage) => {
        if (message.kind === "output") {
          output += message.text;
          onOutput(message.text);
        } else if (message.kind === "event") {
          events.push(message.event);
          if (operationOf(message.event) !== undefined) changed();
        } else last = message;
      });
      child.once("error", reject);
      child.once("exit", () => {
        // The programs that Pulumi started are in the child's group.
        if (child.pid !== undefined) killGroup(child.pid);
        changed();
        const failure = last === undefined ? "killed" : last.kind === "failed" ? last.message : undefined;
        const operations = [...new Set(events.flatMap((event) => operationOf(event) ?? []))].sort();
        resolve({ failure, output, events, operations, outputs: last?.kind === "done" ? last.outputs : {} });
      });
    });
    const { stack, program } = this.options;
    const workDirectory = join(this.directory, "work");
    const request: RunRequest = { command, stack, program, workDirectory, colour };
    child.send(request);
    return {
      ...{ ended, changes },
      kill: () => {
        if (child.pid !== undefined) killGroup(child.pid);
      },
    };
  }

  /** Runs a command of Pulumi to its end. */
  run(command: Command, options?: RunOptions): Promise<EngineResult> {
    return this.start(command, options).ended;
  }

  /** Ends every process and removes every file; safe to call twice. */
  async stop(): Promise<void> {
    if (this.running?.pid !== undefined) killGroup(this.running.pid);
    await Promise.all([...this.clusters].map((cluster) => cluster.stop()));
    await this.machine.stop();
    await this.scratch.remove();
  }

  private get settingsFile(): string {
    return join(this.directory, "work", `Pulumi.${this.options.stack}.yaml`);
  }

  /** What Pulumi itself wrote into the file of settings. */
  private salt(): { encryptionsalt?: string } {
    if (!existsSync(this.settingsFile)) return {};
    const { encryptionsalt } = parse(readFileSync(this.settingsFile, "utf8")) as { encryptionsalt?: string };
    return encryptionsalt === undefined ? {} : { encryptionsalt };
  }

  private objects(): Promise<readonly Manifest[]> {
    const { stack, project } = this.options;
    return objectsOf(stack, asPulumiConfig(this.current), project);
  }
}

/** `create platform-network` for an event that announces a change of a resource. */
function operationOf({ resourcePreEvent }: EngineEvent): string | undefined {
  if (resourcePreEvent === undefined) return undefined;
  const { op, urn } = resourcePreEvent.metadata;
  const quiet = ["same", "read", "refresh", "discard"];
  return quiet.includes(op) ? undefined : `${op} ${urn.split("::").at(-1) ?? ""}`;
}

function forkRun(env: NodeJS.ProcessEnv): ChildProcess {
  const child = fork(join(__dirname, "run.ts"), [], {
    detached: true,
    execArgv: ["-r", "ts-node/register/transpile-only"],
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    env,
  });
  const end = () => {
    if (child.pid !== undefined) killGroup(child.pid);
  };
  process.once("exit", end);
  child.once("exit", () => process.off("exit", end));
  return child;
}

/** The settings with a local registry on a free port: the user's own may be in use. */
async function onFreePort(settings: Readonly<Record<string, unknown>>): Promise<Record<string, unknown>> {
  const registry = settings["platform:registry"] as { kind: string; mirrors?: readonly string[] };
  if (registry.kind !== "local") return { ...settings };
  for (let port = 5_100; ; port += 10)
    if (!(await isPortTaken(port))) return { ...settings, "platform:registry": { ...registry, port } };
}
