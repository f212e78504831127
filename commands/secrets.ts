import { createHash } from "node:crypto";
import { existsSync, realpathSync, writeSync } from "node:fs";
import { join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { Command } from "commander";
import { run } from "../tools/command";
import { sentence } from "../system/sentence";
import { textOf } from "../core/findings/finding";
import { addSecret, parseValues, readValues } from "../core/secrets/add";
import { checkSecrets, type RepositoryOptions } from "../core/secrets/check";
import { SopsCli } from "../clients/sops/client";
import { editSecret } from "../core/secrets/edit";
import { initialise } from "../core/secrets/initialise";
import { recover as recoverIdentity } from "../core/secrets/recovery";
import { rotate as rotateIdentity } from "../core/secrets/rotation";
import { SecretStore } from "../core/secrets/store";
import { readStackFile, stacksOf, stateDirectory } from "../core/settings/config";
import { withLock } from "../system/lock";
import { ensureTools } from "../tools/tools";
import { pulumiEnvironment } from "./cli/backend";
import { pulumiProgram } from "./cli/program";
import { outputOption, stackCommand, stackOf } from "./cli/command";
import { askForSecret, askForValues } from "./cli/prompt";
import { releaseSecrets } from "./release";
import { callDirectory, project } from "./cli/project";

const tell = console.error;

export const secrets = new Command("secrets").description(
  "Makes, changes, checks, rotates and recovers secrets.",
);

const init = stackCommand(
  "init",
  "Makes the identity of a stack that has none, and updates settings, rules and files to match.",
)
  .option("--recipient <age1…>", "also encrypt for this recipient; may be given more than once", collect)
  .option("--recovery", "make an offline recovery key, and print it once on standard output")
  .action(async (argument: string | undefined, options: { recipient?: string[]; recovery?: boolean }) => {
    const store = await storeOf(init, argument);
    await alone(() =>
      initialise(store, {
        recipients: options.recipient,
        showRecoveryKey: options.recovery === true ? showRecoveryKey : undefined,
        tell,
      }),
    );
  });

const add = stackCommand("add", "Adds a Secret.", "<name>")
  .option(
    "--from-file <key=path>",
    "take a value from a file, byte for byte; may be given more than once",
    collect,
  )
  .option("--layer <name>", "the layer of the Secret", "apps")
  .option("--namespace <name>", "the namespace of the Secret [default: the name of the Secret]")
  .option("--type <type>", "the type of the Secret [default: Opaque]")
  .addHelpText(
    "after",
    '\nThe values are lines "key=value" on standard input; on a terminal, the command asks for them.',
  )
  .action(async (name: string, argument: string | undefined, options: AddOptions) => {
    const store = await storeOf(add, argument);
    const { fromFile: files, layer, namespace = name, type } = options;
    const values = () => (files === undefined ? readLines() : readValues(files, callDirectory));
    const written = await addSecret(store, { name, layer, namespace, type, values }, alone);
    for (const path of written) console.log(path);
  });

const edit = stackCommand("edit", "Opens an encrypted file in the editor.", "<file>").action(
  async (file: string, argument: string | undefined) => {
    const store = await storeOf(edit, argument);
    const named = resolve(callDirectory, file);
    console.log(await editSecret(store, existsSync(named) ? named : file));
  },
);

const check = stackCommand(
  "check",
  "Checks rules, files, tree, history and artifact of a stack, or of every stack.",
)
  .usage("[options] [stack]")
  .option(
    "--base <branch>",
    "check the commits since this branch or commit [default: since this branch left the default branch]",
  )
  .option(
    "--strict",
    "also compare each encrypted file with its versions in Git, and refuse changes that SOPS did not make",
  )
  .addOption(outputOption())
  .action(
    async (argument: string | undefined, options: RepositoryOptions & { stack?: string; output: string }) => {
      const { base, strict, stack, output } = options;
      const isNamed = argument !== undefined || stack !== undefined;
      const stacks = isNamed ? [await stackOf(check, argument)] : await stacksOf(project);
      await ensureTools(["age-keygen", "platform-tree", "sops"], { report: tell });
      const open = (name: string) => openStore(name, "check");
      const { findings, notes } = await checkSecrets(stacks, open, { base, strict });
      for (const note of notes) tell(note);
      if (output === "json") console.log(JSON.stringify({ stacks, findings }));
      else for (const finding of findings) console.log(textOf(finding));
      process.exitCode = findings.length === 0 ? 0 : 1;
    },
  );

const rotate = stackCommand(
  "rotate",
  "Replaces the identity of a stack without downtime; after an interruption, run it again to continue.",
)
  .option("--values", "also give new values to generated secrets")
  .option("--without <age1…>", "also remove this recipient; may be given more than once", collect)
  .option("--commit", "commit the changed files if the stack sets gitops.requireClean")
  .option("--yes", "do not ask before a release")
  .action(
    async (
      argument: string | undefined,
      options: ReleaseChoice & { values?: boolean; without?: string[] },
    ) => {
      const store = await storeOf(rotate, argument);
      const release = releaseOf(store, options);
      await alone(() =>
        rotateIdentity(store, { release, tell, values: options.values, without: options.without }),
      );
    },
  );

const recover = stackCommand(
  "recover",
  "Gives a stack a new identity with the recovery key from standard input or the terminal.",
)
  .option("--lost <age1…>", "the recipient whose identity is lost [default: the only recipient]")
  .option("--commit", "commit the changed files if the stack sets gitops.requireClean")
  .option("--yes", "do not ask before a release")
  .action(async (argument: string | undefined, options: ReleaseChoice & { lost?: string }) => {
    const store = await storeOf(recover, argument);
    const key = await readRecoveryKey();
    const release = releaseOf(store, options);
    await alone(() => recoverIdentity(store, { key, lost: options.lost, release, tell }));
  });

[init, add, edit, check, rotate, recover].forEach((command) => secrets.addCommand(command));

/** Options of `add`. */
interface AddOptions {
  readonly fromFile?: string[];
  readonly layer: string;
  readonly namespace?: string;
  readonly type?: string;
}

/** Options of the commands that release. */
interface ReleaseChoice {
  readonly commit?: boolean;
  readonly yes?: boolean;
}

function collect(value: string, values: string[] = []): string[] {
  return [...values, value];
}

function releaseOf(store: SecretStore, { commit, yes }: ReleaseChoice): () => Promise<void> {
  return () => releaseSecrets(store, { commit, yes, tell });
}

/** The store of the stack of a command; builds the needed tools first. */
async function storeOf(command: Command, argument: string | undefined): Promise<SecretStore> {
  const store = await openStore(await stackOf(command, argument), command.name());
  await ensureTools(["age-keygen", "sops"], { report: tell });
  return store;
}

/** Runs changes of this project's secrets while no other process of this user changes them. */
function alone<T>(work: () => Promise<T>): Promise<T> {
  const name = createHash("sha256").update(realpathSync(project)).digest("hex").slice(0, 16);
  return withLock(join(stateDirectory(process.env), "locks", name), work, {
    onWait: (pid) => {
      tell(`waiting for process ${pid}, which is changing the secrets of this project`);
    },
  });
}

/** The store of a stack, with the identity from its settings if the command uses one. */
async function openStore(stack: string, command: string): Promise<SecretStore> {
  const { "platform:sops": settings } = await readStackFile(stack, project);
  const { ageKey, generate = "none" } = (settings ?? {}) as { ageKey?: unknown; generate?: unknown };
  const { SOPS_AGE_KEY = "", SOPS_AGE_KEY_FILE = "" } = process.env;
  const isFirst = generate === "none" && SOPS_AGE_KEY === "" && SOPS_AGE_KEY_FILE === "";
  const isUsed = ageKey !== undefined && isFirst && command !== "add" && command !== "recover";
  const key = isUsed ? await configSecret(stack, command) : undefined;
  return new SecretStore({ stack, project, sops: new SopsCli(), env: process.env, key });
}

/** The secrets that only Pulumi can decrypt. `check` works without them, as on a fork. */
async function configSecret(stack: string, command: string): Promise<string | undefined> {
  const { env } = await pulumiEnvironment(process.env, project);
  const args = ["config", "get", "--path", "platform:sops.ageKey", "--stack", stack];
  try {
    const { file } = await pulumiProgram(env);
    return await run(file, args, { cwd: project, env });
  } catch (error) {
    const message = `Reading platform:sops.ageKey of stack "${stack}" failed: ${sentence((error as Error).message)}`;
    if (command !== "check")
      throw new Error(
        `${message} Run "pulumi stack select --create ${stack}" with its login and passphrase, or set SOPS_AGE_KEY_FILE.`,
        { cause: error },
      );
    tell(message);
    return undefined;
  }
}

/** Writes the key before anything is encrypted for it: if the user does not get the key, nothing is lost. */
function showRecoveryKey(key: string): void {
  try {
    writeSync(process.stdout.fd, `${key}\n`);
  } catch (error) {
    throw new Error(
      `Showing the recovery key failed: writing to standard output is not possible (${(error as Error).message}). Nothing is encrypted for that key. Run the same command again.`,
      { cause: error },
    );
  }
  tell("Standard output shows the recovery key only once. Keep the key offline.");
}

async function readLines(): Promise<Record<string, string>> {
  return process.stdin.isTTY ? askForValues() : parseValues(await text(process.stdin));
}

async function readRecoveryKey(): Promise<string> {
  if (!process.stdin.isTTY) return text(process.stdin);
  return askForSecret({
    ...{ what: "the recovery key", text: "Recovery key, which is not shown: " },
    otherwise: "Give its line AGE-SECRET-KEY-… alone, or the file on standard input.",
  });
}
