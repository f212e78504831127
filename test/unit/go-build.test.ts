import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { goBuild, GoBuildError, programName } from "../../tools/go-build";
import { readGoModule } from "../../tools/go-module";
import type { ToolProgress } from "../../tools/progress";
import { temporaryDirectory, writeFiles } from "./temporary";

const root = join(__dirname, "../..");
const last = 40;

describe("building with Go", function () {
  this.timeout(300_000);
  let directory: string;
  let scratch: string;

  beforeEach(() => {
    directory = temporaryDirectory();
    scratch = join(temporaryDirectory(), "building");
    mkdirSync(scratch);
  });

  /** Two programs that share a chain of packages, which no cache has: each one waits for the next. */
  function writeModule(): void {
    const text = randomBytes(8).toString("hex");
    const chain = Array.from({ length: last }, (_, n): [string, string] => {
      const next = n + 1 < last ? [`import "example.com/x/p${n + 1}"`, `p${n + 1}.Text`] : ["", `"${text}"`];
      return [`p${n}/p.go`, `package p${n}\n${next[0]}\nvar Text = ${next[1]}\n`];
    });
    const main =
      'package main\nimport "example.com/x/p0"\nvar version = "none"\nfunc main() { print(p0.Text, version) }\n';
    writeFiles(directory, {
      ...{ "go.mod": "module example.com/x\n\ngo 1.26\n", "go.sum": "" },
      ...{ ...Object.fromEntries(chain), "cmd/one/main.go": main, "cmd/two/v2/main.go": main },
    });
  }

  const program = (path: string, version = "none") => ({
    ...{ package: `example.com/x/${path}`, linkerFlags: ["-X", `main.version=${version}`] },
  });

  async function build(programs = [program("cmd/one", "v1.0.0"), program("cmd/two/v2", "v2.0.0")]) {
    const progress: ToolProgress[] = [];
    const built: string[] = [];
    await goBuild(
      { module: readGoModule(directory), tags: [], programs },
      {
        ...{ scratch, env: process.env, progress: (each) => progress.push(each) },
        built: (_, path) =>
          built.push(execFileSync(path, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })),
      },
    );
    return { progress, built };
  }

  /** What runs with the scratch directory among its arguments or in its environment. */
  const processes = () =>
    readdirSync("/proc").filter((pid) => {
      try {
        return ["cmdline", "environ"].some((file) =>
          readFileSync(`/proc/${pid}/${file}`, "utf8").includes(scratch),
        );
      } catch {
        return false;
      }
    });

  it("makes each program with its own flags, and counts every package once", async () => {
    writeModule();
    const { progress, built } = await build();
    equal(built.length, 2);
    deepEqual(readdirSync(scratch).sort(), ["one", "two"]);
    const totals = new Set(progress.map(({ total }) => total));
    // The chain and the two programs themselves.
    deepEqual([...totals], [last + 2]);
    const counts = progress.map(({ done }) => done);
    deepEqual(
      counts,
      [...counts].sort((a, b) => a - b),
    );
    ok((counts.at(-1) ?? 0) <= last + 2);
  });

  it("compiles nothing again", async () => {
    writeModule();
    await build();
    const again = await build();
    // The programs themselves are always linked.
    ok((again.progress[0]?.total ?? last) <= 2, String(again.progress[0]?.total));
  });

  for (const signal of ["SIGINT", "SIGKILL"] as const)
    it(`continues after ${signal} where it was, and nothing of it went on`, async () => {
      writeModule();
      const script = `const { goBuild } = require(${JSON.stringify(join(root, "tools/go-build"))});
const { readGoModule } = require(${JSON.stringify(join(root, "tools/go-module"))});
const progress = ({ done }) => { if (done >= 10) process.kill(process.pid, "${signal}"); };
const programs = ${JSON.stringify([program("cmd/one")])};
goBuild({ module: readGoModule(${JSON.stringify(directory)}), tags: [], programs },
  { scratch: ${JSON.stringify(scratch)}, env: process.env, progress, built: () => undefined });`;
      const child = spawn(process.execPath, ["-r", "ts-node/register/transpile-only", "-e", script], {
        cwd: root,
      });
      deepEqual(await once(child, "exit"), [null, signal]);
      for (let tries = 0; processes().length > 0 && tries < 100; tries++) await sleep(50);
      deepEqual(processes(), []);
      const { progress, built } = await build();
      equal(built.length, 2);
      const total = progress[0]?.total ?? 0;
      ok(total > 2 && total <= last + 2 - 8, `${total} packages were left`);
    });

  it("says what Go says when a package is broken", async () => {
    writeModule();
    writeFiles(directory, { "cmd/one/main.go": "package main\nfunc main() { nothing() }\n" });
    await rejects(build(), (error: Error) => {
      ok(error instanceof GoBuildError);
      match(error.output, /undefined: nothing/);
      return true;
    });
  });

  it("names a program as Go names it", () => {
    const packages = ["example.com/x/cmd/one", "example.com/server/v3", "example.com/kind"];
    deepEqual(packages.map(programName), ["one", "server", "kind"]);
  });
});
