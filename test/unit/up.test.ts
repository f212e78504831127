import { deepEqual, equal, match } from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { splitConsent } from "../../commands/up";
import { FakeApiServer } from "./api-server";
import { fakeTools, temporaryDirectory, writeFiles } from "./temporary";

const project = join(__dirname, "..", "..");

let api: FakeApiServer;

/** The surroundings of a stack "dev" that has all it needs: its cluster answers, and so does its registry. */
function surroundings(home: string, pulumi: string) {
  writeFiles(home, { ".kube/dev.yaml": api.kubeconfig });
  return { ...process.env, HOME: home, ...fakeTools({ pulumi, crane: "exit 0" }) };
}

/** Runs the command with a `pulumi` that is this script; `calls` are that one's arguments, each in brackets. */
async function up(args: readonly string[], pulumi = "", command = "up") {
  const home = temporaryDirectory();
  const calls = join(home, "calls");
  const script = `{ printf '[%s]' "$@"; echo; } >> ${calls}; ${pulumi}`;
  const child = spawn(
    process.execPath,
    ["-r", "ts-node/register/transpile-only", join("commands", "main.ts"), command, ...args],
    {
      ...{ cwd: project, stdio: ["ignore", "ignore", "pipe"] },
      env: { ...surroundings(home, script), PULUMI_BACKEND_URL: `file://${home}/state` },
    },
  );
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const [status] = (await once(child, "close")) as [number | null];
  const called = existsSync(calls) ? readFileSync(calls, "utf8").trimEnd().split("\n") : [];
  return { status, stderr, calls: called };
}

/** A copy of this project without npm's programs, of which "pulumi" would come before the fake one. */
function withoutPrograms(home: string): string {
  const copy = join(home, "project");
  mkdirSync(join(copy, "node_modules", ".bin"), { recursive: true });
  cpSync(join(project, "commands"), join(copy, "commands"), { recursive: true });
  const link = (...path: readonly string[]) => {
    symlinkSync(join(project, ...path), join(copy, ...path));
  };
  for (const name of readdirSync(project)) {
    if (!["commands", "node_modules", ".git"].includes(name)) link(name);
  }
  for (const name of readdirSync(join(project, "node_modules"))) {
    if (name !== ".bin") link("node_modules", name);
  }
  link("node_modules", ".bin", "node");
  return copy;
}

/** What Pulumi is asked for. */
const calls = (options: string) => [
  "[version]",
  "[stack][select][--create][dev]",
  `[up][--stack][dev]${options}`,
];

