import { errorOf, findingsOf, type Finding } from "../findings/finding";
import { isGenerated, readSecretFiles, type Generate } from "./files";
import { isEncrypted, recipientsOf } from "../../clients/sops/secret-file";
import { readIfThere } from "../../system/write";
import { run } from "../../tools/command";
import type { Sops } from "../../clients/sops/client";

/** The inputs of a stack's age identity. Paths are absolute. */
export interface IdentityInputs {
  readonly stack: string;
  /** The path of the identity file, outside the repository. */
  readonly file: string;
  /** With another value than "none", a missing identity is made; it opens the secrets that are not generated. */
  readonly generate: Generate;
  /** The gitops tree, whose `*.enc.yaml` files of `cluster` the identity must open. */
  readonly tree: string;
  readonly cluster: string;
  /** The identity itself, from a Pulumi config secret; a secret input. @default none */
  readonly key?: string;
  /** A command and its arguments, which prints the identity. @default none */
  readonly command?: readonly string[];
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
 * An identity that the stack does not make comes from `SOPS_AGE_KEY` or `SOPS_AGE_KEY_FILE`, as with the `sops`
 * program, or else from `key`, `command` or `file`, in this order. A generated one is always `file`: the user's own
 * keys stay out of the cluster.
 */
export class IdentityLifecycle {
  constructor(
    private readonly sops: Sops,
    private readonly env: NodeJS.ProcessEnv,
  ) {}

  /** @returns one finding for each file that the identity does not open, or one finding that forbids its use */
  async check(inputs: IdentityInputs): Promise<Finding[]> {
    const identity = await this.load(inputs);
    const reading = `Reading the age identity of stack "${inputs.stack}" failed:`;
    const place = this.place(inputs);
    if (identity === undefined && inputs.generate === "none") {
      const message = `${reading} SOPS_AGE_KEY is not set, and ${place} does not exist.`;
      const remedy = "Put the identity there, or set SOPS_AGE_KEY or SOPS_AGE_KEY_FILE to it.";
      return [{ check: "identity", message, remedy }];
    }
    try {
      if (identity !== undefined) await this.sops.recipients(identity);
    } catch (error) {
      const message = `${reading} ${place} holds no identity (${(error as Error).message}).`;
      return [{ check: "identity", message, remedy: "Put the content of an age-keygen file there." }];
    }
    const files = [...(await readSecretFiles(inputs.tree, inputs.cluster))];
    const findings = files
      .filter(([, content]) => !isGenerated(content, inputs.generate))
      .map(([path, content]) =>
        this.open(inputs, path, content, identity).then(
          () => [],
          (error: unknown) => findingsOf(error, "identity"),
        ),
      );
    return (await Promise.all(findings)).flat();
  }

  /**
   * Decrypts a file, and checks its MAC.
   *
   * @throws Error with a finding that says why the identity does not open the file
   */
  async open(
    { stack, generate, file }: IdentityInputs,
    path: string,
    content: string,
    identity: string | undefined,
  ): Promise<string> {
    const refusal = (cause: string, remedy: string, error?: unknown) => {
      const message = `Decrypting ${path} with the identity of stack "${stack}" failed: ${cause}.`;
      return errorOf([{ check: "identity", file: path, message, remedy }], error);
    };
    const init = `"npx platform secrets init ${stack}`;
    if (!isEncrypted(content)) throw refusal("it is not encrypted", `Run ${init}".`);
    try {
      if (identity === undefined) throw new Error("there is no identity");
      return await this.sops.decrypt(content, path, identity);
    } catch (error) {
      const theirs = recipientsOf(content);
      const own: string[] =
        identity === undefined ? [] : await this.sops.recipients(identity).catch(() => []);
      if (theirs.some((recipient) => own.includes(recipient))) {
        const { message } = error as Error;
        const reason = /MAC mismatch/.test(message) ? "its MAC does not hold" : message;
        const cause = `${reason}: another program than SOPS changed the file`;
        throw refusal(cause, "Restore it from Git.", error);
      }
      const known =
        identity === undefined ? "there is no identity yet" : `the identity is ${own.join(", ") || "none"}`;
      const right =
        generate === "none"
          ? "Set SOPS_AGE_KEY_FILE to the right identity"
          : `Put the right identity into ${file}`;
      const added = own.length === 0 ? "" : ` --recipient ${own.at(-1) ?? ""}`;
      throw refusal(
        `it is encrypted for ${theirs.join(", ")}, ${known}`,
        `${right}, ask a person whose identity opens it to run ${init}${added}", or replace the file with a Secret of your own.`,
        error,
      );
    }
  }

