import { mkdir, stat } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { readStackConfig, stacksOf, type PlatformConfig } from "../settings/config";
import type { Sops } from "../../clients/sops/client";
import { errorOf, findingsOf, type Finding } from "../findings/finding";
import { isGenerated, readSecretFiles } from "./files";
import { IdentityLifecycle, type IdentityInputs } from "./identity";
import { findRules, readersOf, secretPaths } from "./place";
import { everyRecipient, needsRule, parseRules, renderRules } from "./rules";
import { isEncrypted, recipientsOf } from "../../clients/sops/secret-file";
import { changeSettings, type SopsSettings } from "./settings";
import { notWritten, readIfThere, writeWhole } from "../../system/write";

/** The place of a stack's secrets, and the access to them. */
export interface StoreOptions {
  readonly stack: string;
  /** Absolute path of the directory that holds Pulumi.yaml. */
  readonly project: string;
  readonly sops: Sops;
  readonly env: NodeJS.ProcessEnv;
  /** The identity that the stack's settings hold, decrypted. @default none */
  readonly key?: string;
}

/** An identity file: private keys in their order, and a note about a change in progress. */
export interface IdentityFile {
  readonly keys: readonly string[];
  /** The value of its line `# <name>: …`, as JSON. */
  readonly notes: Readonly<Record<string, unknown>>;
}

/** The secrets of one stack on this machine: settings, rules, files and identity. */
export class SecretStore {
  readonly stack: string;
  readonly sops: Sops;
  private readonly lifecycle: IdentityLifecycle;

  constructor(private readonly options: StoreOptions) {
    this.stack = options.stack;
    this.sops = options.sops;
    this.lifecycle = new IdentityLifecycle(options.sops, options.env);
  }

  /** The stack's settings, as its file has them at this moment. */
  config(): Promise<PlatformConfig> {
    return readStackConfig(this.stack, this.options.project, this.options.env);
  }

  /** Path of the stack's file, relative to the project. */
  get settingsFile(): string {
    return `Pulumi.${this.stack}.yaml`;
  }

  /** The identity of the stack, without comments; undefined when there is none here. */
  async identity(): Promise<string | undefined> {
    return this.lifecycle.load(await this.identityInputs());
  }

  /** The source of the identity: a name of a variable or setting, or the path of a file. */
  async identityPlace(): Promise<string> {
    return this.lifecycle.place(await this.identityInputs());
  }

  /** One finding for each encrypted file that the identity does not open. */
  async unopened(): Promise<Finding[]> {
    return this.lifecycle.check(await this.identityInputs());
  }

  /** The identity file; undefined when there is none. */
  async readIdentityFile(): Promise<IdentityFile | undefined> {
    const { identityFile } = (await this.config()).sops;
    const text = await readIfThere(identityFile, `Reading the age identity of stack "${this.stack}"`);
    if (text === undefined) return undefined;
    const lines = text.split("\n").map((line) => line.trim());
    const notes = lines.flatMap((line): [string, unknown][] => {
      const [, name = "", value = ""] = /^# (\w+): (\{.*\})$/.exec(line) ?? [];
      return name === "" ? [] : [[name, JSON.parse(value) as unknown]];
    });
    return {
      keys: lines.filter((line) => line !== "" && !line.startsWith("#")),
      notes: Object.fromEntries(notes),
    };
  }

  /** Writes the identity file as a whole, readable for this user alone. */
  async writeIdentityFile({ keys, notes }: IdentityFile): Promise<void> {
    const { identityFile } = (await this.config()).sops;
    const noted = Object.entries(notes).map(([name, value]) => `# ${name}: ${JSON.stringify(value)}`);
    const known = await Promise.all(
      keys.map(async (key) => {
        const [recipient = ""] = await this.sops.recipients(`${key}\n`);
        return [`# public key: ${recipient}`, key];
      }),
    );
    await mkdir(dirname(identityFile), { recursive: true, mode: 0o700 }).catch((error: unknown) => {
      throw notWritten(identityFile, error as Error);
    });
    await writeWhole(identityFile, `${[...noted, ...known.flat()].join("\n")}\n`, 0o600);
  }

  /** A new private key, only in memory. */
  async newKey(): Promise<{ key: string; recipient: string }> {
    const generated = await this.sops.keygen();
    const key = generated.split("\n").find((line) => line.startsWith("AGE-SECRET-KEY-"));
    const [recipient] = await this.sops.recipients(generated);
    if (key === undefined || recipient === undefined) {
      throw new Error(`Making an age identity of stack "${this.stack}" failed: age-keygen printed none.`);
    }
    return { key, recipient };
  }

