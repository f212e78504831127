import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { isSeq, parseDocument } from "yaml";
import { readersOf } from "./place";
import { everyRecipient, needsRule } from "./rules";
import { secretManifest } from "./secret-file";
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
  /** Key → value. */
  readonly values: Readonly<Record<string, string>>;
}

/**
 * Adds a Secret to a layer: its encrypted file, and that file's line in the kustomization.yaml. Values are in memory
 * and in what SOPS encrypted alone.
 *
 * @returns the files that were written, relative to the tree
 * @throws Error when it cannot be added; nothing is written then
 */
export async function addSecret(store: SecretStore, secret: NewSecret): Promise<string[]> {
  const { name, layer, namespace, values } = secret;
  const operation = `Adding Secret "${name}" to stack "${store.stack}" failed:`;
  // Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
  if (!/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/.test(name)) {
    throw new Error(`${operation} that is no name of an object. Take a-z, 0-9, "-" and ".".`);
  }
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(namespace)) {
    throw new Error(`${operation} "${namespace}" is no namespace. Take a-z, 0-9 and "-".`);
  }
  const keys = Object.keys(values);
  if (keys.length === 0) throw new Error(`${operation} it has no values. Give it lines "key=value".`);
  const bad = keys.find((key) => !/^[-._a-zA-Z0-9]{1,253}$/.test(key));
  if (bad !== undefined) {
    throw new Error(`${operation} "${bad}" is no key. Take letters, digits, "-", "_" and ".".`);
  }
  const config = await store.config();
  const readers = readersOf(config);
  const made = config.sops.generate;
  const empty = Object.values(values).every((value) => value === "");
  const mine = made === "all" || (made === "empty" && empty);
  if (made === "all" && !empty) {
    throw new Error(`${operation} the stack makes all its values up. Leave them empty: "key=".`);
  }
  if (!mine && !needsRule(readers)) {
    throw new Error(
      `${operation} it has no recipients to encrypt for. Run "npm run secrets -- init --stack ${store.stack}"${made === "empty" ? ' with --recipient, or leave the values empty: "key="' : ""}.`,
    );
  }
  const { tree, cluster } = config.gitops;
  const directory = join("clusters", cluster, layer);
  const path = join(directory, `${name}.enc.yaml`);
  const list = join(directory, "kustomization.yaml");
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
  const manifest = secretManifest(secret);
  const content = mine ? manifest : await store.sops.encrypt(manifest, path, everyRecipient(readers));
  await store.writeFile(path, content);
  resources.add(`${name}.enc.yaml`);
  await writeWhole(join(tree, list), document.toString({ lineWidth: 0 }));
  const rules = (await store.writeRules()) ? [".sops.yaml"] : [];
  return [path, list, ...rules];
}

/**
 * Reads lines `key=value`; a value goes on to the end of its line, whatever is in it.
 *
 * @throws Error naming the line, never what it holds
 */
export function parseValues(text: string): Record<string, string> {
  const values: Record<string, string> = {};
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === "") continue;
    const at = line.indexOf("=");
    const key = line.slice(0, at).trim();
    if (at < 1 || Object.hasOwn(values, key)) {
      const cause = at < 1 ? 'it has no "key="' : `"${key}" is there twice`;
      throw new Error(`Reading line ${index + 1} of the values failed: ${cause}. Write lines "key=value".`);
    }
    values[key] = line.slice(at + 1);
  }
  return values;
}
