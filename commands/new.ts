import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { Command } from "commander";
import { isSeq, parseDocument } from "yaml";
import { isImageReference } from "../clients/registry/image-reference";
import { namespacesIn } from "../core/tree/namespaces";
import { callDirectory, project } from "./cli/project";

/** The application whose copy is the start of a new application. */
const model = "whoami";

/** An application to add. */
export interface NewApp {
  /** Absolute path of the gitops tree. */
  readonly tree: string;
  /** The name of its folder, namespace, objects and host: a DNS label. */
  readonly name: string;
  /** With a tag or digest. @default the image of the model */
  readonly image?: string;
}

/**
 * Adds an application to the tree.
 *
 * @returns the files that were written, relative to the tree
 * @throws Error when the name is in use or invalid, or the image is invalid; nothing is written then
 */
export async function newApp({ tree, name, image }: NewApp): Promise<string[]> {
  const operation = `Adding app "${name}" failed:`;
  // Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
  if (!/^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name)) {
    throw new Error(
      `${operation} it is not a DNS label. Choose up to 63 of a-z, 0-9 and "-", with a letter first and no "-" last.`,
    );
  }
  // Source: https://yaml.org/type/bool.html
  if (/^(true|false|null|yes|no|on|off|y|n)$/.test(name)) {
    throw new Error(`${operation} YAML reads it as a value and not as a name. Choose another name.`);
  }
  if (image !== undefined && !isImageReference(image)) {
    throw new Error(
      `${operation} no registry can hold image "${image}". Name it as registry/image:tag, in lower case except the tag.`,
    );
  }
  if (image !== undefined && !/(:[\w.-]+|@sha256:[0-9a-f]{64})$/.test(image)) {
    throw new Error(`${operation} image "${image}" has no tag. Name it as registry/image:tag.`);
  }
  if (image?.endsWith(":latest") === true) {
    throw new Error(`${operation} image "${image}" names no version. Name a version as its tag.`);
  }
  const apps = join(tree, "bases", "apps");
  if (!existsSync(join(apps, model))) {
    throw new Error(
      `${operation} ${tree} has no folder bases/apps/${model}. Name the gitops tree with --tree.`,
    );
  }
  const directory = join(apps, name);
  if (existsSync(directory)) {
    throw new Error(`${operation} ${directory} exists already. Choose another name, or change that app.`);
  }
  const holder = await holderOf(name, tree);
  if (holder !== undefined) throw new Error(`${operation} ${holder}. Choose another name.`);
  const list = join(apps, "kustomization.yaml");
  const document = parseDocument(await readFile(list, "utf8"));
  const resources = document.get("resources");
  if (!isSeq(resources)) {
    throw new Error(`${operation} ${list} has no list "resources". Restore it from Git.`);
  }
  const names = await readdir(join(apps, model));
  const files = await Promise.all(
    names.map(async (file): Promise<[string, string]> => {
      const text = await readFile(join(apps, model, file), "utf8");
      // The image's own name may contain the model's name.
      const parts = text.split(/^(.*\bimage: )(\S+)$/m);
      const renamed = parts.map((part, index) =>
        index % 3 === 2 ? (image ?? part) : part.replaceAll(model, name),
      );
      return [file, renamed.join("")];
    }),
  );
  resources.add(name);
  (resources.items as { value?: string }[]).sort((a, b) => ((a.value ?? a) < (b.value ?? b) ? -1 : 1));
  await mkdir(directory);
  for (const [file, text] of files) await writeFile(join(directory, file), text);
  await writeFile(list, document.toString());
  return [
    ...files.map(([file]) => join("bases", "apps", name, file)),
    join("bases", "apps", "kustomization.yaml"),
  ];
}

/** Namespaces of Kubernetes, of Flux and of Kind, which exist in a cluster in addition to those of the tree. */
const reserved = ["default", "flux-system", "local-path-storage"];

/** The current owner of the namespace or the host of an application with this name, as a sentence; or undefined. */
async function holderOf(name: string, tree: string): Promise<string | undefined> {
  // Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/#working-with-namespaces
  if (name.startsWith("kube-")) return `the prefix "kube-" is reserved for Kubernetes' own namespaces`;
  if (reserved.includes(name)) return `namespace "${name}" belongs to the cluster itself`;
  const files = (await readdir(tree, { recursive: true })).filter((file) => /\.ya?ml$/.test(file)).sort();
  for (const file of files) {
    const text = await readFile(join(tree, file), "utf8");
    const used = new RegExp(`^[ \\t-]*namespace:[ \\t]*["']?${name}["']?[ \\t]*(#.*)?$`, "m").test(text);
    if (used || namespacesIn(text).includes(name)) return `${file} uses namespace "${name}"`;
    const host = new RegExp(`^[ \\t]*- ["']?${name}\\.\\$\\{domain\\}["']?[ \\t]*(#.*)?$`, "m");
    if (host.test(text)) return `${file} uses host "${name}.\${domain}"`;
  }
  return undefined;
}

const app = new Command("app")
  .description(
    "Adds an application to every cluster: a folder in gitops/bases/apps, and its line in the list beside it. It starts as a copy of whoami, with the platform's policies, quota and network policies.",
  )
  .argument("<name>", "the name of its folder, namespace, objects and host")
  .option("--image <image>", "the container image, with a tag [default: that of whoami]")
  .option("--tree <directory>", "the gitops tree [default: gitops of this project]")
  .action(async (name: string, { image, tree }: { image?: string; tree?: string }) => {
    const directory = tree === undefined ? join(project, "gitops") : resolve(callDirectory, tree);
    const written = await newApp({ tree: directory, name, image });
    for (const file of written) console.log(file);
    console.log(`App "${name}" is in every cluster. See docs/add-an-app.md for what to change in it.`);
  });

export const add = new Command("new").description("Adds something to the tree.").addCommand(app);
