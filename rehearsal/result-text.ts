import type { LayerResult } from "../core/release/wait";
import { byKind, type RehearsalResult } from "./rehearsal";

/** The one line at the end: "Ready: 4 layers, 143 objects at local@sha256:bb01bef68ea3 in 36.2 s; 44 simulated." */
export function summary({ layers, objects, revision, seconds, simulated }: RehearsalResult): string {
  const digest = revision.replace(/(?<=sha256:[0-9a-f]{12})[0-9a-f]+$/, "");
  const made = `${count(layers.length, "layer")}, ${count(objects, "object")}`;
  return `Ready: ${made} at ${digest} in ${seconds.toFixed(1)} s; ${simulated.length} simulated.`;
}

/**
 * The time of each layer, one line a layer: a bar from the end of the layer before to its own end.
 *
 * @param width columns of the terminal
 */
export function layerChart(layers: readonly LayerResult[], width: number): string[] {
  const names = Math.max(0, ...layers.map(({ name }) => name.length));
  const whole = Math.max(0, ...layers.map(({ seconds }) => seconds));
  const room = Math.max(10, Math.min(50, width - names - 14));
  const column = (seconds: number) => (whole === 0 ? 0 : Math.round((seconds / whole) * room));
  let before = 0;
  return layers.map(({ name, seconds }) => {
    const [begin, end] = [Math.min(column(before), room - 1), column(seconds)];
    const took = Math.max(0, seconds - before);
    before = Math.max(before, seconds);
    const bar = " ".repeat(begin) + "█".repeat(Math.max(1, end - begin));
    return `  ${name.padEnd(names)}  ${bar.padEnd(room)} ${took.toFixed(1).padStart(6)} s`;
  });
}

/**
 * The simulated objects by kind, with the names of a kind in the columns after it.
 *
 * @param width columns of the terminal
 */
export function simulatedTable(simulated: readonly string[], width: number): string[] {
  const kinds = byKind(simulated);
  const column = Math.max(0, ...[...kinds].map(([kind, names]) => (names.length > 0 ? kind.length : 0)));
  return [...kinds].flatMap(([kind, names]) => {
    if (names.length === 0) return [`  ${kind}`];
    const cell = Math.max(...names.map((name) => name.length)) + 2;
    const across = Math.max(1, Math.floor((width - column - 4) / cell));
    const rows = Math.ceil(names.length / across);
    return Array.from({ length: rows }, (_, row) => {
      const cells = names.slice(row * across, (row + 1) * across).map((name) => name.padEnd(cell));
      return `  ${(row === 0 ? kind : "").padEnd(column)}  ${cells.join("").trimEnd()}`;
    });
  });
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
