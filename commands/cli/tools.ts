import { clusterKindOf } from "../../core/cluster/kinds";
import { readStackConfig } from "../../core/settings/config";
import { View } from "../../rehearsal/view";
import { ensureTools, programTools } from "../../tools/tools";
import { project } from "./project";

/**
 * Gets the tools of the program ready, with their progress: Pulumi would hold the program's lines back.
 *
 * @throws Error when a setting is refused or a tool cannot be built
 */
export async function readyProgramTools(stack: string): Promise<void> {
  const { cluster } = await readStackConfig(stack, project, process.env);
  const view = new View(process.stderr);
  await ensureTools([...programTools, ...clusterKindOf(cluster).tools], {
    report: view.line.bind(view),
    progress: view.progress.bind(view),
  });
}
