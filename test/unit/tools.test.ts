import { deepEqual, equal, match, notEqual, ok, rejects } from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { readGoModule, versionOf } from "../../tools/go-module";
import { withLock } from "../../system/lock";
import { identify, isRunning } from "../../system/process-identity";
import { binDirectory, sharedBinDirectory } from "../../tools/bin";
import type { ToolProgress } from "../../tools/progress";
import { ensureTools, findOptional, installTools, pinnedVersion, saysVersion } from "../../tools/tools";
import { fakeGo } from "./temporary";

const root = join(__dirname, "../..");

describe("tools", () => {
  let directory: string;
  let env: NodeJS.ProcessEnv;

  beforeEach(() => {
    directory = realpathSync(mkdtempSync(join(tmpdir(), "tools-test-")));
    mkdirSync(join(directory, "path"));
    env = {
      ...{ PATH: join(directory, "path"), XDG_CACHE_HOME: join(directory, "cache") },
      PLATFORM_BUILD_TOOLS: "true",
    };
  });

  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  /** An executable on the PATH of the test, which has nothing else. */
  function program(name: string, script: string): string {
    const path = join(directory, "path", name);
    rmSync(path, { force: true });
    writeFileSync(path, `#!/bin/sh\n${script}\n`);
    chmodSync(path, 0o755);
    return path;
  }

  /** A Go that builds "built", and writes a line to a log for each build. */
  function installGo(afterwards = ""): void {
    program("go", `${fakeGo("built\\n", `echo "$PWD $*" >>"${directory}/go.log"`)}\n${afterwards}`);
  }

  const goCalls = () => readFileSync(join(directory, "go.log"), "utf8").trim().split("\n");
  const building = () => existsSync(join(directory, "cache/platform/tools/building"));
  /** What is installed of a tool, whole or not. */
  const installed = (name: string) => {
    const home = join(directory, "cache/platform/tools", name);
    return existsSync(home) ? readdirSync(home, { recursive: true }) : [];
  };

  describe("versions", () => {
    it("are those of the module with the longest matching path, whatever the form of the requirement", () => {
      writeFileSync(
        join(directory, "go.mod"),
        `module x\n\ngo 1.26.3\n\nrequire example.com/single v1.0.0\n\nrequire (\n\texample.com/a v1.1.0\n\texample.com/a/b v1.2.0 // indirect\n)\n`,
      );
      writeFileSync(
        join(directory, "go.sum"),
        "example.com/a v1.1.0 h1:sum=\nexample.com/a v1.1.0/go.mod h1:mod=\n",
      );
      const module = readGoModule(directory);
      equal(module.go, "1.26.3");
      equal(versionOf(module, "example.com/single/cmd/x"), "v1.0.0");
      equal(versionOf(module, "example.com/a/cmd/x"), "v1.1.0");
      equal(versionOf(module, "example.com/a/b/cmd/x"), "v1.2.0");
      equal(versionOf(module, "example.com/ab"), undefined);
      equal(module.sums.get("example.com/a v1.1.0"), "h1:sum=");
    });

    it("come from the go.mod of the tool", () => {
      const mod = readFileSync(join(root, "tools/go.mod"), "utf8");
      equal(pinnedVersion("kube-apiserver"), /k8s\.io\/kubernetes (v\S+)/.exec(mod)?.[1]);
      equal(pinnedVersion("etcd"), /go\.etcd\.io\/etcd\/server\/v3 (v\S+)/.exec(mod)?.[1]);
    });

    for (const [output, said] of [
      ["Kubernetes v1.2.3", true],
      ["etcd Version: 1.2.3\nGit SHA: x", true],
      ["v1.2.3+g12345", true],
      ["kind v1.2.3 go1.26.8 linux/amd64", true],
      ["v1.2.3-rc.1", false],
      ["v1.2.30", false],
      ["v11.2.3", false],
      ["v1.2.3.4", false],
      ["0.1.2.3", false],
      ["v1x2x3", false],
    ] as const)
      it(`${said ? "are" : "are not"} recognised in ${JSON.stringify(output)}`, () => {
        equal(saysVersion(output, "v1.2.3"), said);
      });
  });

  describe("a tool on PATH", () => {
    it("is used as it is when it says it is of the pinned version", async () => {
      const path = program("kustomize", `echo ${pinnedVersion("kustomize")}`);
      const { kustomize } = await ensureTools(["kustomize"], { env });
      equal(realpathSync(kustomize), path);
      equal(realpathSync(join(binDirectory(env), "kustomize")), path);
    });

    it("is not used when it says another version", async () => {
      program("kustomize", "echo v0.0.1");
      installGo();
      const { kustomize } = await ensureTools(["kustomize"], { env });
      equal(readFileSync(kustomize, "utf8"), "built\n");
    });

    it("is not used when it fails", async () => {
      program("kustomize", `echo ${pinnedVersion("kustomize")}; exit 1`);
      await rejects(ensureTools(["kustomize"], { env }), /Go is not installed/);
    });

    it("is looked at again after it changed", async () => {
      program("kustomize", `echo ${pinnedVersion("kustomize")}`);
      await ensureTools(["kustomize"], { env });
      await sleep(20);
      program("kustomize", "echo v0.0.1");
      await rejects(ensureTools(["kustomize"], { env }), /Go is not installed/);
    });

    it("is not asked a second time", async () => {
      program("kustomize", `echo asked >>"${directory}/asked"; echo ${pinnedVersion("kustomize")}`);
      await sleep(20);
      await ensureTools(["kustomize"], { env });
      await ensureTools(["kustomize"], { env });
      equal(readFileSync(join(directory, "asked"), "utf8"), "asked\n");
    });
  });

  describe("a tool that is built", () => {
    it("is built once, with the others of its go.mod, and linked into the bin directory", async () => {
      installGo("/bin/sleep 0.2");
      const lines: string[] = [];
      const report = (line: string) => lines.push(line);
      const [first, second] = await Promise.all([
        ensureTools(["kind", "crane", "etcd"], { env, report }),
        ensureTools(["kind", "crane", "etcd"], { env, report: () => undefined }),
      ]);
      deepEqual(first, second);
      const [ofTools = "", ofCli = "", ...more] = goCalls();
      deepEqual(more, []);
      match(ofTools, new RegExp(`^${join(root, "tools")} build .* go.etcd.io/etcd/server/v3 .*/crane$`));
      match(ofCli, new RegExp(`^${join(root, "tools/cli")} build .* sigs.k8s.io/kind$`));
      equal(realpathSync(join(binDirectory(env), "kind")), first.kind);
      equal(building(), false);
      // Nothing was to compile.
      deepEqual(lines, []);
    });

    it("gives each tool as soon as it is there", async () => {
      program(
        "go",
        `[ "$1" = build ] || exit 0
while [ "$1" != -o ]; do shift; done
echo built >"$2/server"
while [ ! -e "${directory}/go on" ]; do /bin/sleep 0.05; done
echo built >"$2/crane"`,
      );
      const { paths, all } = installTools(["etcd", "crane"], { env });
      equal(readFileSync(await paths.etcd, "utf8"), "built\n");
      deepEqual(installed("crane"), []);
      writeFileSync(join(directory, "go on"), "");
      deepEqual(await all, { etcd: await paths.etcd, crane: await paths.crane });
    });

    it("is not compiled any more when the caller ends the build", async () => {
      program("go", `[ "$1" = build ] || exit 0; echo $$ >"${directory}/pid"; exec /bin/sleep 60`);
      const ended = new AbortController();
      const { all } = installTools(["kind"], { env, signal: ended.signal });
      while (!existsSync(join(directory, "pid"))) await sleep(20);
      ended.abort(new Error("enough"));
      await rejects(all, /^Error: enough$/);
      equal(identify(Number(readFileSync(join(directory, "pid"), "utf8"))), undefined);
      deepEqual(installed("kind"), []);
      equal(building(), false);
    });

    it("tells a process that waits how far the other one is", async function () {
      this.timeout(10_000);
      program(
        "go",
        `if [ "$1" = list ]; then echo "example.com/x /nowhere x.go" | /usr/bin/tr " " "\\t"; exit; fi
while [ "$1" != -o ]; do shift; done
while [ ! -e "${directory}/go on" ]; do /bin/sleep 0.05; done
echo built >"$2/kind"`,
      );
      const builds = ensureTools(["kind"], { env });
      const told = Promise.withResolvers<ToolProgress>();
      const lines: string[] = [];
      const waits = ensureTools(["kind"], {
        ...{
          env,
          progress: (each) => {
            if (each) told.resolve(each);
          },
        },
        report: (line) => lines.push(line),
      });
      equal((await told.promise).pid, process.pid);
      match(
        lines.join(),
        new RegExp(`^waiting for process ${process.pid}, which is getting the tools ready$`),
      );
      writeFileSync(join(directory, "go on"), "");
      deepEqual(await waits, await builds);
    });

    it("is taken from a process that still builds others", async function () {
      this.timeout(10_000);
      program(
        "go",
        `[ "$1" = build ] || exit 0
while [ "$1" != -o ]; do shift; done
echo built >"$2/server"
while [ ! -e "${directory}/go on" ]; do /bin/sleep 0.05; done
echo built >"$2/crane"`,
      );
      const both = ensureTools(["etcd", "crane"], { env });
      const { etcd } = await ensureTools(["etcd"], { env });
      equal(readFileSync(etcd, "utf8"), "built\n");
      deepEqual(installed("crane"), []);
      writeFileSync(join(directory, "go on"), "");
      await both;
    });

    it("stays in its place while a checkout with other pins links its own", async () => {
      installGo();
      const { kustomize: own } = await ensureTools(["kustomize"], { env });
      const other = join(directory, "other");
      cpSync(join(root, "tools"), join(other, "tools"), { recursive: true });
      cpSync(join(root, "system"), join(other, "system"), { recursive: true });
      symlinkSync(join(root, "node_modules"), join(other, "node_modules"));
      const mod = join(other, "tools/cli/go.mod");
      writeFileSync(mod, `${readFileSync(mod, "utf8")}// another pin\n`);
      const script = `require(${JSON.stringify(join(other, "tools/tools"))}).ensureTools(["kustomize"]).then((paths) => console.log(paths.kustomize))`;
      const { stdout, stderr } = spawnSync(
        process.execPath,
        ["-r", "ts-node/register/transpile-only", "-e", script],
        { cwd: root, env, encoding: "utf8" },
      );
      equal(stderr, "");
      notEqual(stdout.trim(), own);
      equal(realpathSync(join(binDirectory(env), "kustomize")), own);
      equal(realpathSync(join(sharedBinDirectory(env), "kustomize")), stdout.trim());
    }).timeout(30_000);

    it("is built with the user's sources of modules, and none of the flags", async () => {
      program(
        "go",
        `/usr/bin/env > "${directory}/go.env"
[ "$1" = build ] || exit 0
while [ "$1" != -o ]; do shift; done
echo built >"$2/kind"`,
      );
      const user = {
        GOPROXY: "https://proxy.example.com",
        GOPRIVATE: "example.com",
        GONOSUMDB: "example.com",
      };
      const strange = {
        GOFLAGS: "-mod=mod",
        GOOS: "plan9",
        GOARCH: "arm",
        GOWORK: "/x",
        GIT_DIR: "/x",
        CC: "/x",
      };
      await ensureTools(["kind"], { env: { ...env, ...user, ...strange } });
      const given = readFileSync(join(directory, "go.env"), "utf8").trim().split("\n").sort();
      deepEqual(
        given.filter((line) => /^(GO(PROXY|PRIVATE|NOSUMDB|FLAGS|OS|ARCH|WORK)|GIT_DIR|CC)=/.test(line)),
        [
          ...["GOFLAGS=-mod=readonly", "GONOSUMDB=example.com", "GOPRIVATE=example.com"],
          ...["GOPROXY=https://proxy.example.com", "GOWORK=off"],
        ],
      );
    });

    it("is there the next time without any process", async () => {
      installGo();
      const first = await ensureTools(["kind", "helm", "etcd"], { env });
      rmSync(join(directory, "path"), { recursive: true });
      deepEqual(await ensureTools(["kind", "helm", "etcd"], { env }), first);
    });

    it("leaves nothing half made when the build fails", async () => {
      installGo("exit 1");
      await rejects(ensureTools(["kind"], { env }), /go build failed/);
      deepEqual(installed("kind"), []);
      equal(building(), false);
    });

    it("leaves nothing half made after Ctrl-C", async function () {
      this.timeout(10_000);
      installGo(`echo half >"${directory}/half"; exec /bin/sleep 60`);
      const script = `require(${JSON.stringify(join(root, "tools/tools"))}).ensureTools(["kind"])`;
      const child = spawn(process.execPath, ["-r", "ts-node/register/transpile-only", "-e", script], {
        cwd: root,
        env,
      });
      while (!existsSync(join(directory, "half"))) await sleep(20);
      child.kill("SIGINT");
      const [, signal] = (await once(child, "exit")) as [number | null, string | null];
      equal(signal, "SIGINT");
      deepEqual(installed("kind"), []);
      equal(building(), false);
    });
  });

  describe("errors say what to do", () => {
    const cases: readonly (readonly [string, string | undefined, RegExp])[] = [
      [
        "Go is missing",
        undefined,
        /^Building tool "kind" v\S+: Go is not installed\. Install Go 1\.\S+ or newer from .*, or put kind v\S+ on PATH\.$/,
      ],
      [
        "Go is too old",
        "go: go.mod requires go >= 1.26.0 (running go 1.24.1; GOTOOLCHAIN=local)",
        /the Go on PATH is 1\.24\.1, which is older than 1\.\S+,.*Install Go/,
      ],
      [
        "Go is very old",
        "go: errors parsing go.mod: invalid go version '1.26.0': must match format 1.23",
        /the Go on PATH is older than 1\./,
      ],
      [
        "a download is refused",
        'go: x@v1: Get "https://proxy.golang.org/x": dial tcp: lookup proxy.golang.org: no such host',
        /a download was refused or failed .*proxy\.golang\.org.*GOPROXY/,
      ],
      [
        "a proxy forbids it",
        "go: x@v1: reading https://proxy.golang.org/x.zip: 403 Forbidden",
        /a download was refused or failed/,
      ],
      ["the disk is full", "write /x: no space left on device", /no disk space is left\. Free/],
      [
        "a build fails otherwise",
        "x.go:1: undefined: y",
        /go build failed \(x\.go:1: undefined: y\)\. Run it in .*tools\/cli/,
      ],
    ];
    for (const [name, stderr, message] of cases)
      it(name, async () => {
        if (stderr !== undefined) program("go", `echo '${stderr}' >&2; exit 1`);
        await rejects(ensureTools(["kind"], { env }), (error: Error) => {
          match(error.message, message);
          return true;
        });
      });
  });

  describe("an optional controller", () => {
    it("is found on PATH", () => {
      const path = program("helm-controller", "");
      equal(findOptional("helm-controller", env), path);
    });

    it("is found in the bin directory", () => {
      const path = join(sharedBinDirectory(env), "helm-controller");
      mkdirSync(sharedBinDirectory(env), { recursive: true });
      writeFileSync(path, "", { mode: 0o755 });
      equal(findOptional("helm-controller", env), path);
    });

    it("is not found when there is none, or no executable one", () => {
      writeFileSync(join(directory, "path/helm-controller"), "", { mode: 0o644 });
      equal(findOptional("helm-controller", env), undefined);
      equal(findOptional("notification-controller", env), undefined);
    });
  });
});

