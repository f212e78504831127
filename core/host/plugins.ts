import { access, constants, readFile } from "node:fs/promises";
import { userInfo } from "node:os";
import { join } from "node:path";
import { programsNamed } from "../../system/programs";

/** A resource plugin of Pulumi, in the version of its installed SDK. */
export interface Plugin {
  /** Such as `kubernetes`. */
  readonly name: string;
  /** Such as `4.32.0`. */
  readonly version: string;
}

const packages = join(__dirname, "..", "..", "node_modules", "@pulumi");

/** The plugin that an installed SDK asks for. @param name of the SDK, below `@pulumi/` */
export async function pluginOf(name: string): Promise<Plugin> {
  const manifest = await readFile(join(packages, name, "package.json"), "utf8");
  const { version } = (JSON.parse(manifest) as { pulumi: Plugin }).pulumi;
  return { name, version };
}

/**
 * Whether Pulumi's engine finds a plugin: on PATH in any version, or in `plugins` of PULUMI_HOME in this version.
 *
 * Source: `getPluginInfoAndPath` in pulumi/pulumi, sdk/go/common/workspace/plugins.go
 */
export async function isInstalled({ name, version }: Plugin, env: NodeJS.ProcessEnv): Promise<boolean> {
  const file = `pulumi-resource-${name}`;
  const ambient = isTrue(env.PULUMI_IGNORE_AMBIENT_PLUGINS) ? [] : programsNamed(file, env.PATH ?? "");
  if (ambient.length > 0) return true;
  return (await pluginDirectory({ name, version }, env)) !== undefined;
}

/** The directory of a plugin in PULUMI_HOME, in this version; undefined when it is not there, or half downloaded. */
export async function pluginDirectory(
  { name, version }: Plugin,
  env: NodeJS.ProcessEnv,
): Promise<string | undefined> {
  // The engine asks the user database for the home directory, not HOME.
  const plugins = join(env.PULUMI_HOME || join(userInfo().homedir, ".pulumi"), "plugins");
  const directory = join(plugins, `resource-${name}-v${version}`);
  const isThere = await is(join(directory, `pulumi-resource-${name}`), constants.X_OK);
  return isThere && !(await is(`${directory}.partial`, constants.F_OK)) ? directory : undefined;
}

/** Whether a variable of Pulumi is set to true. */
export function isTrue(value: string | undefined): boolean {
  return ["1", "true"].includes((value ?? "").toLowerCase());
}

async function is(path: string, mode: number): Promise<boolean> {
  try {
    await access(path, mode);
    return true;
  } catch {
    return false;
  }
}
