/** The work that is under way until the tools are there. */
export interface ToolProgress {
  /**
   * `sources`: Go reads the sources. `modules`: it downloads them, one module after another. `packages`: Go compiles packages. `programs`:
   * official programs are downloaded, in megabytes.
   */
  readonly step: "sources" | "modules" | "packages" | "programs";
  readonly done: number;
  /** Unknown for sources and modules. */
  readonly total?: number;
  /** Unknown until enough is done to tell. */
  readonly secondsLeft?: number;
  /** The other process that does the work, by its id. @default this process */
  readonly pid?: number;
}

/** Takes each change of the progress; undefined when nothing is left to do. */
export type ProgressReceiver = (progress: ToolProgress | undefined) => void;

/** The progress as a text: "building the tools: 1,200 of 4,473 Go packages, 3 min left". */
export function progressText({ step, done, total, secondsLeft, pid }: ToolProgress): string {
  const of = total === undefined ? count(done) : `${count(done)} of ${count(total)}`;
  const left = secondsLeft === undefined ? "" : `, ${duration(secondsLeft)} left`;
  const who = pid === undefined ? "" : `process ${pid} is `;
  if (step === "sources") return `${who}reading the sources of the tools`;
  if (step === "modules") return `${who}downloading Go modules: ${of}`;
  if (step === "programs") return `${who}downloading the tools: ${of} MB${left}`;
  return `${who}building the tools: ${of} Go packages${left}`;
}

/** The progress for a line beside a bar: "1,200/4,473 Go packages, 3 min left". */
export function shortProgress({ step, done, total, secondsLeft, pid }: ToolProgress): string {
  const other = pid === undefined ? "" : ` (process ${pid})`;
  if (step === "sources") return `reading the sources of the tools${other}`;
  const of = total === undefined ? count(done) : `${count(done)}/${count(total)}`;
  const what = { modules: "Go modules downloaded", packages: "Go packages", programs: "MB downloaded" }[step];
  const left = secondsLeft === undefined ? "" : `, ${duration(secondsLeft)} left`;
  return `${of} ${what}${left}${other}`;
}

/** Milliseconds between two plain lines. */
const pause = 30_000;

/**
 * Makes lines of the progress for a file or a log: at the start of each step, and then one in 30 s.
 *
 * @param report takes a line
 */
export function plainProgress(report: (line: string) => void): ProgressReceiver {
  let last: { readonly step: string; readonly at: number } | undefined;
  return (progress) => {
    if (progress === undefined) return;
    const now = Date.now();
    if (last?.step === progress.step && now - last.at < pause) return;
    last = { step: progress.step, at: now };
    report(progressText(progress));
  };
}

/** A duration for a person: "40 s", "3 min". */
export function duration(seconds: number): string {
  return seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}

function count(number: number): string {
  return Math.round(number).toLocaleString("en");
}
