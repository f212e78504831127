import { createHash } from "node:crypto";
import type { Sops } from "../client";
import { withValues } from "../secret-file";

/** Secrets that the stack generates. Paths are relative to the gitops tree. */
export interface GeneratedInputs {
  /** Path → the file as committed: a Secret with empty values. */
  readonly files: Readonly<Record<string, string>>;
  /** Path → key → value. A secret input. */
  readonly values: Readonly<Record<string, Readonly<Record<string, string>>>>;
  /** age recipients, `age1…`. */
  readonly recipients: readonly string[];
}

/** The encrypted files, which may be shown to anybody. */
export interface GeneratedOutputs {
  /** Path → content, encrypted with SOPS. */
  readonly encrypted: Readonly<Record<string, string>>;
  /** SHA-256 of the inputs; the values themselves are not kept. */
  readonly fingerprint: string;
}

/** Encrypts generated values into files of the committed shape; plain text never touches the disk. */
export class GeneratedLifecycle {
  constructor(private readonly sops: Sops) {}

  async create(inputs: GeneratedInputs): Promise<GeneratedOutputs> {
    const encrypted = await Promise.all(
      Object.entries(inputs.files).map(async ([path, content]) => {
        const plain = withValues(content, inputs.values[path] ?? {});
        return [path, await this.sops.encrypt(plain, path, inputs.recipients)] as const;
      }),
    );
    return { encrypted: Object.fromEntries(encrypted), fingerprint: this.fingerprint(inputs) };
  }

  diff(olds: GeneratedOutputs, news: GeneratedInputs): boolean {
    return olds.fingerprint !== this.fingerprint(news);
  }

  private fingerprint({ files, values, recipients }: GeneratedInputs): string {
    const sorted = (record: Readonly<Record<string, unknown>>): unknown =>
      Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1));
    return createHash("sha256")
      .update(
        JSON.stringify([
          sorted(files),
          sorted(Object.fromEntries(Object.entries(values).map(([path, keys]) => [path, sorted(keys)]))),
          recipients,
        ]),
      )
      .digest("hex");
  }
}
