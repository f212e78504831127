import { deepEqual, equal, match } from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { renderCluster } from "../../core/tree/render";
import type { RehearsalResult } from "../../rehearsal/rehearsal";

const project = join(__dirname, "..", "..");

/** What is in a temporary directory, but for the compile cache of ts-node. */
async function leftIn(directory: string): Promise<string[]> {
  return (await readdir(directory)).filter((name) => !name.startsWith("v8-compile-cache-"));
}

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command as `npx platform rehearse …` does, with a temporary directory of its own. */
async function rehearse(
  args: readonly string[],
  options: { env?: Record<string, string>; interrupt?: (stderr: string) => NodeJS.Signals | undefined } = {},
): Promise<Ended & { readonly left: readonly string[] }> {
  const scratch = await mkdtemp(join(tmpdir(), "platform-cli-"));
  try {
    const ended = await new Promise<Ended>((resolve, reject) => {
      const child = spawn(
        process.execPath,
        ["-r", "ts-node/register/transpile-only", join(project, "commands", "main.ts"), "rehearse", ...args],
        { cwd: project, env: { ...process.env, TMPDIR: scratch, ...options.env } },
      );
      let stdout = "";
      let stderr = "";
      let signalled = false;
      child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
      child.stderr.on("data", (chunk: Buffer) => {
        stderr += chunk.toString();
        const signal = signalled ? undefined : options.interrupt?.(stderr);
        if (signal === undefined) return;
        signalled = true;
        child.kill(signal);
      });
      child.once("error", reject);
      child.once("close", (code) => {
        resolve({ code, stdout, stderr });
      });
    });
    return { ...ended, left: await leftIn(scratch) };
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

describe("npx platform rehearse", function () {
  this.timeout(180_000);

  for (const stack of ["dev", "prod"]) {
    it(`rehearses ${stack} without its identity, and prints one JSON document`, async () => {
      const { code, stdout, stderr, left } = await rehearse(["--stack", stack, "--output", "json"]);
      equal(code, 0, stderr);
      const result = JSON.parse(stdout) as RehearsalResult;
      deepEqual(Object.keys(result).sort(), [
        "layers",
        "objects",
        "ready",
        "revision",
        "seconds",
        "simulated",
        "stack",
      ]);
      deepEqual([result.stack, result.ready], [stack, true]);
      deepEqual(
        result.layers.map(({ name, ready }) => [name, ready]),
        [
          ["flux-system", true],
          ["controllers", true],
          ["certs", true],
          ["apps", true],
        ],
      );
      equal(
        result.objects,
        result.layers.reduce((sum, { objects }) => sum + objects, 0),
      );
      const { layers } = await renderCluster(join(project, "gitops"), stack);
      for (const { name, manifests } of layers) {
        equal(result.layers.find((layer) => layer.name === name)?.objects, manifests.length, name);
      }
      deepEqual(left, []);
    });
  }

  for (const [name, args, message] of [
    [
      "an unknown stack",
      ["--stack", "staging"],
      /^Reading stack "staging" failed: there is no Pulumi\.staging\.yaml\. Stacks here are dev, local, prod\.$/m,
    ],
    [
      "no stack",
      [],
      /^Running "npx platform rehearse" failed: no stack is named\. Stacks here are dev, local, prod\. See "npx platform rehearse --help"\.$/m,
    ],
    ["an unknown option", ["--stack", "local", "--verbose"], /failed: unknown option '--verbose'\. See/],
    [
      "an unknown output",
      ["--stack", "local", "--output", "xml"],
      /option '--output <format>' argument 'xml' is invalid\. Allowed choices are text, json\. See/,
    ],
  ] as const) {
    it(`refuses ${name} with one sentence`, async () => {
      const { code, stdout, stderr, left } = await rehearse(args);
      deepEqual([code, stdout, left], [name === "an unknown stack" ? 1 : 2, "", []]);
      match(stderr, message);
      equal(/^\s+at /m.test(stderr), false, stderr);
    });
  }

  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    it(`leaves nothing behind on ${signal} half-way`, async () => {
      const { code, stderr, left } = await rehearse(["--stack", "local"], {
        interrupt: (text) => (text.includes("create platform-seed") ? signal : undefined),
      });
      equal(code, signal === "SIGINT" ? 130 : 143, stderr);
      deepEqual(left, []);
    });
  }

  it("leaves nothing behind when it is killed", async () => {
    const scratch = await mkdtemp(join(tmpdir(), "platform-killed-"));
    await rehearse(["--stack", "local"], {
      env: { TMPDIR: scratch },
      interrupt: (text) => (text.includes("create platform-seed") ? "SIGKILL" : undefined),
    });
    for (let attempt = 0; attempt < 100 && (await leftIn(scratch)).length > 0; attempt++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    deepEqual(await leftIn(scratch), []);
    await rm(scratch, { recursive: true, force: true });
  });
});
