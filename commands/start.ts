import { join } from "node:path";
import { onTerminal } from "../system/terminal";
import { readStackConfig } from "../core/settings/config";
import { examine, thisHost } from "./doctor";
import { exitWith } from "./cli/exit";
import { project, up } from "./up";

const stack = "local";

async function main(): Promise<number> {
  const config = await readStackConfig(stack, project, process.env);
  const findings = await examine(config, thisHost);
  const fatal = findings.filter(({ rehearsable }) => !rehearsable);
  const instead = findings.filter(({ rehearsable }) => rehearsable);
  for (const { message } of instead.length > 0 ? instead : fatal) process.stderr.write(`${message}\n`);
  if (instead.length > 0) {
    process.stderr.write(`Rehearsing stack "${stack}" on a throw-away control plane instead.\n`);
    const rehearse = [join(project, "rehearsal", "main.ts"), "--stack", stack, "--keep"];
    return onTerminal(process.execPath, ["-r", "ts-node/register/transpile-only", ...rehearse], {
      cwd: project,
      env: process.env,
    });
  }
  return fatal.length > 0 ? 1 : up(stack, ["--yes"]);
}

exitWith(main());
