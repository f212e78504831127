import { randomUUID } from "node:crypto";
import { existsSync, realpathSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { Command } from "commander";
import { contextOf, stateDirectory } from "../../core/settings/config";
import { directLoopback } from "../../system/proxy";
import { ScratchDirectory } from "../../system/scratch-directory";
import { onTerminal } from "../../system/terminal";
import { pulumiEnvironment, removeStaleLocks } from "./backend";
import { stackOf, UsageError } from "./command";
import { project } from "./project";

/**
 * A command of Pulumi for one stack. The arguments after the stack go to Pulumi.
 *
 * @param work returns the exit code
 */
export function pulumiCommand(
  name: PulumiCommand,
  description: string,
  work: (stack: string, options: readonly string[]) => Promise<number>,
): Command {
  const command: Command = new Command(name)
    .description(description)
    .usage(`<stack> [options of "pulumi ${name}"]`)
    .argument("[stack]", "the stack")
    .argument("[options...]", `options of "pulumi ${name}"`)
    .option("-s, --stack <name>", "the stack, instead of the argument")
    .allowUnknownOption()
    .action(async () => {
      // If no stack comes first, Commander takes the first unknown option for the stack.
      const [first, ...rest] = command.args;
      const isNamed = first?.startsWith("-") === false;
      const stack = await stackOf(command, isNamed ? first : undefined);
      const options = isNamed ? rest : command.args;
      // "pulumi up" takes an argument for the template of another project.
      if (options[0]?.startsWith("-") === false) {
        throw new UsageError(command, "more than one stack is named. Name one");
      }
      process.exitCode = await work(stack, options);
    });
  return command;
}

/** Commands of Pulumi that this project runs, and whether they hold the stack's lock. */
type PulumiCommand = "up" | "preview" | "destroy";

/**
 * Runs a command of Pulumi on a stack. A command that changes the stack first removes the lock of a killed run.
 *
 * @param options of Pulumi, without the stack
 * @returns Pulumi's exit code
 */
export async function runPulumi(
  command: PulumiCommand,
  stack: string,
  options: readonly string[],
): Promise<number> {
  const { env, stateDirectory: directory } = await pulumiEnvironment(process.env, project);
  if (command !== "preview" && directory !== undefined) {
    const { name } = await contextOf(project);
    for (const line of await removeStaleLocks(directory, name, stack)) process.stderr.write(`${line}\n`);
  }
  const program = await pulumiProgram(env);
  const scratch = new ScratchDirectory(join(stateDirectory(process.env), "tmp", randomUUID()));
  try {
    // Pulumi's Kubernetes plugin writes the kubeconfig into a temporary file and does not remove it.
    const inScratch = {
      cwd: project,
      env: { ...directLoopback(env), PATH: program.path, TMPDIR: scratch.path },
      onStart: (pid: number) => {
        scratch.usedBy(pid);
      },
    };
    const selected = await onTerminal(program.file, ["stack", "select", "--create", stack], inScratch);
    return selected === 0
      ? await onTerminal(program.file, [command, "--stack", stack, ...options], inScratch)
      : selected;
  } finally {
    await scratch.remove();
  }
}

/**
 * The Pulumi CLI, and the PATH on which it finds its language hosts.
 *
 * npm puts a script of its package "pulumi" first on PATH. That script passes no signal to the CLI and ends before the
 * CLI, so this function runs the program behind the script instead.
 *
 * @throws Error when that package cannot install the CLI
 */
async function pulumiProgram({ PATH = "" }: NodeJS.ProcessEnv): Promise<{ file: string; path: string }> {
  const found = PATH.split(delimiter)
    .map((directory) => join(directory, "pulumi"))
    .find((file) => existsSync(file));
  if (found === undefined || realpathSync(found) !== require.resolve("pulumi/run.js")) {
    return { file: "pulumi", path: PATH };
  }
  // eslint-disable-next-line @typescript-eslint/no-require-imports -- the package has no types
  const { resolve } = require("pulumi/lib/resolve") as { resolve: () => Promise<string> };
  const file = await resolve().catch((error: unknown) => {
    throw new Error(
      `Running Pulumi failed: the npm package "pulumi" could not install its CLI (${(error as Error).message}). Install it from https://www.pulumi.com/docs/install/.`,
      { cause: error },
    );
  });
  return { file, path: [dirname(file), PATH].join(delimiter) };
}
