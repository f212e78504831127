import { deepEqual, equal, match, ok } from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { parse } from "yaml";
import { SopsCli } from "../../clients/sops/client";
import { secretManifest, type SecretFile } from "../../clients/sops/secret-file";
import { cacheDirectory } from "../../system/cache";
import { ensureTools } from "../../tools/tools";
import { fakeTools, temporaryDirectory, writeFiles } from "./temporary";

const repository = join(__dirname, "..", "..");
const sops = new SopsCli();
const apps = "gitops/clusters/prod/apps";

before("sops, age and kustomize", async function () {
  this.timeout(600_000);
  await ensureTools(["age-keygen", "platform-tree", "sops"], { report: console.error });
});

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** What a user's machine has beside the project. */
interface Machine {
  /** `requireClean` of stack "prod". @default false */
  readonly requireClean?: boolean;
  /** The stack's settings hold an identity that Pulumi decrypts. @default false */
  readonly ageKey?: boolean;
  /** The identity is in its file. @default true */
  readonly identity?: boolean;
  /** Script of the `pulumi` that is first on PATH. @default one that fails */
  readonly pulumi?: string;
}

/** A directory of `Project`, and the keys that open it. */
interface Model {
  readonly home: string;
  readonly key: string;
  readonly recoveryKey: string;
}

/** Makes the project that all others are copies of, without an identity. */
async function makeModel(): Promise<Model> {
  const home = temporaryDirectory();
  const project = join(home, "project");
  const [key, recoveryKey] = [await sops.keygen(), await sops.keygen()];
  const [own = "", recovery = ""] = await sops.recipients(`${key}${recoveryKey}`);
  const manifest = secretManifest({ name: "db", namespace: "db", values: { PASSWORD: "hunter2" } });
  const shared = [
    ...["clients", "core", "index.ts", "node_modules", "package.json", "rehearsal", "system", "tools"],
    "tsconfig.json",
  ];
  writeFiles(home, {
    ".gitconfig": "[user]\n  name = t\n  email = t@example.com\n",
    "project/.gitignore": ["commands", ...shared, ""].join("\n"),
    "project/Pulumi.yaml": "name: platform\nruntime: nodejs\n",
    "project/Pulumi.prod.yaml": `config:
  platform:cluster: { kind: existing, kubeconfigFile: /k, loadBalancerCidr: 10.0.0.0/24 }
  platform:registry: { kind: remote, repository: r.example.com/p }
  platform:domain: example.com
  platform:gitops: { requireClean: false }
  platform:sops:
    recipients: [${own}]
    recoveryRecipient: ${recovery}
`,
    "project/gitops/clusters/prod/kustomization.yaml": "resources: [namespaces.yaml, apps.yaml]\n",
    "project/gitops/clusters/prod/apps.yaml": `apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: apps, namespace: flux-system}
spec:
  path: ./clusters/prod/apps
  sourceRef: {kind: OCIRepository, name: flux-system}
  decryption: {provider: sops}
`,
    "project/gitops/clusters/prod/namespaces.yaml": namespaces("db", "files", "new", "x"),
    [`project/${apps}/kustomization.yaml`]: "resources:\n  - db.enc.yaml\n",
    [`project/${apps}/db.enc.yaml`]: await sops.encrypt(manifest, "db.enc.yaml", [own, recovery]),
  });
  // Where these are says which project a command is about; the rest may be anywhere.
  cpSync(join(repository, "commands"), join(project, "commands"), { recursive: true });
  for (const name of shared) symlinkSync(join(repository, name), join(project, name));
  return { home, key, recoveryKey };
}

function namespaces(...names: readonly string[]): string {
  return names.map((name) => `---\napiVersion: v1\nkind: Namespace\nmetadata: {name: ${name}}\n`).join("");
}

let model: Promise<Model> | undefined;

/**
 * A project of its own with this one's program, in a repository with all of it committed. Its stack "prod" has one
 * Secret `db`, which holds PASSWORD, for its identity and a recovery key.
 */
class Project {
  private constructor(
    /** The home of its user. */
    readonly home: string,
    readonly key: string,
    readonly recoveryKey: string,
    readonly environment: NodeJS.ProcessEnv,
  ) {}

