import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { causeOf } from "../../system/file-error";
import { sentence } from "../../system/sentence";
import { errorOf, type Finding } from "../findings/finding";
import { isEncrypted, isSecretPath, secretKeys } from "../../clients/sops/secret-file";

/** Every `*.enc.yaml` below `clusters/<cluster>`, sorted: path relative to the tree, and content. */
export async function readSecretFiles(tree: string, cluster: string): Promise<Map<string, string>> {
  const directory = join("clusters", cluster);
  const paths = await readdir(join(tree, directory), { recursive: true }).catch((error: unknown) => {
    throw new Error(
      `Reading cluster "${cluster}" of the tree failed: there is no directory ${directory} in ${tree}. Add it, or correct the stack's name.`,
      { cause: error },
    );
  });
  return readEach(
    paths.map((path) => join(directory, path)),
    (file) => readFile(join(tree, file), "utf8"),
  );
}

/** As `readSecretFiles`, among the files of a tree that was read: path relative to it → content. */
export function secretFilesIn(
  texts: ReadonlyMap<string, string>,
  cluster: string,
): Promise<Map<string, string>> {
  const paths = [...texts.keys()].filter((path) => path.startsWith(`clusters/${cluster}/`));
  return readEach(paths, (file) => texts.get(file) ?? "");
}

async function readEach(
  paths: readonly string[],
  read: (file: string) => string | Promise<string>,
): Promise<Map<string, string>> {
  const files = new Map<string, string>();
  for (const file of paths.filter(isSecretPath).sort()) {
    try {
      const content = await read(file);
      if (secretKeys(content).length === 0) throw new Error("it holds no Secret with keys");
      files.set(file, content);
    } catch (error) {
      const [reason = ""] = causeOf(error, file).split("\n");
      const message = `Reading secret ${file} failed: ${sentence(reason)}`;
      throw errorOf([{ check: "secret-form", file, message, remedy: "Restore it from Git." }], error);
    }
  }
  return files;
}

/** A finding about one file of secrets. */
export function fileFinding(check: string, file: string, cause: string, remedy: string): Finding {
  return { check, file, message: `Checking ${file} failed: ${cause}.`, remedy };
}

/** The choice of the secrets that a stack generates itself; see `PlatformConfig.sops.generate`. */
export type Generate = "none" | "empty" | "all";

/** Whether the stack generates the values of a file. An encrypted file is never empty. */
export function isGenerated(content: string, generate: Generate): boolean {
  return generate === "all" || (generate === "empty" && !isEncrypted(content));
}
