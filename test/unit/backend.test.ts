import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, readdirSync, readFileSync } from "node:fs";
import { homedir, hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { pulumiDefaults, pulumiEnvironment, removeStaleLocks } from "../../commands/cli/backend";
import { temporaryDirectory, withEnvironment, writeFiles } from "./temporary";

describe("pulumiDefaults", () => {
  it("keeps state in files of the user, with an empty passphrase", () => {
    deepEqual(pulumiDefaults({ XDG_STATE_HOME: "/state" }, undefined), {
      PULUMI_BACKEND_URL: "file:///state/platform",
      PULUMI_CONFIG_PASSPHRASE: "",
    });
    equal(
      pulumiDefaults({}, undefined).PULUMI_BACKEND_URL,
      `file://${join(homedir(), ".local", "state", "platform")}`,
    );
    equal(
      pulumiDefaults({ XDG_STATE_HOME: "/a b?c" }, undefined).PULUMI_BACKEND_URL,
      "file:///a%20b%3Fc/platform",
    );
  });

  for (const backend of [
    "s3://bucket",
    "gs://bucket",
    "azblob://bucket",
    "https://api.pulumi.com",
    "file:///elsewhere",
    "file://~",
  ]) {
    it(`gives ${backend} no passphrase: it keeps its own`, () => {
      deepEqual(pulumiDefaults({ XDG_STATE_HOME: "/state" }, backend), {});
    });
  }

  for (const backend of ["file:///state/platform", "file:///state/platform/?no_tmp_dir=true"]) {
    it(`opens its own files where the user names them: ${backend}`, () => {
      deepEqual(pulumiDefaults({ XDG_STATE_HOME: "/state" }, backend), { PULUMI_CONFIG_PASSPHRASE: "" });
    });
  }

  it("leaves the passphrase that the user set, even an empty one", () => {
    for (const env of [
      { PULUMI_CONFIG_PASSPHRASE: "secret" },
      { PULUMI_CONFIG_PASSPHRASE: "" },
      { PULUMI_CONFIG_PASSPHRASE_FILE: "/passphrase" },
    ]) {
      deepEqual(pulumiDefaults({ ...env, XDG_STATE_HOME: "/state" }, undefined), {
        PULUMI_BACKEND_URL: "file:///state/platform",
      });
    }
  });

  it("leaves Pulumi's service to a user who has an access token", () => {
    deepEqual(pulumiDefaults({ PULUMI_ACCESS_TOKEN: "pul-1" }, undefined), {});
  });
});

/** A project whose Pulumi.yaml names this backend, or none. */
function projectWith(backend?: string): string {
  const project = temporaryDirectory();
  const url = backend === undefined ? "" : `backend: { url: "${backend}" }\n`;
  writeFiles(project, { "Pulumi.yaml": `name: platform\n${url}` });
  return project;
}

describe("pulumiEnvironment", () => {
  it("names the files of this user, and makes none of them", async () => {
    const home = temporaryDirectory();
    const env = { XDG_STATE_HOME: join(home, "state"), PULUMI_HOME: home, XDG_CACHE_HOME: "/cache" };
    const directory = join(home, "state", "platform");
    deepEqual(await pulumiEnvironment(env, projectWith()), {
      env: {
        ...env,
        NODE_COMPILE_CACHE: "/cache/platform/node",
        PULUMI_BACKEND_URL: `file://${directory}`,
        PULUMI_CONFIG_PASSPHRASE: "",
      },
      stateDirectory: directory,
    });
    deepEqual(readdirSync(home), []);
  });

  it("is that of the user who logged in", async () => {
    const home = temporaryDirectory();
    writeFiles(home, { "credentials.json": '{"current":"s3://bucket"}' });
    const env = { XDG_STATE_HOME: join(home, "state"), PULUMI_HOME: home, NODE_COMPILE_CACHE: "/own" };
    deepEqual(await pulumiEnvironment(env, projectWith()), { env, stateDirectory: undefined });
    equal(existsSync(join(home, "state")), false);
  });

  it("leaves the backend that Pulumi.yaml names, whatever the user logged in to", async () => {
    const home = temporaryDirectory();
    for (const credentials of ['{"current":""}', '{"current":"https://api.pulumi.com"}']) {
      writeFiles(home, { "credentials.json": credentials });
      const env = { XDG_STATE_HOME: join(home, "state"), PULUMI_HOME: home, NODE_COMPILE_CACHE: "/own" };
      deepEqual(await pulumiEnvironment(env, projectWith("s3://bucket")), { env, stateDirectory: undefined });
    }
    equal(existsSync(join(home, "state")), false);
  });

  it("finds a directory that Pulumi.yaml names relative to the project", async () => {
    const home = temporaryDirectory();
    const project = projectWith("file://./state");
    const { env, stateDirectory } = await pulumiEnvironment({ PULUMI_HOME: home }, project);
    equal(stateDirectory, join(project, "state"));
    // A stack is made in another directory.
    equal(fileURLToPath(env.PULUMI_BACKEND_URL ?? ""), join(project, "state"));
    equal("PULUMI_CONFIG_PASSPHRASE" in env, false);
  });

  it("puts the backend that a variable names above the others, without the options of its URL", async () => {
    const home = temporaryDirectory();
    writeFiles(home, { "credentials.json": '{"current":"s3://bucket"}' });
    const env = { PULUMI_HOME: home, PULUMI_BACKEND_URL: `file://${home}/my%20own?no_tmp_dir=true` };
    const { stateDirectory } = await pulumiEnvironment(env, projectWith("s3://other"));
    equal(stateDirectory, join(home, "my own"));
  });

  for (const [what, credentials] of [
    ["nobody", '{"current":""}'],
    ["a file that was cut off", '{"curr'],
  ] as const) {
    it(`takes ${what} for no login`, async () => {
      const home = temporaryDirectory();
      writeFiles(home, { "credentials.json": credentials });
      const env = { PULUMI_HOME: home, XDG_STATE_HOME: home };
      equal((await pulumiEnvironment(env, projectWith())).stateDirectory, join(home, "platform"));
    });
  }
});

/** A process id that nobody has any more. */
function deadPid(): number {
  return spawnSync("true").pid;
}

/** A program named `pulumi`, which sleeps. */
function fakePulumi(): string {
  const program = join(temporaryDirectory(), "pulumi");
  copyFileSync("/bin/sleep", program);
  return program;
}

/** Runs work while a process of a program is there. */
async function whileRunning(program: string, work: (pid: number) => Promise<void>): Promise<void> {
  const child = spawn(program, ["60"], { stdio: "ignore" });
  try {
    await new Promise((resolve) => child.once("spawn", resolve));
    await work(child.pid ?? 0);
  } finally {
    child.kill("SIGKILL");
  }
}

/** As Go writes a time: nine digits of a second and a zone. */
const now = () => new Date().toISOString().replace("Z", "123456+00:00");
/** What the clock said before it was set: a running process seems to have started after it. */
const longAgo = "2020-01-01T00:00:00.123456789+00:00";

interface Lock {
  readonly pid: number;
  readonly username: string;
  readonly hostname: string;
  readonly timestamp: string;
}

/** A file backend with locks on stack "local": file → lock, or what is left of one. */
function locked(locks: Readonly<Record<string, Lock | string>>) {
  const root = temporaryDirectory();
  const below = join(".pulumi", "locks", "organization", "platform", "local");
  for (const [file, lock] of Object.entries(locks)) {
    writeFiles(root, { [join(below, file)]: typeof lock === "string" ? lock : JSON.stringify(lock) });
  }
  return {
    remove: () => removeStaleLocks(root, "platform", "local"),
    left: () => readdirSync(join(root, below)),
    root,
  };
}

const lockOf = (pid: number, timestamp = now()): Lock => ({
  ...{ pid, username: "me", hostname: hostname(), timestamp },
});
const holder = ({ pid, hostname: host, timestamp }: Lock) =>
  `process ${pid} of me@${host}, since ${timestamp}`;
const refusal = (lock: Lock) =>
  `Running Pulumi on stack "local" was refused: ${holder(lock)}, holds its lock. Wait until it ends, or, if it is gone for sure, run "pulumi cancel --stack local".`;
const notice = (lock: Lock) => `Removed a stale lock of stack "local": ${holder(lock)}, has ended.`;

describe("removeStaleLocks", () => {
  it("removes the lock of a process that is gone, and says so", async () => {
    const lock = lockOf(deadPid());
    const { remove, left } = locked({ "a.json": lock });
    deepEqual(await remove(), [notice(lock)]);
    deepEqual(left(), []);
    deepEqual(await remove(), []);
  });

  for (const [when, timestamp] of [
    ["", now()],
    [", whatever the clock says", longAgo],
  ] as const) {
    it(`respects the lock of a Pulumi that runs${when}`, async () => {
      await whileRunning(fakePulumi(), async (pid) => {
        const lock = lockOf(pid, timestamp);
        const { remove, left } = locked({ "a.json": lock });
        await rejects(remove(), { message: refusal(lock) });
        deepEqual(left(), ["a.json"]);
      });
    });
  }

  it("removes the lock of a process whose id another program has now", async () => {
    const lock = lockOf(process.pid);
    const { remove, left } = locked({ "a.json": lock });
    deepEqual(await remove(), [notice(lock)]);
    deepEqual(left(), []);
  });

  it("removes the lock of a Pulumi that ended and was never waited for", async () => {
    const directory = temporaryDirectory();
    // A shell that was replaced never waits for its child.
    const script = `"$0" 0 & echo $! > ${directory}/pid; exec sleep 60`;
    const parent = spawn("/bin/sh", ["-c", script, fakePulumi()], { stdio: "ignore" });
    try {
      const zombie = async () => {
        for (let tries = 0; tries < 200; tries++) {
          const pid = existsSync(`${directory}/pid`) ? readFileSync(`${directory}/pid`, "utf8").trim() : "";
          const status = pid === "" ? "" : readFileSync(`/proc/${pid}/status`, "utf8");
          if (/^State:\s*Z/m.test(status)) return Number(pid);
          await sleep(20);
        }
        throw new Error("there is no zombie");
      };
      const lock = lockOf(await zombie());
      deepEqual(await locked({ "a.json": lock }).remove(), [notice(lock)]);
    } finally {
      parent.kill("SIGKILL");
    }
  });

  it("respects the lock of another machine, of whose processes it knows nothing", async () => {
    const lock = { ...lockOf(deadPid()), hostname: "elsewhere" };
    const { remove, left } = locked({ "a.json": lock });
    await rejects(remove(), { message: refusal(lock) });
    deepEqual(left(), ["a.json"]);
  });

  describe("with a container that has this host's name", () => {
    const unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"];

    before(function () {
      const { status, stderr } = spawnSync(unshare[0] ?? "", [...unshare.slice(1), "true"], {
        encoding: "utf8",
      });
      if (status === 0) return;
      console.log(`      skipped: no process can be put into a namespace of its own (${stderr.trim()})`);
      this.skip();
    });

    it("respects the lock of a Pulumi that runs in it", async () => {
      // Of the first processes of a container, whose ids are those of other programs here.
      const child = spawn(unshare[0] ?? "", [...unshare.slice(1), fakePulumi(), "60"], { stdio: "ignore" });
      try {
        const lock = lockOf(1);
        for (let tries = 0; tries < 200; tries++) {
          const inside = spawnSync("pgrep", ["-P", String(child.pid)], { encoding: "utf8" }).stdout.trim();
          if (inside !== "" && readFileSync(`/proc/${inside}/comm`, "utf8") === "pulumi\n") break;
          await sleep(20);
        }
        const { remove, left } = locked({ "a.json": lock });
        await rejects(remove(), { message: refusal(lock) });
        deepEqual(left(), ["a.json"]);
      } finally {
        child.kill("SIGKILL");
      }
    });

    for (const [what, mount, isRefused] of [
      ["respects, in it, every lock in a directory from outside it", "mount -t tmpfs none $1 &&", true],
      ["removes, in it, stale locks in a directory of its own", "", false],
    ] as const) {
      it(what, () => {
        const lock = lockOf(deadPid());
        const { root } = locked({});
        const directory = join(root, ".pulumi/locks/organization/platform/local");
        const script = `${mount} mkdir -p $1/.pulumi/locks/organization/platform/local && echo '${JSON.stringify(lock)}' > ${directory}/a.json && exec "$2" -r ts-node/register/transpile-only -e 'require("./commands/cli/backend").removeStaleLocks(process.argv[1], "platform", "local").then(console.log, (error) => console.log(error.message))' $1`;
        const { stdout, stderr } = spawnSync(
          unshare[0] ?? "",
          [...unshare.slice(1), "sh", "-c", script, "sh", root, process.execPath],
          { encoding: "utf8", cwd: join(__dirname, "..", "..") },
        );
        equal(stderr, "");
        equal(stdout.trim(), isRefused ? refusal(lock) : `[\n  '${notice(lock)}'\n]`);
      });
    }
  });

  for (const [what, text] of [
    ["cut off", '{"pid":12'],
    ["empty", ""],
  ] as const) {
    it(`removes a lock that is ${what}`, async () => {
      const { remove, left } = locked({ "a.json": text });
      deepEqual(await remove(), [
        'Removed a stale lock of stack "local": the run that wrote it was killed meanwhile.',
      ]);
      deepEqual(left(), []);
    });
  }

  it("looks at every lock, and refuses for one that is respected", async () => {
    const dead = lockOf(deadPid());
    const both = locked({ "a.json": dead, "b.json": dead });
    deepEqual(await both.remove(), [notice(dead), notice(dead)]);
    await whileRunning(fakePulumi(), async (pid) => {
      const alive = lockOf(pid);
      const mixed = locked({ "a.json": dead, "b.json": alive });
      await rejects(mixed.remove(), { message: refusal(alive) });
      match(mixed.left().join(), /b\.json/);
    });
  });

  it("leaves what is no lock, and the locks of other stacks and projects", async () => {
    const lock = lockOf(deadPid());
    const { remove, left, root } = locked({ "a.json.attrs": "x" });
    const others = ["platform/prod/a.json", "other/local/a.json"];
    for (const other of others) {
      writeFiles(join(root, ".pulumi", "locks", "organization"), { [other]: JSON.stringify(lock) });
    }
    deepEqual(await remove(), []);
    deepEqual(left(), ["a.json.attrs"]);
    for (const other of others) {
      equal(existsSync(join(root, ".pulumi", "locks", "organization", other)), true, other);
    }
  });

  it("finds nothing where there is no lock, and no directory", async () => {
    deepEqual(await locked({}).remove(), []);
    deepEqual(await removeStaleLocks("/no/such/directory", "platform", "local"), []);
  });

  it("finds the locks of a backend in the user's home", async () => {
    const lock = lockOf(deadPid());
    const { root } = locked({ "a.json": lock });
    await withEnvironment({ HOME: root }, async () => {
      const env = { PULUMI_BACKEND_URL: "file://~" };
      const { stateDirectory = "" } = await pulumiEnvironment(env, projectWith());
      deepEqual(await removeStaleLocks(stateDirectory, "platform", "local"), [notice(lock)]);
    });
  });
});