  static async make(machine: Machine = {}): Promise<Project> {
    const { requireClean = false, ageKey = false, identity = true, pulumi = "exit 1" } = machine;
    const { home: from, key, recoveryKey } = await (model ??= makeModel());
    const home = temporaryDirectory();
    cpSync(from, home, { recursive: true, verbatimSymlinks: true });
    const of = new Project(home, key, recoveryKey, {
      HOME: home,
      PATH: fakeTools({ pulumi }).PATH,
      // The tools are where they are.
      XDG_CACHE_HOME: dirname(cacheDirectory(process.env)),
    });
    const settings = of
      .read("Pulumi.prod.yaml")
      .replace("requireClean: false", `requireClean: ${String(requireClean)}`);
    writeFiles(home, {
      ...(identity ? { ".config/platform/age/prod.agekey": key } : {}),
      "project/Pulumi.prod.yaml": ageKey ? `${settings}    ageKey: { secure: v1:sealed }\n` : settings,
    });
    equal(of.secrets(["init", "--stack", "prod"], { SOPS_AGE_KEY: key }).code, 0);
    of.git("init", "--quiet", "--initial-branch", "main");
    of.commit("start");
    of.git("tag", "start");
    return of;
  }

  get directory(): string {
    return join(this.home, "project");
  }

  git(...args: string[]): string {
    return execFileSync("git", args, {
      cwd: this.directory,
      env: this.environment,
      encoding: "utf8",
    }).trimEnd();
  }

  commit(message: string): void {
    this.git("add", ".");
    this.git("commit", "--quiet", "--message", message);
  }

  /** Runs `npx platform secrets …`, with `input` in a pipe. */
  secrets(args: readonly string[], env: NodeJS.ProcessEnv = {}, input = ""): Ended {
    const shell = ["-c", 'cat | "$@"', "sh", process.execPath];
    const { status, stdout, stderr } = spawnSync("sh", [...shell, ...program, ...args], {
      ...{ cwd: this.directory, encoding: "utf8", input },
      env: { ...this.environment, ...env },
    });
    return { code: status, stdout, stderr };
  }

  /** Runs it beside others, with `input` on standard input. */
  async started(args: readonly string[], input = ""): Promise<Ended> {
    const child = spawn(process.execPath, [...program, ...args], {
      cwd: this.directory,
      env: this.environment,
    });
    const [stdout, stderr, code] = [text(child.stdout), text(child.stderr), once(child, "close")] as const;
    child.stdin.end(input);
    const [status] = (await code) as [number | null];
    return { code: status, stdout: await stdout, stderr: await stderr };
  }

  /**
   * Runs it on a terminal, whose state it shows at the end.
   *
   * @param typed what to wait for, and what to type then
   */
  async typed(
    args: readonly string[],
    typed: readonly (readonly [string, string])[],
  ): Promise<{ code: number | null; shown: string }> {
    const command = [process.execPath, ...program, ...args].map((part) => `'${part}'`).join(" ");
    const line = `${command}; code=$?; stty -a; exit $code`;
    const child = spawn("script", ["--quiet", "--return", "--command", line, "/dev/null"], {
      ...{ cwd: this.directory, env: this.environment },
      // One that waits for more than is typed ends too.
      ...{ timeout: 30_000, killSignal: "SIGKILL" },
    });
    let shown = "";
    let read = 0;
    child.stdout.on("data", (chunk: Buffer) => (shown += chunk.toString()));
    const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
    for (const [text, keys] of typed) {
      for (let wait = 0; !shown.includes(text, read); wait++) {
        if (wait === 500 || child.exitCode !== null) throw new Error(`"${text}" was not shown: ${shown}`);
        await sleep(20);
      }
      read = shown.indexOf(text, read) + text.length;
      await sleep(50);
      child.stdin.write(keys);
    }
    return { code: await ended, shown };
  }

  read(path: string): string {
    return readFileSync(join(this.directory, path), "utf8");
  }

  /** The values of a Secret as they arrive in a pod. */
  async values(name: string, key = this.key): Promise<Record<string, Buffer>> {
    const content = this.read(`${apps}/${name}.enc.yaml`);
    const { data = {}, stringData = {} } = parse(await sops.decrypt(content, name, key)) as SecretFile;
    return Object.fromEntries([
      ...Object.entries(data).map(([entry, value]) => [entry, Buffer.from(value, "base64")]),
      ...Object.entries(stringData).map(([entry, value]) => [entry, Buffer.from(value)]),
    ]) as Record<string, Buffer>;
  }

  /** What is in the layer. */
  files(): string[] {
    return readdirSync(join(this.directory, apps)).sort();
  }
}

const program = ["-r", "ts-node/register/transpile-only", join("commands", "main.ts"), "secrets"];
/** A recipient whose identity nobody here has. */
const someone = "age13wfq6lk37szalvqalvhzd4wz9qxyfw9swcha09wqdhfkp0cffssqmtrw9r";
const untouched = ["db.enc.yaml", "kustomization.yaml"];

/** What went wrong, in one sentence and nothing else. */
function oneSentence({ code, stdout, stderr }: Ended, message: RegExp): void {
  // Of wrong arguments the sentence names the command's help.
  deepEqual([code, stdout], [stderr.includes(' --help".') ? 2 : 1, ""], stderr);
  match(stderr, /^[^\n]+\.\n$/);
  match(stderr, message);
}

