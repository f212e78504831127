import { InvalidArgumentError, Option } from "commander";
import { keep } from "../rehearsal/kept";
import { layerChart, simulatedTable, summary } from "../rehearsal/result-text";
import { Rehearsal, type RehearsalResult } from "../rehearsal/rehearsal";
import { View } from "../rehearsal/view";
import { outputOption, stackCommand, stackOf } from "./cli/command";
import { project } from "./cli/project";

/** Options of a rehearsal. */
interface RehearseOptions {
  /** Leave the platform running until `npx platform stop`. */
  readonly keep?: boolean;
  /** Run Pulumi's own command line, on a machine without Docker. */
  readonly engine?: boolean;
  /** Open the encrypted secrets with the stack's own identity. */
  readonly identity?: boolean;
  /** @default text */
  readonly output?: string;
  /** Name the simulated objects. */
  readonly simulated?: boolean;
  /** How long the release may take until every layer is Ready, in seconds. @default as the machine is busy */
  readonly timeout?: number;
}

export const rehearse = stackCommand(
  "rehearse",
  "Takes a stack from nothing to every layer Ready on a throw-away control plane.",
)
  .addOption(
    new Option(
      "--engine",
      "run Pulumi's own command line, preview and up, with stand-ins of Docker and Kind; shows what Pulumi prints",
    ).conflicts(["keep", "output", "simulated"]),
  )
  .option(
    "--identity",
    "open the stack's encrypted secrets with its own identity instead of generating values",
  )
  .option("--keep", 'leave the platform running; "npx platform stop" ends it')
  .addOption(outputOption())
  .option("--simulated", "name every simulated object at the end")
  .addOption(
    new Option("--timeout <s>", "seconds that the release may take until every layer is Ready")
      .default(undefined, "120, more on a busy machine")
      .argParser(readTimeout),
  )
  .action(async (argument: string | undefined, options: RehearseOptions) => {
    const stack = await stackOf(rehearse, argument);
    process.exitCode =
      options.engine === true ? await rehearseEngine(stack, options) : await rehearseStack(stack, options);
  });

function readTimeout(text: string): number {
  const seconds = Number(text);
  if (Number.isInteger(seconds) && seconds >= 10) return seconds;
  throw new InvalidArgumentError("It must be a whole number from 10.");
}

/** @returns the exit code */
export async function rehearseStack(
  stack: string,
  { keep: isKept = false, identity = false, output, simulated = false, timeout }: RehearseOptions,
): Promise<number> {
  // Standard output belongs to the result; progress goes to standard error.
  const view = new View(process.stderr);
  const report = (line: string) => {
    view.line(line);
  };
  const progress = view.progress.bind(view);
  const print = (result: RehearsalResult) => {
    const width = process.stdout.columns || 80;
    for (const line of layerChart(result.layers, process.stderr.columns || 80))
      process.stderr.write(`${line}\n`);
    const names = simulated ? simulatedTable(result.simulated, width) : [];
    const text = output === "json" ? [JSON.stringify(result)] : [summary(result), ...names];
    process.stdout.write(`${text.join("\n")}\n`);
  };
  const options = { stack, project, timeoutSeconds: timeout, identity };
  /** The exit code of the signal that ended this command, or 0: a later failure is a consequence of the signal. */
  let interrupted = 0;
  let rehearsal: Rehearsal | undefined;
  const interrupt = (signal: NodeJS.Signals) => {
    interrupted = signal === "SIGINT" ? 130 : 143;
    view.progress(undefined);
    view.line(`stopping on ${signal}`);
    // Starting processes end with this process; a kept rehearsal has its own handler.
    if (rehearsal !== undefined) void rehearsal.stop().then(() => process.exit(interrupted));
    else if (!isKept) process.exit(interrupted);
  };
  process.once("SIGINT", interrupt).once("SIGTERM", interrupt);
  if (isKept) {
    const kept = await keep(options, { report, progress }, (kubeconfig) => {
      view.watch(kubeconfig);
    });
    await view.finish();
    print(kept.result);
    process.stderr.write(
      `Reach it with: export KUBECONFIG=${kept.kubeconfigPath}\nEnd it with: npx platform stop\n`,
    );
    return 0;
  }

  const start = Date.now();
  try {
    rehearsal = await Rehearsal.start({ ...options, report, progress });
    view.watch(rehearsal.controlPlane.kubeconfig);
    const result = { ...(await rehearsal.up()), seconds: (Date.now() - start) / 1000 };
    await view.finish();
    print(result);
    return 0;
  } catch (error) {
    if (interrupted > 0) return interrupted;
    throw error;
  } finally {
    view.close();
    await rehearsal?.stop();
  }
}

/**
 * Runs a preview and an update of Pulumi's own command line.
 *
 * @returns the exit code
 */
async function rehearseEngine(
  stack: string,
  { identity = false, timeout }: Pick<RehearseOptions, "identity" | "timeout">,
): Promise<number> {
  // Most commands do not need Pulumi's Automation API.
  const { EngineRehearsal } = await import("../rehearsal/engine/engine");
  const view = new View(process.stderr);
  const report = (line: string) => {
    view.line(line);
  };
  const options = { stack, project, timeoutSeconds: timeout, identity, report };
  const engine = await EngineRehearsal.start({ ...options, progress: view.progress.bind(view) });
  view.close();
  let interrupted = 0;
  const interrupt = (signal: NodeJS.Signals) => {
    interrupted = signal === "SIGINT" ? 130 : 143;
    void engine.stop().then(() => process.exit(interrupted));
  };
  process.once("SIGINT", interrupt).once("SIGTERM", interrupt);
  const colour = process.stdout.isTTY && (process.env.NO_COLOR ?? "") === "";
  const onOutput = (text: string) => process.stdout.write(text);
  try {
    for (const command of ["preview", "up"] as const) {
      const { failure } = await engine.run(command, { onOutput, colour });
      if (failure !== undefined) return interrupted > 0 ? interrupted : 1;
    }
    const standIns = engine.simulated.map((name) => `plugin ${name}`).join(", ");
    process.stderr.write(
      `Stand-ins: Docker and Kind (processes of this machine), ${standIns}. Nothing is left of it.\n`,
    );
    return 0;
  } finally {
    await engine.stop();
  }
}
