import { parseDocument } from "yaml";
import { sentence } from "../sentence";
import type { Generate } from "./files";
import { encryptedRegex } from "./rules";
import type { SecretFile } from "./secret-file";

/**
 * Checks what anybody can see of an `*.enc.yaml` file: that it is a Secret whose values, and nothing else, SOPS
 * encrypted with age. Each finding is one sentence with operation, subject, cause and remedy.
 *
 * @param path relative to the tree
 * @param generate what the stack makes up: with anything but "none", a file may be one that is not encrypted
 * @param stack whose file it is. @default "<name>", as in the help
 */
export function checkForm(path: string, content: string, generate: Generate, stack = "<name>"): string[] {
  const operation = `Checking ${path} failed:`;
  const restore = "Restore it from Git.";
  let file: SecretFile | null;
  try {
    const document = parseDocument(content, { logLevel: "error" });
    // A tag that nobody knows is a warning; in a file of SOPS it is a byte that was changed.
    const [wrong] = [...document.errors, ...document.warnings];
    if (wrong !== undefined) throw wrong;
    file = document.toJS() as SecretFile | null;
  } catch (error) {
    const [reason = ""] = (error as Error).message.split("\n");
    return [`${operation} ${sentence(reason.replace(/:\s*$/, ""))} ${restore}`];
  }
  if (
    typeof file !== "object" ||
    file?.kind !== "Secret" ||
    typeof (file.metadata as { name?: unknown } | undefined)?.name !== "string"
  ) {
    return [`${operation} it is no Secret. Name it without ".enc", or make it a Secret.`];
  }
  const values = Object.entries({ ...file.data, ...file.stringData });
  if (file.sops === undefined) {
    if (values.some(([, value]) => isSealed(value))) {
      return [`${operation} SOPS's own part of it is missing: the file was cut off. ${restore}`];
    }
    if (generate !== "none") return [];
    return [`${operation} it is not encrypted. Run "npm run secrets -- init --stack ${stack}".`];
  }
  // In a file that was changed by hand it may be anything.
  const sops = (file.sops ?? {}) as Readonly<Record<string, unknown>>;
  const foreign = Object.entries(sops).filter(
    ([key, value]) => foreignKeys().includes(key) && Array.isArray(value) && value.length > 0,
  );
  const plain = values.filter(([, value]) => !isSealed(value) && !isEmpty(value)).map(([key]) => key);
  // SOPS's MAC holds values and not names: one that was changed is known by being none that is expected here.
  const unknown = [
    ...Object.keys(file).filter((key) => !partsOf("Secret").includes(key)),
    ...Object.keys(file.metadata)
      .filter((key) => !partsOf("metadata").includes(key))
      .map((key) => `metadata.${key}`),
    ...Object.keys(sops)
      .filter((key) => !partsOf("sops").includes(key) && !foreignKeys().includes(key))
      .map((key) => `sops.${key}`),
  ];
  const rest = Object.entries(file).filter(([key]) => !["data", "stringData", "sops"].includes(key));
  return [
    ...(isSealed(sops.mac)
      ? []
      : [
          `${operation} it has no MAC: the file was cut off or changed by something else than sops. ${restore}`,
        ]),
    ...(sops.age === undefined || isRecipients(sops.age)
      ? []
      : [`${operation} its "sops.age" is no list of recipients. ${restore}`]),
    ...(sops.encrypted_regex === encryptedRegex
      ? []
      : [
          `${operation} it was encrypted with "encrypted_regex" ${JSON.stringify(sops.encrypted_regex ?? null)}, not "${encryptedRegex}". Decrypt it, and encrypt it under the rules of .sops.yaml.`,
        ]),
    ...(typeof sops.version !== "string" || /^\d+\.\d+\.\d+$/.test(sops.version)
      ? []
      : [`${operation} "${sops.version}" is no version of SOPS. ${restore}`]),
    ...unknown.map(
      (key) =>
        `${operation} it holds "${key}", which is no part of a Secret that SOPS encrypted. Remove it, or restore the file from Git.`,
    ),
    ...foreign.map(
      ([key]) =>
        `${operation} a key of kind "${key}" opens it, and secrets are encrypted with age alone. Decrypt it, and encrypt it under the rules of .sops.yaml.`,
    ),
    ...(plain.length === 0
      ? []
      : [
          `${operation} it holds "${plain.join('", "')}" in plain text. Take the values back, replace them where they are used, and change the file with "npm run secrets -- edit".`,
        ]),
    ...(rest.some(([, value]) => JSON.stringify(value).includes("ENC[AES256_GCM,"))
      ? [
          `${operation} more than "data" and "stringData" is encrypted. Decrypt it, and encrypt it under the rules of .sops.yaml.`,
        ]
      : []),
  ];
}

/** The parts of an encrypted file that are known. */
function partsOf(part: "Secret" | "metadata" | "sops"): readonly string[] {
  const parts = {
    Secret: ["apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData", "sops"],
    metadata: ["name", "namespace", "labels", "annotations"],
    sops: ["age", "encrypted_regex", "lastmodified", "mac", "version"],
  };
  return parts[part];
}

/** Keys of SOPS metadata that list others than age recipients. Source: `Metadata` in getsops/sops, stores/stores.go */
function foreignKeys(): string[] {
  return ["shamir_threshold", "key_groups", "kms", "gcp_kms", "hckms", "azure_kv", "hc_vault", "pgp"];
}

function isRecipients(value: unknown): boolean {
  const isOne = (entry: unknown) =>
    typeof (entry as { recipient?: unknown } | null | undefined)?.recipient === "string";
  return Array.isArray(value) && value.every(isOne);
}

function isSealed(value: unknown): boolean {
  return typeof value === "string" && /^ENC\[AES256_GCM,data:[^\]]+\]$/.test(value);
}

/** SOPS leaves alone what holds nothing. */
function isEmpty(value: unknown): boolean {
  return value === "" || value === null;
}
