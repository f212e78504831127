import { InvalidArgumentError, Option } from "commander";
import { keep } from "../rehearsal/kept";
import { byKind, Rehearsal, type RehearsalResult } from "../rehearsal/rehearsal";
import { View } from "../rehearsal/view";
import { outputOption, stackCommand, stackOf } from "./cli/command";
import { project } from "./cli/project";

const defaultTimeout = 120;

/** Options of a rehearsal. */
interface RehearseOptions {
  /** Leave the platform running until `npx platform stop`. */
  readonly keep?: boolean;
  /** Open the encrypted secrets with the stack's own identity. */
  readonly identity?: boolean;
  /** @default text */
  readonly output?: string;
  /** How long the release may take until every layer is Ready, in seconds. @default 120 */
  readonly timeout?: number;
}

export const rehearse = stackCommand(
  "rehearse",
  "Takes a stack from nothing to every layer Ready on a throw-away control plane.",
)
  .option(
    "--identity",
    "open the stack's encrypted secrets with its own identity instead of generating values",
  )
  .option("--keep", 'leave the platform running; "npx platform stop" ends it')
  .addOption(outputOption())
  .addOption(
    new Option("--timeout <s>", "seconds that the release may take until every layer is Ready")
      .default(defaultTimeout)
      .argParser(readTimeout),
  )
  .action(async (argument: string | undefined, options: RehearseOptions) => {
    process.exitCode = await rehearseStack(await stackOf(rehearse, argument), options);
  });

function readTimeout(text: string): number {
  const seconds = Number(text);
  if (Number.isInteger(seconds) && seconds >= 10) return seconds;
  throw new InvalidArgumentError("It must be a whole number from 10.");
}

/** The one line at the end. */
export function summary(result: RehearsalResult): string {
  const layers = result.layers.map(({ name }) => name).join(", ");
  return `Ready: ${layers} (${result.objects} objects) at ${result.revision} in ${result.seconds.toFixed(1)} s; simulated: ${byKind(result.simulated)}.`;
}

/** @returns the exit code */
export async function rehearseStack(
  stack: string,
  { keep: isKept = false, identity = false, output, timeout = defaultTimeout }: RehearseOptions,
): Promise<number> {
  // Standard output belongs to the result; progress goes to standard error.
  const view = new View(process.stderr);
  const report = (line: string) => {
    view.line(line);
  };
  const print = (result: RehearsalResult) => {
    process.stdout.write(output === "json" ? `${JSON.stringify(result)}\n` : `${summary(result)}\n`);
  };
  const options = { stack, project, timeoutSeconds: timeout, identity };
  /** The exit code of the signal that ended this command, or 0: a later failure is a consequence of the signal. */
  let interrupted = 0;
  let rehearsal: Rehearsal | undefined;
  const interrupt = (signal: NodeJS.Signals) => {
    interrupted = signal === "SIGINT" ? 130 : 143;
    view.line(`stopping on ${signal}`);
    // Starting processes end with this process; a kept rehearsal has its own handler.
    if (rehearsal !== undefined) void rehearsal.stop().then(() => process.exit(interrupted));
    else if (!isKept) process.exit(interrupted);
  };
  process.once("SIGINT", interrupt).once("SIGTERM", interrupt);
  if (isKept) {
    const kept = await keep(options, report, (kubeconfig) => {
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
    rehearsal = await Rehearsal.start({ ...options, report });
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
