import { fork } from "node:child_process";
import { mkdir, open, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { cacheDirectory } from "../tools/cache";
import { identify, isRunning, type ProcessIdentity } from "../tools/process-identity";
import { Rehearsal, type RehearsalOptions, type RehearsalResult } from "./rehearsal";

/** A rehearsal that goes on in the background. */
export interface Kept {
  readonly kubeconfigPath: string;
  readonly result: RehearsalResult;
}

/** What the background process tells the one that started it. */
type KeeperMessage =
  | { readonly kind: "line"; readonly line: string }
  | { readonly kind: "started"; readonly kubeconfig: string }
  | { readonly kind: "kept"; readonly kept: Kept }
  | { readonly kind: "failed"; readonly message: string };

/** Where the background process is written down: one at a time for each user. */
function recordFile(env: NodeJS.ProcessEnv): string {
  return join(cacheDirectory(env), "kept.json");
}

interface Record {
  readonly process: ProcessIdentity;
  readonly stack: string;
}

async function readRecord(env: NodeJS.ProcessEnv): Promise<Record | undefined> {
  try {
    const record = JSON.parse(await readFile(recordFile(env), "utf8")) as Record;
    return isRunning(record.process) ? record : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Rehearses in a process of its own, which goes on with the simulated controllers until `stopKept`.
 *
 * @param report takes a line of progress
 * @param started is told the kubeconfig as soon as the control plane answers
 * @throws Error when one is kept already, or the rehearsal fails
 */
export async function keep(
  options: Omit<RehearsalOptions, "report">,
  report: (line: string) => void,
  started: (kubeconfig: string) => void,
): Promise<Kept> {
  const running = await readRecord(process.env);
  if (running !== undefined) {
    throw new Error(
      `Rehearsing stack "${options.stack}" failed: the rehearsal of stack "${running.stack}" is kept running (pid ${running.process.pid}). End it with "npm stop".`,
    );
  }
  const record = recordFile(process.env);
  await mkdir(dirname(record), { recursive: true });
  const log = await open(`${record}.log`, "w", 0o600);
  const child = fork(__filename, ["keeper"], {
    detached: true,
    execArgv: ["-r", "ts-node/register/transpile-only"],
    stdio: ["ignore", log.fd, log.fd, "ipc"],
  });
  await log.close();
  const interrupt = () => child.kill("SIGTERM");
  process.once("SIGINT", interrupt).once("SIGTERM", interrupt);
  try {
    return await new Promise<Kept>((resolve, reject) => {
      child.on("message", (message: KeeperMessage) => {
        if (message.kind === "line") report(message.line);
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

/** Ends what `keep` left running, waits until it is gone, and says what it did. */
export async function stopKept(env: NodeJS.ProcessEnv): Promise<string> {
  const record = await readRecord(env);
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
async function keeper(options: Omit<RehearsalOptions, "report">): Promise<void> {
  const tell = (message: KeeperMessage) => {
    if (process.connected) process.send?.(message);
  };
  let rehearsal: Rehearsal | undefined;
  const record = recordFile(process.env);
  const end = async (code: number) => {
    await rehearsal?.stop();
    await rm(record, { force: true });
    process.exit(code);
  };
  process.once("SIGTERM", () => void end(143)).once("SIGINT", () => void end(130));
  const start = Date.now();
  try {
    await writeFile(record, JSON.stringify({ process: identify(process.pid), stack: options.stack }), {
      mode: 0o600,
    });
    rehearsal = await Rehearsal.start({
      ...options,
      report: (line) => {
        tell({ kind: "line", line });
      },
    });
    const { kubeconfig, kubeconfigPath } = rehearsal.controlPlane;
    tell({ kind: "started", kubeconfig });
    const result = { ...(await rehearsal.up()), seconds: (Date.now() - start) / 1000 };
    tell({ kind: "kept", kept: { kubeconfigPath, result } });
    // What nobody waits for must not end what is Ready; the log of this process tells.
    await rehearsal.completeCrds().catch((error: unknown) => {
      console.error((error as Error).message);
    });
  } catch (error) {
    tell({ kind: "failed", message: (error as Error).message });
    await end(1);
  }
}

if (require.main === module && process.argv[2] === "keeper") {
  process.once("message", (options: Omit<RehearsalOptions, "report">) => void keeper(options));
}