describe("npx platform up", function () {
  this.timeout(60_000);

  before(async () => {
    api = await FakeApiServer.start({});
    api.override = (method) => ({
      status: method === "POST" ? 201 : 200,
      body: JSON.stringify({ status: { allowed: true } }),
    });
  });

  after(() => {
    api.stop();
  });

  for (const [args, options] of [
    [["--stack", "dev"], ""],
    [["--stack=dev", "--yes"], "[--yes]"],
    [["-y", "-s", "dev", "--refresh"], "[-y][--refresh]"],
    [["--message", "a b", "--stack", "dev", "-c", "a=b"], "[--message][a b][-c][a=b]"],
  ] as const) {
    it(`with ${args.join(" ")} hands Pulumi the stack once, and the rest as it is`, async () => {
      const { status, stderr, calls: made } = await up(args);
      equal(stderr, "");
      equal(status, 0);
      deepEqual(made, calls(options));
    });
  }

  it("takes consent to a replacement for itself, and leaves Pulumi's own option alone", async () => {
    deepEqual(splitConsent(["--replace", "--stack", "dev"]), { consent: true, options: ["--stack", "dev"] });
    deepEqual(splitConsent(["--stack", "dev", "--replace"]), { consent: true, options: ["--stack", "dev"] });
    const own = ["--stack", "dev", "--replace", "urn:pulumi:dev::a"];
    deepEqual(splitConsent(own), { consent: false, options: own });
    const { status, calls: made } = await up(
      ["--stack", "dev", "--replace"],
      '[ "$1" != up ] || exit "$([ "$PLATFORM_ALLOW_REPLACE" = true ]; echo $?)"',
    );
    equal(status, 0);
    deepEqual(made, calls(""));
  });

  it("previews with what only Pulumi's command differs in", async () => {
    const { status, stderr, calls: made } = await up(["dev", "--diff"], "", "preview");
    equal(stderr, "");
    equal(status, 0);
    deepEqual(made, [...calls("").slice(0, 2), "[preview][--stack][dev][--diff]"]);
  });

  it("previews nothing without Pulumi's CLI, and says so with one sentence", async () => {
    const { status, stderr, calls: made } = await up(["dev"], "exit 1", "preview");
    match(stderr, /^The Pulumi CLI is not available: [^\n]* Install it from [^\n]*\n$/);
    deepEqual([status, made], [1, ["[version]"]]);
  });

  it("updates nothing where the cluster is out of reach", async () => {
    const answers = api.override;
    api.override = () => ({ status: 401, body: JSON.stringify({ message: "Unauthorized" }) });
    try {
      const { status, stderr, calls: made } = await up(["--stack", "dev"]);
      match(stderr, /^The cluster of kubeconfig \S+dev\.yaml is out of reach: Unauthorized\. [^\n]*\n$/);
      deepEqual([status, made], [1, ["[version]"]]);
    } finally {
      api.override = answers;
    }
  });

  it("ends with Pulumi's exit code, and does not update a stack that cannot be selected", async () => {
    const failed = await up(["--stack", "dev"], '[ "$1" != up ] || exit 3');
    equal(failed.status, 3);
    deepEqual(failed.calls, calls(""));
    const refused = await up(["--stack", "dev"], '[ "$1" != stack ] || exit 4');
    equal(refused.status, 4);
    deepEqual(refused.calls, calls("").slice(0, 2));
  });

  it("leaves no temporary file of Pulumi, even when it is killed, and lets nothing dump its core", async () => {
    const home = temporaryDirectory();
    const seen = join(home, "seen");
    const script = `[ "$1" = up ] || exit 0; touch "$TMPDIR/kubeconfig"; ulimit -c > ${home}/limit; echo "$TMPDIR" > ${seen}.new; mv ${seen}.new ${seen}; exec sleep 60`;
    const program = join(withoutPrograms(home), "commands", "platform");
    const npm = spawn("/bin/sh", ["-c", `ulimit -c unlimited; exec ${program} up dev`], {
      ...{ detached: true, stdio: "ignore" as const },
      env: {
        ...surroundings(home, script),
        ...{ PULUMI_BACKEND_URL: `file://${home}/state`, XDG_STATE_HOME: home },
      },
    });
    for (let tries = 0; !existsSync(seen) && tries < 200; tries++) await sleep(50);
    const scratch = readFileSync(seen, "utf8").trim();
    equal(existsSync(join(scratch, "kubeconfig")), true);
    equal(readFileSync(join(home, "limit"), "utf8").trim(), "0");
    process.kill(-(npm.pid ?? 0), "SIGKILL");
    for (let tries = 0; existsSync(scratch) && tries < 200; tries++) await sleep(50);
    equal(existsSync(scratch), false);
  }).timeout(30_000);

  /** Runs the command with a `pulumi` that writes its TMPDIR to a file and goes on as this script says. */
  async function running(script: string) {
    const home = temporaryDirectory();
    const seen = join(home, "seen");
    const pulumi = `[ "$1" = up ] || exit 0; ${script}; echo "$TMPDIR $$" > ${seen}.new; mv ${seen}.new ${seen}; while :; do sleep 0.05; done`;
    const child = spawn(
      process.execPath,
      ["-r", "ts-node/register/transpile-only", join("commands", "main.ts"), "up", "dev"],
      {
        ...{ cwd: project, stdio: "ignore" as const },
        env: {
          ...surroundings(home, pulumi),
          ...{ PULUMI_BACKEND_URL: `file://${home}/state`, XDG_STATE_HOME: home },
        },
      },
    );
    const ended = new Promise((resolve) => child.once("exit", resolve));
    for (let tries = 0; !existsSync(seen) && tries < 400; tries++) await sleep(50);
    const [scratch = "", pid = ""] = readFileSync(seen, "utf8").trim().split(" ");
    return { child, ended, home, scratch, pid: Number(pid) };
  }

  for (const [signal, code] of [
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const) {
    it(`passes ${signal} on to Pulumi, whose TMPDIR lives until it ends`, async () => {
      const name = signal.slice("SIG".length);
      const { child, ended, home, scratch } = await running(
        `trap 'sleep 0.5; [ -d "$TMPDIR" ] && echo there > "$XDG_STATE_HOME/late"; trap - ${name}; kill -${name} $$' ${name}`,
      );
      child.kill(signal);
      equal(await ended, code);
      equal(readFileSync(join(home, "late"), "utf8"), "there\n");
      equal(existsSync(scratch), false);
    }).timeout(30_000);
  }

  it("leaves Pulumi its TMPDIR while it runs, even when this command alone is killed, and no longer", async () => {
    // A plugin of Pulumi outlives it.
    const { child, ended, scratch, pid } = await running("{ sleep 20 & }");
    child.kill("SIGKILL");
    await ended;
    await sleep(1_000);
    equal(existsSync(scratch), true);
    process.kill(pid, "SIGKILL");
    for (let tries = 0; existsSync(scratch) && tries < 200; tries++) await sleep(50);
    equal(existsSync(scratch), false);
  }).timeout(30_000);

  it("runs the CLI that npm's package installed itself, which signals reach", async () => {
    const home = temporaryDirectory();
    const { version } = JSON.parse(
      readFileSync(join(project, "node_modules", "pulumi", "package.json"), "utf8"),
    ) as { version: string };
    const cli = join(home, "versions", version, "bin", "pulumi");
    writeFiles(home, {
      [join("versions", version, "bin", "pulumi")]:
        `#!/bin/sh\necho "$1 $PPID $(command -v pulumi)" >> ${home}/calls\n`,
    });
    chmodSync(cli, 0o755);
    const around = surroundings(home, "exit 1");
    const child = spawn(
      process.execPath,
      ["-r", "ts-node/register/transpile-only", join("commands", "main.ts"), "up", "dev"],
      {
        ...{ cwd: project, stdio: "ignore" },
        env: {
          ...around,
          PATH: [join(project, "node_modules", ".bin"), around.PATH].join(delimiter),
          ...{ PULUMI_HOME: home, PULUMI_BACKEND_URL: `file://${home}/state`, XDG_STATE_HOME: home },
        },
      },
    );
    const [status] = (await once(child, "close")) as [number | null];
    equal(status, 0);
    const pid = child.pid ?? 0;
    deepEqual(
      readFileSync(join(home, "calls"), "utf8")
        .trim()
        .split("\n")
        .filter((call) => !call.startsWith("version ")),
      [`stack ${pid} ${cli}`, `up ${pid} ${cli}`],
    );
  }).timeout(30_000);

  for (const [args, code, said] of [
    [[], 2, /^Running "npx platform up" failed: no stack is named\. Stacks here are dev, local, prod\. See/],
    [["--yes"], 2, /^Running "npx platform up" failed: no stack is named\. /],
    [["--stack"], 2, /^Running "npx platform up" failed: option '-s, --stack <name>' argument missing\. See/],
    [["dev", "--stack", "prod"], 2, /^Running "npx platform up" failed: the stack is named twice, /],
    [["dev", "prod"], 2, /^Running "npx platform up" failed: more than one stack is named\. Name one\. See/],
    [["dev", "--help"], 0, /^$/],
    [["--stack", "staging"], 1, /no Pulumi\.staging\.yaml\. Stacks here are [^\n]*\n$/],
  ] as const) {
    it(`says what is wrong with "${args.join(" ")}", and runs nothing`, async () => {
      const { status, stderr, calls: made } = await up(args);
      match(stderr, said);
      equal(status, code);
      deepEqual(made, []);
    });
  }
});
