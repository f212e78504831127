import { randomBytes } from "node:crypto";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import { refOf, type ManifestRef } from "../../clients/kubernetes/client";
import { SopsCli } from "../../clients/sops/client";
import { readSecretFiles } from "../../core/secrets/files";
import { identityIn } from "../../core/secrets/identity";
import { recipientsOf, secretKeys, withValues, type SecretFile } from "../../clients/sops/secret-file";
import { SecretStore } from "../../core/secrets/store";
import { readStackFile } from "../../core/settings/config";
import { ensureTools } from "../../tools/tools";

const repository = join(__dirname, "..", "..");

/** What {@link KnownSecrets.make} is told. */
export interface KnownSecretsOptions {
  readonly stack: string;
  /** Files, relative to the tree, whose values are left to the stack to make up. @default none */
  readonly generated?: readonly string[];
}

/** An encrypted file whose values are known. */
export interface KnownFile {
  /** Relative to the tree. */
  readonly path: string;
  /** The Secret that it becomes. */
  readonly ref: ManifestRef;
  /** Key → value. */
  readonly values: Readonly<Record<string, string>>;
}

/** A value for a Secret: a word that is found nowhere else. */
export function newValue(): string {
  return `m${randomBytes(12).toString("hex")}`;
}

/** A copy of the project with one stack, whose identity, recovery key and values are made up and known. */
export class KnownSecrets {
  readonly store: SecretStore;
  private readonly known = new Map<string, KnownFile>();
  private readonly held = new Set<string>();

  private constructor(
    readonly stack: string,
    /** Absolute path of the copy: `Pulumi.<stack>.yaml`, `.sops.yaml`, `gitops` and the identity. */
    readonly project: string,
    /** The stack's own private key. */
    readonly key: string,
    /** The private key of its recovery recipient, which is in no file. */
    readonly recoveryKey: string,
  ) {
    this.store = new SecretStore({ stack, project, sops: new SopsCli(), env: {} });
  }

  /** Makes the copy below the temporary directory; every file of the stack is encrypted for both of its keys. */
  static async make({ stack, generated = [] }: KnownSecretsOptions): Promise<KnownSecrets> {
    await ensureTools(["age-keygen", "sops"], { report: console.error });
    const sops = new SopsCli();
    const project = await mkdtemp(join(tmpdir(), "platform-secrets-"));
    const newKey = async () => identityIn(await sops.keygen()).trim();
    const [key, recoveryKey] = [await newKey(), await newKey()];
    const [recipient = "", recoveryRecipient = ""] = await sops.recipients(`${key}\n${recoveryKey}\n`);
    const secrets = new KnownSecrets(stack, project, key, recoveryKey);
    await cp(join(repository, "gitops"), secrets.tree, { recursive: true });
    await cp(join(repository, "Pulumi.yaml"), join(project, "Pulumi.yaml"));
    const settings = {
      ...(await readStackFile(stack, repository)),
      "platform:sops": {
        ...{ generate: "empty", identityFile: secrets.identityFile },
        ...{ recipients: [recipient], recoveryRecipient },
      },
    };
    await writeFile(join(project, secrets.store.settingsFile), stringify({ config: settings }));
    await secrets.store.writeIdentityFile({ keys: [key], notes: {} });
    for (const [path, content] of await readSecretFiles(secrets.tree, stack)) {
      const valueOf = () => (generated.includes(path) ? "" : newValue());
      const values = Object.fromEntries(secretKeys(content).map((name) => [name, valueOf()]));
      if (generated.includes(path)) await writeFile(join(secrets.tree, path), withValues(content, values));
      else await secrets.write(path, content, values, [recipient, recoveryRecipient]);
    }
    await secrets.store.writeRules();
    return secrets;
  }

  /** Absolute path of the GitOps tree. */
  get tree(): string {
    return join(this.project, "gitops");
  }

  /** Absolute path. */
  get identityFile(): string {
    return join(this.project, "keys", `${this.stack}.agekey`);
  }

  /** The encrypted files, sorted by path. */
  get files(): readonly KnownFile[] {
    return [...this.known.values()];
  }

  /**
   * An encrypted file.
   *
   * @param path relative to `clusters/<stack>`, such as `apps/homepage.enc.yaml`
   */
  file(path: string): KnownFile {
    const file = this.known.get(join("clusters", this.stack, path));
    if (file === undefined) throw new Error(`The values of ${path} are not known. Name an encrypted file.`);
    return file;
  }

  /**
   * Encrypts a file anew, for whom it is encrypted now.
   *
   * @param path as `file` takes it
   * @param values in place of those it holds; none changes the data key alone
   */
  async change(path: string, values: Readonly<Record<string, string>> = {}): Promise<void> {
    const file = this.file(path);
    const content = await readFile(join(this.tree, file.path), "utf8");
    await this.write(file.path, content, { ...file.values, ...values }, recipientsOf(content));
  }

  /** What must be found nowhere but where it belongs: both private keys, and every value that a file ever held. */
  get secrets(): readonly string[] {
    return [this.key, this.recoveryKey, ...this.held];
  }

  /** What `Rehearsal.up` takes for a run with the settings as the stack's file has them now. */
  async settings(): Promise<Record<string, unknown>> {
    const { "platform:sops": sops } = await readStackFile(this.stack, this.project);
    return { "platform:sops": sops, "platform:gitops": { tree: this.tree } };
  }

  /** Removes the copy. */
  async remove(): Promise<void> {
    await rm(this.project, { recursive: true, force: true });
  }

  private async write(
    path: string,
    content: string,
    values: Readonly<Record<string, string>>,
    recipients: readonly string[],
  ): Promise<void> {
    const sealed = await this.store.sops.encrypt(withValues(content, values), path, recipients);
    await writeFile(join(this.tree, path), sealed);
    for (const value of Object.values(values)) this.held.add(value);
    this.known.set(path, { path, values, ref: refOf(parse(content) as SecretFile) });
  }
}
