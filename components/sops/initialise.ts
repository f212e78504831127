import { isRecipient } from "../../config";
import { secretManifest } from "./secret-file";
import type { SecretStore } from "./store";

/** What an environment's secrets start with. */
export interface InitialiseOptions {
  /** Recipients to add: other people, other machines. @default none */
  readonly recipients?: readonly string[];
  /** Makes an offline recovery key, and shows its private half once. @default none is made */
  readonly showRecoveryKey?: (key: string) => void;
  readonly tell: (line: string) => void;
}

/**
 * Makes a stack's identity where it has none, and makes settings, rules and files agree. What is right is left alone:
 * it may be called again at any time.
 *
 * @throws Error when the identity cannot be made in its place or does not open what must be encrypted anew, or nobody
 *   can encrypt for a recipient; nothing is changed then
 */
export async function initialise(store: SecretStore, options: InitialiseOptions): Promise<void> {
  const { recipients: added = [], showRecoveryKey, tell } = options;
  const operation = `Making the secrets of stack "${store.stack}" ready failed:`;
  const { sops } = await store.config();
  for (const recipient of added) {
    if (recipient === sops.recoveryRecipient) {
      throw new Error(`${operation} ${recipient} is its recovery key's. Leave it out.`);
    }
    if (!isRecipient(recipient) || !(await encryptsFor(store, recipient))) {
      throw new Error(
        `${operation} ${recipient} is no recipient. Take what "age-keygen -y" prints: "age1…".`,
      );
    }
  }
  const place = await store.identityPlace();
  let identity = await store.identity();
  if (identity === undefined) {
    if (place !== sops.identityFile) {
      throw new Error(`${operation} ${place} does not exist. Correct SOPS_AGE_KEY_FILE, or unset it.`);
    }
    const { key } = await store.newKey();
    await store.writeIdentityFile({ keys: [key], notes: {} });
    tell(`made: ${place}`);
    identity = `${key}\n`;
  }
  const own = await store.sops.recipients(identity);
  tell(`identity: ${own.join(", ")}, from ${place}`);
  const { recipients: current = [] } = sops;
  if (current.length > 0 && !own.some((recipient) => current.includes(recipient))) {
    if (added.length > 0 || showRecoveryKey !== undefined || (await store.due()).size > 0) {
      throw new Error(
        `${operation} ${own.join(", ")} is none of its recipients ${current.join(", ")}, so it cannot encrypt the files for others. Let somebody who is run "npm run secrets -- init --stack ${store.stack} --recipient ${own.at(-1) ?? ""}".`,
      );
    }
    tell(
      `not a recipient yet: somebody who is runs "npm run secrets -- init --stack ${store.stack} --recipient ${own.at(-1) ?? ""}"`,
    );
    return;
  }
  if (showRecoveryKey !== undefined && sops.recoveryRecipient !== undefined) {
    throw new Error(
      `${operation} it has a recovery key, ${sops.recoveryRecipient}. Let it leave with "npm run secrets -- rotate --stack ${store.stack} --without ${sops.recoveryRecipient}" first.`,
    );
  }
  // A stack that makes all its values up encrypts for whatever its identity is.
  const known = sops.generate === "none" || current.length > 0;
  if (known || added.length > 0 || showRecoveryKey !== undefined) {
    const recipients = [...new Set([...(current.length > 0 ? current : own), ...added])];
    const recovery = showRecoveryKey === undefined ? undefined : await store.newKey();
    if (recovery !== undefined) showRecoveryKey?.(recovery.key);
    const settings = {
      recipients,
      ...(recovery === undefined ? {} : { recoveryRecipient: recovery.recipient }),
    };
    if (await store.change(settings)) tell(`settings: ${store.settingsFile}`);
  }
  if (await store.writeRules()) tell("rules: .sops.yaml");
  await store.encryptDue(identity, (path) => {
    tell(`encrypted: ${path}`);
  });
}

/** A recipient has a checksum, which SOPS knows. */
function encryptsFor(store: SecretStore, recipient: string): Promise<boolean> {
  const manifest = secretManifest({ name: "x", namespace: "x", values: { x: "x" } });
  return store.sops.encrypt(manifest, "x.enc.yaml", [recipient]).then(
    () => true,
    () => false,
  );
}
