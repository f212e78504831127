/** The least width of a bar that tells something. */
const leastBar = 8;
const mostBar = 40;

/**
 * One line of a terminal: a bar and a text. The line is at most one column shorter than the terminal, so that it is not
 * wrapped and can be redrawn; if the terminal is too narrow for both, the text is alone.
 *
 * @param share of the work that is done, 0 to 1; undefined if nobody knows
 * @param width columns of the terminal
 */
export function progressBar(share: number | undefined, text: string, width: number): string {
  const room = Math.min(mostBar, width - 1 - text.length - 1);
  if (share === undefined || room < leastBar) return text.slice(0, Math.max(0, width - 1));
  const full = Math.round(Math.min(1, Math.max(0, share)) * room);
  return `${"█".repeat(full)}${"░".repeat(room - full)} ${text}`;
}
