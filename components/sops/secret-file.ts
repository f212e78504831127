import { parse, stringify } from "yaml";
import type { Manifest } from "../kubernetes";

/** A Secret manifest as it stands in an `*.enc.yaml` file. */
interface SecretFile extends Manifest {
  readonly data?: Readonly<Record<string, string>>;
  readonly stringData?: Readonly<Record<string, string>>;
  readonly sops?: { readonly age?: readonly { readonly recipient: string }[] };
}

/** Whether a path is that of an encrypted file. */
export function isSecretPath(path: string): boolean {
  return path.endsWith(".enc.yaml");
}

/** Whether SOPS encrypted the file; one that is not is a shape whose values the stack generates. */
export function isEncrypted(content: string): boolean {
  return (parse(content) as SecretFile | null)?.sops !== undefined;
}

/** The age recipients that an encrypted file names. */
export function recipientsOf(content: string): string[] {
  return ((parse(content) as SecretFile | null)?.sops?.age ?? []).map((entry) => entry.recipient);
}

/** The keys of `data` and `stringData`, which are plain in every form of the file. */
export function secretKeys(content: string): string[] {
  const file = parse(content) as SecretFile | null;
  return [...Object.keys(file?.data ?? {}), ...Object.keys(file?.stringData ?? {})];
}

/**
 * The file with values in place of what it holds, not yet encrypted: never write it to disk.
 *
 * @param values one for each of `secretKeys`
 * @throws Error when a value is missing
 */
export function withValues(content: string, values: Readonly<Record<string, string>>): string {
  const file = parse(content) as SecretFile;
  const fill = (entries: Readonly<Record<string, string>>, encode: (value: string) => string) =>
    Object.fromEntries(
      Object.keys(entries).map((key) => {
        const value = values[key];
        if (value === undefined) {
          throw new Error(
            `Filling Secret ${file.metadata.name} failed: there is no value for its key "${key}".`,
          );
        }
        return [key, encode(value)];
      }),
    );
  return stringify({
    apiVersion: file.apiVersion,
    kind: file.kind,
    metadata: file.metadata,
    ...(file.type === undefined ? {} : { type: file.type }),
    ...(file.data === undefined
      ? {}
      : { data: fill(file.data, (value) => Buffer.from(value).toString("base64")) }),
    ...(file.stringData === undefined ? {} : { stringData: fill(file.stringData, (value) => value) }),
  });
}
