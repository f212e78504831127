import { access, constants, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { userInfo } from "node:os";
import { delimiter, join } from "node:path";

const project = join(__dirname, "..", "..", "..", "..");

/** What a run of Pulumi has for its resource plugins. */
export interface Plugins {
  /** Variables to add to the environment of `pulumi`. */
  readonly env: Record<string, string>;
  /** Plugins whose place a stand-in takes, such as `docker 5.0.0`. */
  readonly standIns: string[];
  /** Plugins that are neither on this machine nor have a stand-in. */
  readonly missing: string[];
}

/**
 * Makes the resource plugins available that the machine lacks.
 *
 * A stand-in is found through PATH, where the engine takes a plugin of any version, and says so ("using
 * pulumi-resource-docker from $PATH at …"). Real plugins are left where they are: on PATH, or in `plugins` of
 * PULUMI_HOME at the exact version of the SDK.
 *
 * @param home directory of the test's own; the stand-ins are put into its `bin`
 * @param env the environment that `pulumi` will run in
 */
export async function providePlugins(home: string, env: NodeJS.ProcessEnv): Promise<Plugins> {
  const standIns: string[] = [];
  const missing: string[] = [];
  const bin = join(home, "bin");
  await mkdir(bin, { recursive: true });
  for (const plugin of await wanted()) {
    if (await isInstalled(plugin, env, bin)) continue;
    const source = join(__dirname, `${plugin.name}.ts`);
    const label = `${plugin.name} ${plugin.version}`;
    if (await is(source, constants.R_OK)) {
      await writeFile(join(bin, `pulumi-resource-${plugin.name}`), launcher(source), { mode: 0o755 });
      standIns.push(label);
    } else {
      missing.push(label);
    }
  }
  const path = [...(standIns.length > 0 ? [bin] : []), env.PATH ?? ""].join(delimiter);
  return { env: { PATH: path, PULUMI_IGNORE_AMBIENT_PLUGINS: "false" }, standIns, missing };
}

interface Plugin {
  readonly name: string;
  readonly version: string;
}

/** The plugin that each installed SDK asks for. */
async function wanted(): Promise<Plugin[]> {
  const scope = join(project, "node_modules", "@pulumi");
  const manifests = (await readdir(scope)).sort().map(async (directory) => {
    const manifest = await readFile(join(scope, directory, "package.json"), "utf8");
    return (JSON.parse(manifest) as { pulumi?: Partial<Plugin> & { resource?: boolean } }).pulumi;
  });
  return (await Promise.all(manifests)).flatMap((pulumi) =>
    pulumi?.resource === true && pulumi.name !== undefined && pulumi.version !== undefined
      ? [{ name: pulumi.name, version: pulumi.version }]
      : [],
  );
}

/** Looks where the engine looks, but for the stand-ins of an earlier call. */
async function isInstalled(
  { name, version }: Plugin,
  env: NodeJS.ProcessEnv,
  standIns: string,
): Promise<boolean> {
  const file = `pulumi-resource-${name}`;
  for (const directory of (env.PATH ?? "").split(delimiter)) {
    if (directory !== "" && directory !== standIns && (await is(join(directory, file), constants.X_OK)))
      return true;
  }
  // The CLI asks the user database for the home directory, not HOME.
  const plugins = join(env.PULUMI_HOME || join(userInfo().homedir, ".pulumi"), "plugins");
  const installed = join(plugins, `resource-${name}-v${version}`);
  return (
    (await is(join(installed, file), constants.X_OK)) && !(await is(`${installed}.partial`, constants.F_OK))
  );
}

async function is(path: string, mode: number): Promise<boolean> {
  try {
    await access(path, mode);
    return true;
  } catch {
    return false;
  }
}

/** The program runs in the stack's directory; ts-node wants this project's. */
function launcher(source: string): string {
  const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;
  const node = `${quoted(process.execPath)} -r ts-node/register/transpile-only`;
  return `#!/bin/sh\ncd ${quoted(project)} && exec ${node} ${quoted(source)} "$@"\n`;
}
