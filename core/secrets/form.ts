import type { Finding } from "../findings/finding";
import { fileFinding, type Generate } from "./files";
import { publicValue, publicValuesIn } from "../tree/public-values";
import { encryptedRegex } from "./rules";
import { objectsIn, type SecretFile } from "../../clients/sops/secret-file";

const restore = "Restore it from Git.";

/** Keys of SOPS metadata that list others than age recipients. Source: `Metadata` in getsops/sops, stores/stores.go */
const foreignKeys = [
  "shamir_threshold",
  "key_groups",
  "kms",
  "gcp_kms",
  "hckms",
  "azure_kv",
  "hc_vault",
  "pgp",
];

/**
 * Checks the parts of an `*.enc.yaml` file that are visible without the identity: the file holds Secrets, each in a
 * document of its own, and their values are encrypted. SOPS and kubectl may write other fields, such as
 * `metadata.creationTimestamp: null` or `mac_only_encrypted`. `sops decrypt` checks whether the file is complete.
 *
 * @param path relative to the tree
 * @param generate the secrets that the stack generates: with another value than "none", a file may be in plain text
 * @param stack the owner of the file. @default "<name>", as in the help
 */
export function checkForm(path: string, content: string, generate: Generate, stack = "<name>"): Finding[] {
  const found = (cause: string, remedy: string) => [fileFinding("secret-form", path, cause, remedy)];
  let objects: SecretFile[];
  try {
    objects = objectsIn(content);
  } catch (error) {
    const [reason = ""] = (error as Error).message.split("\n");
    return found(reason.replace(/[.:\s]*$/, ""), restore);
  }
  const secrets = objects.filter(
    ({ kind, metadata }) =>
      kind === "Secret" && typeof (metadata as { name?: unknown } | undefined)?.name === "string",
  );
  if (secrets.length === 0) {
    return found("it is not a Secret", 'Name it without ".enc", or make it a Secret.');
  }
  const values = secrets.flatMap(({ data, stringData }) => Object.entries({ ...data, ...stringData }));
  if (objects.every(({ sops }) => sops === undefined)) {
    if (values.some(([, value]) => isSealed(value))) {
      return found("SOPS's own part of it is missing: the file was cut off", restore);
    }
    if (generate !== "none") return [];
    return found("it is not encrypted", `Run "npx platform secrets init ${stack}".`);
  }
  const publicValues = publicValuesIn(content);
  const plain = values
    .filter(([, value]) => !isSealed(value) && !isEmpty(value))
    .filter(([key, value]) => !publicValues.includes(publicValue(key, value)))
    .map(([key]) => key);
  if (plain.length === 0) return [];
  return found(
    `it holds "${plain.join('", "')}" in plain text`,
    'Take the values back, replace them where they are used, and change the file with "npx platform secrets edit".',
  );
}

/**
 * Checks the encryption of a file: with a MAC, with age alone, and of its values alone. A file with such a fault may
 * still open: the finding is for reviews, and does not block the recovery of a cluster.
 */
export function checkEncryption(path: string, content: string): Finding[] {
  const objects = objectsIn(content);
  const [metadata] = objects.flatMap((object) => ("sops" in object ? [object.sops] : []));
  if (metadata === undefined) return [];
  // In a file that was changed by hand, this may be anything.
  const changed: unknown = metadata;
  const sops = (changed ?? {}) as Readonly<Record<string, unknown>>;
  const foreign = Object.entries(sops).filter(
    ([key, value]) => foreignKeys.includes(key) && Array.isArray(value) && value.length > 0,
  );
  const rest = objects.flatMap((object) =>
    Object.entries(object).filter(([key]) => !["data", "stringData", "sops"].includes(key)),
  );
  const encryptAgain = "Decrypt it, and encrypt it under the rules of .sops.yaml.";
  const found = (isFault: boolean, cause: string, remedy = encryptAgain) =>
    isFault ? [fileFinding("secret-encryption", path, cause, remedy)] : [];
  const hasSealed = rest.some(([, value]) => JSON.stringify(value).includes("ENC[AES256_GCM,"));
  const regex = JSON.stringify(sops.encrypted_regex ?? null);
  const noMac = "it has no MAC: the file was cut off, or another program than SOPS changed it";
  const isNoList = sops.age !== undefined && !isRecipients(sops.age);
  return [
    ...found(!isSealed(sops.mac), noMac, restore),
    ...found(isNoList, 'its "sops.age" is not a list of recipients', restore),
    ...found(
      sops.encrypted_regex !== encryptedRegex,
      `it was encrypted with "encrypted_regex" ${regex}, not "${encryptedRegex}"`,
    ),
    ...foreign.flatMap(([key]) =>
      found(true, `a key of kind "${key}" opens it, and secrets are encrypted with age alone`),
    ),
    ...found(hasSealed, 'more than "data" and "stringData" is encrypted'),
  ];
}

function isRecipients(value: unknown): boolean {
  const isOne = (entry: unknown) =>
    typeof (entry as { recipient?: unknown } | null | undefined)?.recipient === "string";
  return Array.isArray(value) && value.every(isOne);
}

function isSealed(value: unknown): boolean {
  return typeof value === "string" && /^ENC\[AES256_GCM,data:[^\]]+\]$/.test(value);
}

/** SOPS leaves empty values alone. */
function isEmpty(value: unknown): boolean {
  return value === "" || value === null;
}