describe("npx platform secrets add, on a terminal", function () {
  this.timeout(60_000);
  const value = "correct horse battery staple";

  before(function () {
    const { error, stdout } = spawnSync("script", ["--version"], { encoding: "utf8" });
    if (error !== undefined || !stdout.includes("util-linux")) {
      console.error("skipped: there is no script of util-linux, which makes a terminal");
      this.skip();
    }
  });

  it("asks for keys and values, shows no value, and writes them encrypted", async () => {
    const of = await Project.make();
    const { code, shown } = await of.typed(
      ["add", "new", "--stack", "prod"],
      [
        // Backspace takes the last letter away.
        ["Key (none to end): ", "Ax\u007f\r"],
        ["The value of A, which is not shown: ", `${value}x\u007f\r`],
        ["Key (none to end): ", "a b\r"],
        ['"a b" is not a valid key. Use letters, digits, "-", "_" and ".".', "B\r"],
        ["The value of B, which is not shown: ", "\r"],
        ["The value of B is empty.", "C\r"],
        ["The value of C, which is not shown: ", "wrong\r"],
        ["Key (none to end): ", "C\r"],
        ["Another value of C, which is not shown: ", "right\r"],
        ["Key (none to end): ", "\r"],
      ],
    );
    equal(code, 0, shown);
    match(shown, /clusters\/prod\/apps\/new\.enc\.yaml/);
    for (const typed of ["horse", "wrong", "right"]) equal(shown.includes(typed), false, shown);
    equal(of.read(`${apps}/new.enc.yaml`).includes("horse"), false);
    deepEqual(await of.values("new"), {
      A: Buffer.from(value),
      B: Buffer.from(""),
      C: Buffer.from("right"),
    });
    match(of.read(`${apps}/kustomization.yaml`), /^ {2}- new\.enc\.yaml$/m);
  });

  it("does not bring back a value with the arrow keys, and ends with Ctrl-D too", async () => {
    const of = await Project.make();
    const { code, shown } = await of.typed(
      ["add", "new", "--stack", "prod"],
      [
        ["Key (none to end): ", "A\r"],
        ["not shown: ", `${value}\r`],
        ["Key (none to end): ", "\u001b[A\u001b[A\u0004"],
      ],
    );
    equal(code, 0, shown);
    equal(shown.includes("horse"), false, shown);
    deepEqual(await of.values("new"), { A: Buffer.from(value) });
  });

  for (const [what, typed, message] of [
    ["Ctrl-C instead of a key", [["Key", "\u0003"]], "Asking for a key was cancelled: nothing is written."],
    [
      "Ctrl-C in the middle of a value",
      [
        ["Key", "A\r"],
        ["not shown: ", "horse\u0003"],
      ],
      "Asking for the value of A was cancelled: nothing is written.",
    ],
    [
      "a value of several lines",
      [
        ["Key", "A\r"],
        ["not shown: ", "horse\rbattery\rstaple\r"],
      ],
      'Asking for the value of A failed: more than one line came at once. Give a value of several lines with --from-file <key>=<path>, and lines "key=value" on standard input.',
    ],
    [
      "a value of two lines without an end",
      [
        ["Key", "A\r"],
        ["not shown: ", "horse\rbattery"],
      ],
      "Asking for the value of A failed: more than one line came at once.",
    ],
    [
      "lines for more than one question",
      [["Key", "A\rhorse\r"]],
      "Asking for a key failed: more than one line came at once.",
    ],
    [
      "a layer that is none, before anything is asked",
      [],
      "there is no clusters/prod/none/kustomization.yaml.",
    ],
  ] as const) {
    it(`refuses ${what}, writes nothing, and leaves the terminal as it was`, async () => {
      const of = await Project.make();
      const layer = typed.length === 0 ? "none" : "apps";
      const { code, shown } = await of.typed(["add", "new", "--stack", "prod", "--layer", layer], typed);
      equal(code, 1, shown);
      ok(shown.includes(message), shown);
      equal(/horse|battery|staple/.test(shown), false, shown);
      match(shown, /\s(?<!-)echo\s/);
      match(shown, /\s(?<!-)icanon\s/);
      deepEqual(of.files(), untouched);
      equal(of.git("status", "--porcelain"), "");
    });
  }

  it("recover asks for the recovery key, and does not show it", async () => {
    const of = await Project.make({ identity: false, pulumi: "exit 0" });
    const [key = ""] = /AGE-SECRET-KEY-\S+/.exec(of.recoveryKey) ?? [];
    const { code, shown } = await of.typed(
      ["recover", "--stack", "prod", "--yes"],
      [["Recovery key, which is not shown: ", `${key}\r`]],
    );
    equal(code, 0, shown);
    equal(shown.includes("AGE-SECRET-KEY"), false);
    match(shown, /recovered: the identity of stack "prod" is age1/);
  });
});

