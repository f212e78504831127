import { spawn } from "node:child_process";
import { once } from "node:events";
import { realpathSync } from "node:fs";
import { delimiter, dirname } from "node:path";
import { programsNamed } from "../../system/programs";
import { isReachable } from "../../system/reach";

/** The Pulumi CLI of a run. */
export interface PulumiProgram {
  /** Absolute path, or a name on PATH. */
  readonly file: string;
  /** The PATH on which it finds its language hosts, and the program finds this CLI. */
  readonly path: string;
  /** Whether it is the version of the npm package "pulumi". */
  readonly isPinned: boolean;
}

/**
 * The Pulumi CLI: the first one on PATH.
 *
 * npm puts a script of its package "pulumi" first on PATH. That script passes no signal to the CLI and ends before the
 * CLI, so this function takes the program behind the script instead, or the next CLI on PATH if there is none.
 *
 * @throws Error when that package cannot install the CLI, and there is no other one
 */
export async function pulumiProgram({ PATH = "" }: NodeJS.ProcessEnv): Promise<PulumiProgram> {
  const [first, ...others] = programsNamed("pulumi", PATH);
  if (first === undefined || !isNpm(first)) return { file: first ?? "pulumi", path: PATH, isPinned: false };
  const found = (file: string, isPinned: boolean) => ({
    ...{ file, isPinned },
    path: [dirname(file), PATH].join(delimiter),
  });
  try {
    // eslint-disable-next-line @typescript-eslint/no-require-imports -- the package has no types
    const { resolve } = require("pulumi/lib/resolve") as { resolve: () => Promise<string> };
    return found(await resolve(), true);
  } catch (error) {
    const [other] = others;
    if (other !== undefined) return found(other, false);
    throw new Error(
      `Running Pulumi failed: the npm package "pulumi" could not install its CLI (${(error as Error).message}). Install it from https://www.pulumi.com/docs/install/.`,
      { cause: error },
    );
  }
}

/**
 * Lets the npm package "pulumi" install its CLI on this terminal, if that CLI is the one that would run and is not there
 * yet. The first call of the CLI would install it too, but without a word, and within the time of a check.
 */
export async function installPulumi(env: NodeJS.ProcessEnv): Promise<void> {
  const [first] = programsNamed("pulumi", env.PATH ?? "");
  if (first === undefined || !isNpm(first) || isThere()) return;
  if (!(await isReachable("get.pulumi.com", env))) return;
  // Standard output belongs to the results of the command. Node uses proxies only on request.
  const child = spawn(first, ["version"], {
    stdio: ["ignore", 2, 2],
    env: { ...env, NODE_USE_ENV_PROXY: "1", NODE_NO_WARNINGS: "1" },
  });
  // The check of the CLI says what failed.
  await once(child, "close").catch(() => undefined);
}

function isNpm(program: string): boolean {
  return realpathSync(program) === require.resolve("pulumi/run.js");
}

/** Whether the package has installed its CLI. */
function isThere(): boolean {
  // eslint-disable-next-line @typescript-eslint/no-require-imports -- the package has no types
  const { isExecutable } = require("pulumi/lib/resolve") as { isExecutable: (file: string) => boolean };
  // eslint-disable-next-line @typescript-eslint/no-require-imports -- the package has no types
  const { cacheDir } = require("pulumi/lib/cache") as { cacheDir: (version: string) => string };
  // eslint-disable-next-line @typescript-eslint/no-require-imports -- the package has no types
  const { version } = require("pulumi/package.json") as { version: string };
  return isExecutable(`${cacheDir(process.env.PULUMI_VERSION || version)}/bin/pulumi`);
}
