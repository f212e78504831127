import { readStackConfig } from "../core/settings/config";
import { examine, thisHost } from "../core/needs/needs";
import { project } from "./cli/project";
import { pulumiCommand, runPulumi } from "./cli/pulumi";

export const up = pulumiCommand(
  "up",
  "Brings a stack to every layer Ready, whatever is left of it.",
  async (stack, args) => {
    const { consent, options } = splitConsent(args);
    if (consent) process.env.PLATFORM_ALLOW_REPLACE = "true";
    return examineAndUp(stack, options);
  },
).addHelpText(
  "after",
  `
  --replace                agree that a Kind cluster which Kind cannot change in place is deleted, with all that its
                           volumes hold; "--replace <urn>" is Pulumi's own

"up" checks what the stack needs, removes the lock of a run that was killed, and runs "pulumi up".`,
);

/**
 * Runs `pulumi up` on a stack if its requirements are met.
 *
 * @param options of `pulumi up`, without the stack
 * @returns the exit code
 */
export async function examineAndUp(stack: string, options: readonly string[]): Promise<number> {
  const findings = await examine(await readStackConfig(stack, project, process.env), thisHost);
  for (const { message } of findings) process.stderr.write(`${message}\n`);
  return findings.length > 0 ? 1 : runPulumi("up", stack, options);
}

/** Takes the user's consent out of the arguments: "--replace" without the URN that belongs to Pulumi's own option. */
export function splitConsent(args: readonly string[]): { consent: boolean; options: readonly string[] } {
  const isConsent = (arg: string, at: number) => arg === "--replace" && (args[at + 1] ?? "-").startsWith("-");
  return { consent: args.some(isConsent), options: args.filter((arg, at) => !isConsent(arg, at)) };
}
