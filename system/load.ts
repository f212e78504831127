import { availableParallelism, loadavg } from "node:os";

/** The highest factor of {@link slowdown}: a machine that is busier is out of order. */
const most = 10;

/**
 * How many times longer work takes than on an idle machine: the processes that want a core, for each core.
 *
 * @param load the number of those processes, as the average of the last minute
 * @returns 1 to 10
 */
export function slowdown(load = loadavg()[0] ?? 0, cores = availableParallelism()): number {
  return Math.min(most, Math.max(1, load / cores));
}
