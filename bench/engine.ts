import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EngineRehearsal, type EngineOptions } from "../rehearsal/engine/engine";
import { Figures } from "../test/e2e/kind/figures";

/*
 * A run of Pulumi with nothing to do: this program, and a bare program with as many resources of the same kinds whose
 * providers do nothing, in turns. Pulumi's own command line, on the control plane of a rehearsal; "npm run bench:engine".
 */

const rounds = Number(process.env.BENCH_ROUNDS ?? 5);
const project = join(__dirname, "..");

async function main(): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), "platform-bench-"));
  const tree = join(scratch, "gitops");
  cpSync(join(project, "gitops"), tree, { recursive: true });
  cpSync(join(project, "test", "e2e", "kind", "gitops"), tree, { recursive: true });
  const options: EngineOptions = {
    ...{ stack: "local", project, report: console.error },
    config: {
      "platform:gitops": { tree, cluster: "offline" },
      "platform:cluster": { kind: "kind", cni: "kindnet" },
    },
  };
  const figures = new Figures();
  const engines: EngineRehearsal[] = [];
  try {
    const platform = await EngineRehearsal.start(options);
    engines.push(platform);
    await succeed(platform, "up");
    process.env.BENCH_KUBECONFIG = join(scratch, "kubeconfig");
    writeFileSync(process.env.BENCH_KUBECONFIG, platform.machine.kubeconfig("local") ?? "", { mode: 0o600 });
    const bare = await EngineRehearsal.start({ ...options, program: join(__dirname, "bare-program.ts") });
    engines.push(bare);
    await succeed(bare, "up");
    for (let round = 1; round <= rounds; round++) {
      for (const command of ["up", "preview"] as const) {
        await figures.time(`${command}, this program`, () => succeed(platform, command));
        await figures.time(`${command}, a bare program`, () => succeed(bare, command));
      }
    }
    console.log(figures.table());
  } finally {
    for (const engine of engines) await engine.stop();
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function succeed(engine: EngineRehearsal, command: "up" | "preview"): Promise<void> {
  const { failure, output } = await engine.run(command);
  if (failure !== undefined) throw new Error(output);
}

void main();
