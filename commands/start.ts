import { Command } from "commander";
import { textOf } from "../core/findings/finding";
import { examine } from "../core/needs/needs";
import { readStackConfig } from "../core/settings/config";
import { project } from "./cli/project";
import { runPulumi } from "./cli/pulumi";
import { rehearseStack } from "./rehearse";

const stack = "local";

export const start = new Command("start")
  .description(
    'Runs "up local --yes"; if Docker or Pulumi is not available, rehearses stack "local" instead.',
  )
  .action(async () => {
    const findings = await examine(await readStackConfig(stack, project, process.env));
    const fatal = findings.filter(({ rehearsable }) => !rehearsable);
    const instead = findings.filter(({ rehearsable }) => rehearsable);
    for (const need of instead.length > 0 ? instead : fatal) process.stderr.write(`${textOf(need)}\n`);
    if (instead.length > 0) {
      process.stderr.write(`Rehearsing stack "${stack}" on a throw-away control plane instead.\n`);
      process.exitCode = await rehearseStack(stack, { keep: true });
      return;
    }
    process.exitCode = fatal.length > 0 ? 1 : await runPulumi("up", stack, ["--yes"]);
  });
