import { join } from "node:path";
import { run } from "../tools/command";
import type { SecretStore } from "../core/secrets/store";
import { project } from "./cli/project";
import { runPulumi } from "./cli/pulumi";

/** Options of the release of a stack after its secrets were encrypted again. */
export interface ReleaseOptions {
  /** Commit the encrypted files, if the stack needs a clean tree for a release. @default false */
  readonly commit?: boolean;
  /** Do not ask before the release. @default false */
  readonly yes?: boolean;
  /** Receives a line for each commit. */
  readonly tell: (line: string) => void;
}

/**
 * Runs `npx platform up`. If the stack requires a clean tree, it first commits the files that the commands for secrets
 * write, and no others.
 *
 * @throws Error when other files wait for a commit by the user, or the release fails
 */
export async function releaseSecrets(
  store: SecretStore,
  { commit = false, yes = false, tell }: ReleaseOptions,
): Promise<void> {
  const operation = `Releasing stack "${store.stack}"`;
  const { tree, requireClean } = (await store.config()).gitops;
  if (requireClean) {
    const secrets = [...(await store.files()).keys()].map((path) => join(tree, path));
    const own = [store.settingsFile, await store.rulesFile(), ...secrets];
    const all = await changed([tree, ...own]);
    if (all.length > 0 && !commit) {
      throw new Error(
        `${operation} stopped: its tree must be committed, and ${all.length} files are not. Commit them and run the same command again, or run it with --commit.`,
      );
    }
    const [other] = await changed([tree, ...own.map((path) => `:(exclude)${path}`)]);
    if (other !== undefined) {
      throw new Error(
        `${operation} stopped: its tree must be committed, and has uncommitted changes that are not secrets, such as ${other}. Commit them, or put them aside with "git stash push --include-untracked -- '${other}'", and run the same command again.`,
      );
    }
    const files = await changed(own);
    if (files.length > 0) {
      const message = `Secrets of ${store.stack} encrypted for other recipients`;
      const paths = files.map((path) => `:(top,literal)${path}`);
      await git("add", "--", ...paths);
      await git("commit", "--quiet", "--message", message, "--only", "--", ...paths);
      tell(`committed: ${message}`);
    }
  }
  const code = await runPulumi("up", store.stack, yes ? ["--yes"] : []);
  if (code !== 0) {
    throw new Error(
      `${operation} failed: "pulumi up" ended with exit code ${code}. Fix the error that it names and run the same command again: it continues from there.`,
    );
  }
}

function git(...args: string[]): Promise<string> {
  return run("git", args, { cwd: project });
}

/** The files that differ from the last commit, as seen from the top of the repository. */
async function changed(paths: readonly string[]): Promise<string[]> {
  const options = ["--porcelain", "-z", "--no-renames", "--untracked-files=all"];
  const listed = await git("status", ...options, "--", ...paths);
  return listed
    .split("\0")
    .filter((entry) => entry !== "")
    .map((entry) => entry.slice("XY ".length));
}