describe("npx platform secrets add --from-file", function () {
  this.timeout(60_000);

  it("takes files byte for byte, from where the user is or from standard input", async () => {
    const of = await Project.make();
    const binary = randomBytes(4096);
    const pem = `-----BEGIN CERTIFICATE-----\n${binary.toString("base64")}\n-----END CERTIFICATE-----\n`;
    const json = '{\n  "a": "\u00e4",\r\n  "b": [1]\n}';
    const { home } = of;
    writeFiles(home, { "keys/tls.crt": pem, "keys/config.json": json });
    writeFileSync(join(home, "keys", "key store.jks"), binary);
    const files = ["tls.crt", "config.json", "store=key store.jks", "typed=/dev/stdin", "empty=/dev/null"];
    const args = ["add", "files", "--stack", "prod", "--type", "example.com/files"];
    const { code, stdout, stderr } = of.secrets(
      [...args, ...files.flatMap((file) => ["--from-file", file])],
      { INIT_CWD: join(home, "keys") },
      "two\nlines\n",
    );
    deepEqual([code, stderr], [0, ""]);
    equal(stdout, "clusters/prod/apps/files.enc.yaml\nclusters/prod/apps/kustomization.yaml\n");
    deepEqual(await of.values("files"), {
      "tls.crt": Buffer.from(pem),
      "config.json": Buffer.from(json),
      store: binary,
      typed: Buffer.from("two\nlines\n"),
      empty: Buffer.alloc(0),
    });
    const written = of.read(`${apps}/files.enc.yaml`);
    match(written, /^type: example\.com\/files$/m);
    equal(written.includes("CERTIFICATE"), false);
    equal(of.secrets(["check", "--stack", "prod"]).code, 0);
  });

  it("refuses what it cannot take in one sentence, and writes nothing", async () => {
    const of = await Project.make();
    writeFileSync(join(of.home, "large"), Buffer.alloc(1024 ** 2 + 1));
    for (const [files, message] of [
      [
        ["a=none"],
        /^Reading "none" for key "a" failed: none does not exist\. Write --from-file <key>=<path>\.$/m,
      ],
      [["a=gitops"], /^Reading "gitops" for key "a" failed: gitops is a directory\. /],
      [
        ["a=Pulumi.yaml", "a=package.json"],
        /^Reading "package\.json" for key "a" failed: the key is there twice\. /,
      ],
      [["a b=Pulumi.yaml"], /^Adding Secret "x" to stack "prod" failed: "a b" is not a valid key\. /],
      [["../large"], /failed: its values take 1048577 bytes, and a Secret holds 1048576 bytes at most\. /],
    ] as const) {
      const named = files.flatMap((file) => ["--from-file", file]);
      oneSentence(of.secrets(["add", "x", "--stack", "prod", ...named]), message);
    }
    deepEqual(of.files(), untouched);
  });
});

