import { KubernetesClient, nameOf, refOf, type Manifest } from "../../../clients/kubernetes/client";
import { nodeName, registryName, registryPort, stackName, type Machine } from "./machine";

/** Layers of the suite's tree: its Flux Kustomizations, all of them in namespace `flux-system`. */
const layers = ["apps", "certs", "controllers", "flux-system"];

const fluxInstance = { apiVersion: "fluxcd.controlplane.io/v1", kind: "FluxInstance" };
const kustomization = { apiVersion: "kustomize.toolkit.fluxcd.io/v1", kind: "Kustomization" };

/** Kinds that Flux reconciles, and leaves as they are once `spec.suspend` is set. */
const suspendable = [
  kustomization,
  { apiVersion: "helm.toolkit.fluxcd.io/v2", kind: "HelmRelease" },
  { apiVersion: "source.toolkit.fluxcd.io/v1", kind: "OCIRepository" },
];

/** What is used of a Flux object. */
interface FluxObject extends Manifest {
  readonly spec?: { readonly suspend?: boolean };
  readonly status?: {
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly lastAppliedRevision?: string;
  };
}

/**
 * Why the platform is not Ready at a digest, as the registry and the cluster tell it; nothing when it is. Pulumi is
 * not asked.
 */
export async function faults(machine: Machine, digest: string): Promise<string[]> {
  const api = new KubernetesClient(await machine.run("kind", "get", "kubeconfig", "--name", stackName));
  const list = async ({ apiVersion, kind }: Pick<Manifest, "apiVersion" | "kind">) =>
    (await api.list(apiVersion, kind)) as FluxObject[];
  const [instances, kustomizations] = await Promise.all([list(fluxInstance), list(kustomization)]);
  const reconciled = (await Promise.all(suspendable.map(list))).flat();

  const found: string[] = [];
  const channel = `127.0.0.1:${registryPort}/platform:${stackName}`;
  const served = (await machine.run("crane", "digest", channel)).trim();
  if (served !== digest) found.push(`channel "${stackName}" serves ${served}`);
  const names = kustomizations.map(({ metadata }) => metadata.name).sort();
  if (names.join() !== layers.join()) found.push(`the layers are ${names.join(", ") || "none"}`);
  if (instances.length === 0) found.push("there is no FluxInstance");
  for (const instance of instances) {
    const { "fluxcd.controlplane.io/reconcile": reconcile } = instance.metadata.annotations ?? {};
    if (reconcile === "disabled") found.push(`${nameOf(refOf(instance))} is disabled`);
  }
  for (const object of reconciled)
    if (object.spec?.suspend === true) found.push(`${nameOf(refOf(object))} is suspended`);
  for (const object of kustomizations) {
    if (object.status?.lastAppliedRevision !== `${stackName}@${digest}`)
      found.push(`${nameOf(refOf(object))} is at ${object.status?.lastAppliedRevision ?? "no revision"}`);
  }
  for (const object of [...instances, ...kustomizations]) {
    const ready = object.status?.conditions?.find(({ type }) => type === "Ready");
    // Unknown is a routine reconciliation.
    if (ready === undefined || ready.status === "False") found.push(`${nameOf(refOf(object))} is not Ready`);
  }
  const whoami = { apiVersion: "apps/v1", kind: "Deployment", name: "whoami", namespace: "whoami" };
  const { availableReplicas = 0 } = ((await api.get(whoami))?.status ?? {}) as { availableReplicas?: number };
  if (availableReplicas !== 1) found.push(`${availableReplicas} pods of whoami are available`);
  return found;
}

/** All that Docker still holds of the stack: containers, networks, volumes and images, as `kind name`. */
export async function remains(machine: Machine): Promise<string[]> {
  const format = ["--format", "{{.Name}}"];
  const lists = {
    container: ["ps", "--all", "--format", "{{.Names}}"],
    network: ["network", "ls", ...format],
    volume: ["volume", "ls", ...format],
    image: ["images", "--format", "{{.Repository}}"],
  };
  const own = [nodeName, registryName, `platform-${stackName}`, `platform-node-${stackName}`];
  const found: string[] = [];
  for (const [kind, args] of Object.entries(lists)) {
    const names = (await machine.run("docker", ...args)).split("\n");
    for (const name of names.sort())
      if (own.some((start) => name.startsWith(start))) found.push(`${kind} ${name}`);
  }
  return found;
}
