import { mkdir } from "node:fs/promises";
import { Option } from "commander";
import { stringify } from "yaml";
import { finalLayers, type RenderChart } from "../core/tree/final";
import { helmTemplate, type Chart } from "../clients/helm/chart";
import { run } from "../tools/command";
import { clusterKindOf } from "../core/cluster/kinds";
import { internalPort } from "../core/registry/hosts";
import { registryName, repositoryPath } from "../core/registry/names";
import { sentence } from "../system/sentence";
import { readStackConfig, type PlatformConfig } from "../core/settings/config";
import { chartDirectory, findChart } from "../clients/helm/local-charts";
import { ensureTools } from "../tools/tools";
import { stackCommand, stackOf } from "./cli/command";
import { project } from "./cli/project";

/**
 * The facts that only a run knows, as far as the settings contain them. If the cluster does not exist yet, the range of
 * its load balancers is a range that RFC 5737 reserves for documentation.
 *
 * @returns values of the ConfigMap `platform-runtime`
 */
export function presumedRuntime({
  stack,
  domain,
  cluster,
  registry,
}: PlatformConfig): Record<string, string> {
  const repository =
    registry.kind === "local"
      ? `${registryName(stack)}:${internalPort}/${repositoryPath}`
      : registry.repository;
  return {
    artifact_repository: repository,
    channel: stack,
    domain,
    load_balancer_cidr: clusterKindOf(cluster).loadBalancerCidr(cluster) ?? "192.0.2.0/28",
    registry_address: repository.split("/")[0] ?? "",
  };
}

/**
 * Renders charts from this machine.
 *
 * @param tell receives a line for each chart that is not on this machine or not complete
 * @param pull fetches the missing charts
 */
export function localCharts(tell: (line: string) => void, pull = false): RenderChart {
  return async (chart) => {
    const { name, version } = chart;
    let found = await findChart(chart);
    if (found === undefined && pull) {
      await pullChart(chart);
      found = await findChart(chart);
    }
    if (found === undefined) {
      tell(
        `Chart ${name} ${version} is not on this machine: the output leaves its objects out. --pull fetches it.`,
      );
      return undefined;
    }
    for (const lacking of found.lacks) {
      tell(`Chart ${name} ${version} is rendered without ${lacking}, which its Go module does not carry.`);
    }
    return helmTemplate(chart, [found.path]);
  };
}

async function pullChart({ repository, name, version }: Chart): Promise<void> {
  const address = repository.startsWith("oci://") ? [`${repository}/${name}`] : [name, "--repo", repository];
  await mkdir(chartDirectory(), { recursive: true });
  try {
    await run("helm", ["pull", ...address, "--version", version, "--destination", chartDirectory()]);
  } catch (error) {
    throw new Error(
      `Fetching chart ${name} ${version} failed: ${sentence((error as Error).message)} Render without --pull to leave it out.`,
      { cause: error },
    );
  }
}

export const render = stackCommand(
  "render",
  "Prints the final objects of each layer, with the charts that are on this machine.",
)
  .option("--layer <name>", "print only this layer")
  .option("--pull", "fetch the charts that are not on this machine")
  .addOption(
    new Option("--output <format>", "how to print the objects").choices(["yaml", "json"]).default("yaml"),
  )
  .action(async (argument: string | undefined, options: RenderOptions) => {
    const stack = await stackOf(render, argument);
    const config = await readStackConfig(stack, project, process.env);
    await ensureTools(["helm", "platform-tree"], { report: console.error });
    const { tree, cluster } = config.gitops;
    const charts = localCharts(console.error, options.pull);
    const runtime = presumedRuntime(config);
    const layers = await finalLayers(tree, cluster, runtime, charts, options.layer, console.error);
    if (options.output === "json") {
      process.stdout.write(`${JSON.stringify({ stack, layers })}\n`);
      return;
    }
    for (const { name, objects } of layers) {
      process.stdout.write(`# Layer ${name}: ${objects.length} objects\n`);
      for (const { manifest, release } of objects) {
        const origin = release === undefined ? "" : `# ${release}\n`;
        process.stdout.write(`---\n${origin}${stringify(manifest, { lineWidth: 0, sortMapEntries: true })}`);
      }
    }
  });

interface RenderOptions {
  readonly layer?: string;
  readonly pull?: boolean;
  readonly output: string;
}