describe("npx platform secrets rotate and recover, of a stack that is released from a clean tree", function () {
  this.timeout(60_000);

  /** Notes what it is called with, and the files that differ from the last commit. `failing` makes `up` fail. */
  const pulumi = `echo "$*" >> "$HOME/calls"
[ "$1" != up ] || { git status --porcelain -- gitops Pulumi.prod.yaml .sops.yaml >> ../calls; [ ! -e ../failing ]; }`;
  const up = [
    "stack init --no-select --stack prod",
    "up --stack prod --config-file …/Pulumi.prod.yaml --yes",
  ];
  const changes = [".sops.yaml", "Pulumi.prod.yaml", `${apps}/db.enc.yaml`];

  const calls = (of: Project) =>
    existsSync(join(of.home, "calls"))
      ? of
          .read("../calls")
          .trimEnd()
          .replaceAll(/\S+(?=\/Pulumi\.prod)/g, "…")
          .split("\n")
      : [];
  /** The files of each commit since the first, from first to last. */
  const commits = (of: Project) =>
    of
      .git("log", "--reverse", "--format=%x00", "--name-only", "start..HEAD")
      .split("\0")
      .slice(1)
      .map((files) => files.trim().split("\n"));

  it("--commit commits what was encrypted anew before each release, and nothing else", async () => {
    const of = await Project.make({ requireClean: true, pulumi });
    writeFiles(of.directory, { "staged.txt": "mine\n", "other.txt": "mine\n" });
    of.git("add", "staged.txt");
    const { code, stderr } = of.secrets(["rotate", "--stack", "prod", "--commit", "--yes"]);
    equal(code, 0, stderr);
    deepEqual(calls(of), [...up, ...up]);
    deepEqual(commits(of), [changes, changes]);
    equal(of.git("log", "-1", "--format=%s"), "Secrets of prod encrypted for other recipients");
    equal(of.git("status", "--porcelain"), "A  staged.txt\n?? other.txt");
    deepEqual(await of.values("db", of.read("../.config/platform/age/prod.agekey")), {
      PASSWORD: Buffer.from("hunter2"),
    });
  });

  it("waits for a commit of the user's, and the same command goes on", async () => {
    const of = await Project.make({ requireClean: true, pulumi });
    const waiting =
      /^Releasing stack "prod" stopped: its tree must be committed, and 3 files are not\. Commit them and run the same command again, or run it with --commit\.$/m;
    const rotate = () => of.secrets(["rotate", "--stack", "prod", "--yes"]);
    for (const round of ["both", "one"]) {
      const { code, stderr } = rotate();
      equal(code, 1);
      match(stderr, waiting);
      deepEqual(calls(of), round === "both" ? [] : up);
      of.commit(round);
    }
    equal(rotate().code, 0);
    deepEqual(calls(of), [...up, ...up]);
    deepEqual(commits(of), [changes, changes]);
  });

  it("--commit leaves other work in the tree to the user", async () => {
    const of = await Project.make({ requireClean: true, pulumi });
    writeFiles(of.directory, { "gitops/new/mine.yaml": "a: 1\n" });
    const { code, stderr } = of.secrets(["rotate", "--stack", "prod", "--commit", "--yes"]);
    equal(code, 1);
    match(
      stderr,
      /^Releasing stack "prod" stopped: .* has uncommitted changes that are not secrets, such as gitops\/new\/mine\.yaml\. /m,
    );
    deepEqual([calls(of), commits(of)], [[], []]);
    rmSync(join(of.directory, "gitops", "new"), { recursive: true });
    equal(of.secrets(["rotate", "--stack", "prod", "--commit", "--yes"]).code, 0);
    deepEqual(commits(of), [changes, changes]);
  });

  it("says that a release failed, and the same command goes on", async () => {
    const of = await Project.make({ requireClean: true, pulumi });
    const rotate = () => of.secrets(["rotate", "--stack", "prod", "--commit", "--yes"]);
    writeFiles(of.home, { failing: "" });
    const { code, stderr } = rotate();
    equal(code, 1);
    match(
      stderr,
      /^Releasing stack "prod" failed: "pulumi up" ended with exit code 1\. Fix the error that it names and run the same command again: it continues from there\.$/m,
    );
    for (const late of ["--values", `--without=${someone}`]) {
      oneSentence(
        of.secrets(["rotate", "--stack", "prod", late]),
        new RegExp(
          `failed: an earlier rotation without ${late.replace("--without=", "")} is not complete\\. Complete it with "npx platform secrets rotate prod" first\\.$`,
          "m",
        ),
      );
    }
    rmSync(join(of.home, "failing"));
    equal(rotate().code, 0);
    deepEqual(commits(of), [changes, changes]);
    deepEqual(calls(of), [...up, ...up, ...up]);
  });

  it("recover takes the recovery key on standard input, and commits once", async () => {
    const of = await Project.make({ requireClean: true, pulumi, identity: false });
    const args = ["recover", "--stack", "prod", "--commit", "--yes"];
    oneSentence(
      of.secrets(args, {}, of.key),
      /the key belongs to its only recipient, so no identity is lost\. Put the key into \S+prod\.agekey\.$/m,
    );
    const { code, stderr } = of.secrets(args, {}, of.recoveryKey);
    equal(code, 0, stderr);
    deepEqual(calls(of), up);
    deepEqual(commits(of), [changes]);
    deepEqual(await of.values("db", of.read("../.config/platform/age/prod.agekey")), {
      PASSWORD: Buffer.from("hunter2"),
    });
  });
});

