import { run } from "../../tools/command";
import { repositoryOf } from "../../clients/git/repository";

/** The origin of an artifact, in its annotations. Sources: the OCI image-spec's annotation keys, as Flux reads them. */
export interface Provenance {
  /** Git revision as Flux writes it, without the branch: `sha1:…`. The same commit is the same artifact everywhere. */
  readonly revision: string;
  /** URL of the Git repository, the same for a clone over ssh and over https. */
  readonly source: string;
  /** Time of that revision, RFC 3339. */
  readonly created: string;
}

/**
 * The origin of a tree: the last commit that touched it.
 *
 * A tree with uncommitted changes gets `-dirty` after the revision; a tree outside Git has the revision `unknown`.
 *
 * @param tree absolute path
 * @throws Error when `requireClean` is set and the tree is not clean, or when Git refuses to answer
 */
export async function provenance(tree: string, requireClean: boolean): Promise<Provenance> {
  const git = (...args: string[]) => run("git", args, { cwd: tree });
  const isTracked = (await repositoryOf(tree)) !== undefined;
  const [branch = "", ...changed] = isTracked
    ? (await git("status", "--porcelain", "--branch", "--", ".")).split("\n").filter((line) => line !== "")
    : [];
  // Git's output for scripts, which does not depend on the language.
  const isEmpty = !isTracked || /^## (No commits yet|Initial commit) on /.test(branch);
  const commit = isEmpty ? "" : (await git("log", "-1", "--format=%H %cI", "--", ".")).trim();
  const [hash, created] = commit.split(" ");
  if (hash === undefined || hash === "" || created === undefined) {
    if (requireClean) {
      throw new Error(
        `Reading the revision of ${tree} failed: no Git commit holds it. Commit it, or set platform:gitops.requireClean to false.`,
      );
    }
    return { revision: "unknown", source: "unknown", created: "1970-01-01T00:00:00Z" };
  }
  if (requireClean && changed.length > 0) {
    throw new Error(
      `Releasing ${tree} was refused: ${changed.length} of its files differ from Git, such as "${changed[0]?.slice(3) ?? ""}". Commit them, or set platform:gitops.requireClean to false.`,
    );
  }
  const source = (await git("config", "--get", "remote.origin.url").catch(() => "unknown")).trim();
  return {
    revision: `sha1:${hash}${changed.length > 0 ? "-dirty" : ""}`,
    source: publicUrl(source),
    created: new Date(created).toISOString(),
  };
}

/**
 * The files of a tree that Git tracks, or would track: without files that Git ignores.
 *
 * @param tree absolute path
 * @returns paths relative to the tree; undefined for a tree outside Git
 * @throws Error with Git's message, when Git does not answer
 */
export async function trackedFiles(tree: string): Promise<string[] | undefined> {
  if ((await repositoryOf(tree)) === undefined) return undefined;
  const names = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"];
  const text = await run("git", names, { cwd: tree });
  return text.split("\0").filter((name) => name !== "");
}

/**
 * Writes the last commit's files of a tree into a tar file.
 *
 * @param tree absolute path
 * @param archive absolute path of the new file
 * @throws Error with Git's message, when Git does not answer
 */
export async function archiveCommit(tree: string, archive: string): Promise<void> {
  await run("git", ["archive", "--format=tar", `--output=${archive}`, "HEAD"], { cwd: tree });
}

/**
 * A remote's URL in a public form: over https, without user name, password and `.git`, so that each clone of a
 * repository has the same URL. A path on this machine has no meaning for others.
 */
export function publicUrl(remote: string): string {
  const url = /^(?:git\+)?(https?|ssh|git):\/\/(?:.*@)?([^/@]+)\/+(.*)$/.exec(remote.replace(/^git\+/, ""));
  const [, scheme = "ssh", host, path] =
    url ?? /^()(?:[^/@:]+@)?([^/@:]+):(?!\/\/)\/*(.*)$/.exec(remote) ?? [];
  if (host === undefined || path === undefined || path === "") return "unknown";
  // The port is part of the connection, not of the repository's name.
  const server = /^https?$/.test(scheme) ? host : host.replace(/:\d+$/, "");
  return `https://${server.toLowerCase()}/${path.replace(/\/+$/, "").replace(/\.git$/, "")}`;
}
