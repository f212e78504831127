import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { isInstalled, pluginOf } from "../../../../core/host/plugins";

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
  // The stand-ins of an earlier call do not count.
  const others = (env.PATH ?? "").split(delimiter).filter((directory) => directory !== bin);
  const own = { ...env, PATH: others.join(delimiter) };
  await mkdir(bin, { recursive: true });
  for (const plugin of await Promise.all(["command", "docker", "kubernetes", "random"].map(pluginOf))) {
    if (await isInstalled(plugin, own)) continue;
    const source = join(__dirname, `${plugin.name}.ts`);
    const label = `${plugin.name} ${plugin.version}`;
    if (existsSync(source)) {
      await writeFile(join(bin, `pulumi-resource-${plugin.name}`), launcher(source), { mode: 0o755 });
      standIns.push(label);
    } else {
      missing.push(label);
    }
  }
  const path = [...(standIns.length > 0 ? [bin] : []), env.PATH ?? ""].join(delimiter);
  return { env: { PATH: path, PULUMI_IGNORE_AMBIENT_PLUGINS: "false" }, standIns, missing };
}

/** The program runs in the stack's directory; ts-node wants this project's. */
function launcher(source: string): string {
  const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;
  const node = `${quoted(process.execPath)} -r ts-node/register/transpile-only`;
  return `#!/bin/sh\ncd ${quoted(project)} && exec ${node} ${quoted(source)} "$@"\n`;
}
