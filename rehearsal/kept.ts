import { fork, type ChildProcess } from "node:child_process";
import { hash } from "node:crypto";
import { realpathSync } from "node:fs";
import { mkdir, open, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { cacheDirectory } from "../system/cache";
import { withLock } from "../system/lock";
import { identify, isRunning, type ProcessIdentity } from "../system/process-identity";
import type { ToolProgress } from "../tools/progress";
import { Rehearsal, type RehearsalOptions, type RehearsalResult } from "./rehearsal";

/** A rehearsal that continues in the background. */
export interface Kept {
  readonly kubeconfigPath: string;
  readonly result: RehearsalResult;
}

/** The options of a rehearsal that another process runs. */
type KeptOptions = Omit<RehearsalOptions, "report" | "progress">;

/** The messages of the background process to the process that started it. */
type KeeperMessage =
  | { readonly kind: "line"; readonly line: string }
  | { readonly kind: "progress"; readonly progress?: ToolProgress }
  | { readonly kind: "started"; readonly kubeconfig: string }
  | { readonly kind: "kept"; readonly kept: Kept }
  | { readonly kind: "failed"; readonly message: string };

/**
 * The record of a checkout's background process, and its log: each checkout has one at most.
 *
 * @param project absolute path of the directory that holds Pulumi.yaml
 */
function keptDirectory(project: string): string {
  const name = hash("sha256", realpathSync(project)).slice(0, 16);
  return join(cacheDirectory(), "kept", name);
}

function recordFile(project: string): string {
  return join(keptDirectory(project), "record.json");
}

interface Record {
  readonly process: ProcessIdentity;
  readonly stack: string;
}

async function readRecord(project: string): Promise<Record | undefined> {
  try {
    const record = JSON.parse(await readFile(recordFile(project), "utf8")) as Record;
    return isRunning(record.process) ? record : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Rehearses in a separate process, which continues with the simulated controllers until `stopKept`.
 *
 * @param started gets the kubeconfig as soon as the control plane answers
 * @throws Error when this checkout has a kept rehearsal already, or the rehearsal fails
 */
export async function keep(
  options: KeptOptions,
  { report, progress }: Pick<RehearsalOptions, "report" | "progress">,
  started: (kubeconfig: string) => void,
): Promise<Kept> {
  const directory = keptDirectory(options.project);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  // Two processes that start at the same moment both find no running rehearsal.
  const child = await withLock(directory, () => startKeeper(options));
  const interrupt = () => child.kill("SIGTERM");
  process.once("SIGINT", interrupt).once("SIGTERM", interrupt);
  try {
    return await new Promise<Kept>((resolve, reject) => {
      child.on("message", (message: KeeperMessage) => {
        if (message.kind === "line") report(message.line);
        else if (message.kind === "progress") progress?.(message.progress);
        else if (message.kind === "started") started(message.kubeconfig);
        else if (message.kind === "kept") resolve(message.kept);
        else reject(new Error(message.message));
      });
      child.once("exit", (code, signal) => {
        reject(
          new Error(`Rehearsing stack "${options.stack}" ended with ${signal ?? `exit code ${code ?? 0}`}.`),
        );
      });
      child.send(options);
    });
  } finally {
    process.off("SIGINT", interrupt).off("SIGTERM", interrupt);
    if (child.connected) child.disconnect();
    child.unref();
  }
}

/** Starts the background process and records it. @throws Error when this checkout has one already */
async function startKeeper({ stack, project }: KeptOptions): Promise<ChildProcess> {
  const running = await readRecord(project);
  if (running !== undefined) {
    throw new Error(
      `Rehearsing stack "${stack}" failed: the rehearsal of stack "${running.stack}" is kept running (pid ${running.process.pid}). End it with "npm stop".`,
    );
  }
  const log = await open(join(keptDirectory(project), "log"), "w", 0o600);
  const child = fork(__filename, ["keeper"], {
    detached: true,
    execArgv: ["-r", "ts-node/register/transpile-only"],
    stdio: ["ignore", log.fd, log.fd, "ipc"],
  });
  await log.close();
  const record = { process: identify(child.pid ?? 0), stack };
  await writeFile(recordFile(project), JSON.stringify(record), { mode: 0o600 });
  return child;
}

/**
 * Ends the rehearsal that `keep` left running for a checkout, waits until it is gone, and reports what it did.
 *
 * @param project absolute path of the directory that holds Pulumi.yaml
 */
export async function stopKept(project: string): Promise<string> {
  const record = await readRecord(project);
  if (record === undefined) return "Nothing is running.\n";
  process.kill(record.process.pid, "SIGTERM");
  const deadline = Date.now() + 30_000;
  while (isRunning(record.process)) {
    if (Date.now() > deadline) {
      throw new Error(
        `Stopping the rehearsal of stack "${record.stack}" failed: process ${record.process.pid} did not end within 30 s. End it with "kill -9 ${record.process.pid}".`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return `The rehearsal of stack "${record.stack}" is stopped; nothing of it is left.\n`;
}

/** The background process. */
async function keeper(options: KeptOptions): Promise<void> {
  const tell = (message: KeeperMessage) => {
    if (process.connected) process.send?.(message);
  };
  let rehearsal: Rehearsal | undefined;
  const record = recordFile(options.project);
  const end = async (code: number) => {
    await rehearsal?.stop();
    await rm(record, { force: true });
    process.exit(code);
  };
  process.once("SIGTERM", () => void end(143)).once("SIGINT", () => void end(130));
  const start = Date.now();
  try {
    rehearsal = await Rehearsal.start({
      ...options,
      report: (line) => {
        tell({ kind: "line", line });
      },
      progress: (progress) => {
        tell({ kind: "progress", progress });
      },
    });
    const { kubeconfig, kubeconfigPath } = rehearsal.controlPlane;
    tell({ kind: "started", kubeconfig });
    const result = { ...(await rehearsal.up()), seconds: (Date.now() - start) / 1000 };
    tell({ kind: "kept", kept: { kubeconfigPath, result } });
    // A failure without a waiting caller must not end a Ready platform; the log of this process has the failure.
    await rehearsal.completeCrds().catch((error: unknown) => {
      console.error((error as Error).message);
    });
  } catch (error) {
    tell({ kind: "failed", message: (error as Error).message });
    await end(1);
  }
}

if (require.main === module && process.argv[2] === "keeper") {
  process.once("message", (options: KeptOptions) => void keeper(options));
}
