import type { Host, Need } from "../host/host";
import { isTrue } from "../host/plugins";
import type { PlatformConfig } from "../settings/config";

/** The hosts from which Pulumi downloads its plugins. */
const sources = ["github.com", "get.pulumi.com"];

/**
 * Checks the plugins of Pulumi that a stack uses. Pulumi downloads a missing plugin by itself, so a missing plugin is a
 * need only where a download is not possible: Pulumi would try for minutes.
 */
export async function checkPlugins(
  { registry, sops, hooks }: Pick<PlatformConfig, "registry" | "sops" | "hooks">,
  host: Host,
): Promise<Need[]> {
  const used = [
    "kubernetes",
    ...(registry.kind === "local" ? ["docker"] : []),
    ...(sops.generate === "none" ? [] : ["random"]),
    ...(hooks.afterReady.length > 0 ? ["command"] : []),
  ];
  const looked = await Promise.all(
    used.map(async (name) => {
      const plugin = await host.plugin(name);
      return plugin.isInstalled ? [] : [`${name} ${plugin.version}`];
    }),
  );
  const missing = looked.flat();
  const forbidden = "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION";
  const isForbidden = isTrue(host.env[forbidden]);
  if (missing.length === 0) return [];
  if (!isForbidden) {
    // A mirror of the user's own.
    if ((host.env.PULUMI_PLUGIN_DOWNLOAD_URL_OVERRIDES ?? "") !== "") return [];
    const answers = await Promise.all(sources.map((source) => host.isReachable(source)));
    if (answers.includes(true)) return [];
  }
  const install = missing.map((plugin) => `pulumi plugin install resource ${plugin}`).join(" && ");
  const subject = `Plugins of Pulumi are missing (${missing.join(", ")}), and`;
  return [
    {
      check: "plugins",
      rehearsable: true,
      ...(isForbidden
        ? {
            message: `${subject} ${forbidden} forbids to download them.`,
            remedy: `Unset that variable, or run "${install}".`,
          }
        : {
            message: `${subject} this machine cannot download them: neither ${sources.join(" nor ")} answers.`,
            remedy: `Connect this machine to the internet, or set HTTPS_PROXY. Without the internet, run "${install}" on another machine and copy its ~/.pulumi/plugins to this one.`,
          }),
    },
  ];
}
