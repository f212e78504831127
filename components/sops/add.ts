import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { isSeq, parseDocument } from "yaml";
import { sentence } from "../sentence";
import { readersOf } from "./place";
import { everyRecipient, needsRule } from "./rules";
import { secretManifest, type SecretValues } from "./secret-file";
import type { SecretStore } from "./store";
import { writeWhole } from "./write";

/** A Secret to add to a stack. */
export interface NewSecret {
  /** Of the Secret and its file: a DNS subdomain. */
  readonly name: string;
  /** Directory below `clusters/<cluster>`. */
  readonly layer: string;
  readonly namespace: string;
  /** @default Opaque, which is not written down */
  readonly type?: string;
  /** What it holds, or how to ask for that once nothing else is wrong. */
  readonly values: SecretValues | (() => Promise<SecretValues>);
}

/** What the values of a Secret may take together, in bytes. Source: `MaxSecretSize` in k8s.io/api, core/v1/types.go */
const largest = 1024 ** 2;

/**
 * Adds a Secret to a layer: its encrypted file, and that file's line in the kustomization.yaml. Values are in memory
 * and in what SOPS encrypted alone.
 *
 * @returns the files that were written, relative to the tree
 * @throws Error when it cannot be added; nothing is written then
 */
export async function addSecret(store: SecretStore, secret: NewSecret): Promise<string[]> {
  const { name, layer, namespace } = secret;
  const operation = `Adding Secret "${name}" to stack "${store.stack}" failed:`;
  // Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
  if (!/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/.test(name)) {
    throw new Error(`${operation} that is no name of an object. Take a-z, 0-9, "-" and ".".`);
  }
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(namespace)) {
    throw new Error(`${operation} "${namespace}" is no namespace. Take a-z, 0-9 and "-".`);
  }
  const config = await store.config();
  const { tree, cluster } = config.gitops;
  const directory = join("clusters", cluster, layer);
  const path = join(directory, `${name}.enc.yaml`);
  const list = join(directory, "kustomization.yaml");
  if (!directory.startsWith(join("clusters", cluster, "/"))) {
    throw new Error(`${operation} "${layer}" is no layer. Name one of the cluster with --layer.`);
  }
  if (existsSync(join(tree, path))) {
    throw new Error(
      `${operation} ${path} is there. Change it with "npm run secrets -- edit ${path} --stack ${store.stack}".`,
    );
  }
  const document = parseDocument(
    await readFile(join(tree, list), "utf8").catch((error: unknown) => {
      throw new Error(`${operation} there is no ${list}. Name a layer of the cluster with --layer.`, {
        cause: error,
      });
    }),
  );
  if (!document.has("resources")) document.set("resources", document.createNode([]));
  const resources = document.get("resources");
  if (!isSeq(resources)) {
    throw new Error(`${operation} "resources" of ${list} is no list. Restore it from Git.`);
  }
  const readers = readersOf(config);
  const made = config.sops.generate;
  const init = `Run "npm run secrets -- init --stack ${store.stack}"`;
  if (made === "none" && !needsRule(readers)) {
    throw new Error(`${operation} it has no recipients to encrypt for. ${init}.`);
  }
  const values = typeof secret.values === "function" ? await secret.values() : secret.values;
  const wrong = wrongValues(values);
  if (wrong !== undefined) throw new Error(`${operation} ${wrong}`);
  const empty = sizeOf(values) === 0;
  const mine = made === "all" || (made === "empty" && empty);
  if (made === "all" && !empty) {
    throw new Error(`${operation} the stack makes all its values up. Leave them empty: "key=".`);
  }
  if (!mine && !needsRule(readers)) {
    throw new Error(
      `${operation} it has no recipients to encrypt for. ${init} with --recipient, or leave the values empty: "key=".`,
    );
  }
  const manifest = secretManifest({ ...secret, values });
  const content = mine ? manifest : await store.sops.encrypt(manifest, path, everyRecipient(readers));
  await store.writeFile(path, content);
  resources.add(`${name}.enc.yaml`);
  await writeWhole(join(tree, list), document.toString({ lineWidth: 0 }));
  const rules = (await store.writeRules()) ? [".sops.yaml"] : [];
  return [path, list, ...rules];
}

/** What is wrong with the values of a Secret, and what to do. */
function wrongValues(values: SecretValues): string | undefined {
  const keys = Object.keys(values);
  if (keys.length === 0) return 'it has no values. Give it lines "key=value", or files with --from-file.';
  const bad = keys.find((key) => !isKey(key));
  if (bad !== undefined) return noKey(bad);
  const size = sizeOf(values);
  return size > largest
    ? `its values take ${size} bytes, and those of a Secret ${largest} at most. Keep them elsewhere, or in more than one.`
    : undefined;
}

function sizeOf(values: SecretValues): number {
  return Object.values(values).reduce((sum, value) => sum + Buffer.byteLength(value), 0);
}

/** Whether a Secret may have a key of this name. Source: `IsConfigMapKey` in k8s.io/apimachinery */
export function isKey(text: string): boolean {
  return /^[-._a-zA-Z0-9]{1,253}$/.test(text) && text !== "." && !text.startsWith("..");
}

/** What is wrong with a key that is none, and what to do. */
export function noKey(text: string): string {
  return `"${text}" is no key. Take letters, digits, "-", "_" and ".".`;
}

/**
 * Reads lines `key=value`; a value goes on to the end of its line, whatever is in it.
 *
 * @throws Error naming the line, never what it holds
 */
export function parseValues(text: string): Record<string, string> {
  const values = new Map<string, string>();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === "") continue;
    const at = line.indexOf("=");
    const key = line.slice(0, at).trim();
    if (at < 1 || values.has(key)) {
      const cause = at < 1 ? 'it has no "key="' : `"${key}" is there twice`;
      throw new Error(`Reading line ${index + 1} of the values failed: ${cause}. Write lines "key=value".`);
    }
    values.set(key, line.slice(at + 1));
  }
  return Object.fromEntries(values);
}

/**
 * Reads values from files, byte for byte: what has more than one line, or is no text.
 *
 * @param named each `key=path`, or a path whose last part is the key, as with `kubectl create secret --from-file`
 * @param directory that a relative path starts from
 * @throws Error naming the file that cannot be read, or the key that is there twice
 */
export async function readValues(named: readonly string[], directory: string): Promise<SecretValues> {
  const values = new Map<string, Uint8Array>();
  for (const argument of named) {
    const at = argument.indexOf("=");
    const path = argument.slice(at + 1);
    const key = at < 0 ? basename(path) : argument.slice(0, at);
    const operation = `Reading "${path}" for key "${key}" failed:`;
    if (values.has(key))
      throw new Error(`${operation} the key is there twice. Name another: "<key>=${path}".`);
    try {
      values.set(key, await readFile(resolve(directory, path)));
    } catch (error) {
      const [reason = ""] = (error as Error).message.split(", ");
      throw new Error(`${operation} ${sentence(reason)} Write --from-file <key>=<path>.`, { cause: error });
    }
  }
  return Object.fromEntries(values);
}
