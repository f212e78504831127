import { Command, CommanderError } from "commander";
import { exitCodes, exitWith, refuseKeys, throwing } from "./cli/command";
import { addCompletion } from "./cli/completion";

/** The commands in the order of the help. */
const commands: Readonly<Record<string, () => Promise<Command>>> = {
  start: async () => (await import("./start")).start,
  up: async () => (await import("./up")).up,
  preview: async () => (await import("./preview")).preview,
  destroy: async () => (await import("./destroy")).destroy,
  status: async () => (await import("./status")).status,
  doctor: async () => (await import("./doctor")).doctor,
  render: async () => (await import("./render")).render,
  secrets: async () => (await import("./secrets")).secrets,
  new: async () => (await import("./new")).add,
  rehearse: async () => (await import("./rehearse")).rehearse,
  stop: async () => (await import("./stop")).stop,
};

/**
 * The program. It loads only the commands that a line names: the others are empty. If the line names none, it loads all
 * of them, for the help.
 */
export async function programOf(args: readonly string[]): Promise<Command> {
  const platform = new Command("platform")
    .description("Takes a Kubernetes platform from whatever is left of it to every Flux layer Ready.")
    .addHelpText(
      "after",
      `
A stack is an argument or the value of --stack: "npx platform up prod".

Exit codes:
  0         the command succeeded
  1         the command failed, refused or found a problem; up, preview and destroy end with Pulumi's own code
  2         the arguments are wrong, and the command ran nothing
  130, 143  SIGINT or SIGTERM ended the command`,
    );
  // The columns fit a narrow terminal; the help of a command names its arguments.
  platform.configureHelp({ subcommandTerm: (command) => command.name() });
  const names = Object.keys(commands);
  const isHelp = args[0] !== "complete" && !names.includes(args[0] ?? "");
  for (const [name, load] of Object.entries(commands)) {
    platform.addCommand(isHelp || args.includes(name) ? await load() : new Command(name));
  }
  addCompletion(platform);
  return throwing(platform);
}

/** @returns the exit code */
async function main(args: readonly string[]): Promise<number> {
  refuseKeys(args);
  try {
    await (await programOf(args)).parseAsync(args, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    // Commander printed help: on request, or because the arguments named no command.
    return error.exitCode === 0 ? exitCodes.done : exitCodes.usage;
  }
  return Number(process.exitCode ?? exitCodes.done);
}

if (require.main === module) exitWith(main(process.argv.slice(2)));
