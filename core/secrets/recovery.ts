import { sentence } from "../../system/sentence";
import { identityIn } from "./identity";
import { readersOf } from "./place";
import { isEncrypted, recipientsOf } from "../../clients/sops/secret-file";
import type { SecretStore } from "./store";

/** Options of the recovery of a stack. */
export interface RecoveryOptions {
  /** The offline recovery key, or any other identity that opens the stack's files. */
  readonly key: string;
  /** The recipient whose identity is lost. @default the only one */
  readonly lost?: string;
  /** Releases the stack and resolves when every layer is Ready. */
  readonly release: () => Promise<void>;
  /** Receives a line after each finished step. */
  readonly tell: (line: string) => void;
}

/** A recovery in progress, as the identity file notes it: only public keys. */
interface Recovery {
  readonly from: string;
  readonly to: string;
}

/**
 * Gives a stack a new identity in place of a lost one, on a machine that has none. The files are encrypted again for
 * the new identity, the settings and rules name it, and a release brings it into Secret `sops-age`. The recovery key is
 * read, used and forgotten. After a kill, the same call continues.
 *
 * @throws Error when the key does not open every file, or an identity exists; nothing is changed then
 */
export async function recover(
  store: SecretStore,
  { key: given, lost, release, tell }: RecoveryOptions,
): Promise<void> {
  const key = identityIn(given);
  const operation = `Recovering stack "${store.stack}" failed:`;
  const { sops } = await store.config();
  const place = await store.identityPlace();
  if (place !== sops.identityFile) {
    throw new Error(
      `${operation} its identity comes from ${place}, which this command cannot write. Remove ${place} and pass the recovery key on standard input.`,
    );
  }
  const files = await store.files();
  const opened = await store.sops.recipients(key).catch((error: unknown) => {
    throw new Error(`${operation} standard input is not an age identity. Pass the recovery key.`, {
      cause: error,
    });
  });
  for (const [path, content] of files) {
    if (!isEncrypted(content)) continue;
    await store.sops.decrypt(content, path, key).catch((error: unknown) => {
      const recipients = recipientsOf(content);
      throw new Error(
        recipients.some((recipient) => opened.includes(recipient))
          ? `${operation} ${path} does not open with its key: ${sentence((error as Error).message)} Restore the file from Git.`
          : `${operation} ${path} is encrypted for ${recipients.join(", ")}, the key is ${opened.join(", ")}. Pass the recovery key ${sops.recoveryRecipient ?? "of that file"}, or restore the file from Git.`,
        { cause: error },
      );
    });
  }
  const file = await store.readIdentityFile();
  const going = file?.notes.recovery as Recovery | undefined;
  if (file !== undefined && going === undefined) {
    throw new Error(
      `${operation} there is an identity in ${sops.identityFile}. Use it with "rotate", or move it away if it is not the stack's.`,
    );
  }
  const known = sops.recipients ?? recipientsOfAll(files);
  const candidates = known.filter((recipient) => !opened.includes(recipient));
  if (going === undefined && candidates.length === 0) {
    throw new Error(
      `${operation} the key belongs to its only recipient, so no identity is lost. Put the key into ${sops.identityFile}.`,
    );
  }
  const from = going?.from ?? lost ?? (candidates.length === 1 ? candidates[0] : undefined);
  if (from === undefined || (going === undefined && !candidates.includes(from))) {
    throw new Error(
      `${operation} ${from === undefined ? "several identities may be lost" : `${from} is not an identity that may be lost`}. Name the lost one with --lost: ${candidates.join(", ")}.`,
    );
  }
  let to = going?.to;
  if (to === undefined) {
    const made = await store.newKey();
    to = made.recipient;
    await store.writeIdentityFile({ keys: [made.key], notes: { recovery: { from, to } } });
    tell(`identity file: ${to} is in it`);
  }
  const successor = to;
  const replaced = known.map((recipient) => (recipient === from ? successor : recipient));
  const { recoveryRecipient } = readersOf(await store.config());
  const recipients = [...new Set(replaced)].filter((recipient) => recipient !== recoveryRecipient);
  await store.agree(key, { recipients }, tell);
  await release();
  const { keys } = (await store.readIdentityFile()) ?? { keys: [] };
  await store.writeIdentityFile({ keys, notes: {} });
  tell(`recovered: the identity of stack "${store.stack}" is ${to}`);
}

function recipientsOfAll(files: ReadonlyMap<string, string>): string[] {
  return [...new Set([...files.values()].flatMap(recipientsOf))];
}
