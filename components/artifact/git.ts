import { run } from "../command";
import { repositoryOf } from "../git";
import type { Provenance } from "./layout";

/**
 * Where a tree comes from: the last commit that touched it.
 *
 * A tree with uncommitted changes gets `-dirty` after the revision; one outside Git is of `unknown` revision.
 *
 * @param tree absolute path
 * @throws Error when `requireClean` is asked for and the tree is not clean, or when Git refuses to answer
 */
export async function provenance(tree: string, requireClean: boolean): Promise<Provenance> {
  const git = (...args: string[]) => run("git", args, { cwd: tree });
  const isTracked = (await repositoryOf(tree)) !== undefined;
  const [branch = "", ...changed] = isTracked
    ? (await git("status", "--porcelain", "--branch", "--", ".")).split("\n").filter((line) => line !== "")
    : [];
  // Git's words for scripts, in no language but this.
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
    source: withoutCredentials(source),
    created: new Date(created).toISOString(),
  };
}

/** A remote's URL without user name and password: the artifact may be read by anybody. */
export function withoutCredentials(url: string): string {
  return url.replace(/^([\w+.-]+:\/\/)[^/]*@/, "$1");
}
