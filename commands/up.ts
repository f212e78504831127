import { textOf } from "../core/findings/finding";
import { readStackConfig } from "../core/settings/config";
import { examine } from "../core/needs/needs";
import { installPulumi } from "./cli/program";
import { project } from "./cli/project";
import { pulumiCommand, runPulumi } from "./cli/pulumi";

export const up = pulumiCommand(
  "up",
  "Brings a stack to every layer Ready, whatever is left of it.",
  async (stack, args) => {
    const options = takeConsent(args);
    const config = await readStackConfig(stack, project, process.env);
    await installPulumi(process.env);
    const findings = await examine(config);
    for (const finding of findings) process.stderr.write(`${textOf(finding)}\n`);
    return findings.length > 0 ? 1 : runPulumi("up", stack, options);
  },
).addHelpText(
  "after",
  `
  --replace                agree to delete a Kind cluster that Kind cannot change in place, with all data of its
                           volumes; "--replace <urn>" is Pulumi's own option

Settings of Pulumi's option "-c" count for this run; write them to Pulumi.<stack>.yaml to keep them.

"up" checks that the stack has everything it needs, removes the lock of a killed run, and runs "pulumi up".`,
);

/** Passes the user's consent on to the program. @returns the arguments that are Pulumi's own */
export function takeConsent(args: readonly string[]): readonly string[] {
  const { consent, options } = splitConsent(args);
  if (consent) process.env.PLATFORM_ALLOW_REPLACE = "true";
  return options;
}

/** Takes the user's consent out of the arguments: "--replace" without the URN that belongs to Pulumi's own option. */
export function splitConsent(args: readonly string[]): { consent: boolean; options: readonly string[] } {
  const isConsent = (arg: string, at: number) => arg === "--replace" && (args[at + 1] ?? "-").startsWith("-");
  return { consent: args.some(isConsent), options: args.filter((arg, at) => !isConsent(arg, at)) };
}
