import { deepEqual, equal, match, notEqual } from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { nodeName, registryName, stackName, type Machine } from "./machine";
import { faults, remains } from "./platform-check";
import { suiteOnKind } from "./suite";

/** At how many moments `up` is killed, and `destroy` twice. */
const kills = Number(process.env.KIND_KILLS ?? 20);

/** How a run that was started on its own ended. */
interface Run {
  /** null when it was killed. */
  readonly code: number | null;
  readonly seconds: number;
  /** From its start until it changed something. */
  readonly secondsToChange: number;
  readonly output: string;
}

suiteOnKind("pulumi on Kind, killed", (prepared) => {
  let machine: Machine;
  /** What is there between two tests; undefined after one that failed. */
  let standing: "platform" | "nothing" | undefined;

  before(() => {
    machine = prepared();
  });

  /** Runs the Pulumi CLI itself; killed some seconds after its first change, the whole process and nothing else. */
  function pulumi(command: "up" | "destroy" | "cancel", killAfter?: number): Promise<Run> {
    const options = command === "cancel" ? [] : ["--skip-preview"];
    const start = Date.now();
    const seconds = () => (Date.now() - start) / 1000;
    let output = "";
    let secondsToChange = Infinity;
    let timer: NodeJS.Timeout | undefined;
    return new Promise((resolve, reject) => {
      const args = [command, "--stack", stackName, "--yes", ...options, "--color", "never"];
      const child = spawn("pulumi", args, { cwd: machine.project, env: machine.env });
      const keep = (chunk: Buffer) => {
        output += chunk.toString();
        if (secondsToChange < Infinity || !/ (creating|updating|deleting) /.test(output)) return;
        secondsToChange = seconds();
        if (killAfter !== undefined) timer = setTimeout(() => child.kill("SIGKILL"), killAfter * 1000);
      };
      child.stdout.on("data", keep);
      child.stderr.on("data", keep);
      child.once("error", reject);
      child.once("exit", (code) => {
        clearTimeout(timer);
        resolve({ code, seconds: seconds(), secondsToChange, output });
      });
    });
  }

  /** What a person types after a crash. */
  function platformUp(): Promise<Run> {
    const start = Date.now();
    return new Promise((resolve) => {
      execFile(
        "commands/platform",
        ["up", stackName, "--yes", "--skip-preview", "--color", "never"],
        { cwd: machine.project, env: machine.env, maxBuffer: 64 * 1024 * 1024 },
        (error, stdout, stderr) => {
          const code = error === null ? 0 : Number(error.code ?? 1);
          const seconds = (Date.now() - start) / 1000;
          resolve({ code, seconds, secondsToChange: seconds, output: stdout + stderr });
        },
      );
    });
  }

  /** Takes everything away but the images of the offline world; the stack exists, and is empty. */
  async function nothing(): Promise<void> {
    if (standing !== "nothing") {
      await machine.lose();
      rmSync(join(machine.directory, "pulumi", ".pulumi"), { recursive: true, force: true });
      await machine.stack();
    }
    standing = undefined;
  }

  /** Every layer is Ready. */
  async function platform(): Promise<void> {
    if (standing !== "platform") {
      await nothing();
      await converges();
    }
    standing = undefined;
  }

  /** The next run ends well, and the platform is what that run says it is. Returns its seconds, and the digest. */
  async function converges(): Promise<{ seconds: number; digest: string }> {
    const { code, seconds, output } = await platformUp();
    equal(code, 0, output);
    const digest = (await machine.run("pulumi", "stack", "output", "digest", "--stack", stackName)).trim();
    deepEqual(await faults(machine, digest), [], output);
    return { seconds, digest };
  }

  /** A change of the tree is released, and Ready. Returns the seconds. */
  async function releasesAChange(digest: string): Promise<number> {
    appendFileSync(join(machine.project, "gitops/bases/apps/whoami/service.yaml"), "# changed\n");
    const released = await converges();
    notEqual(released.digest, digest);
    return released.seconds;
  }

  it("names a live run that holds the lock, and leaves it alone", async () => {
    await nothing();
    const running = pulumi("up");
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
    const refused = await platformUp();
    equal(refused.code, 1);
    match(
      refused.output,
      /^Running Pulumi on stack "offline" was refused: process \d+ of \S+@\S+, since \S+ holds its lock\. Wait until it ends, or, if it is gone for sure, run "pulumi cancel --stack offline"\.$/m,
    );
    equal((await running).code, 0);
    standing = "platform";
  });

  it("a destroy that cannot delete the cluster: the next run converges, and so does the next release", async () => {
    await platform();
    const bin = join(machine.directory, "undeletable");
    mkdirSync(bin, { recursive: true });
    const script = `#!/bin/sh\ncase "$*" in "rm "*${nodeName}*) echo "device or resource busy" >&2; exit 1 ;; esac\nPATH='${machine.env.PATH ?? ""}' exec docker "$@"\n`;
    writeFileSync(join(bin, "docker"), script, { mode: 0o755 });
    const { PATH } = machine.env;
    machine.env.PATH = [bin, PATH].join(delimiter);
    const failed = await pulumi("destroy");
    machine.env.PATH = PATH;
    notEqual(failed.code, 0, failed.output);
    match(failed.output, /device or resource busy/);
    const { digest } = await converges();
    await releasesAChange(digest);
    standing = "platform";
  });

  describe("at a moment of a run", () => {
    /** Seconds of a whole run, from its first change on. */
    const whole = { up: 0, destroy: 0 };

    before(async () => {
      await nothing();
      for (const command of ["up", "destroy"] as const) {
        const run = await pulumi(command);
        equal(run.code, 0, run.output);
        whole[command] = run.seconds - run.secondsToChange;
        console.log(`    a whole ${command} changes something for ${whole[command].toFixed(1)} s`);
      }
      deepEqual(await remains(machine), [`volume ${registryName}`]);
      standing = "nothing";
    });

    /**
     * Kills a run at a part of its way. One that ended before was faster than the first: another is killed earlier.
     *
     * @returns seconds after its first change
     */
    async function kill(command: "up" | "destroy", part: number): Promise<number> {
      for (let moment = whole[command] * part; ; moment *= 0.8) {
        await (command === "up" ? nothing() : platform());
        const run = await pulumi(command, moment);
        if (run.code === null) return moment;
        equal(run.code, 0, run.output);
        standing = command === "up" ? "platform" : "nothing";
      }
    }

    for (let number = 1; number <= kills; number++) {
      // The golden ratio spreads the moments evenly, however many of them there are.
      const part = (number * 0.618034) % 1;
      const at = `killed after ${Math.round(part * 100)} % (${number} of ${kills})`;

      it(`up, ${at}: the next run converges`, async () => {
        const moment = await kill("up", part);
        const { seconds } = await converges();
        standing = "platform";
        console.log(`      killed after ${moment.toFixed(1)} s, Ready ${seconds.toFixed(1)} s later`);
      });

      it(`destroy, ${at}: the next run converges, and so does the next release`, async () => {
        const moment = await kill("destroy", part);
        const { seconds, digest } = await converges();
        const release = await releasesAChange(digest);
        standing = "platform";
        console.log(
          `      killed after ${moment.toFixed(1)} s, Ready ${seconds.toFixed(1)} s later, released in ${release.toFixed(1)} s`,
        );
      });

      it(`destroy, ${at}: repeated, it leaves nothing but the volume that is to be retained`, async () => {
        const moment = await kill("destroy", part);
        const cancel = await pulumi("cancel");
        equal(cancel.code, 0, cancel.output);
        const { code, seconds, output } = await pulumi("destroy");
        equal(code, 0, output);
        deepEqual(await remains(machine), [`volume ${registryName}`], output);
        const state = await machine.run("pulumi", "stack", "export", "--stack", stackName);
        deepEqual((JSON.parse(state) as State).deployment.resources ?? [], []);
        standing = "nothing";
        console.log(`      killed after ${moment.toFixed(1)} s, gone ${seconds.toFixed(1)} s later`);
      });
    }
  });
});

/** What is used of `pulumi stack export`. */
interface State {
  readonly deployment: { readonly resources?: readonly unknown[] };
}
