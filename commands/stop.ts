import { Command } from "commander";
import { stopKept } from "../rehearsal/kept";
import { project } from "./cli/project";

export const stop = new Command("stop")
  .description('Ends what "rehearse --keep" left running for this checkout.')
  .action(async () => {
    process.stdout.write(await stopKept(project));
  });