describe("npx platform secrets, with an identity that Pulumi keeps", function () {
  this.timeout(60_000);

  const opened =
    /^Checked .* 1 secret files of stack "prod", and opened them with its identity, their MACs included\.$/m;
  const elsewhere = / of stack "prod"\. Its identity is not here: /m;
  /** Knows the key in the file `key` above the project, and nothing else. */
  const pulumi = `[ "$*" = "config get --path platform:sops.ageKey --stack prod" ] && cat ../key`;
  const editor = (of: Project) => {
    writeFiles(of.home, { "editor.sh": 'sed -i s/hunter2/hunter3/ "$1"\n' });
    return { EDITOR: `sh ${join(of.home, "editor.sh")}` };
  };

  it("asks Pulumi for it in check and edit", async () => {
    const of = await Project.make({ ageKey: true, identity: false, pulumi });
    writeFiles(of.home, { key: of.key });
    const { code, stdout, stderr } = of.secrets(["check", "--stack", "prod"]);
    deepEqual([code, stdout], [0, ""], stderr);
    match(stderr, opened);
    const edited = of.secrets(["edit", "clusters/prod/apps/db.enc.yaml", "--stack", "prod"], editor(of));
    equal(edited.code, 0, edited.stderr);
    deepEqual(await of.values("db"), { PASSWORD: Buffer.from("hunter3") });
  });

  it("says that it is not here, and why, where Pulumi does not tell it", async () => {
    const of = await Project.make({
      ...{ ageKey: true, identity: false },
      pulumi: 'echo "error: incorrect passphrase" >&2; exit 255',
    });
    const { code, stdout, stderr } = of.secrets(["check", "--stack", "prod"]);
    deepEqual([code, stdout], [0, ""], stderr);
    match(stderr, elsewhere);
    match(
      stderr,
      /^Reading platform:sops\.ageKey of stack "prod" failed: "pulumi config get" failed: error: incorrect passphrase\.$/m,
    );
    for (const command of [["edit", "clusters/prod/apps/db.enc.yaml"], ["init"], ["rotate"]]) {
      oneSentence(
        of.secrets([...command, "--stack", "prod"], editor(of)),
        /incorrect passphrase\. Run "pulumi stack select --create prod" with its login and passphrase, or set SOPS_AGE_KEY_FILE\.$/m,
      );
    }
    equal(existsSync(join(of.home, ".config")), false, "another identity was made");
  });

  it("does not ask Pulumi where the user names another", async () => {
    const of = await Project.make({ ageKey: true, identity: false, pulumi: "touch ../asked; exit 1" });
    match(of.secrets(["check", "--stack", "prod"], { SOPS_AGE_KEY: of.key }).stderr, opened);
    equal(existsSync(join(of.home, "asked")), false);
  });
});

describe("npx platform secrets, several at once", function () {
  this.timeout(120_000);

  it("add: each writes its file and its line", async () => {
    const of = await Project.make();
    const names = ["a", "b", "c", "d", "e", "f"];
    const all = await Promise.all(
      names.map((name) => of.started(["add", name, "--namespace", "db", "--stack", "prod"], `A=${name}`)),
    );
    for (const { code, stderr } of all) equal(code, 0, stderr);
    const files = [...names, "db"].map((name) => `${name}.enc.yaml`);
    deepEqual(of.files(), [...files, "kustomization.yaml"].sort());
    const { resources } = parse(of.read(`${apps}/kustomization.yaml`)) as { resources: string[] };
    deepEqual(resources.sort(), files.sort());
    for (const name of names) deepEqual(await of.values(name), { A: Buffer.from(name) });
  });

  it("rotate: one after the other, and the last key opens everything", async () => {
    const of = await Project.make({ pulumi: "sleep 0.5" });
    const rotate = () => of.started(["rotate", "--stack", "prod", "--yes"]);
    const both = await Promise.all([rotate(), rotate()]);
    for (const { code, stderr } of both) equal(code, 0, stderr);
    const said = both.map(({ stderr }) => stderr).join("");
    match(said, /^waiting for process \d+, which is changing the secrets of this project$/m);
    equal(said.includes("continuing"), false, said);
    const identity = of.read("../.config/platform/age/prod.agekey");
    equal(identity.includes("rotation"), false);
    const { config } = parse(of.read("Pulumi.prod.yaml")) as {
      config: Record<string, { recipients: string[] }>;
    };
    deepEqual(config["platform:sops"]?.recipients, await sops.recipients(identity));
    deepEqual(await of.values("db", identity), { PASSWORD: Buffer.from("hunter2") });
  });

  it("takes over from one that was killed", async () => {
    const of = await Project.make({ pulumi: "touch ../here; sleep 5" });
    const args = [...program, "rotate", "--stack", "prod", "--yes"];
    const child = spawn(process.execPath, args, { cwd: of.directory, env: of.environment, stdio: "ignore" });
    while (!existsSync(join(of.home, "here"))) await sleep(20);
    child.kill("SIGKILL");
    await once(child, "close");
    const { code, stderr } = await of.started(["add", "new", "--stack", "prod"], "A=b");
    equal(code, 0, stderr);
    equal(stderr.includes("waiting"), false, stderr);
  });
});

