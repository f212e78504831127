import { textOf } from "../core/findings/finding";
import { checkPulumi } from "../core/needs/needs";
import { readStackConfig } from "../core/settings/config";
import { installPulumi } from "./cli/program";
import { project } from "./cli/project";
import { pulumiCommand, runPulumi } from "./cli/pulumi";
import { takeConsent } from "./up";

export const preview = pulumiCommand(
  "preview",
  'Shows the changes that "up" would make.',
  async (stack, args) => {
    const options = takeConsent(args);
    const config = await readStackConfig(stack, project, process.env);
    await installPulumi(process.env);
    const missing = await checkPulumi(config);
    for (const finding of missing) process.stderr.write(`${textOf(finding)}\n`);
    // The program itself warns of other missing requirements.
    return missing.length > 0 ? 1 : runPulumi("preview", stack, options);
  },
);
