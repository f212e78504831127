import { createHash } from "node:crypto";
import { existsSync, realpathSync, writeSync } from "node:fs";
import { join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { run } from "../tools/command";
import { sentence } from "../system/sentence";
import { addSecret, parseValues, readValues } from "../core/secrets/add";
import { checkSecrets, type RepositoryOptions } from "../core/secrets/check";
import { SopsCli } from "../clients/sops/client";
import { editSecret } from "../core/secrets/edit";
import { initialise } from "../core/secrets/initialise";
import { recover } from "../core/secrets/recovery";
import { rotate } from "../core/secrets/rotation";
import { SecretStore } from "../core/secrets/store";
import { readStackFile, stacksOf, stateDirectory } from "../core/settings/config";
import { withLock } from "../system/lock";
import { ensureTools } from "../tools/tools";
import { readArguments } from "./cli/arguments";
import { pulumiEnvironment } from "./cli/backend";
import { exitWith } from "./cli/exit";
import { askForSecret, askForValues } from "./cli/prompt";
import { releaseSecrets } from "./release";
import { project } from "./up";

const usage = `Usage: npm run secrets -- <command> --stack <name> [options]

  init               makes the stack's identity where it has none, and makes settings, rules and files agree
    --recipient <age1…>  also encrypt for this one; may be given more than once
    --recovery           make an offline recovery key, and print it once on standard output
  add <name>         adds a Secret; its values are lines "key=value" on standard input, or are asked for
    --from-file <key>=<path>  take a value from a file instead, byte for byte; may be given more than once
    --layer <name>       the layer that it belongs to [default: apps]
    --namespace <name>   [default: its name]
    --type <type>        [default: Opaque]
  edit <file>        opens an encrypted file in the editor
  check              checks rules, files, tree, history and artifact; those of every stack without --stack
    --base <branch>      check the history since it [default: where this branch left the default branch]
    --strict             also compare each encrypted file with its versions in Git: only SOPS may have changed it
  rotate             replaces the stack's identity without downtime; goes on where it was interrupted
    --values             also make up the values of generated secrets anew
    --without <age1…>    let this recipient leave too; may be given more than once
    --commit             commit the changed files, where the stack is released from a clean tree alone
    --yes                do not ask before a release
  recover            gives the stack a new identity with the recovery key, read from standard input or asked for
    --lost <age1…>       the recipient whose identity is lost [default: the only one]
    --commit, --yes      as for rotate
`;

/** What each command is about, and its options beside --stack. */
const commands = {
  init: { about: [], options: ["recipient", "recovery"] },
  add: { about: ["name"], options: ["from-file", "layer", "namespace", "type"] },
  edit: { about: ["file"], options: [] },
  check: { about: [], options: ["base", "strict"] },
  rotate: { about: [], options: ["values", "without", "commit", "yes"] },
  recover: { about: [], options: ["lost", "commit", "yes"] },
} as const satisfies Readonly<Record<string, { about: readonly string[]; options: readonly string[] }>>;
type Command = keyof typeof commands;

/** @returns the exit code */
async function main(args: string[]): Promise<number> {
  if (args.some((argument) => /AGE-SECRET-KEY-/i.test(argument))) {
    throw new Error(
      `Running "npm run secrets" failed: a private key is among its arguments, which everybody on this machine sees, and npm's log keeps. Replace that key, delete ~/.npm/_logs, and give keys on standard input.`,
    );
  }
  const { values, positionals } = readArguments("npm run secrets", {
    args,
    allowPositionals: true,
    options: {
      stack: { type: "string" },
      recipient: { type: "string", multiple: true },
      recovery: { type: "boolean" },
      "from-file": { type: "string", multiple: true },
      layer: { type: "string" },
      namespace: { type: "string" },
      type: { type: "string" },
      base: { type: "string" },
      strict: { type: "boolean" },
      values: { type: "boolean" },
      without: { type: "string", multiple: true },
      lost: { type: "string" },
      commit: { type: "boolean" },
      yes: { type: "boolean" },
      help: { type: "boolean", short: "h" },
    },
  });
  const [name, ...subjects] = positionals;
  if (values.help === true || name === undefined) {
    process.stderr.write(usage);
    return values.help === true ? 0 : 1;
  }
  const command = commandNamed(name, subjects, Object.keys(values));
  const { stack } = values;
  if (command === "check") {
    const { base, strict } = values;
    return check(stack === undefined ? await stacksOf(project) : [stack], { base, strict });
  }
  if (stack === undefined) {
    throw new Error(
      `Running "npm run secrets -- ${command}" failed: no stack is named. Add --stack, with one of ${(await stacksOf(project)).join(", ")}.`,
    );
  }
  const store = await openStore(stack, command);
  await ensureTools(["age-keygen", "sops"], { report: tell });
  const [subject = ""] = subjects;
  // npm runs a command in the project's directory.
  const directory = process.env.INIT_CWD ?? process.cwd();
  const release = () => releaseSecrets(store, { commit: values.commit, yes: values.yes, tell });

  switch (command) {
    case "init":
      await alone(() =>
        initialise(store, {
          recipients: values.recipient,
          showRecoveryKey: values.recovery === true ? showRecoveryKey : undefined,
          tell,
        }),
      );
      return 0;
    case "add": {
      const files = values["from-file"];
      const secret = {
        name: subject,
        layer: values.layer ?? "apps",
        namespace: values.namespace ?? subject,
        type: values.type,
        values: () => (files === undefined ? readLines() : readValues(files, directory)),
      };
      const written = await addSecret(store, secret, alone);
      for (const path of written) console.log(path);
      return 0;
    }
    case "edit": {
      const named = resolve(directory, subject);
      console.log(await editSecret(store, existsSync(named) ? named : subject));
      return 0;
    }
    case "rotate":
      await alone(() => rotate(store, { release, tell, values: values.values, without: values.without }));
      return 0;
    case "recover": {
      const key = await readRecoveryKey();
      await alone(() => recover(store, { key, lost: values.lost, release, tell }));
      return 0;
    }
  }
}

/** Runs what changes the secrets of this project while no other process of this user does. */
function alone<T>(work: () => Promise<T>): Promise<T> {
  const name = createHash("sha256").update(realpathSync(project)).digest("hex").slice(0, 16);
  return withLock(join(stateDirectory(process.env), "locks", name), work, {
    onWait: (pid) => {
      tell(`waiting for process ${pid}, which is changing the secrets of this project`);
    },
  });
}

function tell(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** @throws Error when there is no such command, or it does not take what it is given */
function commandNamed(name: string, subjects: readonly string[], options: readonly string[]): Command {
  const names = Object.keys(commands) as Command[];
  const command = names.find((known) => known === name);
  if (command === undefined) {
    throw new Error(
      `Running "npm run secrets" failed: "${name}" is none of its commands. Those are ${names.join(", ")}.`,
    );
  }
  const operation = `Running "npm run secrets -- ${command}" failed:`;
  const help = 'See "npm run secrets -- --help".';
  const { about } = commands[command];
  if (subjects.length !== about.length) {
    throw new Error(
      `${operation} it takes ${about[0] === undefined ? "nothing but options" : `one ${about[0]}`}. ${help}`,
    );
  }
  const own: readonly string[] = ["stack", ...commands[command].options];
  const foreign = options.find((option) => !own.includes(option));
  if (foreign !== undefined) throw new Error(`${operation} it has no option --${foreign}. ${help}`);
  return command;
}

/** The store of a stack, with the identity that its settings hold, where a command uses one. */
async function openStore(stack: string, command: Command): Promise<SecretStore> {
  const { "platform:sops": settings } = await readStackFile(stack, project);
  const { ageKey, generate = "none" } = (settings ?? {}) as { ageKey?: unknown; generate?: unknown };
  const { SOPS_AGE_KEY = "", SOPS_AGE_KEY_FILE = "" } = process.env;
  const isFirst = generate === "none" && SOPS_AGE_KEY === "" && SOPS_AGE_KEY_FILE === "";
  const isUsed = ageKey !== undefined && isFirst && command !== "add" && command !== "recover";
  const key = isUsed ? await configSecret(stack, command) : undefined;
  return new SecretStore({
    ...{ stack, project, sops: new SopsCli(), env: process.env },
    ...(key === undefined ? {} : { key }),
  });
}

/** What only Pulumi can decrypt. `check` does without it, as on a fork. */
async function configSecret(stack: string, command: Command): Promise<string | undefined> {
  const { env } = await pulumiEnvironment(process.env, project);
  const args = ["config", "get", "--path", "platform:sops.ageKey", "--stack", stack];
  try {
    return await run("pulumi", args, { cwd: project, env });
  } catch (error) {
    const message = `Reading platform:sops.ageKey of stack "${stack}" failed: ${sentence((error as Error).message)}`;
    if (command !== "check")
      throw new Error(
        `${message} Run "pulumi stack select --create ${stack}" with its login and passphrase, or set SOPS_AGE_KEY_FILE.`,
        {
          cause: error,
        },
      );
    tell(message);
    return undefined;
  }
}

/** Checks stacks, and tells what was checked and what is wrong. @returns the exit code */
async function check(stacks: readonly string[], options: RepositoryOptions): Promise<number> {
  await ensureTools(["age-keygen", "platform-tree", "sops"], { report: tell });
  const stores: SecretStore[] = [];
  const unreadable: string[] = [];
  for (const stack of stacks) {
    try {
      stores.push(await openStore(stack, "check"));
    } catch (error) {
      unreadable.push((error as Error).message);
    }
  }
  const { findings, notes } = await checkSecrets(stores, options);
  for (const note of notes) tell(note);
  for (const finding of [...unreadable, ...findings]) console.log(finding);
  return unreadable.length + findings.length === 0 ? 0 : 1;
}

/** Written at once, before anything is encrypted for the key: who does not get it has lost nothing. */
function showRecoveryKey(key: string): void {
  try {
    writeSync(process.stdout.fd, `${key}\n`);
  } catch (error) {
    throw new Error(
      `Showing the recovery key failed: standard output takes nothing (${(error as Error).message}). Nothing is encrypted for it; run the same command again.`,
      { cause: error },
    );
  }
  tell("The recovery key is on standard output, this once. Keep it offline.");
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

if (require.main === module) exitWith(main(process.argv.slice(2)));
