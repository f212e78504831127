import { Command } from "commander";
import { textOf } from "../core/findings/finding";
import { examine } from "../core/needs/needs";
import { readStackConfig } from "../core/settings/config";
import { installPulumi } from "./cli/program";
import { project } from "./cli/project";
import { runPulumi } from "./cli/pulumi";
import { rehearseStack } from "./rehearse";

const stack = "local";

export const start = new Command("start")
  .description(
    'Runs "up local --yes"; if Docker or Pulumi is not available, rehearses stack "local" instead.',
  )
  .action(async () => {
    const config = await readStackConfig(stack, project, process.env);
    await installPulumi(process.env);
    const findings = await examine(config);
    const fatal = findings.filter(({ rehearsable }) => !rehearsable);
    const instead = findings.filter(({ rehearsable }) => rehearsable);
    for (const need of instead.length > 0 ? instead : fatal) process.stderr.write(`${textOf(need)}\n`);
    if (instead.length > 0) {
      process.stderr.write(
        `Stack "${stack}" cannot run on this machine yet, so it is rehearsed: the real API server and Flux run as processes of this machine, nodes and pods are simulated, and "npm stop" ends it all. "npx platform doctor ${stack}" names everything that is missing.\n`,
      );
      process.exitCode = await rehearseStack(stack, { keep: true });
      process.stderr.write(
        `See the same by Pulumi's own command line with: npx platform rehearse ${stack} --engine\n`,
      );
      return;
    }
    process.exitCode = fatal.length > 0 ? 1 : await runPulumi("up", stack, ["--yes"]);
  });
