import { join } from "node:path";
import { parseArgs } from "node:util";
import { sentence } from "../system/sentence";
import { byKind, Rehearsal, type RehearsalResult } from "./rehearsal";
import { keep, stopKept } from "./kept";
import { View } from "./view";

const usage = `Usage: npm run rehearse -- --stack <name> [options]

Takes a stack from nothing to every layer Ready on a throw-away control plane.

  --stack <name>      the stack: there is a Pulumi.<name>.yaml
  --identity          open the stack's encrypted secrets with its own identity instead of making values up
  --keep              leave the platform running; "npm stop" ends it
  --output json       print one JSON document on standard output, and nothing else there
  --timeout <s>       how long the release may take until every layer is Ready (default 120)
  --help              print this text
`;

/** What was asked for on the command line. */
interface Command {
  readonly stack: string;
  readonly keep: boolean;
  readonly identity: boolean;
  readonly json: boolean;
  readonly timeoutSeconds: number;
}

function parseCommand(args: readonly string[]): Command | "help" | "stop" {
  const { values } = parseArgs({
    args: [...args],
    options: {
      stack: { type: "string" },
      keep: { type: "boolean", default: false },
      identity: { type: "boolean", default: false },
      output: { type: "string", default: "text" },
      timeout: { type: "string", default: "120" },
      stop: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return "help";
  if (values.stop) return "stop";
  if (values.stack === undefined) throw new Error("Rehearsing failed: no stack is named. Add --stack local.");
  if (!["text", "json"].includes(values.output)) {
    throw new Error(`Rehearsing failed: --output is "${values.output}". Set it to "text" or "json".`);
  }
  const timeoutSeconds = Number(values.timeout);
  if (!Number.isInteger(timeoutSeconds) || timeoutSeconds < 10) {
    throw new Error(`Rehearsing failed: --timeout is "${values.timeout}". Set it to a whole number from 10.`);
  }
  return {
    stack: values.stack,
    keep: values.keep,
    identity: values.identity,
    json: values.output === "json",
    timeoutSeconds,
  };
}

/** The one line at the end. */
export function summary(result: RehearsalResult): string {
  const layers = result.layers.map(({ name }) => name).join(", ");
  return `Ready: ${layers} (${result.objects} objects) at ${result.revision} in ${result.seconds.toFixed(1)} s; simulated: ${byKind(result.simulated)}.`;
}

const project = join(__dirname, "..");

async function main(args: readonly string[]): Promise<number> {
  let command: ReturnType<typeof parseCommand>;
  try {
    command = parseCommand(args);
  } catch (error) {
    throw new Error(`${sentence((error as Error).message)} See "npm run rehearse -- --help".`, {
      cause: error,
    });
  }
  if (command === "help") {
    process.stdout.write(usage);
    return 0;
  }
  if (command === "stop") {
    process.stdout.write(await stopKept(project));
    return 0;
  }
  // Standard output belongs to the result; progress goes to standard error.
  const view = new View(process.stderr);
  const report = (line: string) => {
    view.line(line);
  };
  const options = {
    stack: command.stack,
    project,
    timeoutSeconds: command.timeoutSeconds,
    identity: command.identity,
  };
  let rehearsal: Rehearsal | undefined;
  const interrupt = (signal: NodeJS.Signals) => {
    interrupted = signal === "SIGINT" ? 130 : 143;
    view.line(`stopping on ${signal}`);
    // What is still starting ends with this process; a kept rehearsal is told by its own handler.
    if (rehearsal !== undefined) void rehearsal.stop().then(() => process.exit(interrupted));
    else if (!command.keep) process.exit(interrupted);
  };
  process.once("SIGINT", interrupt).once("SIGTERM", interrupt);
  if (command.keep) {
    const kept = await keep(options, report, (kubeconfig) => {
      view.watch(kubeconfig);
    });
    await view.finish();
    process.stdout.write(command.json ? `${JSON.stringify(kept.result)}\n` : `${summary(kept.result)}\n`);
    process.stderr.write(`Reach it with: export KUBECONFIG=${kept.kubeconfigPath}\nEnd it with: npm stop\n`);
    return 0;
  }

  const start = Date.now();
  try {
    rehearsal = await Rehearsal.start({ ...options, report });
    view.watch(rehearsal.controlPlane.kubeconfig);
    const result = { ...(await rehearsal.up()), seconds: (Date.now() - start) / 1000 };
    await view.finish();
    process.stdout.write(command.json ? `${JSON.stringify(result)}\n` : `${summary(result)}\n`);
    return 0;
  } finally {
    view.close();
    await rehearsal?.stop();
  }
}

/** The exit code of the signal that ended this command, or 0: what fails after it is its consequence. */
let interrupted = 0;

main(process.argv.slice(2)).then(
  (code) => process.exit(interrupted || code),
  (error: unknown) => {
    if (interrupted > 0) process.exit(interrupted);
    process.stderr.write(`${(error as Error).message}\n`);
    process.exit(1);
  },
);
