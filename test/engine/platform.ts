import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { deepEqual, equal, rejects } from "node:assert/strict";
import { kustomizeApi } from "../../clients/flux/kinds";
import { KubernetesClient, type Manifest } from "../../clients/kubernetes/client";
import { Crane } from "../../clients/registry/oci";
import { readNow } from "../e2e/leak-search";
import { EngineRehearsal, type EngineResult } from "../../rehearsal/engine/engine";

const project = join(__dirname, "..", "..");

/** The stack of every suite here. */
export const stack = "local";
export const registryName = "platform-local-registry";
export const nodeName = "local-control-plane";

/** A stack under the real engine, with a tree of its own that a test may change. */
export class Platform {
  /** What Pulumi said in all runs: printed text, and events. */
  readonly said: string[] = [];

  private constructor(
    readonly engine: EngineRehearsal,
    /** Absolute path of the gitops tree. */
    readonly tree: string,
    private readonly scratch: string,
  ) {}

  static async start(): Promise<Platform> {
    const scratch = mkdtempSync(join(tmpdir(), "platform-engine-"));
    const tree = join(scratch, "gitops");
    // The smallest tree with every layer, and a secret whose value is generated.
    cpSync(join(project, "gitops"), tree, { recursive: true });
    cpSync(join(project, "test", "e2e", "kind", "gitops"), tree, { recursive: true });
    const engine = await EngineRehearsal.start({
      ...{ stack, project, report: () => undefined },
      config: {
        "platform:gitops": { tree, cluster: "offline" },
        "platform:cluster": { kind: "kind", cni: "kindnet" },
      },
    });
    return new Platform(engine, tree, scratch);
  }

  /** Ends everything, and checks that no process is left, of the killed runs neither. */
  async stop(): Promise<void> {
    const { directory } = this.engine;
    await this.engine.stop();
    for (let look = 0; processesOf(directory).length > 0 && look < 50; look++) await sleep(100);
    deepEqual(processesOf(directory), []);
    await rejects(stat(directory), { code: "ENOENT" });
    rmSync(this.scratch, { recursive: true, force: true });
  }

  /** A client of the cluster. */
  get api(): KubernetesClient {
    return new KubernetesClient(this.engine.machine.kubeconfig(stack) ?? "");
  }

  private get stateFile(): string {
    return join(this.engine.stateDirectory, ".pulumi", "stacks", "platform", `${stack}.json`);
  }

  /** The deployment in the state file. */
  state(): { readonly resources: readonly { readonly urn: string }[] } {
    const { checkpoint } = JSON.parse(readFileSync(this.stateFile, "utf8")) as {
      checkpoint: { latest: { resources?: { urn: string }[] } };
    };
    return { resources: checkpoint.latest.resources ?? [] };
  }

  /** Puts the state file of an earlier version in place, as if that version had made the platform here. */
  restore(version: string): void {
    const { directory, port } = this.engine;
    const kept = readFileSync(join(__dirname, "states", `${version}.json`), "utf8");
    const values: Readonly<Record<string, string>> = {
      directory,
      project,
      tree: this.tree,
      port: String(port),
    };
    writeFileSync(
      this.stateFile,
      kept.replace(/\{\{(\w+)\}\}/g, (_, name: string) => values[name] ?? ""),
    );
  }

  /** The files of the locks of the stack. */
  locks(): string[] {
    const directory = join(this.engine.stateDirectory, ".pulumi", "locks", "organization", "platform", stack);
    return existsSync(directory) ? readdirSync(directory) : [];
  }

  /** Runs `pulumi destroy`, which must succeed and leave nothing. */
  async gone(): Promise<void> {
    const { failure, output } = await this.run("destroy");
    equal(failure, undefined, output);
    deepEqual(this.engine.machine.holdings(), [], output);
    deepEqual(this.state().resources, []);
  }

  private async run(command: "up" | "preview" | "destroy"): Promise<EngineResult> {
    const result = await this.engine.run(command);
    this.said.push(
      result.output,
      result.failure ?? "",
      ...result.events.map((event) => JSON.stringify(event)),
    );
    return result;
  }

  /** Runs `pulumi up`, which must succeed, and checks that every layer is Ready at the digest it reports. */
  async up(): Promise<EngineResult> {
    const result = await this.run("up");
    equal(result.failure, undefined, result.output);
    await this.check(result);
    return result;
  }

  /** Runs `pulumi preview`, which must succeed. @returns its operations */
  async preview(): Promise<readonly string[]> {
    const result = await this.run("preview");
    equal(result.failure, undefined, result.output);
    return result.operations;
  }

  /** Asks the registry and the cluster, and not Pulumi, whether the platform is what a run says. */
  private async check({ outputs, output }: EngineResult): Promise<void> {
    equal(outputs.ready, true, output);
    const digest = outputs.digest as string;
    const { port } = this.engine;
    equal(await new Crane(false).digest(`127.0.0.1:${port}/platform`, stack), digest);
    const layers = (await this.api.list(kustomizeApi, "Kustomization", "flux-system")) as (Manifest & {
      status?: { lastAppliedRevision?: string };
    })[];
    const found = layers.map(
      ({ metadata, status }) => `${metadata.name} ${status?.lastAppliedRevision ?? ""}`,
    );
    const wanted = ["apps", "certs", "controllers", "flux-system"].map(
      (name) => `${name} ${stack}@${digest}`,
    );
    equal(found.sort().join("\n"), wanted.join("\n"));
  }
}

/** The processes whose command line names a directory. */
function processesOf(directory: string): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => readNow(`/proc/${pid}/cmdline`).toString().replaceAll("\0", " "))
    .filter((command) => command.includes(directory));
}
