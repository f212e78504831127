import { readFile } from "node:fs/promises";
import { isGenerated, readSecretFiles, type Generate } from "../files";
import { isEncrypted, recipientsOf } from "../secret-file";
import type { Sops } from "../client";

/** What identifies a stack's age identity. Paths are absolute. */
export interface IdentityInputs {
  readonly stack: string;
  /** Where the identity is kept, outside the repository. */
  readonly file: string;
  /** With anything but "none", an identity is made when there is none, and opens the secrets that are not made up. */
  readonly generate: Generate;
  /** The gitops tree, whose `*.enc.yaml` files of `cluster` the identity must open. */
  readonly tree: string;
  readonly cluster: string;
}

/** The stack's identity; `identity` is a secret output. */
export interface IdentityOutputs extends IdentityInputs {
  /** The public halves, `age1…`. */
  readonly recipients: readonly string[];
  /** The private half: the content of the identity file. */
  readonly identity: string;
}

/**
 * The age identity of a stack, and the proof that it opens every encrypted file of the stack's cluster.
 *
 * An identity that the stack does not make comes from `SOPS_AGE_KEY`, `SOPS_AGE_KEY_FILE` or `file`, in this order, as
 * with the `sops` program. A generated one is always `file`: the user's own keys stay out of the cluster.
 */
export class IdentityLifecycle {
  constructor(
    private readonly sops: Sops,
    private readonly env: NodeJS.ProcessEnv,
  ) {}

  /** @returns one finding for each file that the identity does not open, or the one that forbids its use */
  async check(inputs: IdentityInputs): Promise<string[]> {
    const identity = await this.load(inputs);
    if (identity === undefined && inputs.generate === "none") return [this.missing(inputs)];
    return this.unopened(inputs, identity);
  }

  async create(inputs: IdentityInputs): Promise<IdentityOutputs> {
    const findings = await this.check(inputs);
    if (findings.length > 0) throw new Error(findings.join("\n"));
    const identity = (await this.load(inputs)) ?? (await this.sops.generate(inputs.file));
    return { ...inputs, identity, recipients: await this.sops.recipients(identity) };
  }

  /** @returns undefined when the identity is gone */
  async read(state: IdentityOutputs): Promise<IdentityOutputs | undefined> {
    const identity = await this.load(state);
    if (identity === undefined) return undefined;
    return { ...state, identity, recipients: await this.sops.recipients(identity) };
  }

  /** Whether anything but the place of files changed. */
  diff(olds: IdentityInputs, news: IdentityInputs): boolean {
    return olds.stack !== news.stack || olds.file !== news.file || olds.generate !== news.generate;
  }

  private async load(inputs: IdentityInputs): Promise<string | undefined> {
    const { SOPS_AGE_KEY: key = "" } = this.env;
    if (inputs.generate === "none" && key !== "") return key;
    const file = this.file(inputs);
    try {
      return await readFile(file, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw new Error(
        `Reading the age identity of stack "${inputs.stack}" failed: ${(error as Error).message}. Make ${file} readable for this user.`,
        { cause: error },
      );
    }
  }

  /** The file that holds the identity when SOPS_AGE_KEY does not. */
  private file(inputs: IdentityInputs): string {
    const { SOPS_AGE_KEY_FILE: named = "" } = this.env;
    return inputs.generate === "none" && named !== "" ? named : inputs.file;
  }

  private async unopened(inputs: IdentityInputs, identity: string | undefined): Promise<string[]> {
    let own: readonly string[] = [];
    try {
      if (identity !== undefined) own = await this.sops.recipients(identity);
    } catch (error) {
      const { SOPS_AGE_KEY: key = "" } = this.env;
      const place = inputs.generate === "none" && key !== "" ? "SOPS_AGE_KEY" : this.file(inputs);
      return [
        `Reading the age identity of stack "${inputs.stack}" failed: ${place} holds none (${(error as Error).message}). Put the content of an age-keygen file there.`,
      ];
    }
    const files = [...(await readSecretFiles(inputs.tree, inputs.cluster))];
    const findings = await Promise.all(
      files.map(async ([path, content]) => {
        if (isGenerated(content, inputs.generate)) return undefined;
        try {
          if (identity === undefined) throw new Error("there is no identity");
          await this.sops.decrypt(content, path, identity);
          return undefined;
        } catch (error) {
          return this.explain(inputs, path, content, own, error as Error);
        }
      }),
    );
    return findings.filter((finding) => finding !== undefined);
  }

  private explain(
    inputs: IdentityInputs,
    path: string,
    content: string,
    own: readonly string[],
    error: Error,
  ): string {
    const operation = `Decrypting ${path} with the identity of stack "${inputs.stack}" failed:`;
    if (!isEncrypted(content)) {
      return `${operation} it is not encrypted. Run "sops encrypt --in-place ${path}".`;
    }
    const recipients = recipientsOf(content);
    if (recipients.some((recipient) => own.includes(recipient))) {
      const reason = /MAC mismatch/.test(error.message) ? "its MAC does not hold" : error.message;
      return `${operation} ${reason}: the file was changed by something else than sops. Restore it from Git.`;
    }
    const identity = own.length === 0 ? "there is no identity yet" : `the identity is ${own.join(", ")}`;
    const place = inputs.generate === "none" ? "Set SOPS_AGE_KEY_FILE to" : `Put into ${inputs.file}`;
    return `${operation} it is encrypted for ${recipients.join(", ")}, ${identity}. ${place} the right identity, or run "sops updatekeys ${path}".`;
  }

  private missing(inputs: IdentityInputs): string {
    return `Reading the age identity of stack "${inputs.stack}" failed: SOPS_AGE_KEY is not set, and ${this.file(inputs)} does not exist. Put the identity there, or set SOPS_AGE_KEY or SOPS_AGE_KEY_FILE to it.`;
  }
}
