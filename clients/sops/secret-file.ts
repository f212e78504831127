import { parseAllDocuments, stringify } from "yaml";
import type { Manifest } from "../kubernetes/client";

/** A Secret manifest as an `*.enc.yaml` file has it. */
export interface SecretFile extends Manifest {
  readonly data?: Readonly<Record<string, string>>;
  readonly stringData?: Readonly<Record<string, string>>;
  readonly sops?: { readonly age?: readonly { readonly recipient: string }[] };
}

/** The values of a Secret: key → a text, or bytes as they are. */
export type SecretValues = Readonly<Record<string, string | Uint8Array>>;

/** Whether a path belongs to an encrypted file. */
export function isSecretPath(path: string): boolean {
  return path.endsWith(".enc.yaml");
}

/**
 * The objects of a file: one for each YAML document with content. SOPS encrypts all documents of a file.
 *
 * @throws Error when the text is not YAML
 */
export function objectsIn(content: string): SecretFile[] {
  return parseAllDocuments(content, { logLevel: "error" }).flatMap((document) => {
    const [wrong] = document.errors;
    if (wrong !== undefined) throw wrong;
    const object = document.toJS() as SecretFile | string | null;
    return typeof object === "object" && object !== null ? [object] : [];
  });
}

/** The Secrets of a file. */
export function secretsIn(content: string): SecretFile[] {
  return objectsIn(content).filter(({ kind }) => kind === "Secret");
}

/** Whether SOPS encrypted the file; a file in plain text is a shape whose values the stack generates. */
export function isEncrypted(content: string): boolean {
  return objectsIn(content).some(({ sops }) => sops !== undefined);
}

/** The age recipients that an encrypted file names. */
export function recipientsOf(content: string): string[] {
  const [sops] = objectsIn(content).flatMap((object) => object.sops ?? []);
  // In a file that was changed by hand, this may be anything.
  const age: unknown = sops?.age;
  return Array.isArray(age) ? (age as { recipient: string }[]).map(({ recipient }) => recipient) : [];
}

/** The keys of `data` and `stringData`, which are plain in every form of the file, each once. */
export function secretKeys(content: string): string[] {
  const keys = secretsIn(content).flatMap(({ data, stringData }) => Object.keys({ ...data, ...stringData }));
  return [...new Set(keys)];
}

/** The values of a file that is not encrypted: key → text. */
export function valuesIn(content: string): Record<string, string> {
  const entries = secretsIn(content).flatMap(({ data, stringData }) => [
    ...Object.entries(data ?? {}).map(([key, value]) => [key, Buffer.from(value, "base64").toString()]),
    ...Object.entries(stringData ?? {}),
  ]);
  return Object.fromEntries(entries) as Record<string, string>;
}

/**
 * The file with new values for its Secrets, not yet encrypted: never write it to disk.
 *
 * @param values one for each of `secretKeys`; Secrets of one file that have the same key have the same value
 * @throws Error when a value is missing
 */
export function withValues(content: string, values: Readonly<Record<string, string>>): string {
  return secretsIn(content)
    .map((file) => filled(file, values))
    .join("---\n");
}

function filled(file: SecretFile, values: Readonly<Record<string, string>>): string {
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
  const base64 = (value: string) => Buffer.from(value).toString("base64");
  return asYaml(
    {
      ...{ apiVersion: file.apiVersion, kind: file.kind, metadata: file.metadata },
      ...(file.type === undefined ? {} : { type: file.type }),
    },
    {
      ...(file.data === undefined ? {} : { data: fill(file.data, base64) }),
      ...(file.stringData === undefined ? {} : { stringData: fill(file.stringData, (value) => value) }),
    },
  );
}

/**
 * A Secret manifest in plain text: never write it to disk, unless its values are empty.
 *
 * A value with spaces, lines or unusual characters becomes base64 in `data`, because SOPS changes some texts when it
 * prints them, such as "!!str x" or a text that starts with a tab. Bytes become base64 too, because they may not be
 * text.
 */
export function secretManifest(secret: {
  readonly name: string;
  readonly namespace: string;
  readonly type?: string;
  readonly values: SecretValues;
}): string {
  const { name, namespace, type, values } = secret;
  const isSimple = (entry: [string, string | Uint8Array]): entry is [string, string] =>
    typeof entry[1] === "string" && /^([A-Za-z0-9][!-~]*)?$/.test(entry[1]);
  const entries = Object.entries(values);
  const plain = Object.fromEntries(entries.filter(isSimple));
  const encoded = Object.fromEntries(
    entries
      .filter((entry) => !isSimple(entry))
      .map(([key, value]) => [key, Buffer.from(value).toString("base64")]),
  );
  return asYaml(
    {
      ...{ apiVersion: "v1", kind: "Secret", metadata: { name, namespace } },
      ...(type === undefined ? {} : { type }),
    },
    {
      ...(Object.keys(encoded).length === 0 ? {} : { data: encoded }),
      ...(Object.keys(plain).length === 0 ? {} : { stringData: plain }),
    },
  );
}

/**
 * A manifest whose values are texts for every reader: SOPS reads a plain `2026-01-01` as a time, `0o17` as 15, and
 * YAML's unusual line breaks as a space.
 */
function asYaml(head: object, values: Readonly<Record<string, Readonly<Record<string, string>>>>): string {
  const plain = (key: string) =>
    /^[A-Za-z_][\w.-]*$/.test(key) && stringify(key, { version: "1.1" }) === `${key}\n`;
  const lines = Object.entries(values).flatMap(([part, entries]) => [
    Object.keys(entries).length === 0 ? `${part}: {}` : `${part}:`,
    ...Object.entries(entries).map(([key, value]) => `  ${plain(key) ? key : quoted(key)}: ${quoted(value)}`),
  ]);
  return `${stringify(head, { version: "1.1", lineWidth: 0 })}${lines.join("\n")}\n`;
}

/** A double-quoted scalar on one line. Source: https://yaml.org/spec/1.2.2/#57-escaped-characters */
function quoted(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\u00a0\u2028\u2029\ufeff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
