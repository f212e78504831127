import { text } from "node:stream/consumers";
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { parseArgs } from "node:util";
import { run } from "../components/command";
import { addSecret, parseValues } from "../components/sops/add";
import { checkSecrets } from "../components/sops/check";
import { SopsCli } from "../components/sops/client";
import { editSecret } from "../components/sops/edit";
import { initialise } from "../components/sops/initialise";
import { recover } from "../components/sops/recovery";
import { rotate } from "../components/sops/rotation";
import { SecretStore } from "../components/sops/store";
import { readStackFile } from "../config";
import { ensureTools } from "../tools/tools";
import { pulumiEnvironment } from "./backend";
import { exitWith } from "./exit";
import { project, up } from "./up";

const usage = `Usage: npm run secrets -- <command> --stack <name> [options]

  init               makes the stack's identity where it has none, and makes settings, rules and files agree
    --recipient <age1…>  also encrypt for this one; may be given more than once
    --recovery           make an offline recovery key, and print it once on standard output
  add <name>         adds a Secret; its values are lines "key=value" on standard input, or are asked for
    --layer <name>       the layer that it belongs to [default: apps]
    --namespace <name>   [default: its name]
    --type <type>        [default: Opaque]
  edit <file>        opens an encrypted file in the editor
  check              checks rules, files, tree, history and artifact
    --base <branch>      check the history since it [default: where this branch left the default branch]
  rotate             replaces the stack's identity without downtime; goes on where it was interrupted
    --values             also make up the values of generated secrets anew
    --without <age1…>    let this recipient leave too; may be given more than once
    --commit             commit the changed files, where the stack is released from a clean tree alone
    --yes                do not ask before a release
  recover            gives the stack a new identity with the recovery key, which is read from standard input
    --lost <age1…>       the recipient whose identity is lost [default: the only one]
    --commit, --yes      as for rotate
`;

const commands = ["init", "add", "edit", "check", "rotate", "recover"] as const;
type Command = (typeof commands)[number];

/** @returns the exit code */
async function main(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      stack: { type: "string" },
      recipient: { type: "string", multiple: true, default: [] },
      recovery: { type: "boolean", default: false },
      layer: { type: "string", default: "apps" },
      namespace: { type: "string" },
      type: { type: "string" },
      base: { type: "string" },
      values: { type: "boolean", default: false },
      without: { type: "string", multiple: true, default: [] },
      lost: { type: "string" },
      commit: { type: "boolean", default: false },
      yes: { type: "boolean", default: false },
      help: { type: "boolean", short: "h" },
    },
  });
  const [name, subject, ...rest] = positionals;
  const command = commands.find((known) => known === name);
  const takesSubject = command === "add" || command === "edit";
  const { stack } = values;
  if (values.help === true || command === undefined || stack === undefined || rest.length > 0) {
    process.stderr.write(usage);
    return values.help === true ? 0 : 1;
  }
  if (takesSubject !== (subject !== undefined)) {
    process.stderr.write(usage);
    return 1;
  }
  const tell = (line: string) => {
    process.stderr.write(`${line}\n`);
  };
  await ensureTools(["age-keygen", "sops"], { report: tell });
  const store = await openStore(stack, command);
  const release = () => releaseStack(store, values, tell);

  switch (command) {
    case "init":
      await initialise(store, {
        ...{ recipients: values.recipient, tell },
        ...(values.recovery
          ? {
              showRecoveryKey: (key) => {
                tell("The recovery key is on standard output, this once. Keep it offline.");
                process.stdout.write(`${key}\n`);
              },
            }
          : {}),
      });
      return 0;
    case "add": {
      const read = process.stdin.isTTY ? await askForValues() : parseValues(await text(process.stdin));
      const written = await addSecret(store, {
        ...{ name: subject ?? "", layer: values.layer, namespace: values.namespace ?? subject ?? "" },
        ...(values.type === undefined ? {} : { type: values.type }),
        values: read,
      });
      for (const path of written) console.log(path);
      return 0;
    }
    case "edit":
      console.log(await editSecret(store, subject ?? ""));
      return 0;
    case "check": {
      const { findings, notes } = await checkSecrets(store, values.base);
      for (const note of notes) tell(note);
      for (const finding of findings) console.log(finding);
      return findings.length === 0 ? 0 : 1;
    }
    case "rotate":
      await rotate(store, { release, tell, values: values.values, without: values.without });
      return 0;
    case "recover": {
      if (process.stdin.isTTY) tell("Paste the recovery key, and end with Ctrl-D.");
      const key = await text(process.stdin);
      await recover(store, {
        ...{ key, release, tell },
        ...(values.lost === undefined ? {} : { lost: values.lost }),
      });
      return 0;
    }
  }
}