describe("npx platform secrets check, of every stack", function () {
  this.timeout(60_000);

  it("tells of each by its name, and of the repository once", async () => {
    const of = await Project.make();
    writeFiles(of.directory, {
      "Pulumi.dev.yaml": of.read("Pulumi.prod.yaml"),
      "gitops/clusters/dev/kustomization.yaml": "configMapGenerator:\n  - name: facts\n",
    });
    const { code, stdout, stderr } = of.secrets(["check"]);
    deepEqual([code, stdout], [0, ""], stderr);
    const lines = stderr.trimEnd().split("\n");
    equal(new Set(lines).size, lines.length, stderr);
    deepEqual(lines.slice(0, 2), [
      'Checked rules, recipients, form and encryption of 0 secret files of stack "dev".',
      'Checked rules, recipients, form and encryption of 1 secret files of stack "prod", and opened them with its identity, their MACs included.',
    ]);
  });

  it("passes on a machine without identities, and says that they are not here", async () => {
    const of = await Project.make({ identity: false });
    const { code, stdout, stderr } = of.secrets(["check"]);
    deepEqual([code, stdout], [0, ""], stderr);
    match(stderr, / of stack "prod"\. Its identity is not here: /m);
  });

  it("finds what a cluster would apply in plain text, and a Secret that it would not apply", async () => {
    const of = await Project.make();
    const [own = ""] = await sops.recipients(of.key);
    const [recovery = ""] = await sops.recipients(of.recoveryKey);
    const manifest = secretManifest({ name: "extra", namespace: "x", values: { A: "b" } });
    writeFiles(of.directory, {
      [`${apps}/extra.enc.yaml`]: await sops.encrypt(manifest, "extra.enc.yaml", [own, recovery]),
      [`${apps}/kustomization.yaml`]:
        "resources:\n  - db.enc.yaml\nsecretGenerator:\n  - name: made\n    literals: [A=b]\n",
    });
    const { code, stdout, stderr } = of.secrets(["check"]);
    equal(code, 1, stderr);
    const lines = stdout.trimEnd().split("\n");
    equal(lines.length, 2, stdout);
    match(lines[0] ?? "", /^Secret default\/made-\w+ holds "A" in plain text\. /);
    equal(
      lines[1],
      'Checking clusters/prod/apps/extra.enc.yaml failed: no kustomization applies its Secret "extra". List the file in the kustomization.yaml beside it, or remove it.',
    );
    writeFiles(of.directory, {
      [`${apps}/kustomization.yaml`]: "resources:\n  - db.enc.yaml\n  - gone.yaml\n",
    });
    match(of.secrets(["check"]).stdout, /^Building layer "apps" of cluster "prod" failed: .*gone\.yaml.*\n$/);
  });

  it("says how many files the identity opened, where it did not open all", async () => {
    const of = await Project.make();
    const manifest = secretManifest({ name: "extra", namespace: "x", values: { A: "b" } });
    const [other = ""] = await sops.recipients(await sops.keygen());
    writeFiles(of.directory, {
      [`${apps}/extra.enc.yaml`]: await sops.encrypt(manifest, "extra.enc.yaml", [other]),
    });
    const { code, stderr } = of.secrets(["check"]);
    equal(code, 1, stderr);
    match(
      stderr,
      /^Checked .* 2 secret files of stack "prod", and opened 1 of them with its identity, their MACs included\.$/m,
    );
  });

  it("fails when anything is wrong anywhere, and says it once", async () => {
    const of = await Project.make();
    const token = `ghp_${"q7Rz2Kd9Xw4b".repeat(3)}`;
    writeFiles(of.directory, {
      "Pulumi.dev.yaml": of.read("Pulumi.prod.yaml"),
      "Pulumi.moon.yaml": "config: []\n",
      "gitops/clusters/dev/apps/plain.enc.yaml":
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: plain\nstringData:\n  A: b\n",
      "notes.md": `The token is ${token}.\n`,
    });
    const { code, stdout, stderr } = of.secrets(["check"]);
    equal(code, 1, stderr);
    const lines = stdout.trimEnd().split("\n");
    equal(
      lines.filter((line) => line.startsWith("File notes.md holds a secret of kind github-pat in line 1."))
        .length,
      1,
      stdout,
    );
    match(stdout, /^Checking clusters\/dev\/apps\/plain\.enc\.yaml failed: it is not encrypted\./m);
    match(stdout, /^Reading Pulumi\.moon\.yaml failed: /m);
    equal(`${stdout}${stderr}`.includes(token), false);
    match(stderr, /stack "prod", and opened them/m);
  });
});

