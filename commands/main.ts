import { Command, CommanderError } from "commander";
import { exitCodes, exitWith, throwing } from "./cli/command";
import { addCompletion } from "./cli/completion";
import { destroy } from "./destroy";
import { doctor } from "./doctor";
import { add } from "./new";
import { preview } from "./preview";
import { rehearse } from "./rehearse";
import { render } from "./render";
import { refuseKeys, secrets } from "./secrets";
import { start } from "./start";
import { status } from "./status";
import { stop } from "./stop";
import { up } from "./up";

/** The program with all its commands. */
export const platform = new Command("platform")
  .description("Takes a Kubernetes platform from whatever is left of it to every Flux layer Ready.")
  .addHelpText(
    "after",
    `
A stack is an argument or the value of --stack: "npx platform up prod".

Exit codes:
  0         the command succeeded
  1         it failed, refused, or found something; for up, preview and destroy, Pulumi's own code
  2         its arguments are wrong, and nothing was run
  130, 143  SIGINT or SIGTERM ended it`,
  );
for (const command of [start, up, preview, destroy, status, doctor, render, secrets, add, rehearse, stop]) {
  platform.addCommand(command);
}
addCompletion(platform);
throwing(platform);

/** @returns the exit code */
async function main(args: readonly string[]): Promise<number> {
  refuseKeys(args);
  try {
    await platform.parseAsync(args, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    // Commander printed help: on request, or because the arguments named no command.
    return error.exitCode === 0 ? exitCodes.done : exitCodes.usage;
  }
  return Number(process.exitCode ?? exitCodes.done);
}

if (require.main === module) exitWith(main(process.argv.slice(2)));