/** The store of a stack, with the identity that its settings hold, where a command uses one. */
async function openStore(stack: string, command: Command): Promise<SecretStore> {
  const sops = (await readStackFile(stack, project))["platform:sops"] as
    Readonly<Record<string, unknown>> | undefined;
  const sealed = sops?.ageKey !== undefined && command !== "add" && command !== "recover";
  const key = sealed ? await configSecret(stack) : undefined;
  return new SecretStore({
    ...{ stack, project, sops: new SopsCli(), env: process.env },
    ...(key === undefined ? {} : { key }),
  });
}

/** What only Pulumi can decrypt. `check` on a fork cannot, and says that the identity is not here. */
async function configSecret(stack: string): Promise<string | undefined> {
  const { env } = await pulumiEnvironment(process.env);
  const args = ["config", "get", "--path", "platform:sops.ageKey", "--stack", stack];
  return run("pulumi", args, { cwd: project, env }).catch(() => undefined);
}

/** `npm run up`, after a question; a tree that must be clean is committed, or is the user's to commit. */
async function releaseStack(
  store: SecretStore,
  options: { readonly commit: boolean; readonly yes: boolean },
  tell: (line: string) => void,
): Promise<void> {
  const operation = `Releasing stack "${store.stack}"`;
  const { gitops } = await store.config();
  if (gitops.requireClean) {
    const paths = [gitops.tree, await store.rulesFile(), store.settingsFile];
    const git = (...args: string[]) => run("git", args, { cwd: project });
    const changed = (await git("status", "--porcelain", "--", ...paths)).trim();
    if (changed !== "" && !options.commit) {
      throw new Error(
        `${operation} waits: its tree must be committed, and ${changed.split("\n").length} files are not. Commit them, and run the same command again, or run it with --commit.`,
      );
    }
    if (changed !== "") {
      const message = `Secrets of ${store.stack} encrypted for other recipients`;
      await git("add", "--", ...paths);
      await git("commit", "--quiet", "--message", message, "--only", "--", ...paths);
      tell(`committed: ${message}`);
    }
  }
  const code = await up(store.stack, options.yes ? ["--yes"] : []);
  if (code !== 0) {
    throw new Error(
      `${operation} failed: "pulumi up" ended with exit code ${code}. Correct what it names, and run the same command again: it goes on where it was.`,
    );
  }
}

/** Asks for keys and values; a value is not shown. */
async function askForValues(): Promise<Record<string, string>> {
  let hidden = false;
  const output = new Writable({
    write(chunk: Buffer, _encoding, callback) {
      if (!hidden) process.stderr.write(chunk);
      callback();
    },
  });
  const terminal = createInterface({ input: process.stdin, output, terminal: true });
  const lines: string[] = [];
  try {
    for (;;) {
      const key = (await terminal.question("Key (none to end): ")).trim();
      if (key === "") break;
      process.stderr.write(`Value of ${key}, which is not shown: `);
      hidden = true;
      const value = await terminal.question("");
      hidden = false;
      process.stderr.write("\n");
      lines.push(`${key}=${value}`);
    }
  } finally {
    terminal.close();
  }
  return parseValues(lines.join("\n"));
}

if (require.main === module) exitWith(main(process.argv.slice(2)));
