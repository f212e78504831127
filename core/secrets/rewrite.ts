import { isDeepStrictEqual } from "node:util";
import { parseDocument } from "yaml";
import type { Finding } from "../findings/finding";
import { fileFinding } from "./files";

/** An encrypted file in a commit. */
export interface Version {
  readonly text: string;
  /** Relative to the repository. */
  readonly path: string;
  /** Abbreviated name of the commit. */
  readonly commit: string;
}

/** A change of an encrypted file. */
export interface Change {
  /** Relative to the repository. */
  readonly path: string;
  /** The versions before the change: none for a new file, several where a merge joined them. */
  readonly olders: readonly Version[];
  /** undefined for a deleted file. */
  readonly newer?: string;
}

/** The parts of an encrypted file that are compared. */
interface Parsed {
  readonly sops?: {
    readonly mac?: unknown;
    readonly age?: unknown;
    readonly [key: string]: unknown;
  } | null;
  readonly [key: string]: unknown;
}

/**
 * Looks for encrypted files that another program than SOPS changed. A file with its old content again is in order, even
 * if a commit between changed it. A file that SOPS wrote after a change by another program is not in order.
 *
 * A new file is compared with a file of the same MAC that existed before, if there is one: it was renamed.
 *
 * @param changes from first to last
 * @returns path → finding, for each file that another program changed
 */
export function checkChanges(changes: readonly Change[]): Map<string, Finding> {
  const before = new Map<string, Version>();
  for (const version of changes.flatMap(({ olders }) => olders)) {
    const mac = macLine(version.text);
    if (mac !== undefined && !before.has(mac)) before.set(mac, version);
  }
  const findings = new Map<string, Finding>();
  const trusted = new Set<string>();
  /** Text → the last version that was in order. */
  const refused = new Map<string, Version>();
  for (const { path, olders, newer } of changes) {
    for (const { text } of olders) if (!refused.has(text)) trusted.add(text);
    findings.delete(path);
    if (newer === undefined || trusted.has(newer)) continue;
    const renamed = before.get(macLine(newer) ?? "");
    const compared = olders.length > 0 || renamed === undefined ? olders : [renamed];
    const wrong = compared.find(({ text }) => refused.has(text) || !isSopsRewrite(text, newer));
    const last = wrong === undefined ? refused.get(newer) : (refused.get(wrong.text) ?? wrong);
    if (last === undefined) {
      trusted.add(newer);
      continue;
    }
    refused.set(newer, last);
    findings.set(
      path,
      fileFinding(
        "secret-change",
        path,
        `another program than SOPS changed it since commit ${last.commit}`,
        `Restore it from Git (${last.commit}:${last.path}), and change it with "npx platform secrets edit".`,
      ),
    );
  }
  return findings;
}

/**
 * Whether SOPS can have made one version of a file out of another. The decryption of the newer version checks the
 * values that its MAC covers.
 *
 * - SOPS made a MAC whose cipher text and tag are both new: SOPS encrypts the MAC again whenever it encrypts the file,
 *   and a change of any byte of the old MAC leaves one of the two as it was. The initialisation vector may be the old
 *   one: SOPS keeps it for a text that it has decrypted at the same place. For the MAC, that place is the second of
 *   `lastmodified`, and `sops rotate` needs less than a second. Sources in getsops/sops: `EncryptTree` in
 *   cmd/sops/common/common.go, `Cipher.Encrypt` and its stash in aes/cipher.go.
 * - SOPS keeps the old MAC only when it writes a file for other recipients, and then all other parts stay the same:
 *   `updateFile` in cmd/sops/subcommand/updatekeys/updatekeys.go encrypts no value.
 * - Every recipient's copy of the data key is the same to the byte, or completely new. With the old MAC, every copy is
 *   new. Sources: `UpdateMasterKeysWithKeyServices` in sops.go, which `rotate` and `updatekeys` call for all
 *   recipients, and `edit` and `set` for none.
 *
 * One change by SOPS is refused: a change of names or comments alone in the very second of `lastmodified`. It leaves
 * the MAC as it was, as the same change with another program does.
 */
