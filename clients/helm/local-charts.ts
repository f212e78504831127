import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parse } from "yaml";
import type { Chart } from "./chart";
import { cacheDirectory } from "../../system/cache";
import { isChartComponent, upstreamChart } from "../../tools/upstream";

/** A Helm chart on this machine. */
export interface LocalChart {
  /** Absolute path of its directory or archive. */
  readonly path: string;
  /** Charts that it depends on with the values of its release, and that are missing in this copy. */
  readonly lacks: readonly string[];
}

/** The directory of the charts that `npx platform render --pull` fetched: `<name>-<version>.tgz`. */
export function chartDirectory(): string {
  return join(cacheDirectory(), "charts");
}

/**
 * A release's chart, if it is available without a request to its repository: from an earlier pull, or from the Go
 * module that `tools/upstream/go.mod` pins at this very version.
 *
 * @returns undefined when it is not on this machine
 */
export async function findChart(chart: Chart): Promise<LocalChart | undefined> {
  const archive = join(chartDirectory(), `${chart.name}-${chart.version}.tgz`);
  if (existsSync(archive)) return { path: archive, lacks: [] };
  if (!isChartComponent(chart.name)) return undefined;
  const { directory, absent } = await upstreamChart(chart.name);
  const read = async (file: string) => parse(await readFile(join(directory, file), "utf8")) as unknown;
  const { version } = (await read("Chart.yaml")) as { version: string };
  if (version !== chart.version) return undefined;
  const defaults = await read("values.yaml");
  const isOn = (condition: string) => at(chart.values, condition) ?? at(defaults, condition) ?? true;
  return {
    path: directory,
    lacks: absent
      .filter(({ condition }) => condition === undefined || isOn(condition) !== false)
      .map(({ name }) => name),
  };
}

/** The value at a path such as `a.b`, or undefined. */
function at(values: unknown, path: string): unknown {
  return path
    .split(".")
    .reduce<unknown>((value, key) => (value as Record<string, unknown> | null | undefined)?.[key], values);
}
