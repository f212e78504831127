import { core, Provider } from "@pulumi/kubernetes";
import { RemoteImage, Volume } from "@pulumi/docker";
import { ComponentResource, dynamic } from "@pulumi/pulumi";
import { RandomPassword } from "@pulumi/random";
import { readFileSync } from "node:fs";

/*
 * The least that a Pulumi program with resources of these kinds costs: as many of each as stack "offline" has, with
 * providers that do nothing.
 */

const empty: dynamic.ResourceProvider = {
  create: (inputs: unknown) => Promise.resolve({ id: "empty", outs: inputs }),
  read: (id: string, props: unknown) => Promise.resolve({ id, props }),
  diff: () => Promise.resolve({ changes: false }),
};

class Empty extends dynamic.Resource {
  constructor(name: string) {
    super(empty, name, { text: name });
  }
}

export = (): Promise<Record<string, unknown>> => {
  for (let number = 1; number <= 4; number++) new ComponentResource("bare:index:Part", `part-${number}`);
  for (let number = 1; number <= 11; number++) new Empty(`empty-${number}`);
  new RandomPassword("password", { length: 32 });
  new Volume("volume", { name: "bare" });
  new RemoteImage("image", { name: "bare", keepLocally: true });
  const kubeconfig = readFileSync(process.env.BENCH_KUBECONFIG ?? "", "utf8");
  const provider = new Provider("kubernetes", { kubeconfig, enableServerSideApply: true });
  const metadata = { name: "bare", namespace: "default" };
  new core.v1.ConfigMap("config-map", { metadata, data: { text: "bare" } }, { provider });
  new core.v1.Secret("secret", { metadata, stringData: { text: "bare" } }, { provider });
  return Promise.resolve({});
};
