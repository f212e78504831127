import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../tools/command";
import { binDirectory, sharedBinDirectory } from "../../tools/bin";
import { cacheDirectory } from "../../system/cache";
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

  it("gives a tool what it needs of the user's variables, and what its caller adds", async () => {
    const tools = fakeTools({ helm: "env", git: "env", sops: "env", other: "env" });
    const user = {
      ...{ HTTPS_PROXY: "http://proxy", no_proxy: "local", SSL_CERT_FILE: "/ca", LC_ALL: "C" },
      ...{ HELM_REGISTRY_CONFIG: "/login", HELM_NAMESPACE: "x", KUBECONFIG: "/kube", DOCKER_CONTEXT: "x" },
      ...{
        GIT_DIR: "/x",
        GIT_AUTHOR_NAME: "me",
        SOPS_KMS_ARN: "arn",
        SOPS_AGE_KEY: "key",
        AWS_PROFILE: "me",
      },
    };
    const names = [...Object.keys(user), "ADDED"];
    const given = async (tool: string) =>
      (await run(tool, [], { env: { ADDED: "1", HELM_NAMESPACE: undefined } }))
        .split("\n")
        .map((line) => line.split("=")[0] ?? "")
        .filter((name) => names.includes(name))
        .sort();
    const common = ["ADDED", "HTTPS_PROXY", "LC_ALL", "SSL_CERT_FILE", "no_proxy"];
    await withEnvironment({ ...tools, ...user }, async () => {
      deepEqual(await given("sops"), common);
      deepEqual(await given("other"), common);
      deepEqual(await given("git"), [...common, "GIT_AUTHOR_NAME"].sort());
      deepEqual(
        await given("helm"),
        [...common, "AWS_PROFILE", "DOCKER_CONTEXT", "HELM_REGISTRY_CONFIG"].sort(),
      );
    });
  });

  it("prefers a pinned tool of this checkout to one of another, and that to one on PATH", async () => {
    const cache = temporaryDirectory();
    const env = { XDG_CACHE_HOME: cache };
    const onPath = fakeTools({ tool: "echo path" }).PATH;
    const place = async (directory: string, says: string) => {
      await mkdir(directory, { recursive: true });
      await symlink(
        join(fakeTools({ tool: `echo ${says}` }).PATH.split(":")[0] ?? "", "tool"),
        join(directory, "tool"),
      );
    };
    await withEnvironment({ ...env, PATH: onPath }, async () => {
      equal(await run("tool", []), "path\n");
      await place(sharedBinDirectory(env), "another");
      equal(await run("tool", []), "another\n");
      await place(binDirectory(env), "own");
      equal(await run("tool", []), "own\n");
    });
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
