import { deepEqual, equal, match, ok } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Command } from "commander";
import { candidates } from "../../commands/cli/completion";
import { programOf } from "../../commands/main";
import { linesOf } from "../../commands/status";
import { cacheDirectory } from "../../system/cache";
import { temporaryDirectory } from "./temporary";

const project = join(__dirname, "..", "..");

function all(command: Command): Command[] {
  return [command, ...command.commands.flatMap(all)];
}

/** Runs the program as `npx platform` does. */
function run(args: readonly string[], script = 'exec "$0" "$@"', env: NodeJS.ProcessEnv = {}) {
  const { status, stdout, stderr } = spawnSync(
    "/bin/sh",
    ["-c", script, join(project, "commands", "platform"), ...args],
    { cwd: "/", encoding: "utf8", env: { ...process.env, ...env } },
  );
  return { status, stdout, stderr };
}

let platform: Command;

before("all commands", async () => {
  platform = await programOf([]);
});

describe("npx platform", function () {
  this.timeout(30_000);

  it("has a file of its own for each command, which says what it does", () => {
    for (const command of platform.commands.filter(
      (each) => !["complete", "completion"].includes(each.name()),
    )) {
      ok(existsSync(join(project, "commands", `${command.name()}.ts`)), command.name());
    }
    for (const command of all(platform).filter((each) => each.name() !== "complete")) {
      match(command.description(), /^[A-Z].*\.$/, command.name());
      for (const option of command.options) ok(option.description.length > 0, option.flags);
    }
  });

  it("runs from any directory, and tells its commands and exit codes", () => {
    const { status, stdout, stderr } = run(["--help"]);
    deepEqual([status, stderr], [0, ""]);
    for (const command of platform.commands.filter((each) => each.name() !== "complete")) {
      match(stdout, new RegExp(`^  ${command.name()}\\b`, "m"));
    }
    match(stdout, /^Exit codes:$/m);
    equal(stdout.includes("complete "), false);
  });

  for (const [args, status, message] of [
    [[], 2, /^Usage: platform /],
    [
      ["doctr"],
      2,
      /^Running "npx platform" failed: unknown command 'doctr'\. Did you mean doctor\? See "npx platform --help"\.\n$/,
    ],
    [
      ["status", "--stak", "x"],
      2,
      /^Running "npx platform status" failed: unknown option '--stak'\. Did you mean --stack\? See/,
    ],
    [
      ["status"],
      2,
      /^Running "npx platform status" failed: no stack is named\. Stacks here are dev, local, prod\. See/,
    ],
    [
      ["status", "local", "dev"],
      2,
      /^Running "npx platform status" failed: too many arguments for 'status'\. /,
    ],
    [["new"], 2, /^Usage: platform new /],
    [
      ["doctor", "nope"],
      1,
      /^Reading stack "nope" failed: there is no Pulumi\.nope\.yaml\. Stacks here are /,
    ],
  ] as const) {
    it(`says what is wrong with "${args.join(" ")}", and ends with ${status}`, () => {
      const ended = run(args);
      equal(ended.stdout, "");
      match(ended.stderr, message);
      equal(ended.status, status);
    });
  }
});

describe("completion", () => {
  it("knows every command, and loads only the command that the line names", async () => {
    const line = await programOf(["complete", "--", "doctor"]);
    const names = platform.commands.map((command) => command.name()).filter((name) => name !== "complete");
    deepEqual(await candidates(line, []), names);
    deepEqual(
      line.commands.filter((command) => command.description() !== "").map((command) => command.name()),
      ["doctor", "completion"],
    );
  });

  for (const [line, expected] of [
    ["secrets", ["init", "add", "edit", "check", "rotate", "recover"]],
    ["doctor", ["dev", "local", "prod", "--stack", "--output", "--help"]],
    ["doctor prod", ["--stack", "--output", "--help"]],
    ["doctor --output", ["text", "json"]],
    ["secrets rotate --stack", ["dev", "local", "prod"]],
    ["completion", ["bash", "zsh", "fish", "--help"]],
    ["stop", ["--help"]],
  ] as const) {
    it(`knows what follows "${line}"`, async () => {
      deepEqual(await candidates(platform, line.split(" ")), expected);
    });
  }

  it("completes a line of bash", () => {
    const script = `PATH="$(dirname "$0"):$PATH"; exec bash -c '
      source <(platform completion bash)
      COMP_WORDS=(platform secrets re) COMP_CWORD=2
      _platform
      printf "%s\n" "\${COMPREPLY[@]}"'`;
    equal(run([], script).stdout, "recover\n");
  }).timeout(30_000);
});

describe("what status prints", () => {
  it("is one JSON document even if the cluster cannot be read", () => {
    const home = temporaryDirectory();
    const { status, stdout } = run(["status", "dev", "--output", "json"], undefined, {
      HOME: home,
      XDG_CACHE_HOME: dirname(cacheDirectory(process.env)),
    });
    const printed = JSON.parse(stdout) as { ready: boolean; problem: string };
    deepEqual([status, printed.ready], [1, false]);
    match(
      printed.problem,
      /^The cluster or the registry gives no status: .*dev\.yaml.* Run "npx platform doctor dev", /,
    );
  }).timeout(30_000);

  it("is one line for the stack, and one for each member", () => {
    const member = { objects: 3, message: "" };
    deepEqual(
      linesOf("prod", {
        ...{ ready: false, revision: "prod@sha256:1", problem: undefined },
        members: [
          { ...member, name: "Kustomization flux-system/apps", ready: false, message: "no room" },
          { ...member, name: "Kustomization a/b", ready: true },
          { ...member, name: "HelmRelease a/c", ready: false },
        ],
      }),
      [
        'Stack "prod" is not Ready at prod@sha256:1.',
        "  Kustomization flux-system/apps  not Ready: no room",
        "  Kustomization a/b               Ready",
        "  HelmRelease a/c                 not Ready: not reconciled yet",
      ],
    );
  });
});
