import { readFile } from "node:fs/promises";

/**
 * Reads the kubeconfig of an existing cluster.
 *
 * @param file `platform:cluster.kubeconfigFile`, absolute
 * @throws Error with the setting as its remedy, when the file cannot be read
 */
export async function readKubeconfig(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw new Error(
      `Reading the kubeconfig of the cluster failed: ${(error as Error).message}. Set platform:cluster.kubeconfigFile to it.`,
      { cause: error },
    );
  }
}