export function isSopsRewrite(older: string, newer: string): boolean {
  if (older === newer) return true;
  const [before, after] = [parsed(older), parsed(newer)];
  // A version that was not encrypted, or was not YAML, proves nothing; the checks of form and MAC cover the newer
  // version.
  if (before?.sops === undefined || before.sops === null) return true;
  if (after === undefined) return false;
  // The newer version is plain: its form decides whether that is allowed, unless parts of SOPS are left in it.
  if (after.sops === undefined) return !newer.includes("ENC[AES256_GCM,");
  const [old, fresh] = [stanzasOf(before), stanzasOf(after)];
  const parts = old.flatMap((stanza) => partsOf(stanza.enc) ?? []);
  const isNew = ({ enc }: Stanza) => partsOf(enc)?.every((part) => !parts.includes(part)) ?? false;
  const isKept = (stanza: Stanza) => old.some((other) => isDeepStrictEqual(stanza, other));
  if (fresh.length === 0) return false;
  if (before.sops.mac === after.sops?.mac) {
    return isDeepStrictEqual(withoutRecipients(before), withoutRecipients(after)) && fresh.every(isNew);
  }
  const [seal, other] = [sealOf(before.sops.mac), sealOf(after.sops?.mac)];
  if (other === undefined || seal?.data === other.data || seal?.tag === other.tag) return false;
  return fresh.every((stanza) => isKept(stanza) || isNew(stanza));
}

/** A recipient's copy of the data key. */
interface Stanza {
  readonly recipient?: unknown;
  readonly enc?: unknown;
}

/** @returns undefined for a value that is not a map, or YAML with a wrong tag */
function parsed(text: string): Parsed | undefined {
  try {
    const document = parseDocument(text, { logLevel: "silent" });
    if (document.errors.length > 0 || document.warnings.length > 0) return undefined;
    const file: unknown = document.toJS();
    return typeof file === "object" && file !== null ? (file as Parsed) : undefined;
  } catch {
    return undefined;
  }
}

function stanzasOf({ sops }: Parsed): Stanza[] {
  const isStanza = (entry: unknown): entry is Stanza => typeof entry === "object" && entry !== null;
  return Array.isArray(sops?.age) && sops.age.every(isStanza) ? sops.age : [];
}

/** The rest of a file. Up to 3.9, SOPS also wrote empty lists for the other kinds of keys: its CHANGELOG.md, 3.10.0. */
function withoutRecipients({ sops, ...rest }: Parsed): object {
  const isRecipients = (key: string, value: unknown) =>
    key === "age" || (Array.isArray(value) && value.length === 0);
  return {
    ...rest,
    sops: Object.fromEntries(Object.entries(sops ?? {}).filter(([key, value]) => !isRecipients(key, value))),
  };
}

/** The parts of a text that SOPS encrypted. Source: getsops/sops, `encre` in aes/cipher.go */
function sealOf(value: unknown): { data: string; tag: string } | undefined {
  if (typeof value !== "string") return undefined;
  const form = /^ENC\[AES256_GCM,data:([\w+/=]+),iv:[\w+/=]+,tag:([\w+/=]+),type:str\]$/;
  const [, data, tag] = form.exec(value) ?? [];
  return data === undefined || tag === undefined ? undefined : { data, tag };
}

/**
 * The random parts of an armored age file that holds a data key for one X25519 recipient: ephemeral share, wrapped file
 * key, header MAC and payload, which includes the nonce. Sources: https://c2sp.org/age (sections "Encrypted file
 * format", "The X25519 recipient type" and "ASCII armor", all base64 canonical); a data key is 32 bytes by
 * `GenerateDataKeyWithKeyServices` in getsops/sops, sops.go, which with nonce and tag makes 64.
 *
 * @returns undefined for a file of any other form
 */
function partsOf(enc: unknown): string[] | undefined {
  if (typeof enc !== "string") return undefined;
  const [, armored = ""] = /^-----BEGIN.*-----\n([^-]*)/.exec(enc) ?? [];
  const file = Buffer.from(armored, "base64");
  const lines = file.toString("base64").replace(/.{64}(?=.)/g, "$&\n");
  const armor = `-----BEGIN AGE ENCRYPTED FILE-----\n${lines}\n-----END AGE ENCRYPTED FILE-----\n`;
  if (enc !== armor) return undefined;
  const form = /^age-encryption\.org\/v1\n-> X25519 ([\w+/]{43})\n([\w+/]{43})\n--- ([\w+/]{43})\n([^]{64})$/;
  const [, ...parts] = form.exec(file.toString("latin1")) ?? [];
  const isCanonical = (part: string) => Buffer.from(part, "base64").toString("base64") === `${part}=`;
  return parts.length > 0 && parts.slice(0, 3).every(isCanonical) ? parts : undefined;
}

/** The key by which a renamed file is recognised. */
function macLine(text: string): string | undefined {
  return /^\s+mac: (ENC\[.*)$/m.exec(text)?.[1];
}