describe("lock", () => {
  let directory: string;

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "lock-test-"));
  });

  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  const hold = (holder: unknown) => {
    writeFileSync(join(directory, "lock.7"), JSON.stringify(holder));
  };

  /** Many who want the lock at once; returns how many had it at the same time, at most. */
  async function crowd(): Promise<number> {
    let inside = 0;
    let most = 0;
    const work = async () => {
      most = Math.max(most, ++inside);
      await sleep(2);
      inside--;
    };
    await Promise.all(Array.from({ length: 20 }, () => withLock(directory, work, { interval: 1 })));
    return most;
  }

  it("lets one in at a time", async () => {
    equal(await crowd(), 1);
  });

  it("is taken over, by one, from a process that died", async () => {
    const { pid } = spawnSync("/bin/sh", ["-c", ":"]);
    hold({ pid, started: "1" });
    equal(await crowd(), 1);
  });

  it("is taken over from a process whose id belongs to another one now", async () => {
    hold({ pid: process.pid, started: "1" });
    equal(await withLock(directory, () => Promise.resolve("done")), "done");
  });

  it("waits for a process that runs, and says so once", async () => {
    const child = spawn("/bin/sleep", ["60"]);
    const waited: number[] = [];
    try {
      const holder = identify(child.pid ?? 0);
      ok(holder && isRunning(holder));
      hold(holder);
      const onWait = (pid: number) => waited.push(pid);
      const work = withLock(directory, () => Promise.resolve("done"), { onWait, interval: 5 });
      equal(await Promise.race([work, sleep(60).then(() => "waiting")]), "waiting");
      child.kill("SIGKILL");
      equal(await work, "done");
      deepEqual(waited, [child.pid]);
    } finally {
      child.kill("SIGKILL");
    }
  });

  it("is released when the work fails", async () => {
    await rejects(
      withLock(directory, () => Promise.reject(new Error("no"))),
      /^Error: no$/,
    );
    equal(await withLock(directory, () => Promise.resolve("done")), "done");
  });
});
