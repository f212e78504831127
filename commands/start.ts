import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { readStackConfig } from "../config";
import { examine, thisHost } from "./doctor";

const project = join(__dirname, "..");
const stack = "local";

/**
 * Where Pulumi keeps state and how it encrypts secrets, when the user has not said so: files of this user and an
 * empty passphrase, which is enough for a cluster on this machine.
 */
export function pulumiDefaults(env: NodeJS.ProcessEnv, loggedIn: boolean): Record<string, string> {
  const state = join(env.XDG_STATE_HOME ?? join(homedir(), ".local", "state"), "platform");
  const passphrase =
    env.PULUMI_CONFIG_PASSPHRASE !== undefined || env.PULUMI_CONFIG_PASSPHRASE_FILE !== undefined;
  const chosen = loggedIn || env.PULUMI_BACKEND_URL !== undefined || env.PULUMI_ACCESS_TOKEN !== undefined;
  return {
    ...(!chosen ? { PULUMI_BACKEND_URL: `file://${state}` } : {}),
    ...(passphrase ? {} : { PULUMI_CONFIG_PASSPHRASE: "" }),
  };
}

/** Whether `pulumi login` chose a backend. */
function isLoggedIn(): boolean {
  try {
    const file = join(process.env.PULUMI_HOME ?? join(homedir(), ".pulumi"), "credentials.json");
    return ((JSON.parse(readFileSync(file, "utf8")) as { current?: string }).current ?? "") !== "";
  } catch {
    return false;
  }
}

/** Runs a command on this terminal; resolves with its exit code. */
function onTerminal(command: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, [...args], { cwd: project, env, stdio: "inherit" });
    // Ctrl-C reaches the child too, which ends in its own time.
    const ignore = () => undefined;
    process.on("SIGINT", ignore);
    child.once("error", reject);
    child.once("exit", (code) => {
      process.off("SIGINT", ignore);
      resolve(code ?? 1);
    });
  });
}

async function main(): Promise<number> {
  const config = await readStackConfig(stack, project, process.env);
  const findings = await examine(config, thisHost);
  const fatal = findings.filter(({ rehearsable }) => !rehearsable);
  const instead = findings.filter(({ rehearsable }) => rehearsable);
  for (const { message } of instead.length > 0 ? instead : fatal) process.stderr.write(`${message}\n`);
  if (instead.length > 0) {
    process.stderr.write(`Rehearsing stack "${stack}" on a throw-away control plane instead.\n`);
    const rehearse = [join(project, "rehearsal", "main.ts"), "--stack", stack, "--keep"];
    return onTerminal(process.execPath, ["-r", "ts-node/register/transpile-only", ...rehearse], process.env);
  }
  if (fatal.length > 0) return 1;

  const env = { ...process.env, ...pulumiDefaults(process.env, isLoggedIn()) };
  if (env.PULUMI_BACKEND_URL?.startsWith("file:///") === true) {
    await mkdir(env.PULUMI_BACKEND_URL.slice("file://".length), { recursive: true, mode: 0o700 });
  }
  const selected = await onTerminal("pulumi", ["stack", "select", "--create", stack], env);
  return selected === 0 ? onTerminal("pulumi", ["up", "--stack", stack, "--yes"], env) : selected;
}

if (require.main === module) {
  main().then(
    (code) => process.exit(code),
    (error: unknown) => {
      process.stderr.write(`${(error as Error).message}\n`);
      process.exit(1);
    },
  );
}
