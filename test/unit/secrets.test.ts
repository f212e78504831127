import { equal, match } from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { cacheDirectory } from "../../system/cache";
import { ensureTools } from "../../tools/tools";
import { SopsCli } from "../../clients/sops/client";
import { temporaryDirectory } from "./temporary";

const project = join(__dirname, "..", "..");

before("sops, age and kustomize", async function () {
  this.timeout(600_000);
  await ensureTools(["age-keygen", "platform-tree", "sops"], { report: console.error });
});

interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command as `npx platform secrets …` does, for a user who has nothing but the variables. */
function secrets(args: readonly string[], env: NodeJS.ProcessEnv = {}, input = ""): Promise<Ended> {
  const home = temporaryDirectory();
  const command = ["-r", "ts-node/register/transpile-only", join(project, "commands", "main.ts"), "secrets"];
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [...command, ...args],
      {
        cwd: project,
        // The tools are where they are.
        env: {
          PATH: process.env.PATH,
          HOME: home,
          XDG_CACHE_HOME: join(cacheDirectory(process.env), ".."),
          ...env,
        },
      },
      (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
      },
    );
    child.stdin?.end(input);
  });
}

describe("npx platform secrets", function () {
  this.timeout(60_000);

  for (const [args, status] of [
    [[], 2],
    [["--help"], 0],
    [["add", "-h"], 0],
  ] as const) {
    it(`tells how it is used when it is given ${args.join(" ") || "nothing"}`, async () => {
      const { code, stdout, stderr } = await secrets(args);
      equal(code, status);
      match(status === 0 ? stdout : stderr, /^Usage: platform secrets /);
    });
  }

  it("checks what anybody can see where the identity is not here, and says so in one line", async () => {
    const { code, stdout, stderr } = await secrets(["check", "--stack", "prod", "--base", "HEAD"]);
    equal(stdout, "");
    equal(code, 0);
    match(
      stderr,
      /^Checked rules, recipients, form and encryption of \d+ secret files of stack "prod"\. Its identity is not here: whether they open was not checked\.$/m,
    );
    match(stderr, /^Looked for plain Secrets, keys and tokens in \d{3,} files of the artifact\.$/m);
    match(
      stderr,
      /^Looked for keys and tokens in 0 versions of files, and in the messages, since commit [0-9a-f]{7}\.$/m,
    );
  });

  it("passes for every stack of this project where no identity is here, as in CI", async () => {
    const { code, stdout, stderr } = await secrets(["check"]);
    equal(stdout, "");
    equal(code, 0, stderr);
    for (const stack of ["dev", "local", "prod"]) {
      match(stderr, new RegExp(`^Checked rules, recipients, form and encryption of .* "${stack}"\\.`, "m"));
    }
    equal(stderr.match(/is not here: /g)?.length, 2, stderr);
    equal(stderr.match(/other files of the repository/g)?.length, 1, stderr);
  });

  it("names every file that an identity does not open, and its recipients", async () => {
    const key = await new SopsCli().keygen();
    const [recipient = ""] = await new SopsCli().recipients(key);
    const { code, stdout } = await secrets(["check", "--stack", "prod", "--base", "HEAD"], {
      SOPS_AGE_KEY: key,
    });
    equal(code, 1);
    const lines = stdout.trim().split("\n");
    equal(lines.length > 3, true);
    for (const line of lines) {
      match(
        line,
        new RegExp(
          `^Decrypting clusters/prod/\\S+ .*: it is encrypted for age1\\w+, the identity is ${recipient}\\.`,
        ),
      );
    }
    equal(stdout.includes("AGE-SECRET-KEY"), false);
  });

  it("is refused with one sentence: a file that is none, a rotation of what it cannot write", async () => {
    for (const [args, env, message] of [
      [
        ["edit", "x.yaml", "--stack", "prod"],
        {},
        /^Editing x\.yaml failed: it is not an encrypted file of stack "prod"\..*\n$/,
      ],
      [
        ["rotate", "--stack", "prod"],
        {},
        /^Rotating the identity of stack "prod" failed: .*prod\.agekey does not exist\. .*\n$/,
      ],
      [
        ["rotate", "--stack", "prod"],
        { SOPS_AGE_KEY: "x" },
        /^Rotating .* failed: the identity comes from SOPS_AGE_KEY, .*\n$/,
      ],
      [
        ["add", "x", "--namespace", "whoami", "--stack", "prod"],
        {},
        /^Adding Secret "x" to stack "prod" failed: it has no values\..*\n$/,
      ],
    ] as const) {
      const { code, stderr } = await secrets(args, env);
      equal(code, 1, args.join(" "));
      match(stderr, message);
    }
  });

  it("reads a recovery key on standard input, and does not show what is none", async () => {
    const { code, stderr } = await secrets(["recover", "--stack", "prod"], {}, "hunter2");
    equal(code, 1);
    match(stderr, /^Recovering stack "prod" failed: standard input is not an age identity\./);
    equal(stderr.includes("hunter2"), false);
  });
});