describe("npx platform secrets, given what it cannot do", function () {
  this.timeout(60_000);
  let of: Project;
  let other: string;

  before(async () => {
    of = await Project.make();
    other = await sops.keygen();
  });

  const file = "clusters/prod/apps/db.enc.yaml";
  for (const [args, message, input] of [
    [
      ["--x"],
      /^Running "npx platform secrets" failed: unknown option '--x'\. See "npx platform secrets --help"\.$/m,
    ],
    [
      ["check", "--stack"],
      /^Running "npx platform secrets check" failed: option '-s, --stack <name>' argument missing\. See/,
    ],
    [["rotate", "--stack", "--yes"], /^Reading stack "--yes" failed: /],
    [
      ["polish", "--stack", "prod"],
      /^Running "npx platform secrets" failed: unknown command 'polish'\. See "npx platform secrets --help"\.$/m,
    ],
    [
      ["add", "--stack", "prod"],
      /^Running "npx platform secrets add" failed: missing required argument 'name'\. See/,
    ],
    [
      ["add", "x", "A=hunter2", "--stack", "prod"],
      /^(?!.*hunter2).* failed: the stack is named twice, as an argument and with --stack\. /,
    ],
    [
      ["add", "x", "A=hunter2"],
      /^(?!.*hunter2).* failed: the name of the stack has a character that is not allowed/,
    ],
    [["check", "x", "y"], /^Running "npx platform secrets check" failed: too many arguments for 'check'\. /],
    [["check", "--yes"], /^Running "npx platform secrets check" failed: unknown option '--yes'\. See/],
    [
      ["rotate"],
      /^Running "npx platform secrets rotate" failed: no stack is named\. Stacks here are prod\. See/,
    ],
    [["edit", "x", "--stack", "moon"], /^Reading stack "moon" failed: .* Stacks here are prod\.$/m],
    [
      ["add", "x", "--layer", "../dev", "--stack", "prod"],
      /"\.\.\/dev" is not a layer\. Name a layer of the cluster/,
      "A=b",
    ],
    [
      ["add", "x", "--layer", ".", "--stack", "prod"],
      /"\." is not a layer\. Name a layer of the cluster/,
      "A=b",
    ],
    [["add", "db", "--stack", "prod"], /db\.enc\.yaml is there\. Change it with/, "A=b"],
    [
      ["add", "x", "--stack", "prod"],
      /^Reading line 2 of the values failed: "A" is there twice\. /,
      "A=b\nA=c",
    ],
    [["add", "x", "--stack", "prod"], /failed: "\.\." is not a valid key\. /, "..=b"],
    [
      ["edit", "none.enc.yaml", "--stack", "prod"],
      /^Editing none\.enc\.yaml failed: it is not an encrypted file/,
    ],
    [["recover", "--stack", "prod"], /standard input is not an age identity\. /, "hunter2"],
    [
      ["recover", "--stack", "prod"],
      /is encrypted for age1.*, the key is age1.* Pass the recovery key/,
      "other",
    ],
    [
      ["recover", "--stack", "prod"],
      /there is an identity in .*prod\.agekey\. Use it with "rotate"/,
      "recovery",
    ],
    [
      ["init", "--recipient", "age1x", "--stack", "prod"],
      /age1x is not a recipient\. Use the output of "age-keygen -y"/,
    ],
    [
      ["init", "--recipient", `${someone},${someone}`, "--stack", "prod"],
      /,age1\w+ is not a recipient\. Use the output of/,
    ],
    // Its checksum does not hold.
    [
      ["init", "--recipient", `age1${"q".repeat(58)}`, "--stack", "prod"],
      /age1q+ is not a recipient\. Use the output of/,
    ],
    [
      ["recover", "--lost", `AGE-SECRET-KEY-1${"A".repeat(9)}`, "--stack", "prod"],
      /^(?!.*1AAA).* failed: a private key is among its arguments/,
    ],
    [
      ["rotate", "--without", "age1x", "--stack", "prod"],
      /age1x is not another recipient of its secrets\. Its other recipients: age1/,
    ],
  ] as readonly (readonly [string[], RegExp, string?])[]) {
    it(`says so in one sentence: ${args.join(" ")}${input === undefined ? "" : ` < "${input.replace("\n", " ")}"`}`, () => {
      const keys = new Map([
        ["other", other],
        ["recovery", of.recoveryKey],
      ]);
      oneSentence(of.secrets(args, {}, keys.get(input ?? "") ?? input), message);
      deepEqual(of.files(), untouched);
      equal(of.git("status", "--porcelain"), "");
    });
  }

  for (const [what, editor] of [
    ["fails", "false"],
    ["is missing", "/nonexistent/editor"],
  ] as const) {
    it(`leaves a file as it was when the editor ${what}`, () => {
      const { code, stdout, stderr } = of.secrets(["edit", file, "--stack", "prod"], { EDITOR: editor });
      deepEqual([code, stdout], [1, ""]);
      match(stderr, /^Editing clusters\/prod\/apps\/db\.enc\.yaml failed: .*The file is as it was\.$/m);
      equal(/^\s+at /m.test(stderr), false, stderr);
      equal(of.git("status", "--porcelain"), "");
    });
  }
});
