import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { basename, join, normalize, resolve } from "node:path";
import { isSeq, parseDocument } from "yaml";
import { causeOf } from "../../system/file-error";
import { readersOf } from "./place";
import { everyRecipient, needsRule } from "./rules";
import { namespacesIn } from "../tree/namespaces";
import { secretManifest, type SecretValues } from "../../clients/sops/secret-file";
import type { SecretStore } from "./store";
import { writeWhole } from "../../system/write";

/** A Secret to add to a stack. */
export interface NewSecret {
  /** The name of the Secret and its file: a DNS subdomain. */
  readonly name: string;
  /** Directory below `clusters/<cluster>`. */
  readonly layer: string;
  readonly namespace: string;
  /** @default Opaque, which the file does not name */
  readonly type?: string;
  /** Its values, or a function that asks for them after all other checks. */
  readonly values: SecretValues | (() => Promise<SecretValues>);
}

/** The largest size of all values of a Secret, in bytes. Source: `MaxSecretSize` in k8s.io/api, core/v1/types.go */
const largest = 1024 ** 2;

/**
 * Adds a Secret to a layer: its line in the kustomization.yaml, and its encrypted file. Plain values are only in
 * memory. A kill between the two leaves a line without a file; the same call then adds the file.
 *
 * @param alone runs the reads and writes of files while no other process does; values are asked for outside of it
 * @returns the files that were written, relative to the tree
 * @throws Error when the Secret cannot be added; nothing is written then
 */
export async function addSecret(
  store: SecretStore,
  secret: NewSecret,
  alone = <T>(work: () => Promise<T>): Promise<T> => work(),
): Promise<string[]> {
  await findPlace(store, secret);
  const values = typeof secret.values === "function" ? await secret.values() : secret.values;
  return alone(() => write(store, secret, values));
}

/**
 * @returns the paths of the file and of the kustomization.yaml, relative to the tree, and the content of the latter
 * @throws Error when the Secret cannot be added with any values
 */
async function findPlace(store: SecretStore, secret: NewSecret) {
  const { name, layer, namespace } = secret;
  const operation = `Adding Secret "${name}" to stack "${store.stack}" failed:`;
  // Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
  if (!/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/.test(name)) {
    throw new Error(`${operation} "${name}" is not a valid name of an object. Use a-z, 0-9, "-" and ".".`);
  }
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(namespace)) {
    throw new Error(`${operation} "${namespace}" is not a valid namespace. Use a-z, 0-9 and "-".`);
  }
  const config = await store.config();
  const { tree, cluster } = config.gitops;
  const directory = join("clusters", cluster, layer);
  const path = join(directory, `${name}.enc.yaml`);
  const list = join(directory, "kustomization.yaml");
  if (!directory.startsWith(join("clusters", cluster, "/"))) {
    throw new Error(`${operation} "${layer}" is not a layer. Name a layer of the cluster with --layer.`);
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
    throw new Error(`${operation} "resources" of ${list} is not a list. Restore it from Git.`);
  }
  const isListed = resources
    .toJSON()
    .some((entry) => typeof entry === "string" && normalize(entry) === `${name}.enc.yaml`);
  if (existsSync(join(tree, path))) {
    const remedy = isListed
      ? `Change it with "npx platform secrets edit ${path} --stack ${store.stack}".`
      : `List it in ${list}, with the line "- ${name}.enc.yaml" below "resources".`;
    throw new Error(`${operation} ${path} is there. ${remedy}`);
  }
  const namespaces = await namespacesOf(tree);
  if (!namespaces.has(namespace)) {
    throw new Error(
      `${operation} no Namespace of the tree is named "${namespace}". Name a Namespace of the tree with --namespace, or add this one first.`,
    );
  }
  if (config.sops.generate === "none" && !needsRule(readersOf(config))) {
    throw new Error(`${operation} the stack has no recipients to encrypt for. ${initOf(store)}.`);
  }
  await store.readRules();
  return { operation, config, path, list, document, resources, isListed };
}

async function write(store: SecretStore, secret: NewSecret, values: SecretValues): Promise<string[]> {
  const { operation, config, path, list, document, resources, isListed } = await findPlace(store, secret);
  const readers = readersOf(config);
  const made = config.sops.generate;
  const wrong = wrongValues(values);
  if (wrong !== undefined) throw new Error(`${operation} ${wrong}`);
  const empty = sizeOf(values) === 0;
  const mine = made === "all" || (made === "empty" && empty);
  if (made === "all" && !empty) {
    throw new Error(`${operation} the stack generates all its values. Leave them empty: "key=".`);
  }
  if (!mine && !needsRule(readers)) {
    throw new Error(
      `${operation} the stack has no recipients to encrypt for. ${initOf(store)} with --recipient, or leave the values empty: "key=".`,
    );
  }
  const manifest = secretManifest({ ...secret, values });
  const content = mine ? manifest : await store.sops.encrypt(manifest, path, everyRecipient(readers));
  if (!isListed) {
    resources.add(basename(path));
    await writeWhole(join(config.gitops.tree, list), document.toString({ lineWidth: 0 }));
  }
  await store.writeFile(path, content);
  const rules = (await store.writeRules()) ? [".sops.yaml"] : [];
  return [path, ...(isListed ? [] : [list]), ...rules];
}

function initOf(store: SecretStore): string {
  return `Run "npx platform secrets init ${store.stack}"`;
}

/** The namespaces that the tree makes, for any stack, and the namespaces of every cluster. */
async function namespacesOf(tree: string): Promise<Set<string>> {
  const names = new Set(["default", "flux-system", "kube-system", "kube-public"]);
  for (const path of await readdir(tree, { recursive: true })) {
    if (!/\.ya?ml$/.test(path)) continue;
    for (const name of namespacesIn(await readFile(join(tree, path), "utf8"))) names.add(name);
  }
  return names;
}

/** The fault in the values of a Secret, and its remedy. */
function wrongValues(values: SecretValues): string | undefined {
  const keys = Object.keys(values);
  if (keys.length === 0) return 'it has no values. Give it lines "key=value", or files with --from-file.';
  const bad = keys.find((key) => !isKey(key));
  if (bad !== undefined) return noKey(bad);
  const size = sizeOf(values);
  return size > largest
    ? `its values take ${size} bytes, and a Secret holds ${largest} bytes at most. Divide the values among several Secrets.`
    : undefined;
}

function sizeOf(values: SecretValues): number {
  return Object.values(values).reduce((sum, value) => sum + Buffer.byteLength(value), 0);
}

/** Whether a Secret may have a key of this name. Source: `IsConfigMapKey` in k8s.io/apimachinery */
export function isKey(text: string): boolean {
  return /^[-._a-zA-Z0-9]{1,253}$/.test(text) && text !== "." && !text.startsWith("..");
}

/** The fault in an invalid key, and its remedy. */
export function noKey(text: string): string {
  return `"${text}" is not a valid key. Use letters, digits, "-", "_" and ".".`;
}

/**
 * Reads lines `key=value`; a value is everything up to the end of its line.
 *
 * @throws Error naming the line, never its content
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
 * Reads values from files, byte for byte: for values with several lines, or binary values.
 *
 * @param named each `key=path`, or a path whose last part is the key, as with `kubectl create secret --from-file`
 * @param directory the start of relative paths
 * @throws Error naming the file that cannot be read, or the key that appears twice
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
      throw new Error(`${operation} ${causeOf(error, path)}. Write --from-file <key>=<path>.`, {
        cause: error,
      });
    }
  }
  return Object.fromEntries(values);
}
