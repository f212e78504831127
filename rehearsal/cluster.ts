import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { stringify } from "yaml";
import { Helm } from "../clients/helm/chart";
import type { Manifest } from "../clients/kubernetes/client";
import { findOptional } from "../tools/tools";
import { upstreamChart, upstreamCrds } from "../tools/upstream";
import { ControlPlane, type ControlPlaneArgs } from "./control-plane";
import { serveRealCharts } from "./real-charts";
import { SimulatedControllers } from "./simulated-controllers";

/** Arguments of {@link RehearsedCluster.start}. */
export interface RehearsedClusterArgs extends Omit<ControlPlaneArgs, "directory"> {
  /** Absolute path of a directory of the caller, who removes it. */
  readonly directory: string;
  /** The directory of charts that the settings of the stack name. */
  readonly chartMirror: string | undefined;
  /** Definitions that the settings of the stack name. */
  readonly definitions: readonly Manifest[];
  readonly report: (line: string) => void;
}

/** A control plane with every controller that a platform waits for, real or simulated. */
export class RehearsedCluster {
  private constructor(
    readonly controlPlane: ControlPlane,
    readonly simulation: SimulatedControllers,
    /** Aborted, with the reason, when a process that the platform needs does not start or ends. */
    readonly broken: AbortSignal,
  ) {}

  /** @throws Error when a process does not start; nothing is left behind then */
  static async start(args: RehearsedClusterArgs): Promise<RehearsedCluster> {
    const { directory, report } = args;
    const broken = new AbortController();
    const failed = new AbortController();
    const stop = () => {
      failed.abort();
    };
    args.signal?.addEventListener("abort", stop, { once: true });
    const starting = ControlPlane.start({
      ...{ ...args, directory: join(directory, "control-plane"), signal: failed.signal },
    });
    try {
      const controlPlane = await starting;
      void controlPlane.broken.then((error) => {
        broken.abort(error);
      });
      const helm = findOptional("helm-controller") !== undefined;
      if (helm) await serveRealCharts(controlPlane.kubeconfig, directory, controlPlane.registry);
      const simulation = new SimulatedControllers({
        kubeconfig: controlPlane.kubeconfig,
        startFlux: async (flags) => {
          try {
            await controlPlane.startFlux(flags);
          } catch (error) {
            broken.abort(error);
          }
        },
        helm,
        notification: findOptional("notification-controller") !== undefined,
        charts: new Helm(args.chartMirror),
        ...{ definitions: args.definitions, report },
      });
      standInCharts.forEach((chart) => simulation.simulated.add(chart));
      simulation.start();
      return new RehearsedCluster(controlPlane, simulation, broken.signal);
    } catch (error) {
      failed.abort();
      await starting.then(
        (controlPlane) => controlPlane.stop(),
        () => undefined,
      );
      throw error;
    } finally {
      args.signal?.removeEventListener("abort", stop);
    }
  }

  /** Ends every process; safe to call twice. */
  async stop(): Promise<void> {
    this.simulation.stop();
    await this.controlPlane.stop();
  }
}

/** The directory of the charts of the seeds, by name: the `chartMirror` of a rehearsed program. */
export function chartsIn(directory: string): string {
  return join(directory, "charts");
}

/** No Go module has the Flux Operator's chart, only its CRDs. */
const standInCharts = [
  "chart flux-operator (its CRDs alone)",
  "FluxInstance controllers' Deployments (local processes)",
];

/** Makes {@link chartsIn}. */
export async function prepareCharts(directory: string): Promise<void> {
  const charts = chartsIn(directory);
  const operator = join(charts, "flux-operator");
  await mkdir(join(operator, "crds"), { recursive: true });
  await symlink((await upstreamChart("cilium")).directory, join(charts, "cilium"));
  const manifest = { apiVersion: "v2", name: "flux-operator", version: "0.0.0" };
  await writeFile(join(operator, "Chart.yaml"), stringify(manifest));
  const definitions = (await upstreamCrds("flux-operator")).map((definition) => stringify(definition));
  await writeFile(join(operator, "crds", "crds.yaml"), definitions.join("---\n"));
}
