import * as z from "zod";
import { abort, text, type ReadonlyDeep, type SettingsContext } from "../../fields/fields";

/** The settings of a cluster that exists already, below `platform:cluster`. */
export function existingSettings({ path }: SettingsContext) {
  return z.strictObject({
    kind: z.literal("existing").describe("the cluster exists already, such as Talos through Omni"),
    kubeconfigFile: text.transform(path).describe("path of the cluster's admin kubeconfig"),
    loadBalancerCidr: z
      .union([z.cidrv4(), z.cidrv6()], 'a subnet such as "10.20.0.0/24"')
      .refine((value) => !value.endsWith("/0"), { error: 'a subnet such as "10.20.0.0/24"', abort })
      .describe("addresses that load balancers may take, in CIDR form"),
    cni: z
      .enum(["auto", "cilium", "existing"])
      .default("auto")
      .describe(
        "`auto`, `cilium`, `existing`: [the choice of the network](docs/platform.md#a-cluster-with-its-own-network)",
      ),
  });
}

/** The settings of a cluster that exists already. */
export type ExistingSettings = ReadonlyDeep<z.output<ReturnType<typeof existingSettings>>>;
