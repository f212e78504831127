import { equal, match, rejects } from "node:assert/strict";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { run } from "../../components/command";
import { cacheDirectory } from "../../tools/cache";
import { fakeTools, temporaryDirectory, withEnvironment } from "./temporary";

/** What a promise is rejected with. */
async function failure(promise: Promise<unknown>): Promise<Error> {
  return promise.then(
    () => {
      throw new Error("it did not fail");
    },
    (error: unknown) => error as Error,
  );
}

describe("run", () => {
  it("returns what the command wrote to standard output, whole", async () => {
    equal(await run("printf", ["a\\n\\nb\\n"]), "a\n\nb\n");
  });

  it("passes arguments on as they are: no shell reads them", async () => {
    equal(await run("printf", ["%s", "$HOME `id` ; echo *"]), "$HOME `id` ; echo *");
  });

  it("names a command that is missing, and what to do", async () => {
    const { message } = await failure(run("no-such-tool", ["--secret-flag"]));
    equal(
      message,
      'Unable to execute "no-such-tool": it is not on PATH. Run "npm run tools", or install it.',
    );
  });

  it("says what a failing command said, and keeps all of it as the cause", async () => {
    const tools = fakeTools({ tool: "for i in 1 2 3 4 5 6 7 8; do echo line $i >&2; done; exit 3" });
    const error = await withEnvironment(tools, () => failure(run("tool", ["get", "things", "--all"])));
    equal(error.message, '"tool get things" failed: line 3 line 4 line 5 line 6 line 7 line 8');
    match(String(error.cause), /^line 1\nline 2\n/);
  });

  it("falls back to standard output when a failing command wrote no error", async () => {
    const tools = fakeTools({ tool: "echo it is the disk; exit 1" });
    await withEnvironment(tools, () =>
      rejects(run("tool", []), { message: '"tool" failed: it is the disk' }),
    );
  });

  it("stops a command that misses its deadline", async () => {
    const { message } = await failure(run("sleep", ["30"], { timeout: 50 }));
    equal(message, '"sleep 30" was stopped: it took longer than its deadline.');
  });

  it("hands input over on standard input, where no list of processes shows it", async () => {
    const tools = fakeTools({ tool: 'echo "arguments: $*"; printf "input: "; cat' });
    equal(
      await withEnvironment(tools, () => run("tool", ["encrypt"], { input: "the password" })),
      "arguments: encrypt\ninput: the password",
    );
  });

  it("survives a command that ends before it has read its input", async () => {
    equal(await run("true", [], { input: "x".repeat(1_000_000) }), "");
  });

  it("adds variables to the environment and takes those away that are undefined", async () => {
    await withEnvironment({ PLATFORM_TEST_GONE: "1", PLATFORM_TEST_KEPT: "2" }, async () => {
      const script = 'echo "${PLATFORM_TEST_GONE-unset} $PLATFORM_TEST_KEPT $PLATFORM_TEST_NEW"';
      const env = { PLATFORM_TEST_GONE: undefined, PLATFORM_TEST_NEW: "3" };
      equal(await run("sh", ["-c", script], { env }), "unset 2 3\n");
    });
  });

  it("prefers a pinned tool of the cache to one on PATH", async () => {
    const cache = temporaryDirectory();
    const pinned = fakeTools({ tool: "echo pinned" });
    const other = fakeTools({ tool: "echo other" });
    mkdirSync(join(cache, "platform"));
    symlinkSync(pinned.PATH.split(":")[0] ?? "", join(cache, "platform", "bin"));
    equal(
      await withEnvironment({ PATH: other.PATH, XDG_CACHE_HOME: cache }, () => run("tool", [])),
      "pinned\n",
    );
    equal(await withEnvironment(other, () => run("tool", [])), "other\n");
  });

  it("names a working directory that does not exist, not the command", async () => {
    const { message } = await failure(run("true", [], { cwd: "/no/such/directory" }));
    match(message, /\/no\/such\/directory/);
  });
});

describe("cacheDirectory", () => {
  it("is below XDG_CACHE_HOME, or in the user's home", () => {
    equal(cacheDirectory({ XDG_CACHE_HOME: "/var/cache/me" }), "/var/cache/me/platform");
    match(cacheDirectory({}), /\/\.cache\/platform$/);
  });
});
