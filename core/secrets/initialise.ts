import { isRecipient } from "../settings/schema";
import { secretManifest } from "../../clients/sops/secret-file";
import type { SecretStore } from "./store";

/** Options of the first step of a stack's secrets. */
export interface InitialiseOptions {
  /** Recipients to add: other people, other machines. @default none */
  readonly recipients?: readonly string[];
  /** Makes an offline recovery key, and shows its private half once. @default none is made */
  readonly showRecoveryKey?: (key: string) => void;
  readonly tell: (line: string) => void;
}

/**
 * Makes a stack's identity if it has none, and changes settings, rules and files so that they agree. Correct parts stay
 * as they are: the function may be called again at any time.
 *
 * The recovery key may also encrypt: nobody else opens a file that was added before a rotation and merged after it.
 *
 * @throws Error when the identity cannot be made in its place, the identity does not open a file that must be encrypted
 *   again, or nobody can encrypt for a recipient. Nothing is changed then, except a new identity that others must let
 *   in first
 */
export async function initialise(store: SecretStore, options: InitialiseOptions): Promise<void> {
  const { recipients: added = [], showRecoveryKey, tell } = options;
  const operation = `Making the secrets of stack "${store.stack}" ready failed:`;
  const { sops } = await store.config();
  const { recipients: current = [], recoveryRecipient } = sops;
  for (const recipient of added) {
    if (recipient === recoveryRecipient) {
      throw new Error(`${operation} ${recipient} belongs to the recovery key. Leave it out.`);
    }
    if (!isRecipient(recipient) || !(await encryptsFor(store, recipient))) {
      throw new Error(`${operation} ${noRecipient(recipient)}`);
    }
  }
  await store.readRules();
  const place = await store.identityPlace();
  const found = await store.identity();
  if (found === undefined && place !== sops.identityFile) {
    throw new Error(`${operation} ${place} does not exist. Correct SOPS_AGE_KEY_FILE, or unset it.`);
  }
  const made = found === undefined ? await store.newKey() : undefined;
  const identity = found ?? `${made?.key ?? ""}\n`;
  const own = await store.sops.recipients(identity);
  const tellIdentity = async () => {
    if (made !== undefined) {
      await store.writeIdentityFile({ keys: [made.key], notes: {} });
      tell(`made: ${place}`);
    }
    tell(`identity: ${own.join(", ")}, from ${place}`);
  };
  const isKnown = own.some((recipient) => current.includes(recipient));
  const unsupported = own.find((recipient) => !isRecipient(recipient));
  if (unsupported !== undefined && !isKnown) {
    throw new Error(`${operation} ${noRecipient(unsupported)}`);
  }
  const isRecovery = recoveryRecipient !== undefined && own.includes(recoveryRecipient);
  if (current.length > 0 && !isKnown && !isRecovery) {
    await tellIdentity();
    if (added.length > 0 || showRecoveryKey !== undefined || (await store.due()).size > 0) {
      throw new Error(
        `${operation} ${own.join(", ")} is not one of its recipients ${current.join(", ")}, so this identity cannot encrypt the files for others. Ask a recipient to run "npx platform secrets init ${store.stack} --recipient ${own.at(-1) ?? ""}".`,
      );
    }
    tell(
      `not a recipient yet: ask a recipient to run "npx platform secrets init ${store.stack} --recipient ${own.at(-1) ?? ""}"`,
    );
    return;
  }
  if (showRecoveryKey !== undefined && recoveryRecipient !== undefined) {
    throw new Error(
      `${operation} it has a recovery key, ${recoveryRecipient}. Remove it with "npx platform secrets rotate ${store.stack} --without ${recoveryRecipient}" first.`,
    );
  }
  // A stack that generates all its values encrypts for its current identity.
  const isWritten =
    sops.generate === "none" || current.length > 0 || added.length > 0 || showRecoveryKey !== undefined;
  const first = current.length > 0 ? current : own.filter((recipient) => recipient !== recoveryRecipient);
  if (isWritten && first.length === 0) {
    throw new Error(
      `${operation} ${place} holds only the recovery key of the stack. Put the stack's identity beside it, or unset SOPS_AGE_KEY_FILE.`,
    );
  }
  const recipients = isWritten ? [...new Set([...first, ...added])] : [];
  const recovery = showRecoveryKey === undefined ? undefined : await store.newKey();
  const offline = recovery?.recipient ?? recoveryRecipient;
  await store.checkDue(identity, offline === undefined || !isWritten ? recipients : [...recipients, offline]);
  await tellIdentity();
  if (recovery !== undefined) showRecoveryKey?.(recovery.key);
  const settings = {
    ...(isWritten ? { recipients } : {}),
    ...(recovery === undefined ? {} : { recoveryRecipient: recovery.recipient }),
  };
  await store.agree(identity, settings, tell);
}

/** The reason why an `age1…` is refused, and the remedy. */
function noRecipient(text: string): string {
  return text.startsWith("age1pq1")
    ? `${text.slice(0, 20)}… is a post-quantum recipient, which is not supported here. Make an identity with "age-keygen", without -pq.`
    : `${text} is not a recipient. Use the output of "age-keygen -y": "age1…".`;
}

/** A recipient has a checksum, which SOPS knows. */
function encryptsFor(store: SecretStore, recipient: string): Promise<boolean> {
  const manifest = secretManifest({ name: "x", namespace: "x", values: { x: "x" } });
  return store.sops.encrypt(manifest, "x.enc.yaml", [recipient]).then(
    () => true,
    () => false,
  );
}
