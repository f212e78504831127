import { cpus, totalmem } from "node:os";

/** How long things took, by name. */
export class Figures {
  private readonly seconds = new Map<string, number[]>();

  /** Whether there is any. */
  get taken(): boolean {
    return this.seconds.size > 0;
  }

  /** Runs something and keeps how long it took, when it succeeded. */
  async time<T>(what: string, work: () => Promise<T>): Promise<T> {
    const start = Date.now();
    const result = await work();
    this.add(what, (Date.now() - start) / 1000);
    return result;
  }

  /** Keeps a figure that was taken elsewhere. */
  add(what: string, seconds: number): void {
    this.seconds.set(what, [...(this.seconds.get(what) ?? []), seconds]);
  }

  /** A line for each name: minimum, median, maximum and how many there are; and the machine. */
  table(): string {
    const [cpu] = cpus();
    const rows = [...this.seconds].map(([what, values]) => {
      const sorted = [...values].sort((a, b) => a - b);
      const at = (index: number) => sorted[index] ?? NaN;
      const median = (at(Math.floor((sorted.length - 1) / 2)) + at(Math.floor(sorted.length / 2))) / 2;
      const figures = [at(0), median, at(sorted.length - 1)];
      return `    ${what}: ${figures.map((value) => value.toFixed(1)).join(" / ")} s (${values.length})`;
    });
    const machine = `${cpus().length} × ${cpu?.model ?? "?"}, ${Math.round(totalmem() / 1024 ** 3)} GiB`;
    return [`    min / median / max (runs) on ${machine}, Node ${process.version}`, ...rows].join("\n");
  }
}
