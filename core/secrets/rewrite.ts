import { isDeepStrictEqual } from "node:util";
import { parseDocument } from "yaml";

/** An encrypted file as it stands in a commit. */
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
  /** What it was made of: none where there was no such file, several where a merge made something new of them. */
  readonly olders: readonly Version[];
  /** undefined where it was deleted. */
  readonly newer?: string;
}

/** What is compared of an encrypted file. */
interface Parsed {
  readonly sops?: {
    readonly mac?: unknown;
    readonly age?: unknown;
    readonly [key: string]: unknown;
  } | null;
  readonly [key: string]: unknown;
}

/**
 * Looks for encrypted files that something else than SOPS changed. A file that is again as it was is in order, whatever
 * a commit between did to it; one that SOPS wrote after something else did is not.
 *
 * A file that is new in its place is compared with the one of the same MAC that was there before, if there is one: it
 * was renamed.
 *
 * @param changes from first to last
 * @returns path → one sentence with operation, subject, cause and remedy, for each file that is not as SOPS left it
 */
export function checkChanges(changes: readonly Change[]): Map<string, string> {
  const before = new Map<string, Version>();
  for (const version of changes.flatMap(({ olders }) => olders)) {
    const mac = macLine(version.text);
    if (mac !== undefined && !before.has(mac)) before.set(mac, version);
  }
  const findings = new Map<string, string>();
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
      `Checking ${path} failed: it was changed by something else than SOPS since commit ${last.commit}. Restore it from Git (${last.commit}:${last.path}), and change it with "npx platform secrets edit".`,
    );
  }
  return findings;
}

/**
 * Whether SOPS can have made one version of a file out of another; what its MAC covers is checked by who decrypts the
 * newer.
 *
 * - A MAC of which cipher text and tag are new is one that SOPS made: it encrypts the MAC anew whenever it encrypts the
 *   file, and a change of any byte of the old one leaves one of the two. The initialisation vector may be the old one:
 *   SOPS keeps it for a text that it has decrypted at the same place, which for the MAC is the second of
 *   `lastmodified`, and `sops rotate` needs less than one. Sources in getsops/sops: `EncryptTree` in
 *   cmd/sops/common/common.go, `Cipher.Encrypt` and its stash in aes/cipher.go.
 * - With the old MAC, SOPS writes a file for other recipients, and nothing else of it is other than it was:
 *   `updateFile` in cmd/sops/subcommand/updatekeys/updatekeys.go encrypts no value.
 * - Every recipient's copy of the data key is the old one to the byte, or wholly new; all of them are new where the MAC
 *   is old. Sources: `UpdateMasterKeysWithKeyServices` in sops.go, which `rotate` and `updatekeys` call for all
 *   recipients, and `edit` and `set` for none.
 *
 * One thing that SOPS does is refused: a change of names or comments alone in the very second of `lastmodified`. It
 * leaves the MAC as it was, as the same change with another program does.
 */
export function isSopsRewrite(older: string, newer: string): boolean {
  if (older === newer) return true;
  const [before, after] = [parsed(older), parsed(newer)];
  // What was not encrypted, or was no YAML, says nothing; form and MAC of the newer are checked in any case.
  if (before?.sops === undefined || before.sops === null) return true;
  if (after === undefined) return false;
  // Not encrypted any more: whether it may be is a question of its form, unless something of SOPS is left in it.
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

/** @returns undefined for what is no map, or no YAML that is right to the last tag */
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
 * What is random in an armored age file that holds a data key for one X25519 recipient: ephemeral share, wrapped file
 * key, header MAC and payload, of which the nonce is a part. Sources: https://c2sp.org/age (sections "Encrypted file
 * format", "The X25519 recipient type" and "ASCII armor", all base64 canonical); a data key is 32 bytes by
 * `GenerateDataKeyWithKeyServices` in getsops/sops, sops.go, which with nonce and tag makes 64.
 *
 * @returns undefined for what is no such file to the byte
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

/** By which a renamed file is known. */
function macLine(text: string): string | undefined {
  return /^\s+mac: (ENC\[.*)$/m.exec(text)?.[1];
}
