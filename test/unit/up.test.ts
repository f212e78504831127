import { deepEqual, equal, match } from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { splitConsent } from "../../commands/up";
import { FakeApiServer } from "./api-server";
import { fakeGo, fakeTools, temporaryDirectory, writeFiles } from "./temporary";

const project = join(__dirname, "..", "..");

let api: FakeApiServer;

/** The surroundings of a stack "dev" that has all it needs: its cluster answers, and so does its registry. */
function surroundings(home: string, pulumi: string) {
  writeFiles(home, { ".kube/dev.yaml": api.kubeconfig });
  return {
    ...process.env,
    HOME: home,
    ...fakeTools({ pulumi, "pulumi-resource-kubernetes": "", go: fakeGo("#!/bin/sh\\nexit 0\\n") }),
  };
}

/** A run of the command. */
interface Run {
  readonly status: number | null;
  readonly stderr: string;
  /** Arguments of each call of `pulumi`, each in brackets; the scratch directory of the run is "…". */
  readonly calls: readonly string[];
  /** The directory that HOME was. */
  readonly home: string;
}

/** A stack "dev" in the file backend below this directory. */
const existing: Readonly<Record<string, string>> = { "state/.pulumi/stacks/platform/dev.json": "{}" };

/**
 * Runs the command with a `pulumi` that is this script.
 *
 * @param files that are there, path below HOME → content
 */
