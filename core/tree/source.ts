import { run } from "../../tools/command";
import { askGit } from "../../clients/git/repository";

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
 * A gitops tree: the absolute path of its directory, for the files that Git tracks there, or would track (outside Git,
 * every file); or the files that a Git commit has in that directory.
 */
export type TreeSource = string | { readonly tree: string; readonly commit: string };

/** The directory of a tree and the commit; undefined for the work tree. */
export function partsOf(source: TreeSource): { readonly tree: string; readonly commit?: string } {
  return typeof source === "string" ? { tree: source } : source;
}

/**
 * The source of a release.
 *
 * @param tree absolute path
 * @param requireClean release the last commit that touched the tree, and refuse changes on the disk
 * @throws Error when the tree must be clean and is not, or when Git refuses to answer
 */
export async function releaseSource(tree: string, requireClean: boolean): Promise<TreeSource> {
  if (!requireClean) return tree;
  const [last, [change, ...others]] = await Promise.all([lastCommit(tree), changesIn(tree)]);
  if (last === undefined) {
    throw new Error(
      `Reading the revision of ${tree} failed: no Git commit contains the tree. Commit the tree, or set platform:gitops.requireClean to false.`,
    );
  }
  if (change !== undefined) {
    throw new Error(
      `Releasing ${tree} was refused: ${others.length + 1} of its files differ from Git, such as "${change}". Commit them, or set platform:gitops.requireClean to false.`,
    );
  }
  return { tree, commit: last.hash };
}

/**
 * The origin of a tree: the last commit that touched it.
 *
 * A work tree with uncommitted changes gets `-dirty` after the revision; a tree that no commit holds has the revision
 * `unknown`.
 *
 * @throws Error when Git refuses to answer
 */
export async function provenance(source: TreeSource): Promise<Provenance> {
  const { tree, commit } = partsOf(source);
  const last = await lastCommit(tree, commit);
  if (last === undefined) return { revision: "unknown", source: "unknown", created: "1970-01-01T00:00:00Z" };
  const isDirty = commit === undefined && (await changesIn(tree)).length > 0;
  const remote = await askGit(tree, "config", "--get", "remote.origin.url").catch(() => undefined);
  return {
    revision: `sha1:${last.hash}${isDirty ? "-dirty" : ""}`,
    source: publicUrl((remote ?? "").trim()),
    created: new Date(last.created).toISOString(),
  };
}

/** The last commit that touched a tree, up to a commit; undefined when there is none. */
async function lastCommit(
  tree: string,
  commit?: string,
): Promise<{ readonly hash: string; readonly created: string } | undefined> {
  // A repository without commits has no HEAD.
  const from = commit === undefined ? ["--ignore-missing", "HEAD"] : ["--end-of-options", commit];
  const printed = await askGit(tree, "log", "-1", "--format=%H %cI", ...from, "--", ".");
  const [hash = "", created = ""] = (printed ?? "").trim().split(" ");
  return hash === "" ? undefined : { hash, created };
}

/** The changes of a work tree, as paths relative to its repository. */
async function changesIn(tree: string): Promise<string[]> {
  const status = (await askGit(tree, "status", "--porcelain", "--", ".")) ?? "";
  return status.split("\n").flatMap((line) => (line === "" ? [] : [line.slice(3)]));
}

/**
 * The files of a work tree that Git tracks, or would track: without files that Git ignores.
 *
 * @param tree absolute path
 * @returns paths relative to the tree; undefined for a tree outside Git
 * @throws Error with Git's message, when Git does not answer
 */
export async function trackedFiles(tree: string): Promise<string[] | undefined> {
  const names = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"];
  return (await askGit(tree, ...names))?.split("\0").filter((name) => name !== "");
}

/**
 * Writes the files that a commit has in a tree's directory into a tar file.
 *
 * @param archive absolute path of the new file
 * @throws Error with Git's message, when Git does not know the commit, or the commit has no such directory
 */
export async function archiveCommit(tree: string, commit: string, archive: string): Promise<void> {
  await run("git", ["archive", "--format=tar", `--output=${archive}`, "--end-of-options", commit], {
    cwd: tree,
  });
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
