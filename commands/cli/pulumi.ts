import { randomUUID } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Command } from "commander";
import { contextOf, stateDirectory } from "../../core/settings/config";
import { directLoopback } from "../../system/proxy";
import { ScratchDirectory } from "../../system/scratch-directory";
import { onTerminal } from "../../system/terminal";
import { pulumiEnvironment, removeStaleLocks } from "./backend";
import { stackOf, UsageError } from "./command";
import { pulumiProgram } from "./program";
import { project } from "./project";
import { readyProgramTools } from "./tools";
import { copySettings, emptyBackend, hasStack, isListed } from "./stack";

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

/** Commands of Pulumi that this project runs. */
type PulumiCommand = "up" | "preview" | "destroy";

/**
 * Runs a command of Pulumi on a stack. The checkout stays as it is: Pulumi reads a copy of the stack's settings, which
 * takes what Pulumi writes, and keeps the salt of its secrets in the stack's state. A preview also leaves the backend as
 * it is. The other commands first remove the lock of a killed run; only `up` makes a stack.
 *
 * @param options of Pulumi, without the stack
 * @returns Pulumi's exit code
 */
export async function runPulumi(
  command: PulumiCommand,
  stack: string,
  options: readonly string[],
): Promise<number> {
  if (command !== "destroy") await readyProgramTools(stack);
  const { env: complete, stateDirectory: backend } = await pulumiEnvironment(process.env, project);
  const { name } = await contextOf(project);
  if (command !== "preview" && backend !== undefined) {
    for (const line of await removeStaleLocks(backend, name, stack)) process.stderr.write(`${line}\n`);
  }
  const program = await pulumiProgram(complete);
  const scratch = new ScratchDirectory(join(stateDirectory(process.env), "tmp", randomUUID()));
  try {
    const env = {
      ...{ ...directLoopback(complete), PATH: program.path },
      // Pulumi's Kubernetes plugin writes the kubeconfig into a temporary file and does not remove it.
      TMPDIR: scratch.path,
      // The settings need no salt: the state has it.
      PULUMI_FALLBACK_TO_STATE_SECRETS_MANAGER: "true",
    };
    const onStart = (pid: number) => {
      scratch.usedBy(pid);
    };
    const pulumi = (args: readonly string[], at: { cwd: string; env: NodeJS.ProcessEnv }) =>
      onTerminal(program.file, args, { ...at, onStart });
    const exists =
      backend === undefined ? await isListed(program.file, env, stack) : await hasStack(backend, name, stack);
    if (!exists && command === "destroy") {
      throw new Error(
        `Destroying stack "${stack}" failed: Pulumi's backend has no such stack, so nothing is known to delete. If its state was lost, run "npx platform up ${stack}", which adopts the stack's objects, and destroy it then. Otherwise choose the backend that has the stack with PULUMI_BACKEND_URL or "pulumi login".`,
      );
    }
    const settings = await copySettings(stack, scratch.path);
    let place: NodeJS.ProcessEnv = env;
    if (!exists && command === "preview") {
      process.stderr.write(
        `Stack "${stack}" does not exist yet: the preview starts from an empty state and keeps nothing.\n`,
      );
      place = { ...env, ...(await emptyBackend(scratch.path, [name, stack], env, settings)) };
    } else if (!exists) {
      if (backend !== undefined) await mkdir(backend, { recursive: true, mode: 0o700 });
      const init = ["stack", "init", "--no-select", "--stack", stack];
      const made = await pulumi(init, { cwd: scratch.path, env });
      if (made !== 0) return made;
      // The new stack may have written to the copy.
      await copySettings(stack, scratch.path);
    }
    // Pulumi downloads the plugins that the run uses, when it uses them. Old versions of the CLI lack this option.
    const own = program.isPinned ? ["--skip-plugin-pre-install"] : [];
    // Pulumi's own option would also delete the settings in the checkout.
    const given = command === "destroy" ? options.filter((option) => option !== "--remove") : options;
    const args = [command, "--stack", stack, "--config-file", settings.file, ...own, ...given];
    const code = await pulumi(args, { cwd: project, env: place });
    if (code !== 0 || given.length === options.length || given.includes("--preview-only")) return code;
    return await pulumi(["stack", "rm", "--yes", "--preserve-config", "--stack", stack], {
      cwd: project,
      env,
    });
  } finally {
    await scratch.remove();
  }
}
