import { errorOf } from "../findings/finding";
import { readersOf } from "./place";
import { everyRecipient } from "./rules";
import type { SecretStore } from "./store";

/** Options of a rotation. */
export interface RotationOptions {
  /** Releases the stack and resolves when every layer is Ready. @throws Error when it does not become Ready */
  readonly release: () => Promise<void>;
  /** Receives a line after each finished step. */
  readonly tell: (line: string) => void;
  /** Also gives generated secrets new values. @default false */
  readonly values?: boolean;
  /** Recipients that leave with the old identity, such as a person's. @default none */
  readonly without?: readonly string[];
}

/** A rotation in progress, as the identity file notes it: only public keys. */
interface Rotation {
  /** The old recipient. */
  readonly from: readonly string[];
  /** The new recipient. */
  readonly to: string;
  readonly without: readonly string[];
  /** `valuesRevision` at the end of the rotation. */
  readonly values?: number;
}

/**
 * Replaces the identity of a stack, so that at any moment the keys in the cluster open the released files.
 *
 * 1. The identity file holds the old key and the new one; settings, rules and files name both; release: Secret
 *    `sops-age` holds both keys before the files that need the new one arrive.
 * 2. Settings, rules and files name only the new key, the old key leaves the identity file; release.
 *
 * Every step replaces each file as a whole, and the files show which step is next: after a kill, the same call
 * continues. A release that was interrupted is repeated, which changes nothing if it was complete.
 *
 * @throws Error when the identity cannot be replaced here, or a release fails; then the same call continues later
 */
export async function rotate(store: SecretStore, options: RotationOptions): Promise<void> {
  const { release, tell } = options;
  const rotation = await begin(store, options);
  const { from, to, without, values } = rotation;
  const keys = await keysOf(store);
  const own = keys.map(({ recipient }) => recipient);
  const identity = keys.map(({ key }) => `${key}\n`).join("");
  if (own.some((recipient) => from.includes(recipient))) {
    const before = (await store.config()).sops.recipients ?? [];
    // Without recipients all files are generated, for the identity in the identity file.
    if (before.length === 0 || before.some((recipient) => from.includes(recipient))) {
      if (before.length > 0) {
        await store.agree(identity, { recipients: before.includes(to) ? before : [...before, to] }, tell);
      }
      await release();
      tell(`released: ${from.join(", ")} and ${to} open the secrets of stack "${store.stack}"`);
    }
    const { recipients = [], recoveryRecipient } = (await store.config()).sops;
    const left = recipients.filter((recipient) => ![to, ...from, ...without].includes(recipient));
    const settings = {
      ...(recipients.length === 0 ? {} : { recipients: [...left, to] }),
      ...(recoveryRecipient !== undefined && without.includes(recoveryRecipient)
        ? { recoveryRecipient: undefined }
        : {}),
      ...(values === undefined ? {} : { valuesRevision: values }),
    };
    await store.agree(identity, settings, tell);
    const kept = keys.filter(({ recipient }) => !from.includes(recipient)).map(({ key }) => key);
    await store.writeIdentityFile({ keys: kept, notes: { rotation } });
    tell(`identity file: ${from.join(", ")} left it`);
  }
  await release();
  tell(`released: ${from.join(", ")} opens nothing of stack "${store.stack}" any more`);
  const { keys: kept } = (await store.readIdentityFile()) ?? { keys: [] };
  await store.writeIdentityFile({ keys: kept, notes: {} });
  tell(`rotated: the identity of stack "${store.stack}" is ${to}`);
}

/** The rotation in progress, or a new one. */
async function begin(store: SecretStore, options: RotationOptions): Promise<Rotation> {
  const { values = false, without = [], tell } = options;
  const operation = `Rotating the identity of stack "${store.stack}" failed:`;
  const config = await store.config();
  const { sops } = config;
  const place = await store.identityPlace();
  if (place !== sops.identityFile) {
    throw new Error(
      `${operation} the identity comes from ${place}, and this command cannot write there. Put the identity into ${sops.identityFile}, and remove ${place} until the rotation is complete.`,
    );
  }
  const file = await store.readIdentityFile();
  const going = file?.notes.rotation as Rotation | undefined;
  if (going !== undefined) {
    const late = without.find((recipient) => !going.without.includes(recipient));
    if (late !== undefined || (values && going.values === undefined)) {
      throw new Error(
        `${operation} an earlier rotation without ${late ?? "--values"} is not complete. Complete it with "npx platform secrets rotate ${store.stack}" first.`,
      );
    }
    tell(`continuing: ${going.to} replaces ${going.from.join(", ")}`);
    return going;
  }
  if (file === undefined) {
    throw new Error(
      `${operation} ${place} does not exist. Put the identity there, or run "npx platform secrets recover ${store.stack}".`,
    );
  }
  const findings = await store.unopened();
  if (findings.length > 0) throw errorOf(findings);
  const { recipients = [], valuesRevision } = sops;
  const own = (await keysOf(store)).map(({ recipient }) => recipient);
  const from = recipients.length === 0 ? own : own.filter((recipient) => recipients.includes(recipient));
  if (from.length === 0) {
    throw new Error(
      `${operation} ${own.join(", ")} is not one of its recipients ${recipients.join(", ")}. Put the identity of one of them into ${place}.`,
    );
  }
  const others = everyRecipient(readersOf(config)).filter((recipient) => !from.includes(recipient));
  const stranger = without.find((recipient) => !others.includes(recipient));
  if (stranger !== undefined) {
    throw new Error(
      `${operation} ${stranger} is not another recipient of its secrets. Its other recipients: ${others.join(", ") || "none"}.`,
    );
  }
  const { key, recipient: to } = await store.newKey();
  const rotation: Rotation = {
    ...{ from, to, without: [...without] },
    ...(values ? { values: valuesRevision + 1 } : {}),
  };
  await store.writeIdentityFile({ keys: [...file.keys, key], notes: { rotation } });
  tell(`identity file: ${to} is in it, beside ${from.join(", ")}`);
  return rotation;
}

async function keysOf(store: SecretStore): Promise<{ key: string; recipient: string }[]> {
  const { keys } = (await store.readIdentityFile()) ?? { keys: [] };
  return Promise.all(
    keys.map(async (key) => {
      const [recipient = ""] = await store.sops.recipients(`${key}\n`);
      return { key, recipient };
    }),
  );
}
