import { textOf } from "../core/findings/finding";
import { examine } from "../core/needs/needs";
import { readStackConfig } from "../core/settings/config";
import { ensureTools } from "../tools/tools";
import { outputOption, stackCommand, stackOf } from "./cli/command";
import { installPulumi } from "./cli/program";
import { project } from "./cli/project";

export const doctor = stackCommand(
  "doctor",
  "Names the requirements of a stack that this machine does not meet.",
)
  .addOption(outputOption())
  .action(async (argument: string | undefined, { output }: { output: string }) => {
    const stack = await stackOf(doctor, argument);
    const config = await readStackConfig(stack, project, process.env);
    if (config.registry.kind === "remote") await ensureTools(["crane"], { report: console.error });
    await installPulumi(process.env);
    const findings = await examine(config);
    if (output === "json") process.stdout.write(`${JSON.stringify({ stack, findings })}\n`);
    else if (findings.length === 0) console.log(`Stack "${stack}" has everything that it needs.`);
    else for (const finding of findings) console.log(textOf(finding));
    process.exitCode = findings.length === 0 ? 0 : 1;
  });
