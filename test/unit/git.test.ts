import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chownSync, realpathSync, rmSync } from "node:fs";
import { join } from "node:path";
import { provenance } from "../../core/tree/source";
import { repositoryOf } from "../../clients/git/repository";
import { checkRepository } from "../../core/secrets/check";
import { temporaryDirectory, withEnvironment, writeFiles } from "./temporary";

/** No setting of this user, such as a safe.directory. */
const noSettings = { GIT_CONFIG_GLOBAL: "/dev/null", GIT_CONFIG_SYSTEM: "/dev/null" };

/** A repository of one commit, and the tree in it. */
function repository(): { directory: string; tree: string; commit: string } {
  const directory = realpathSync(temporaryDirectory());
  writeFiles(directory, { "gitops/clusters/test/a.yaml": "a: 1\n" });
  const git = (...args: string[]) =>
    execFileSync("git", ["-c", "user.name=t", "-c", "user.email=t@example.com", ...args], {
      ...{ cwd: directory, encoding: "utf8" },
      env: { PATH: process.env.PATH, ...noSettings },
    }).trim();
  git("init", "-q");
  git("add", ".");
  git("commit", "-q", "-m", "first");
  return { directory, tree: join(directory, "gitops"), commit: git("rev-parse", "HEAD") };
}

/** What asks Git about a tree. */
const questions = [
  ["its repository", (tree: string) => repositoryOf(tree)],
  ["its revision", (tree: string) => provenance(tree)],
  ["its secrets", (tree: string) => checkRepository(tree)],
] as const;

describe("Git repository of a directory", () => {
  it("is the one that holds it", async () => {
    const { directory, tree } = repository();
    equal(await repositoryOf(tree), directory);
    equal(await repositoryOf(directory), directory);
  });

  it("is none outside any, whether there is a git or not", async () => {
    const outside = temporaryDirectory();
    equal(await repositoryOf(outside), undefined);
    await withEnvironment({ PATH: temporaryDirectory() }, async () => {
      equal(await repositoryOf(outside), undefined);
    });
  });

  it("is not the one that a hook of another repository names", async () => {
    const [own, other] = [repository(), repository()];
    const hook = { GIT_DIR: join(other.directory, ".git"), GIT_WORK_TREE: other.directory };
    await withEnvironment({ ...hook, GIT_INDEX_FILE: join(other.directory, "x") }, async () => {
      equal(await repositoryOf(own.tree), own.directory);
      equal((await provenance(own.tree)).revision, `sha1:${own.commit}`);
      deepEqual((await checkRepository(own.tree)).findings, []);
    });
  });

  for (const [what, ask] of questions) {
    it(`does not tell ${what} where it belongs to another user, and says so`, async function () {
      if (process.getuid?.() !== 0) {
        console.log("      skipped: only root can give a directory to another user");
        this.skip();
      }
      const { directory, tree } = repository();
      chownSync(directory, 65_534, 65_534);
      chownSync(join(directory, ".git"), 65_534, 65_534);
      await withEnvironment({ ...noSettings, SUDO_UID: "0" }, () =>
        rejects(ask(tree), ({ message }: Error) => {
          match(message, /^Asking Git about \/\S+ failed: .*detected dubious ownership in repository at/);
          match(message, /git config --global --add safe\.directory/);
          return true;
        }),
      );
    });

    it(`does not tell ${what} where there is no git, and says so`, async () => {
      const { tree } = repository();
      await withEnvironment({ PATH: temporaryDirectory() }, () =>
        rejects(
          ask(tree),
          /^Error: Asking Git about \/\S+ failed: Unable to execute "git": it is not on PATH/,
        ),
      );
    });

    for (const [damage, spoil] of [
      [
        "has no HEAD",
        (directory: string) => {
          rmSync(join(directory, ".git", "HEAD"));
        },
      ],
      [
        "leads nowhere",
        (directory: string) => {
          rmSync(join(directory, ".git"), { recursive: true });
          writeFiles(directory, { ".git": "gitdir: /no/such/repository\n" });
        },
      ],
    ] as const) {
      it(`does not tell ${what} where it ${damage}, and says so`, async () => {
        const { directory, tree } = repository();
        spoil(directory);
        await rejects(ask(tree), /^Error: Asking Git about \/\S+ failed: .*not a git repository/);
      });
    }
  }
});
