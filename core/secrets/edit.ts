import { randomUUID } from "node:crypto";
import { readFile, statfs } from "node:fs/promises";
import { join, relative, resolve, sep } from "node:path";
import { ScratchDirectory } from "../../system/scratch-directory";
import { onTerminal } from "../../system/terminal";
import { toolPath } from "../../tools/command";
import { textOf } from "../findings/finding";
import { checkForm } from "./form";
import type { SecretStore } from "./store";

/** File systems in memory. Source: linux/magic.h, TMPFS_MAGIC and RAMFS_MAGIC */
const inMemory: readonly number[] = [0x01021994, 0x858458f6];
/** The exit code of `sops edit` when nothing was changed. Source: getsops/sops, cmd/sops/codes/codes.go */
const unchanged = 200;

/**
 * Opens an encrypted file in the user's editor. While the editor runs, the plain text is in a directory in memory, for
 * this user alone. The plain text disappears when this process, SOPS and the editor have ended, in any way.
 *
 * @param file as the user names it: relative to the working directory or the tree, or absolute
 * @returns the file's path relative to the tree
 * @throws Error when there is no file system in memory, the stack has no such file, or the new content is wrong
 */
export async function editSecret(
  store: SecretStore,
  file: string,
  env: NodeJS.ProcessEnv = process.env,
): Promise<string> {
  const operation = `Editing ${file} failed:`;
  const { tree } = (await store.config()).gitops;
  const files = await store.files();
  const named = [resolve(file), resolve(tree, file)].map((path) => relative(tree, path).split(sep).join("/"));
  const path = named.find((candidate) => files.has(candidate));
  if (path === undefined) {
    throw new Error(
      `${operation} it is not an encrypted file of stack "${store.stack}". Its encrypted files: ${[...files.keys()].join(", ") || "none"}.`,
    );
  }
  const identity = await store.identity();
  if (identity === undefined) {
    throw new Error(
      `${operation} the identity of stack "${store.stack}" is not in ${await store.identityPlace()}. Put it there.`,
    );
  }
  await store.open(path, files.get(path) ?? "", identity);
  const memory = await memoryDirectory(env);
  if (memory === undefined) {
    throw new Error(
      `${operation} there is no file system in memory to hold the plain text. Set XDG_RUNTIME_DIR to a directory on one.`,
    );
  }
  const directory = new ScratchDirectory(join(memory, `platform-secrets-${randomUUID()}`));
  try {
    const code = await sopsEdit(join(tree, path), identity, directory, env);
    if (code !== 0 && code !== unchanged) {
      throw new Error(`${operation} sops ended with exit code ${code}. The file is as it was.`);
    }
  } finally {
    await directory.remove();
  }
  const { generate } = (await store.config()).sops;
  const findings = checkForm(path, await readFile(join(tree, path), "utf8"), generate, store.stack);
  if (findings.length > 0) {
    throw new Error(
      [...findings.map(textOf), "It is as you wrote it: edit it again, or restore it from Git."].join("\n"),
    );
  }
  return path;
}

function sopsEdit(
  file: string,
  identity: string,
  scratch: ScratchDirectory,
  env: NodeJS.ProcessEnv,
): Promise<number> {
  // The editor gets the user's variables, without those of SOPS, which would add the user's own keys and services.
  const own = Object.entries(env).filter(([name]) => !name.startsWith("SOPS_"));
  // Only SOPS gets the identity: an editor passes its environment to every program that it starts.
  const editor = `env -u SOPS_AGE_KEY ${[env.SOPS_EDITOR, env.EDITOR].find(Boolean) ?? "vi"}`;
  return onTerminal("sops", ["edit", file], {
    env: {
      ...Object.fromEntries(own),
      ...{ PATH: toolPath(env), TMPDIR: scratch.path, SOPS_AGE_KEY: identity, SOPS_EDITOR: editor },
    },
    onStart: (pid) => {
      scratch.usedBy(pid);
    },
  });
}

async function memoryDirectory({
  XDG_RUNTIME_DIR: runtime = "",
}: NodeJS.ProcessEnv): Promise<string | undefined> {
  for (const directory of [runtime, "/dev/shm"].filter((name) => name !== "")) {
    const { type } = await statfs(directory).catch(() => ({ type: 0 }));
    if (inMemory.includes(type)) return directory;
  }
  return undefined;
}
