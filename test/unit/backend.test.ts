import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { homedir, hostname } from "node:os";
import { join } from "node:path";
import { pulumiDefaults, pulumiEnvironment, removeStaleLocks } from "../../commands/backend";
import { fakeTools, temporaryDirectory, withEnvironment, writeFiles } from "./temporary";

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
  });

  it("leaves the backend that the user logged in to, or named", () => {
    deepEqual(pulumiDefaults({}, "s3://bucket"), { PULUMI_CONFIG_PASSPHRASE: "" });
    deepEqual(pulumiDefaults({ PULUMI_BACKEND_URL: "s3://bucket" }, undefined), {
      PULUMI_CONFIG_PASSPHRASE: "",
    });
  });

  it("leaves the passphrase that the user set, even an empty one", () => {
    for (const env of [
      { PULUMI_CONFIG_PASSPHRASE: "secret" },
      { PULUMI_CONFIG_PASSPHRASE: "" },
      { PULUMI_CONFIG_PASSPHRASE_FILE: "/passphrase" },
    ]) {
      deepEqual(pulumiDefaults(env, "file://~"), {});
    }
  });

  it("leaves the backend of a user who has an access token", () => {
    deepEqual(pulumiDefaults({ PULUMI_ACCESS_TOKEN: "pul-1" }, undefined), { PULUMI_CONFIG_PASSPHRASE: "" });
  });
});

describe("pulumiEnvironment", () => {
  it("makes the directory of the state, for this user alone", async () => {
    const home = temporaryDirectory();
    const env = { XDG_STATE_HOME: join(home, "state"), PULUMI_HOME: home, XDG_CACHE_HOME: "/cache" };
    const backend = `file://${join(home, "state", "platform")}`;
    deepEqual(await pulumiEnvironment(env), {
      env: {
        ...env,
        NODE_COMPILE_CACHE: "/cache/platform/node",
        PULUMI_BACKEND_URL: backend,
        PULUMI_CONFIG_PASSPHRASE: "",
      },
      backend,
    });
    equal(statSync(join(home, "state", "platform")).mode & 0o777, 0o700);
  });

  it("is that of the user who logged in, whose backend it names", async () => {
    const home = temporaryDirectory();
    writeFiles(home, { "credentials.json": '{"current":"s3://bucket"}' });
    const env = {
      XDG_STATE_HOME: join(home, "state"),
      PULUMI_HOME: home,
      PULUMI_CONFIG_PASSPHRASE: "p",
      NODE_COMPILE_CACHE: "/own",
    };
    deepEqual(await pulumiEnvironment(env), { env, backend: "s3://bucket" });
    equal(existsSync(join(home, "state")), false);
  });

  it("puts the backend that a variable names above the one of the login", async () => {
    const home = temporaryDirectory();
    writeFiles(home, { "credentials.json": '{"current":"s3://bucket"}' });
    const url = `file://${join(home, "mine")}`;
    equal((await pulumiEnvironment({ PULUMI_HOME: home, PULUMI_BACKEND_URL: url })).backend, url);
    equal(existsSync(join(home, "mine")), true);
  });

  for (const [what, credentials] of [
    ["nobody", '{"current":""}'],
    ["a file that was cut off", '{"curr'],
  ] as const) {
    it(`takes ${what} for no login`, async () => {
      const home = temporaryDirectory();
      writeFiles(home, { "credentials.json": credentials });
      const { backend } = await pulumiEnvironment({ PULUMI_HOME: home, XDG_STATE_HOME: home });
      equal(backend, `file://${join(home, "platform")}`);
    });
  }
});

/** A process id that nobody has any more. */
function deadPid(): number {
  return spawnSync("true").pid;
}

/** As Go writes a time: nine digits of a second and a zone. */
const now = () => new Date().toISOString().replace("Z", "123456+00:00");

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
    remove: () => removeStaleLocks(`file://${root}`, "platform", "local"),
    left: () => readdirSync(join(root, below)),
    root,
  };
}

