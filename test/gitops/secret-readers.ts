import type { Manifest } from "../../clients/kubernetes/client";

/** Reloader's annotation of a workload: whether it is restarted when a Secret or ConfigMap that it reads changes. */
export const reload = "reloader.stakater.com/auto";

/** Kinds of `apps/v1` whose pods stay until something replaces them; a Job or CronJob reads what is there when it runs. */
export const workloadKinds: readonly string[] = ["DaemonSet", "Deployment", "StatefulSet"];

interface Reference {
  readonly name?: string;
}

interface Container {
  readonly env?: readonly { readonly valueFrom?: { readonly secretKeyRef?: Reference } }[];
  readonly envFrom?: readonly { readonly secretRef?: Reference }[];
}

interface Template {
  readonly metadata?: { readonly annotations?: Readonly<Record<string, string>> };
  readonly spec: {
    readonly containers: readonly Container[];
    readonly initContainers?: readonly Container[];
    readonly volumes?: readonly {
      readonly secret?: { readonly secretName?: string };
      readonly projected?: { readonly sources?: readonly { readonly secret?: Reference }[] };
    }[];
  };
}

/** Whether an object is of one of {@link workloadKinds}. */
export function isWorkload({ kind }: Manifest): boolean {
  return workloadKinds.includes(kind);
}

/** The names of the Secrets that a workload's pods read, by variables or by volumes. */
export function secretsOf(workload: Manifest): Set<string> {
  const { containers, initContainers = [], volumes = [] } = templateOf(workload).spec;
  const names = [
    ...[...containers, ...initContainers].flatMap(({ env = [], envFrom = [] }) => [
      ...env.map(({ valueFrom }) => valueFrom?.secretKeyRef?.name),
      ...envFrom.map(({ secretRef }) => secretRef?.name),
    ]),
    ...volumes.flatMap(({ secret, projected }) => [
      secret?.secretName,
      ...(projected?.sources ?? []).map((source) => source.secret?.name),
    ]),
  ];
  return new Set(names.filter((name) => name !== undefined));
}

/** Whether Reloader restarts a workload; it looks at the template where the workload itself says nothing. */
export function isReloaded(workload: Manifest): boolean {
  const annotation = workload.metadata.annotations?.[reload];
  return (annotation ?? templateOf(workload).metadata?.annotations?.[reload]) === "true";
}

function templateOf({ spec }: Manifest): Template {
  return (spec as { template: Template }).template;
}
