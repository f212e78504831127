import { Command } from "commander";
import { stopKept } from "../rehearsal/kept";
import { project } from "./cli/project";

export const stop = new Command("stop")
  .description('Ends the rehearsal of this checkout that "start" or "rehearse --keep" left running.')
  .action(async () => {
    process.stdout.write(await stopKept(project));
  });
