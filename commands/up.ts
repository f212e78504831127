import { randomUUID } from "node:crypto";
import { existsSync, realpathSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { onTerminal } from "../system/terminal";
import { readStackConfig, stateDirectory } from "../core/settings/config";
import { directLoopback } from "../system/proxy";
import { ScratchDirectory } from "../system/scratch-directory";
import { pulumiEnvironment, removeStaleLocks } from "./cli/backend";
import { checkPulumi, examine, thisHost } from "./doctor";
import { exitWith } from "./cli/exit";

/** Absolute path of the directory that holds Pulumi.yaml. */
export const project = join(__dirname, "..");
const projectName = "platform";

const usage = `Usage: npm run up -- --stack <name> [options of "pulumi up"]
       npm run preview -- --stack <name> [options of "pulumi preview"]

Checks what the stack needs, removes the lock of a run that was killed, and runs "pulumi up"; or shows what it would do.

  --replace       agrees that a Kind cluster which cannot be changed in place is deleted, with all that its volumes hold
  --replace <urn> is Pulumi's own
`;

/**
 * Runs `pulumi up` on a stack that has all it needs.
 *
 * @param options of `pulumi up`, beside the stack
 * @returns Pulumi's exit code
 */
export async function up(stack: string, options: readonly string[]): Promise<number> {
  const { env, stateDirectory: directory } = await pulumiEnvironment(process.env, project);
  const removed = directory === undefined ? [] : await removeStaleLocks(directory, projectName, stack);
  for (const line of removed) process.stderr.write(`${line}\n`);
  return pulumi("up", stack, options, env);
}

/** @returns the exit code of `pulumi <command>` on a stack */
async function pulumi(
  command: "up" | "preview",
  stack: string,
  options: readonly string[],
  env: NodeJS.ProcessEnv,
): Promise<number> {
  const program = await pulumiProgram(env);
  const scratch = new ScratchDirectory(join(stateDirectory(process.env), "tmp", randomUUID()));
  try {
    // Pulumi's Kubernetes plugin writes the kubeconfig into a temporary file and leaves it there.
    const inScratch = {
      cwd: project,
      env: { ...directLoopback(env), PATH: program.path, TMPDIR: scratch.path },
      lifeline: scratch.lifeline,
    };
    const selected = await onTerminal(program.file, ["stack", "select", "--create", stack], inScratch);
    return selected === 0
      ? await onTerminal(program.file, [command, "--stack", stack, ...options], inScratch)
      : selected;
  } finally {
    await scratch.remove();
  }
}

/**
 * The Pulumi CLI, and the PATH on which it finds its language hosts.
 *
 * npm puts a script of its package "pulumi" first on PATH. That script passes no signal on to the CLI and ends before
 * it, so what it would run is run instead.
 *
 * @throws Error when that package cannot install the CLI
 */
async function pulumiProgram({ PATH = "" }: NodeJS.ProcessEnv): Promise<{ file: string; path: string }> {
  const found = PATH.split(delimiter)
    .map((directory) => join(directory, "pulumi"))
    .find((file) => existsSync(file));
  if (found === undefined || realpathSync(found) !== require.resolve("pulumi/run.js")) {
    return { file: "pulumi", path: PATH };
  }
  // eslint-disable-next-line @typescript-eslint/no-require-imports -- the package has no types
  const { resolve } = require("pulumi/lib/resolve") as { resolve: () => Promise<string> };
  const file = await resolve().catch((error: unknown) => {
    throw new Error(
      `Running Pulumi failed: the npm package "pulumi" could not install its CLI (${(error as Error).message}). Install it from https://www.pulumi.com/docs/install/.`,
      { cause: error },
    );
  });
  return { file, path: [dirname(file), PATH].join(delimiter) };
}

/** Takes the stack out of the arguments; what is left is Pulumi's. */
function splitStack(args: readonly string[]): { stack: string | undefined; options: readonly string[] } {
  const at = args.findIndex((arg) => /^(--stack|-s)(=|$)/.test(arg));
  const [, , joined] = /^(--stack|-s)=(.*)$/.exec(args[at] ?? "") ?? [];
  const taken = joined === undefined ? 2 : 1;
  return {
    stack: at < 0 ? undefined : (joined ?? args[at + 1]),
    options: at < 0 ? args : [...args.slice(0, at), ...args.slice(at + taken)],
  };
}

/** Takes the user's consent out of the arguments: "--replace" without the URN that Pulumi's own takes. */
export function splitConsent(args: readonly string[]): { consent: boolean; options: readonly string[] } {
  const isConsent = (arg: string, at: number) => arg === "--replace" && (args[at + 1] ?? "-").startsWith("-");
  return { consent: args.some(isConsent), options: args.filter((arg, at) => !isConsent(arg, at)) };
}

/** @returns the exit code */
async function main(args: readonly string[]): Promise<number> {
  if (args.includes("--help") || args.includes("-h")) {
    process.stderr.write(usage);
    return 0;
  }
  const isPreview = args[0] === "--preview";
  const { consent, options: others } = splitConsent(isPreview ? args.slice(1) : args);
  const { stack, options } = splitStack(others);
  if (stack === undefined) {
    process.stderr.write(usage);
    return 1;
  }
  if (consent) process.env.PLATFORM_ALLOW_REPLACE = "true";
  const config = await readStackConfig(stack, project, process.env);
  const missing = isPreview ? await checkPulumi(thisHost) : [];
  for (const { message } of missing) process.stderr.write(`${message}\n`);
  if (missing.length > 0) return 1;
  // A preview warns of what else is missing, and holds no lock.
  if (isPreview)
    return pulumi("preview", stack, options, (await pulumiEnvironment(process.env, project)).env);
  const findings = await examine(config, thisHost);
  for (const { message } of findings) process.stderr.write(`${message}\n`);
  return findings.length > 0 ? 1 : up(stack, options);
}

if (require.main === module) exitWith(main(process.argv.slice(2)));
