import { readFile } from "node:fs/promises";
import { getStack, RunError, runtime } from "@pulumi/pulumi";
import { provenance } from "./components/artifact/git";
import { inspectTree } from "./components/artifact/tree";
import { Platform } from "./components/platform";
import { readGeneratedFiles } from "./components/sops/files";
import { parseConfig, type ClusterConfig } from "./config";
import { ensureTools } from "./tools/tools";

/** The program: what it reads is read, and refused, before the first resource is registered. */
async function main(): Promise<Record<string, unknown>> {
  const config = parseConfig(getStack(), runtime.allConfig(), { project: __dirname, env: process.env });
  await ensureTools(
    [
      "age-keygen",
      "crane",
      "helm",
      "kustomize",
      "sops",
      ...(config.cluster.kind === "kind" ? (["kind"] as const) : []),
    ],
    {
      report: (line) => {
        console.error(line);
      },
    },
  );

  const { tree, cluster, requireClean } = config.gitops;
  const { content, findings } = await inspectTree(tree, cluster);
  if (findings.length > 0) throw new Error(findings.join("\n"));

  const kubeconfig = await readKubeconfig(config.cluster);
  const platform = new Platform("platform", {
    config,
    content,
    provenance: await provenance(tree, requireClean),
    generated: await readGeneratedFiles(tree, cluster, config.sops.generate),
    ...(kubeconfig === undefined ? {} : { kubeconfig }),
  });
  return {
    kubeconfig: platform.kubeconfig,
    digest: platform.digest,
    ready: platform.ready,
    layers: platform.layers,
  };
}

async function readKubeconfig(cluster: ClusterConfig): Promise<string | undefined> {
  if (cluster.kind !== "existing") return undefined;
  try {
    return await readFile(cluster.kubeconfigFile, "utf8");
  } catch (error) {
    throw new Error(
      `Reading the kubeconfig of the cluster failed: ${(error as Error).message}. Set platform:cluster.kubeconfigFile to it.`,
      { cause: error },
    );
  }
}

/** As Pulumi runs it: a `RunError` is shown as its sentence, without a stack. */
export = (): Promise<Record<string, unknown>> =>
  main().catch((error: unknown) => {
    throw new RunError((error as Error).message);
  });