  /** Path of `.sops.yaml`, which is made by `writeRules`. */
  async rulesFile(): Promise<string> {
    const { tree } = (await this.config()).gitops;
    return findRules(tree) ?? join(dirname(tree), ".sops.yaml");
  }

  /** The text of `.sops.yaml`; undefined when there is none. @throws Error when the text cannot be changed */
  async readRules(): Promise<string | undefined> {
    const text = await readIfThere(await this.rulesFile(), "Reading .sops.yaml");
    if (text !== undefined) parseRules(text);
    return text;
  }

  /**
   * Puts the recipients of all stacks of the tree into `.sops.yaml`, and leaves the rest of the file as it is.
   *
   * @returns whether it changed
   */
  async writeRules(): Promise<boolean> {
    const { project, env } = this.options;
    const { tree } = (await this.config()).gitops;
    const stacks = await stacksOf(project);
    const configs = await Promise.all(stacks.map((stack) => readStackConfig(stack, project, env)));
    const readers = configs.filter(({ gitops }) => gitops.tree === tree).map(readersOf);
    const file = await this.rulesFile();
    const before = await this.readRules();
    if (before === undefined && !readers.some(needsRule)) return false;
    const rules = { tree: relative(dirname(file), tree), all: await secretPaths(tree) };
    const after = renderRules(readers, rules, before);
    if (after !== before) await writeWhole(file, after);
    return after !== before;
  }

  /** The stack's files by their paths relative to the tree, without files whose values the stack generates. */
  async files(): Promise<Map<string, string>> {
    const { gitops, sops } = await this.config();
    const files = await readSecretFiles(gitops.tree, gitops.cluster);
    return new Map([...files].filter(([, content]) => !isGenerated(content, sops.generate)));
  }

  /**
   * The files that are encrypted for other recipients, or not at all.
   *
   * @param recipients of the files. @default those of the settings
   */
  async due(recipients?: readonly string[]): Promise<Map<string, string>> {
    const wanted = [...(recipients ?? everyRecipient(readersOf(await this.config())))].sort().join();
    if (wanted === "") return new Map();
    return new Map(
      [...(await this.files())].filter(([, content]) => recipientsOf(content).sort().join() !== wanted),
    );
  }

  /** @throws Error with a finding for each file that is due for these recipients and that the identity does not open */
  async checkDue(identity: string, recipients: readonly string[]): Promise<void> {
    const findings: Finding[] = [];
    for (const [path, content] of await this.due(recipients)) {
      if (!isEncrypted(content)) continue;
      await this.open(path, content, identity).catch((error: unknown) => {
        findings.push(...findingsOf(error, "identity"));
      });
    }
    if (findings.length > 0) throw errorOf(findings);
  }

  /**
   * Makes settings, rules and files agree. Each of them stays as it is if it is correct; a file that needs it is
   * encrypted with a fresh data key, as a whole.
   *
   * @param identity opens the files now
   * @param tell receives a line after each change
   */
  async agree(identity: string, settings: SopsSettings, tell: (line: string) => void): Promise<void> {
    if (await changeSettings(join(this.options.project, this.settingsFile), settings)) {
      tell(`settings: ${this.settingsFile}`);
    }
    if (await this.writeRules()) tell("rules: .sops.yaml");
    const recipients = everyRecipient(readersOf(await this.config()));
    for (const [path, content] of await this.due()) {
      const plain = isEncrypted(content) ? await this.open(path, content, identity) : content;
      await this.writeFile(path, await this.sops.encrypt(plain, path, recipients));
      tell(`encrypted: ${path}`);
    }
  }

  /** Writes a file of the tree; `path` is relative to it. */
  async writeFile(path: string, content: string): Promise<void> {
    const { tree } = (await this.config()).gitops;
    const file = join(tree, path);
    const { mode } = await stat(file).catch(() => ({ mode: 0o644 }));
    await writeWhole(file, content, mode & 0o777);
  }

  /** Decrypts a file. @throws Error with a finding that says why the identity does not open it */
  async open(path: string, content: string, identity: string): Promise<string> {
    return this.lifecycle.open(await this.identityInputs(), path, content, identity);
  }

  private async identityInputs(): Promise<IdentityInputs> {
    const { gitops, sops } = await this.config();
    const { key } = this.options;
    const { identityFile: file, generate, ageKeyCommand: command } = sops;
    return { stack: this.stack, file, generate, tree: gitops.tree, cluster: gitops.cluster, key, command };
  }
}
