import { equal, match, ok } from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { stackName, type Machine } from "./machine";
import { suiteOnKind } from "./suite";

/** At how many moments of a run it is killed. */
const kills = Number(process.env.KIND_KILLS ?? 20);

/** How a run that was started on its own ended. */
interface Run {
  readonly code: number | null;
  readonly seconds: number;
  readonly output: string;
}

suiteOnKind("pulumi up on Kind, killed", (prepared) => {
  let machine: Machine;
  let whole = 0;

  before(async () => {
    machine = prepared();
    await nothing();
    const first = await pulumi("up", "--yes", "--skip-preview");
    equal(first.code, 0, first.output);
    whole = first.seconds;
    console.log(`    a whole run takes ${whole.toFixed(1)} s`);
  });

  /** Takes everything away but the images of the offline world; the stack exists, and is empty. */
  async function nothing(): Promise<void> {
    await machine.lose();
    rmSync(join(machine.directory, "pulumi", ".pulumi"), { recursive: true, force: true });
    await machine.stack();
  }

  /** Runs the Pulumi CLI itself; with a moment, kills it there, the whole process and nothing else. */
  function pulumi(command: string, ...rest: string[]): Promise<Run>;
  function pulumi(command: string, ...rest: [...string[], { killAfter: number }]): Promise<Run>;
  function pulumi(command: string, ...rest: (string | { killAfter: number })[]): Promise<Run> {
    const args = rest.filter((arg): arg is string => typeof arg === "string");
    const moment = rest.find((arg) => typeof arg !== "string")?.killAfter;
    const start = Date.now();
    let output = "";
    return new Promise((resolve, reject) => {
      const child = spawn("pulumi", [command, "--stack", stackName, ...args, "--color", "never"], {
        cwd: machine.project,
        env: machine.env,
      });
      const timer = moment === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), moment * 1000);
      const keep = (chunk: Buffer) => (output += chunk.toString());
      child.stdout.on("data", keep);
      child.stderr.on("data", keep);
      child.once("error", reject);
      child.once("exit", (code) => {
        clearTimeout(timer);
        resolve({ code, seconds: (Date.now() - start) / 1000, output });
      });
    });
  }

  /** What a person types after a crash. */
  function next(): Promise<Run> {
    const start = Date.now();
    return new Promise((resolve) => {
      execFile(
        "npm",
        ["run", "-s", "up", "--", "--stack", stackName, "--yes", "--skip-preview", "--color", "never"],
        { cwd: machine.project, env: machine.env, maxBuffer: 64 * 1024 * 1024 },
        (error, stdout, stderr) => {
          const code = error === null ? 0 : Number(error.code ?? 1);
          resolve({ code, seconds: (Date.now() - start) / 1000, output: stdout + stderr });
        },
      );
    });
  }

  for (let number = 1; number <= kills; number++) {
    it(`at moment ${number} of ${kills}, converges in the next run`, async function () {
      await nothing();
      // Nine tenths of the whole: a run that is faster this time is killed all the same.
      const moment = (0.9 * whole * (number - 0.5)) / kills;
      const killed = await pulumi("up", "--yes", "--skip-preview", { killAfter: moment });
      if (killed.code === 0) {
        console.log(`      whole after ${killed.seconds.toFixed(1)} s, before its moment`);
        return;
      }
      const run = await next();
      equal(run.code, 0, `killed after ${moment.toFixed(1)} s; the next run said:\n${run.output}`);
      equal(await machine.run("pulumi", "stack", "output", "ready", "--stack", stackName), "true\n");
      const state = await machine.run("pulumi", "stack", "export", "--stack", stackName);
      ok(state.includes("release:Gate"), "the release is not in state");
      console.log(`      killed after ${moment.toFixed(1)} s, Ready ${run.seconds.toFixed(1)} s later`);
    });
  }

  it("names a live run that holds the lock, and leaves it alone", async () => {
    const running = pulumi("up", "--yes", "--skip-preview");
    const locks = join(
      machine.directory,
      "pulumi",
      ".pulumi",
      "locks",
      "organization",
      "platform",
      stackName,
    );
    while (!existsSync(locks) || !readdirSync(locks).some((file) => file.endsWith(".json"))) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const refused = await next();
    equal(refused.code, 1);
    match(
      refused.output,
      /^Running Pulumi on stack "offline" was refused: process \d+ of \S+@\S+, since \S+ holds its lock\. Wait until it ends, or, if it is gone for sure, run "pulumi cancel --stack offline"\.$/m,
    );
    equal((await running).code, 0);
  });
});
