import { execFile } from "node:child_process";
import { copyFile, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { parse } from "yaml";
import { sentence } from "../../system/sentence";
import { project } from "./project";

/**
 * Whether a file backend has a stack. A state without projects, as old versions of Pulumi made it, counts: Pulumi itself
 * says what to do with it.
 *
 * Source: `stackPath` in pulumi/pulumi, pkg/backend/diy/state.go
 *
 * @param directory of the file backend, absolute
 */
export async function hasStack(directory: string, projectName: string, stack: string): Promise<boolean> {
  const stacks = join(directory, ".pulumi", "stacks");
  const files = await Promise.all(
    [join(stacks, projectName), stacks].map((path) =>
      readdir(path).catch((error: unknown) => {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
        throw error;
      }),
    ),
  );
  return [".json", ".json.gz", ".json.zst"].some((ending) => files.flat().includes(`${stack}${ending}`));
}

/**
 * Whether a backend that is not in files has a stack.
 *
 * @param cli the Pulumi CLI
 * @throws Error when the backend does not answer, or the user is not logged in
 */
export async function isListed(cli: string, env: NodeJS.ProcessEnv, stack: string): Promise<boolean> {
  try {
    const options = { cwd: project, env, maxBuffer: 256 * 1024 * 1024 };
    const { stdout } = await promisify(execFile)(
      cli,
      ["stack", "ls", "--json", "--non-interactive"],
      options,
    );
    return (JSON.parse(stdout) as { name: string }[]).some(({ name }) => name === stack);
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string };
    const reason = (stderr ?? "").trim().replace(/^error: /, "") || message;
    throw new Error(
      `Looking for stack "${stack}" in Pulumi's backend failed: ${sentence(reason)} Run "pulumi login", or correct PULUMI_BACKEND_URL.`,
      { cause: error },
    );
  }
}

/** The settings of a stack for one run of Pulumi. */
export interface SettingsCopy {
  /** Absolute path of the copy. */
  readonly file: string;
  /** Whether the settings name the salt of their secrets: only the stack's own passphrase opens these. */
  readonly isSalted: boolean;
}

/**
 * Copies the settings of a stack and `Pulumi.yaml`, as a project of their own.
 *
 * @param directory absolute
 */
export async function copySettings(stack: string, directory: string): Promise<SettingsCopy> {
  const name = `Pulumi.${stack}.yaml`;
  const text = await readFile(join(project, name), "utf8");
  const file = join(directory, name);
  // Pulumi writes to the copy of a file that is read-only, too.
  await writeFile(file, text, { mode: 0o600 });
  await copyFile(join(project, "Pulumi.yaml"), join(directory, "Pulumi.yaml"));
  const { encryptionsalt } = (parse(text) ?? {}) as { encryptionsalt?: unknown };
  return { file, isSalted: encryptionsalt !== undefined };
}

/**
 * Makes a file backend that has a stack without any state. Pulumi's own command would ask for a passphrase, and say that
 * it made a stack.
 *
 * @param directory its parent, absolute
 * @returns the variables that choose it
 */
export async function emptyBackend(
  directory: string,
  [projectName, stack]: readonly [project: string, stack: string],
  { PULUMI_CONFIG_PASSPHRASE: passphrase, PULUMI_CONFIG_PASSPHRASE_FILE: file }: NodeJS.ProcessEnv,
  { isSalted }: SettingsCopy,
): Promise<Record<string, string>> {
  const backend = join(directory, "state");
  const stacks = join(backend, ".pulumi", "stacks", projectName);
  await mkdir(stacks, { recursive: true, mode: 0o700 });
  // Source: `CheckpointV3` in pulumi/pulumi, sdk/go/common/apitype/stacks.go
  const checkpoint = { version: 3, checkpoint: { stack: `organization/${projectName}/${stack}` } };
  await writeFile(join(stacks, `${stack}.json`), JSON.stringify(checkpoint));
  const needsPassphrase = isSalted || passphrase !== undefined || file !== undefined;
  return {
    PULUMI_BACKEND_URL: pathToFileURL(backend).href,
    ...(needsPassphrase ? {} : { PULUMI_CONFIG_PASSPHRASE: "" }),
  };
}
