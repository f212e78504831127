import type { KubernetesApi } from "../../kubernetes";
import { sentence } from "../../sentence";
import type { Kind } from "./client";

/** A Kind cluster as it is asked for. */
export interface KindInputs {
  readonly name: string;
  /** Docker network of the nodes. */
  readonly network: string;
  /** Kind's own configuration, YAML. Kind cannot change a cluster in place: another text replaces it. */
  readonly config: string;
}

/** A running Kind cluster. */
export interface KindOutputs extends KindInputs {
  /** Admin kubeconfig; a secret output. */
  readonly kubeconfig: string;
  /** The last addresses of the network, in CIDR form. */
  readonly loadBalancerCidr: string;
}

/** The label that every node of a cluster of this project carries. */
export const ownerLabel = "platform.pulumi.com/owner";
export const owner = "platform";

/** Makes, adopts and deletes a Kind cluster. */
export class KindLifecycle {
  constructor(
    private readonly kind: Kind,
    private readonly connect: (kubeconfig: string) => KubernetesApi,
  ) {}

  async create(inputs: KindInputs): Promise<KindOutputs> {
    if ((await this.kind.clusters()).includes(inputs.name)) {
      await this.refuseForeign("Adopting", inputs.name);
    } else {
      try {
        await this.kind.create(inputs.name, inputs.network, inputs.config);
      } catch (error) {
        throw new Error(
          `Creating Kind cluster "${inputs.name}" failed: ${sentence((error as Error).message)} Mend it and run again.`,
          { cause: error },
        );
      }
    }
    return this.outputs(inputs);
  }

  /** @returns undefined when the cluster is gone */
  async read(state: KindOutputs): Promise<KindOutputs | undefined> {
    if (!(await this.kind.clusters()).includes(state.name)) return undefined;
    return this.outputs(state);
  }

  /** The inputs that changed; each of them replaces the cluster. */
  diff(olds: KindInputs, news: KindInputs): string[] {
    return (["name", "network", "config"] as const).filter((key) => olds[key] !== news[key]);
  }

  async delete(state: KindOutputs): Promise<void> {
    if (!(await this.kind.clusters()).includes(state.name)) return;
    await this.refuseForeign("Deleting", state.name);
    await this.kind.delete(state.name);
  }

  private async outputs(inputs: KindInputs): Promise<KindOutputs> {
    return {
      name: inputs.name,
      network: inputs.network,
      config: inputs.config,
      kubeconfig: await this.kind.kubeconfig(inputs.name),
      loadBalancerCidr: lastAddresses(await this.kind.subnet(inputs.network)),
    };
  }

  private async refuseForeign(operation: string, name: string): Promise<void> {
    const api = this.connect(await this.kind.kubeconfig(name));
    const node = await api.get({ apiVersion: "v1", kind: "Node", name: `${name}-control-plane` });
    if (node?.metadata.labels?.[ownerLabel] === owner) return;
    throw new Error(
      `${operation} Kind cluster "${name}" failed: it exists and is not this project's (its nodes lack the label ${ownerLabel}=${owner}). Set platform:cluster.name to another name, or delete it with "kind delete cluster --name ${name}".`,
    );
  }
}

/** The last /24 of an IPv4 subnet (the last quarter of a smaller one): Docker hands out addresses from the start. */
export function lastAddresses(subnet: string): string {
  const [address = "", length = ""] = subnet.split("/");
  const prefix = Math.max(24, Math.min(30, Number(length) + 2));
  const base = address.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
  const last = base + 2 ** (32 - Number(length)) - 2 ** (32 - prefix);
  return `${[24, 16, 8, 0].map((shift) => Math.floor(last / 2 ** shift) % 256).join(".")}/${prefix}`;
}