const lockOf = (pid: number, timestamp = now()): Lock => ({
  ...{ pid, username: "me", hostname: hostname(), timestamp },
});
const refusal = ({ pid, hostname: host, timestamp }: Lock) =>
  `Running Pulumi on stack "local" was refused: process ${pid} of me@${host}, since ${timestamp} holds its lock. Wait until it ends, or, if it is gone for sure, run "pulumi cancel --stack local".`;
const notice = ({ pid, hostname: host, timestamp }: Lock) =>
  `A stale lock of stack "local" is removed: process ${pid} of me@${host}, since ${timestamp}; it runs no more.`;

describe("removeStaleLocks", () => {
  it("removes the lock of a process that is gone, and says so", async () => {
    const lock = lockOf(deadPid());
    const { remove, left } = locked({ "a.json": lock });
    deepEqual(await remove(), [notice(lock)]);
    deepEqual(left(), []);
    deepEqual(await remove(), []);
  });

  it("respects the lock of a process that runs", async () => {
    const lock = lockOf(process.pid);
    const { remove, left } = locked({ "a.json": lock });
    await rejects(remove(), { message: refusal(lock) });
    deepEqual(left(), ["a.json"]);
  });

  it("removes the lock of a process whose id another one has now", async () => {
    const lock = lockOf(process.pid, "2020-01-01T00:00:00.123456789+00:00");
    const { remove, left } = locked({ "a.json": lock });
    deepEqual(await remove(), [notice(lock)]);
    deepEqual(left(), []);
  });

  it("respects the lock of another machine, of whose processes it knows nothing", async () => {
    const lock = { ...lockOf(deadPid()), hostname: "elsewhere" };
    const { remove, left } = locked({ "a.json": lock });
    await rejects(remove(), { message: refusal(lock) });
    deepEqual(left(), ["a.json"]);
  });

  for (const [what, text] of [
    ["cut off", '{"pid":12'],
    ["empty", ""],
  ] as const) {
    it(`removes a lock that is ${what}`, async () => {
      const { remove, left } = locked({ "a.json": text });
      deepEqual(await remove(), [
        'A stale lock of stack "local" is removed: it was cut off while it was written; it runs no more.',
      ]);
      deepEqual(left(), []);
    });
  }

  it("looks at every lock, and refuses for one that is respected", async () => {
    const [dead, alive] = [lockOf(deadPid()), lockOf(process.pid)];
    const both = locked({ "a.json": dead, "b.json": dead });
    deepEqual(await both.remove(), [notice(dead), notice(dead)]);
    const mixed = locked({ "a.json": dead, "b.json": alive });
    await rejects(mixed.remove(), { message: refusal(alive) });
    match(mixed.left().join(), /b\.json/);
  });

  for (const [what, tools] of [
    ["there is no ps", () => ({ ...fakeTools({}), PATH: temporaryDirectory() })],
    ["ps knows no start of a process", () => fakeTools({ ps: "echo 'ps: bad -o argument' >&2; exit 1" })],
  ] as const) {
    it(`respects the lock of any process of that id where ${what}`, async () => {
      const [dead, alive] = [lockOf(deadPid()), lockOf(process.pid)];
      await withEnvironment(tools(), async () => {
        await rejects(locked({ "a.json": alive }).remove(), { message: refusal(alive) });
        deepEqual(await locked({ "a.json": dead }).remove(), [notice(dead)]);
      });
    });
  }

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

  it("finds nothing where there is no lock, no directory, and no backend of files", async () => {
    deepEqual(await locked({}).remove(), []);
    deepEqual(await removeStaleLocks("file:///no/such/directory", "platform", "local"), []);
    for (const backend of ["s3://bucket", "https://api.pulumi.com", undefined]) {
      deepEqual(await removeStaleLocks(backend, "platform", "local"), []);
    }
  });

  it("finds the locks of a backend in the user's home", async () => {
    const lock = lockOf(deadPid());
    const { root } = locked({ "a.json": lock });
    await withEnvironment({ HOME: root }, async () => {
      deepEqual(await removeStaleLocks("file://~", "platform", "local"), [notice(lock)]);
    });
  });
});
