import { mkdir, readFile, stat } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { readStackConfig, stacksOf, type PlatformConfig } from "../settings/config";
import { sentence } from "../../system/sentence";
import type { Sops } from "../../clients/sops/client";
import type { Finding } from "../findings/finding";
import { isGenerated, readSecretFiles } from "./files";
import { IdentityLifecycle, type IdentityInputs } from "./identity";
import { findRules, readersOf, secretPaths } from "./place";
import { everyRecipient, needsRule, parseRules, renderRules } from "./rules";
import { isEncrypted, recipientsOf } from "../../clients/sops/secret-file";
import { changeSettings, type SopsSettings } from "./settings";
import { notWritten, writeWhole } from "../../system/write";

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

  constructor(private readonly options: StoreOptions) {
    this.stack = options.stack;
    this.sops = options.sops;
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
    return this.lifecycle().load(await this.identityInputs());
  }

  /** The source of the identity: a name of a variable or setting, or the path of a file. */
  async identityPlace(): Promise<string> {
    return this.lifecycle().place(await this.identityInputs());
  }

  /** One finding for each encrypted file that the identity does not open. */
  async unopened(): Promise<Finding[]> {
    return this.lifecycle().check(await this.identityInputs());
  }

  /** The identity file; undefined when there is none. */
  async readIdentityFile(): Promise<IdentityFile | undefined> {
    const { identityFile } = (await this.config()).sops;
    const text = await readFile(identityFile, "utf8").catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw new Error(
        `Reading the age identity of stack "${this.stack}" failed: ${(error as Error).message}. Make ${identityFile} readable for this user.`,
        { cause: error },
      );
    });
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

  /** Changes the stack's settings. @returns whether they changed */
  change(settings: SopsSettings): Promise<boolean> {
    return changeSettings(join(this.options.project, this.settingsFile), settings);
  }

  /** Path of `.sops.yaml`, which is made by `writeRules`. */
  async rulesFile(): Promise<string> {
    const { tree } = (await this.config()).gitops;
    return findRules(tree) ?? join(dirname(tree), ".sops.yaml");
  }

  /** The text of `.sops.yaml`; undefined when there is none. @throws Error when the text cannot be changed */
  async readRules(): Promise<string | undefined> {
    const file = await this.rulesFile();
    const text = await readFile(file, "utf8").catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw new Error(
        `Reading .sops.yaml failed: ${sentence((error as Error).message)} Make ${file} readable for this user.`,
        { cause: error },
      );
    });
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

  /** @throws Error when the identity does not open a file that is due for these recipients, with a line for each */
  async checkDue(identity: string, recipients: readonly string[]): Promise<void> {
    const failures: string[] = [];
    for (const [path, content] of await this.due(recipients)) {
      if (!isEncrypted(content)) continue;
      await this.open(content, path, identity).catch((error: unknown) => {
        failures.push((error as Error).message);
      });
    }
    if (failures.length > 0) throw new Error(failures.join("\n"));
  }

  /**
   * Encrypts the files that need it with fresh data keys, one by one and each as a whole.
   *
   * @param identity opens the files now
   * @param done receives the path of each written file
   */
  async encryptDue(identity: string, done: (path: string) => void = () => undefined): Promise<void> {
    const config = await this.config();
    const recipients = everyRecipient(readersOf(config));
    for (const [path, content] of await this.due()) {
      const plain = isEncrypted(content) ? await this.open(content, path, identity) : content;
      await this.writeFile(path, await this.sops.encrypt(plain, path, recipients));
      done(path);
    }
  }

  /** Writes a file of the tree; `path` is relative to it. */
  async writeFile(path: string, content: string): Promise<void> {
    const { tree } = (await this.config()).gitops;
    const file = join(tree, path);
    const { mode } = await stat(file).catch(() => ({ mode: 0o644 }));
    await writeWhole(file, content, mode & 0o777);
  }

  private async open(content: string, path: string, identity: string): Promise<string> {
    try {
      return await this.sops.decrypt(content, path, identity);
    } catch (error) {
      const own = await this.sops.recipients(identity);
      const theirs = recipientsOf(content);
      const finding = `Encrypting ${path} anew failed: it is encrypted for ${theirs.join(", ")}, the identity is ${own.join(", ")}`;
      throw new Error(
        theirs.some((recipient) => own.includes(recipient))
          ? `${finding}, and it does not open. Restore the file from Git.`
          : `${finding}. ${await this.otherIdentity(theirs)}`,
        { cause: error },
      );
    }
  }

  /** The remedy for a file that is encrypted for other recipients. */
  private async otherIdentity(theirs: readonly string[]): Promise<string> {
    const config = await this.config();
    const { generate, identityFile } = config.sops;
    const isOurs = everyRecipient(readersOf(config)).some((recipient) => theirs.includes(recipient));
    const identity = `an identity that opens it, such as the recovery key, beside the stack's`;
    const init = `"npx platform secrets init ${this.stack}"`;
    const remedy =
      generate === "none"
        ? `run ${init} with SOPS_AGE_KEY_FILE naming a file that holds ${identity}`
        : `put ${identity} into ${identityFile} and run ${init}`;
    return isOurs
      ? `${remedy.replace(/^./, (letter) => letter.toUpperCase())}.`
      : `Replace it by a Secret of your own, or ${remedy}.`;
  }

  private lifecycle(): IdentityLifecycle {
    return new IdentityLifecycle(this.sops, this.options.env);
  }

  private async identityInputs(): Promise<IdentityInputs> {
    const { gitops, sops } = await this.config();
    const { key } = this.options;
    return {
      ...{ stack: this.stack, file: sops.identityFile, generate: sops.generate },
      ...{ tree: gitops.tree, cluster: gitops.cluster },
      ...(key === undefined ? {} : { key }),
      ...(sops.ageKeyCommand === undefined ? {} : { command: sops.ageKeyCommand }),
    };
  }
}