async function up(
  args: readonly string[],
  {
    pulumi = "",
    command = "up",
    files = existing,
    backend = (home: string) => `file://${home}/state`,
    env = {},
  } = {},
): Promise<Run> {
  const home = temporaryDirectory();
  writeFiles(home, files);
  const calls = join(home, "calls");
  const script = `{ printf '[%s]' "$@"; echo; } >> ${calls}; ${pulumi}`;
  const child = spawn(
    process.execPath,
    ["-r", "ts-node/register/transpile-only", join("commands", "main.ts"), command, ...args],
    {
      ...{ cwd: project, stdio: ["ignore", "ignore", "pipe"] },
      env: { ...surroundings(home, script), PULUMI_BACKEND_URL: backend(home), ...env },
    },
  );
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const [status] = (await once(child, "close")) as [number | null];
  const said = existsSync(calls) ? readFileSync(calls, "utf8") : "";
  const called = said.replaceAll(/\[[^\]]*\/tmp\/[0-9a-f-]{36}\//g, "[…/").trimEnd();
  return { status, stderr, calls: called === "" ? [] : called.split("\n"), home };
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

/** The call of Pulumi for a command. */
const call = (options: string, command = "up") =>
  `[${command}][--stack][dev][--config-file][…/Pulumi.dev.yaml]${options}`;

/** The calls of Pulumi for a stack that exists. */
const calls = (options: string) => ["[version]", call(options)];

const made = "[stack][init][--no-select][--stack][dev]";

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
      const { status, stderr, calls: called } = await up(args);
      equal(stderr, "");
      equal(status, 0);
      deepEqual(called, calls(options));
    });
  }

  it("takes consent to a replacement for itself, and leaves Pulumi's own option alone", async () => {
    deepEqual(splitConsent(["--replace", "--stack", "dev"]), { consent: true, options: ["--stack", "dev"] });
    deepEqual(splitConsent(["--stack", "dev", "--replace"]), { consent: true, options: ["--stack", "dev"] });
    const own = ["--stack", "dev", "--replace", "urn:pulumi:dev::a"];
    deepEqual(splitConsent(own), { consent: false, options: own });
    const { status, calls: called } = await up(["--stack", "dev", "--replace"], {
      pulumi: '[ "$1" != up ] || exit "$([ "$PLATFORM_ALLOW_REPLACE" = true ]; echo $?)"',
    });
    equal(status, 0);
    deepEqual(called, calls(""));
  });

  it("previews with what only Pulumi's command differs in", async () => {
    const { status, stderr, calls: called } = await up(["dev", "--diff"], { command: "preview" });
    equal(stderr, "");
    equal(status, 0);
    deepEqual(called, ["[version]", call("[--diff]", "preview")]);
  });

  it("previews nothing without Pulumi's CLI, and says so with one sentence", async () => {
    const { status, stderr, calls: called } = await up(["dev"], { pulumi: "exit 1", command: "preview" });
    match(stderr, /^The Pulumi CLI is (not available|missing)[^\n]* install it from [^\n]*\n$/i);
    deepEqual([status, called], [1, ["[version]"]]);
  });

  it("updates nothing where the cluster is out of reach", async () => {
    const answers = api.override;
    api.override = () => ({ status: 401, body: JSON.stringify({ message: "Unauthorized" }) });
    try {
      const { status, stderr, calls: called } = await up(["--stack", "dev"]);
      match(stderr, /^The cluster of kubeconfig \S+dev\.yaml is out of reach: Unauthorized\. [^\n]*\n$/);
      deepEqual([status, called], [1, ["[version]"]]);
    } finally {
      api.override = answers;
    }
  });

  it("ends with Pulumi's exit code, and does not update a stack that cannot be made", async () => {
    const failed = await up(["--stack", "dev"], { pulumi: '[ "$1" != up ] || exit 3' });
    equal(failed.status, 3);
    deepEqual(failed.calls, calls(""));
    const refused = await up(["--stack", "dev"], { pulumi: '[ "$1" != stack ] || exit 4', files: {} });
    equal(refused.status, 4);
    deepEqual(refused.calls, ["[version]", made]);
  });

  /** Writes where Pulumi writes: the salt of a new stack, and the state of its backend. */
  const writing = `
case "$1" in
  stack) file=Pulumi.dev.yaml; mkdir "\${PULUMI_BACKEND_URL#file://}/.pulumi" || exit 9 ;;
  version) exit ;;
  *) file=$5 ;;
esac
echo "$PWD $PULUMI_FALLBACK_TO_STATE_SECRETS_MANAGER <\${PULUMI_CONFIG_PASSPHRASE-none}>" >> "$HOME/places"
grep -c encryptionsalt "$file" >> "$HOME/salts"
echo "encryptionsalt: v1:salt" >> "$file"`;
  const settings = () => readFileSync(join(project, "Pulumi.dev.yaml"), "utf8");
  const lines = (home: string, file: string) => readFileSync(join(home, file), "utf8").trimEnd().split("\n");

  for (const [what, files, own] of [
    ["", existing, []],
    [" that does not exist yet", {}, [made]],
  ] as const) {
    it(`leaves the checkout of a stack${what} as it is`, async () => {
      const before = settings();
      const { status, stderr, calls: called, home } = await up(["dev"], { pulumi: writing, files });
      deepEqual([status, stderr, called], [0, "", ["[version]", ...own, call("")]]);
      equal(settings(), before);
      // Each call reads the settings of the checkout: Pulumi finds the salt of the state itself.
      deepEqual(lines(home, "salts"), [...own, ""].fill("0"));
      deepEqual(lines(home, "places").at(-1), `${project} true <none>`);
      equal(statSync(join(home, "state")).isDirectory(), true);
    });
  }

  it("previews a stack that does not exist yet, and leaves nothing", async () => {
    const before = settings();
    const run = await up(["dev"], { command: "preview", pulumi: writing, files: {} });
    equal(
      run.stderr,
      'Stack "dev" does not exist yet: the preview starts from an empty state and keeps nothing.\n',
    );
    deepEqual([run.status, run.calls], [0, ["[version]", call("", "preview")]]);
    equal(settings(), before);
    // The scratch directory of the run was here.
    deepEqual(readdirSync(join(run.home, ".local", "state", "platform")), ["tmp"]);
    deepEqual(readdirSync(join(run.home, ".local", "state", "platform", "tmp")), []);
    equal(existsSync(join(run.home, "state")), false);
  });

  for (const [what, env, passphrase] of [
    ["the passphrase of the user", { PULUMI_CONFIG_PASSPHRASE: "own" }, "own"],
    ["an empty passphrase if the user has none", {}, ""],
  ] as const) {
    it(`previews a new stack with ${what}`, async () => {
      const { home } = await up(["dev"], { command: "preview", pulumi: writing, files: {}, env });
      deepEqual(lines(home, "places").at(-1), `${project} true <${passphrase}>`);
    });
  }

  it("removes a stack that is destroyed, but not its settings", async () => {
    const removal = "[stack][rm][--yes][--preserve-config][--stack][dev]";
    const destroyed = await up(["dev", "--remove", "--yes"], { command: "destroy" });
    deepEqual([destroyed.status, destroyed.calls], [0, [call("[--yes]", "destroy"), removal]]);
    const failed = await up(["dev", "--remove"], {
      command: "destroy",
      pulumi: '[ "$1" != destroy ] || exit 3',
    });
    deepEqual([failed.status, failed.calls], [3, [call("", "destroy")]]);
    const previewed = await up(["dev", "--remove", "--preview-only"], { command: "destroy" });
    deepEqual([previewed.status, previewed.calls], [0, [call("[--preview-only]", "destroy")]]);
  });

  it("refuses to destroy a stack that does not exist, and makes none", async () => {
    const { status, stderr, calls: called, home } = await up(["dev"], { command: "destroy", files: {} });
    match(stderr, /^Destroying stack "dev" failed: [^\n]* run "npx platform up dev", [^\n]*\n$/);
    deepEqual([status, called], [1, []]);
    equal(existsSync(join(home, "state")), false);
  });

  describe("with a backend that is not in files", () => {
    const backend = () => "s3://bucket";
    const listed = "[stack][ls][--json][--non-interactive]";
    const listing = (...names: readonly string[]) =>
      `[ "$1 $2" != "stack ls" ] || echo '${JSON.stringify(names.map((name) => ({ name })))}'`;

    for (const [what, names, own] of [
      ["does not make a stack that it lists", ["dev", "prod"], []],
      ["makes a stack that it does not list", ["prod"], [made]],
    ] as const) {
      it(what, async () => {
        const { status, calls: called } = await up(["dev"], {
          backend,
          pulumi: listing(...names),
          files: {},
        });
        deepEqual([status, called], [0, ["[version]", listed, ...own, call("")]]);
      });
    }

    it("previews a stack that it does not list in files that are thrown away", async () => {
      const seen = `${listing()}; [ "$1" != preview ] || echo "$PULUMI_BACKEND_URL" > "$HOME/seen"`;
      const options = { backend, command: "preview", pulumi: seen, files: {} };
      const { status, calls: called, home } = await up(["dev"], options);
      deepEqual([status, called], [0, ["[version]", listed, call("", "preview")]]);
      const [url = ""] = lines(home, "seen");
      match(url, /^file:\/\/\/.*\/tmp\/[0-9a-f-]{36}\/state$/);
      equal(existsSync(url.slice("file://".length)), false);
    });

    it("says why it cannot list", async () => {
      const pulumi = '[ "$1" != stack ] || { echo "error: no login" >&2; exit 255; }';
      const { status, stderr, calls: called } = await up(["dev"], { backend, pulumi, files: {} });
      match(
        stderr,
        /^Looking for stack "dev" in Pulumi's backend failed: no login\. Run "pulumi login", [^\n]*\n$/,
      );
      deepEqual([status, called], [1, ["[version]", listed]]);
    });
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
        `#!/bin/sh\necho "$1 $PPID $(command -v pulumi) \${6-}" >> ${home}/calls\n`,
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
      [`stack ${pid} ${cli} `, `up ${pid} ${cli} --skip-plugin-pre-install`],
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
      const { status, stderr, calls: called } = await up(args);
      match(stderr, said);
      equal(status, code);
      deepEqual(called, []);
    });
  }
});
