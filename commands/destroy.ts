import { readStackConfig } from "../core/settings/config";
import { project } from "./cli/project";
import { pulumiCommand, runPulumi } from "./cli/pulumi";

export const destroy = pulumiCommand(
  "destroy",
  "Deletes only the objects that the stack made.",
  async (stack, options) => {
    await readStackConfig(stack, project, process.env);
    return runPulumi("destroy", stack, options);
  },
).addHelpText(
  "after",
  `
  --remove                 also remove the stack from Pulumi's backend; its settings stay`,
);
