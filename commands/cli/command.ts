import { Command, Option, type CommanderError } from "commander";
import { stacksOf } from "../../core/settings/config";
import { messageOf } from "../../system/file-error";
import { sentence } from "../../system/sentence";
import { project } from "./project";

/** Exit codes of a command; 130 and 143 stand for SIGINT and SIGTERM. */
export const exitCodes = { done: 0, failed: 1, usage: 2 } as const;

/** The words with which a user calls a command: `npx platform secrets add`. */
export function calledAs(command: Command): string {
  return command.parent === null ? `npx ${command.name()}` : `${calledAs(command.parent)} ${command.name()}`;
}

/** Refuses a private key among the arguments of a command. @throws Error */
export function refuseKeys(args: readonly string[]): void {
  if (!args.some((argument) => /AGE-SECRET-KEY-/i.test(argument))) return;
  throw new Error(
    `Running "npx platform" failed: a private key is among its arguments, and every user of this machine and npm's log can see the arguments. Replace that key, delete ~/.npm/_logs, and pass keys on standard input.`,
  );
}

/** A command got arguments that it does not accept; it ran nothing. */
export class UsageError extends Error {
  constructor(command: Command, reason: string) {
    const whole = reason.endsWith("?") ? reason : sentence(reason);
    super(`Running "${calledAs(command)}" failed: ${whole} See "${calledAs(command)} --help".`);
  }
}

/**
 * Makes a command and its subcommands throw a `UsageError`; otherwise Commander prints the error and ends the process.
 */
export function throwing(command: Command): Command {
  command.configureOutput({ outputError: () => undefined }).helpCommand(false);
  command.exitOverride((error: CommanderError) => {
    if (error.exitCode === 0 || error.code === "commander.help") throw error;
    // Such as "error: unknown option '--stak'\n(Did you mean --stack?)"
    const [reason = "", hint = ""] = error.message.replace(/^error: /, "").split("\n");
    throw new UsageError(command, `${sentence(reason)} ${hint.replace(/^\((.*)\)$/, "$1")}`.trim());
  });
  command.commands.forEach(throwing);
  return command;
}

/**
 * A command about one stack: its last argument, or the value of `--stack`.
 *
 * @param others its other arguments, such as `<name>`
 */
export function stackCommand(name: string, description: string, others = ""): Command {
  return new Command(name)
    .description(description)
    .arguments(`${others} [stack]`.trim())
    .usage(`[options] ${others} <stack>`.replace("  ", " "))
    .option("-s, --stack <name>", "the stack, instead of the argument");
}

/** The option of a command whose result a program can read. */
export function outputOption(): Option {
  return new Option("--output <format>", "how to print the result").choices(["text", "json"]).default("text");
}

/**
 * The stack that a command is about.
 *
 * @param argument the last argument of the command
 * @throws UsageError when the arguments name no stack, or two stacks
 */
export async function stackOf(command: Command, argument: string | undefined): Promise<string> {
  const { stack } = command.opts<{ stack?: string }>();
  if (argument !== undefined && stack !== undefined) {
    throw new UsageError(command, "the stack is named twice, as an argument and with --stack. Name it once");
  }
  const named = argument ?? stack;
  // The message does not show a value that may be a secret.
  if (named !== undefined && !/^[\w.-]+$/.test(named)) {
    throw new UsageError(
      command,
      'the name of the stack has a character that is not allowed. Use letters, digits, ".", "_" and "-"',
    );
  }
  if (named !== undefined) return named;
  throw new UsageError(command, `no stack is named. Stacks here are ${(await stacksOf(project)).join(", ")}`);
}

/** Ends the process with a command's exit code; an error is shown as its sentence, without a stack trace. */
export function exitWith(command: Promise<number>): void {
  const exit = (code: number) => {
    // A pipe may not have received all the output yet.
    process.stdout.write("", () => process.exit(code));
  };
  command.then(exit, (error: unknown) => {
    process.stderr.write(`${messageOf(error)}\n`);
    exit(error instanceof UsageError ? exitCodes.usage : exitCodes.failed);
  });
}
