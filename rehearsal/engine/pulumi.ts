import { mkdir, symlink, writeFile } from "node:fs/promises";
import { basename, delimiter, join } from "node:path";
import { pluginDirectory, pluginOf } from "../../core/host/plugins";
import { programsNamed, quoted } from "../../system/programs";
import { ensureTools, pinnedVersion } from "../../tools/tools";

const project = join(__dirname, "..", "..");

/** An installation of Pulumi for a rehearsal or a test. */
export interface ProvidedPulumi {
  /** Absolute path of the directory that holds `bin/pulumi`. */
  readonly root: string;
  /** Variables to add to the environment of `pulumi`. */
  readonly env: Readonly<Record<string, string>>;
  /** Plugins whose place a stand-in takes, such as `docker 5.0.0`. */
  readonly standIns: readonly string[];
}

/** Options of {@link providePulumi}. */
export interface PulumiOptions {
  /** The environment of the user: the place of an own Pulumi, and PATH. */
  readonly env: NodeJS.ProcessEnv;
  /** Whether plugins of the user may run; the Kubernetes plugin always may. */
  readonly realPlugins: boolean;
  /** Receives a line of progress. */
  readonly report: (line: string) => void;
}

/**
 * Makes an installation of Pulumi, in the layout of `~/.pulumi`: the pinned command line, the host of dynamic providers
 * of the SDK, and a plugin for each SDK that the project installs. The user's own are taken where they have the right
 * version; otherwise the command line and the Kubernetes plugin are built, and stand-ins serve the other plugins. The
 * engine finds a stand-in on PATH, and says so ("using pulumi-resource-docker from $PATH at …").
 *
 * @param home absolute path of a directory of the caller
 */
export async function providePulumi(
  home: string,
  { env, realPlugins, report }: PulumiOptions,
): Promise<ProvidedPulumi> {
  const root = join(home, "versions", pinnedVersion("pulumi").slice(1));
  const bin = join(root, "bin");
  const plugins = join(home, "plugins");
  await Promise.all([bin, plugins].map((directory) => mkdir(directory, { recursive: true })));
  const { pulumi } = await ensureTools(["pulumi"], { env, report });
  await symlink(pulumi, join(bin, "pulumi"));
  const dynamic = "pulumi-resource-pulumi-nodejs";
  await writeFile(join(bin, dynamic), guarded(require.resolve(`@pulumi/pulumi/${dynamic}`)), { mode: 0o755 });

  const standIns: string[] = [];
  for (const plugin of await Promise.all(sdks.map(pluginOf))) {
    const { name, version } = plugin;
    const program = `pulumi-resource-${name}`;
    const mayBeReal = realPlugins || name === "kubernetes";
    const directory = mayBeReal ? await pluginDirectory(plugin, env) : undefined;
    const [onPath] = mayBeReal ? programsNamed(program, env.PATH ?? "") : [];
    if (directory !== undefined) {
      await symlink(directory, join(plugins, basename(directory)));
    } else if (onPath !== undefined || name === "kubernetes") {
      const file = onPath ?? (await ensureTools([kubernetesPlugin], { env, report }))[kubernetesPlugin];
      await writeFile(join(bin, program), guarded(file), { mode: 0o755 });
    } else {
      await writeFile(join(bin, program), launcher(join(__dirname, "plugins", `${name}.ts`)), {
        mode: 0o755,
      });
      standIns.push(`${name} ${version}`);
    }
  }
  return {
    root,
    env: {
      PATH: [bin, env.PATH ?? ""].join(delimiter),
      PULUMI_HOME: home,
      PULUMI_IGNORE_AMBIENT_PLUGINS: "false",
      PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: "true",
      PULUMI_SKIP_UPDATE_CHECK: "true",
    },
    standIns,
  };
}

/** The SDKs that the project installs, each with a plugin. */
const sdks = ["command", "docker", "kubernetes", "random"];
const kubernetesPlugin = "pulumi-resource-kubernetes";

/**
 * A script that runs a plugin, and ends it with the engine: a plugin outlives a killed engine, which holds the other end
 * of its standard input. The engine starts each plugin in a process group of its own.
 */
function guarded(plugin: string): string {
  return `#!/bin/sh
exec 3<&0
{ cat <&3; kill -KILL 0; } >/dev/null 2>&1 &
exec ${quoted(plugin)} "$@" </dev/null 3<&-
`;
}

/**
 * A script that runs a plugin written in TypeScript: ts-node wants this project's directory, and the command of a hook
 * wants the directory of the run.
 *
 * @param source absolute path of the plugin
 */
export function launcher(source: string): string {
  const node = `${quoted(process.execPath)} -r ts-node/register/transpile-only`;
  return `#!/bin/sh\nexport PLATFORM_RUN_DIRECTORY="$PWD"\ncd ${quoted(project)} && exec ${node} ${quoted(source)} "$@"\n`;
}