  async create(inputs: IdentityInputs): Promise<IdentityOutputs> {
    const findings = await this.check(inputs);
    if (findings.length > 0) throw errorOf(findings);
    const identity = (await this.load(inputs)) ?? identityIn(await this.sops.generate(inputs.file));
    return { ...inputs, identity, recipients: await this.sops.recipients(identity) };
  }

  /** @returns undefined when the identity is gone */
  async read(state: IdentityOutputs): Promise<IdentityOutputs | undefined> {
    const identity = await this.load(state);
    if (identity === undefined) return undefined;
    return { ...state, identity, recipients: await this.sops.recipients(identity) };
  }

  /** Whether any input except the paths of files changed. */
  diff(olds: IdentityInputs, news: IdentityInputs): boolean {
    const source = ({ stack, file, generate, key, command }: IdentityInputs) =>
      JSON.stringify([stack, file, generate, key ?? "", command ?? []]);
    return source(olds) !== source(news);
  }

  /** The identity from its source, without comments; undefined when there is none. */
  async load(inputs: IdentityInputs): Promise<string | undefined> {
    const { stack, key, command = [] } = inputs;
    const place = this.place(inputs);
    const sources: Readonly<Record<string, () => string | undefined | Promise<string>>> = {
      SOPS_AGE_KEY: () => this.env.SOPS_AGE_KEY,
      "platform:sops.ageKey": () => key,
      "platform:sops.ageKeyCommand": () => this.ask(stack, command),
    };
    const read = sources[place] ?? (() => readIfThere(place, `Reading the age identity of stack "${stack}"`));
    const text = await read();
    return text === undefined ? undefined : identityIn(text);
  }

  /**
   * A password manager gets all variables of the user. Its output stays in memory; the message of its failure may hold
   * anything.
   */
  private async ask(stack: string, [program = "", ...args]: readonly string[]): Promise<string> {
    try {
      return await run(program, args, { env: this.env });
    } catch (error) {
      const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
      throw new Error(
        `Reading the age identity of stack "${stack}" failed: "${program}" of platform:sops.ageKeyCommand ${missing ? "is not on PATH" : "ended with an error"}. Run it by hand, or correct the setting.`,
      );
    }
  }

  /** The source of the identity: a name of a variable or setting, or the path of a file. */
  place({ generate, file, key = "", command = [] }: IdentityInputs): string {
    const { SOPS_AGE_KEY: own = "", SOPS_AGE_KEY_FILE: named = "" } = this.env;
    if (generate !== "none") return file;
    if (own !== "") return "SOPS_AGE_KEY";
    if (named !== "") return named;
    if (key !== "") return "platform:sops.ageKey";
    return command.length > 0 ? "platform:sops.ageKeyCommand" : file;
  }
}

/**
 * The keys of a text, one per line. Other lines, such as age-keygen's comments or npm's output before a piped key, are
 * not part of an identity.
 */
export function identityIn(text: string): string {
  const keys = text.match(/^[ \t]*AGE-(SECRET-KEY|PLUGIN)-[^\s]+/gm) ?? [];
  return keys.length === 0 ? text.replace(/^#.*\n?/gm, "") : keys.map((key) => `${key.trim()}\n`).join("");
}
