import { progressBar } from "../system/progress-bar";
import { plainProgress, shortProgress, type ToolProgress } from "../tools/progress";
import { kustomizeApi } from "../clients/flux/kinds";
import { KubernetesClient, type Manifest } from "../clients/kubernetes/client";
import { condition } from "../clients/kubernetes/condition";

/** The state of a layer for a person. */
interface Row {
  readonly name: string;
  readonly ready: boolean;
  readonly message: string;
  /** Seconds from the start of the view until the first look that found it Ready. */
  readonly seconds: number;
  readonly dependsOn: readonly string[];
}

const pollMilliseconds = 250;

/** Milliseconds between two drawings of the bar. */
const barMilliseconds = 100;

/**
 * Progress on a terminal: finished steps above; below, the bar of the tools and the tree of layers, redrawn on every
 * change. On any other output, such as a CI log, one line for each step, for each layer that becomes Ready, and now and
 * then for the tools.
 */
export class View {
  private readonly start = Date.now();
  private readonly rows = new Map<string, Row>();
  private drawn = 0;
  private timer: NodeJS.Timeout | undefined;
  private look: () => Promise<void> = () => Promise.resolve();
  private tools: ToolProgress | undefined;
  private toolsDrawn = 0;
  private readonly plain = plainProgress((text) => {
    this.line(text);
  });

  constructor(private readonly out: NodeJS.WriteStream) {}

  /** The progress of the tools; undefined ends it. */
  progress(tools: ToolProgress | undefined): void {
    if (!this.isTerminal) {
      this.plain(tools);
      return;
    }
    this.tools = tools;
    if (tools !== undefined && Date.now() - this.toolsDrawn < barMilliseconds) return;
    this.toolsDrawn = Date.now();
    this.clear();
    this.draw();
  }

  /** Whether the output can be redrawn. */
  private get isTerminal(): boolean {
    return this.out.isTTY && process.env.TERM !== "dumb";
  }

  /** A finished or current step. */
  line(text: string): void {
    this.clear();
    this.out.write(`${this.clock()}  ${text}\n`);
    this.draw();
  }

  /** Begins to watch the layers of a cluster. */
  watch(kubeconfig: string): void {
    const api = new KubernetesClient(kubeconfig);
    this.look = async () => {
      const layers = await api.list(kustomizeApi, "Kustomization", "flux-system").catch((): Manifest[] => []);
      layers.forEach((layer) => {
        this.see(layer);
      });
    };
    const next = async () => {
      await this.look();
      if (this.timer !== undefined) this.timer = setTimeout(() => void next(), pollMilliseconds);
    };
    this.timer = setTimeout(() => void next(), pollMilliseconds);
  }

  /** Shows the layers that became Ready since the last look, and ends the watch. */
  async finish(): Promise<void> {
    await this.look();
    this.close();
  }

  /** Ends the watch; the last tree stays. */
  close(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.drawn = 0;
  }

  private see(layer: Manifest): void {
    const { status, message = "" } = condition(layer, "Ready") ?? {};
    const ready = status === "True";
    const old = this.rows.get(layer.metadata.name);
    if (old?.ready === ready && old.message === message) return;
    const seconds = (Date.now() - this.start) / 1000;
    this.rows.set(layer.metadata.name, {
      name: layer.metadata.name,
      ready,
      message,
      seconds,
      dependsOn: (layer.spec as { dependsOn?: { name: string }[] }).dependsOn?.map(({ name }) => name) ?? [],
    });
    if (this.isTerminal) {
      this.clear();
      this.draw();
    } else if (ready && old?.ready !== true) {
      this.out.write(`${this.clock()}  layer ${layer.metadata.name} Ready\n`);
    }
  }

  private draw(): void {
    if (!this.isTerminal) return;
    const lines = [...this.bar(), ...(this.timer === undefined ? [] : this.tree())];
    for (const line of lines) this.out.write(`${line}\n`);
    this.drawn = lines.length;
  }

  private get width(): number {
    return this.out.columns || 80;
  }

  private bar(): string[] {
    if (this.tools === undefined) return [];
    const { done, total } = this.tools;
    const clock = `${this.clock()}  `;
    const share = total === undefined || total === 0 ? undefined : done / total;
    return [clock + progressBar(share, shortProgress(this.tools), this.width - clock.length)];
  }

  private tree(): string[] {
    const rows = [...this.rows.values()].sort((a, b) => this.depth(a) - this.depth(b));
    const width = Math.max(0, ...rows.map(({ name }) => name.length));
    return rows.map(({ name, ready, message, seconds }, index) => {
      const branch = index === rows.length - 1 ? "└─" : "├─";
      const text = ready ? `Ready  ${seconds.toFixed(1)} s` : `…      ${message.split("\n")[0] ?? ""}`;
      // A wrapped row could not be redrawn.
      return `  ${branch} ${name.padEnd(width)}  ${text}`.slice(0, this.width - 1);
    });
  }

  /** The number of layers before a layer. */
  private depth({ name, dependsOn }: Row): number {
    if (name === "flux-system") return -1;
    const before = dependsOn
      .map((dependency) => this.rows.get(dependency))
      .filter((row) => row !== undefined);
    return before.length === 0 ? 0 : 1 + Math.max(...before.map((row) => this.depth(row)));
  }

  private clear(): void {
    if (this.drawn > 0) this.out.write(`\x1b[${this.drawn}A\x1b[J`);
    this.drawn = 0;
  }

  private clock(): string {
    return `${((Date.now() - this.start) / 1000).toFixed(1).padStart(6)} s`;
  }
}
