import { KubernetesClient } from "../clients/kubernetes/client";
import { Crane } from "../clients/registry/oci";
import { clusterKindOf } from "../core/cluster/kinds";
import { repositoryPath } from "../core/registry/names";
import { statusOf, type Status } from "../core/release/status";
import { readStackConfig, type PlatformConfig } from "../core/settings/config";
import { sentence } from "../system/sentence";
import { ensureTools } from "../tools/tools";
import { outputOption, stackCommand, stackOf } from "./cli/command";
import { project } from "./cli/project";

export const status = stackCommand("status", "Compares the cluster of a stack with the release.")
  .addOption(outputOption())
  .action(async (argument: string | undefined, { output }: { output: string }) => {
    const stack = await stackOf(status, argument);
    const { cluster, registry } = await readStackConfig(stack, project, process.env);
    const kind = clusterKindOf(cluster);
    await ensureTools(["crane", ...kind.tools], { report: console.error });
    const { repository, insecure } = repositoryOf(registry);
    const look = async () => {
      const api = new KubernetesClient(await kind.kubeconfig(cluster));
      return statusOf(api, new Crane(insecure), { repository, channel: stack });
    };
    const found = await look().catch((error: unknown): Status => {
      const cause = sentence((error as Error).message);
      const problem = `The cluster or the registry gives no status: ${cause} Run "npx platform doctor ${stack}", then "npx platform up ${stack}".`;
      return { ready: false, revision: undefined, members: [], problem };
    });
    if (output === "json") process.stdout.write(`${JSON.stringify({ stack, ...found })}\n`);
    else for (const line of linesOf(stack, found)) console.log(line);
    process.exitCode = found.ready ? 0 : 1;
  });

/** The repository of the artifacts, as this machine reaches it. */
function repositoryOf(registry: PlatformConfig["registry"]): { repository: string; insecure: boolean } {
  return registry.kind === "local"
    ? { repository: `127.0.0.1:${registry.port}/${repositoryPath}`, insecure: false }
    : registry;
}

/** A status as text for a person. */
export function linesOf(stack: string, { ready, revision, members, problem }: Status): string[] {
  const width = Math.max(0, ...members.map(({ name }) => name.length));
  return [
    `Stack "${stack}" is ${ready ? "Ready" : "not Ready"}${revision === undefined ? "" : ` at ${revision}`}.`,
    ...(problem === undefined ? [] : [problem]),
    ...members.map(
      (member) =>
        `  ${member.name.padEnd(width)}  ${member.ready ? "Ready" : `not Ready: ${member.message || "not reconciled yet"}`}`,
    ),
  ];
}
