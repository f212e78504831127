import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { provenance, publicUrl, releaseSource } from "../../core/tree/source";
import { temporaryDirectory, writeFiles } from "./temporary";

interface Repository {
  readonly directory: string;
  /** The part of it that is released. */
  readonly tree: string;
  readonly git: (...args: string[]) => string;
}

/** A repository of one commit, which holds `gitops/a.yaml` and `README.md`. */
function repository(): Repository {
  const directory = temporaryDirectory();
  const git = (...args: string[]) =>
    execFileSync(
      "git",
      ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgSign=false", ...args],
      {
        ...{ cwd: directory, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] },
        env: {
          ...process.env,
          GIT_COMMITTER_DATE: "2026-01-02T03:04:05+02:00",
          GIT_CONFIG_GLOBAL: "/dev/null",
        },
      },
    ).trim();
  writeFiles(directory, { "gitops/a.yaml": "a: 1\n", "README.md": "hello\n" });
  git("init", "-q");
  git("add", ".");
  git("commit", "-q", "-m", "first");
  return { directory, tree: join(directory, "gitops"), git };
}

describe("provenance of a tree", () => {
  it("is the last commit that touched it", async () => {
    const { directory, tree, git } = repository();
    const commit = git("rev-parse", "HEAD");
    git("remote", "add", "origin", "https://me:token@example.com/platform.git");
    writeFileSync(join(directory, "README.md"), "bye\n");
    git("commit", "-q", "-a", "-m", "second");
    deepEqual(await provenance(tree), {
      revision: `sha1:${commit}`,
      source: "https://example.com/platform",
      created: "2026-01-02T01:04:05.000Z",
    });
  });

  it("is that of the source of a release: its last commit if it must be clean, or its files", async () => {
    const { directory, tree, git } = repository();
    const commit = git("rev-parse", "HEAD");
    writeFileSync(join(directory, "README.md"), "bye\n");
    git("commit", "-q", "-a", "-m", "second");
    deepEqual(await releaseSource(tree, true), { tree, commit });
    writeFileSync(join(tree, "a.yaml"), "a: 2\n");
    equal(await releaseSource(tree, false), tree);
    equal((await provenance({ tree, commit: "HEAD" })).revision, `sha1:${commit}`);
  });

  it("is of unknown source without a remote", async () => {
    equal((await provenance(repository().tree)).source, "unknown");
  });

  it("is not dirty for a change beside the tree", async () => {
    const { directory, tree } = repository();
    writeFileSync(join(directory, "README.md"), "bye\n");
    match((await provenance(tree)).revision, /^sha1:[0-9a-f]{40}$/);
  });

  it("says so when a file of the tree was changed, is new, or is gone", async () => {
    for (const change of [
      ({ tree }: Repository) => {
        writeFileSync(join(tree, "a.yaml"), "a: 2\n");
      },
      ({ tree }: Repository) => {
        writeFileSync(join(tree, "new.yaml"), "");
      },
      ({ git }: Repository) => {
        git("rm", "-q", "gitops/a.yaml");
      },
    ]) {
      const changed = repository();
      mkdirSync(changed.tree, { recursive: true });
      change(changed);
      mkdirSync(changed.tree, { recursive: true });
      match((await provenance(changed.tree)).revision, /^sha1:[0-9a-f]{40}-dirty$/);
    }
  });

  it("is refused with a new file when it must be clean, naming the file", async () => {
    const { tree } = repository();
    writeFileSync(join(tree, "new.yaml"), "");
    await rejects(releaseSource(tree, true), {
      message: `Releasing ${tree} was refused: 1 of its files differ from Git, such as "gitops/new.yaml". Commit them, or set platform:gitops.requireClean to false.`,
    });
  });

  it("is refused with a changed file when it must be clean, naming the file", async () => {
    const { tree } = repository();
    writeFileSync(join(tree, "a.yaml"), "a: 2\n");
    await rejects(releaseSource(tree, true), { message: /such as "gitops\/a\.yaml"/ });
  });

  it("is unknown outside Git, and for a tree that was never committed", async () => {
    const unknown = { revision: "unknown", source: "unknown", created: "1970-01-01T00:00:00Z" };
    const outside = temporaryDirectory();
    deepEqual(await provenance(outside), unknown);
    await rejects(releaseSource(outside, true), {
      message: `Reading the revision of ${outside} failed: no Git commit contains the tree. Commit the tree, or set platform:gitops.requireClean to false.`,
    });
    const empty = temporaryDirectory();
    execFileSync("git", ["init", "-q"], { cwd: empty });
    deepEqual(await provenance(empty), unknown);
    const { directory } = repository();
    mkdirSync(join(directory, "uncommitted"));
    deepEqual(await provenance(join(directory, "uncommitted")), unknown);
  });
});

describe("URL of a remote", () => {
  for (const [remote, shown] of [
    ["https://me:token@example.com/p.git", "https://example.com/p"],
    ["https://token@example.com/p.git", "https://example.com/p"],
    ["https://example.com/p@1.git", "https://example.com/p@1"],
    ["https://example.com:8443/me/p/", "https://example.com:8443/me/p"],
    ["ssh://git@example.com/p.git", "https://example.com/p"],
    ["ssh://git@Example.com:2222/me/p.git", "https://example.com/me/p"],
    ["git@example.com:me/p.git", "https://example.com/me/p"],
    ["example.com:me/p", "https://example.com/me/p"],
    ["git://example.com/me/p.git", "https://example.com/me/p"],
    ["https://me:p@ss@example.com/p.git", "https://example.com/p"],
    ["git+https://me:token@example.com/p.git", "https://example.com/p"],
    ["/srv/git/p.git", "unknown"],
    ["../p.git", "unknown"],
    ["file:///srv/git/p.git", "unknown"],
    ["unknown", "unknown"],
  ] as const) {
    it(`${remote.replace(/:[^/:]*@/, ":…@")} is shown as ${shown}`, () => {
      equal(publicUrl(remote), shown);
    });
  }
});
