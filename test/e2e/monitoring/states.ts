import type { KubernetesClient, Manifest, ManifestRef } from "../../../clients/kubernetes/client";

const fluxSystem = { namespace: "flux-system" };
const source = { kind: "OCIRepository", name: "flux-system" };
const traefik: ManifestRef = {
  apiVersion: "helm.toolkit.fluxcd.io/v2",
  kind: "HelmRelease",
  name: "traefik",
  namespace: "traefik",
};

function layer(name: string, spec: object): Manifest {
  return {
    apiVersion: "kustomize.toolkit.fluxcd.io/v1",
    kind: "Kustomization",
    metadata: { name, ...fluxSystem },
    spec: { interval: "10m", retryInterval: "2s", prune: true, sourceRef: source, ...spec },
  };
}

/** What is wrong with a resource of Flux, each found by a real controller, or by the lack of one. */
export const wrong: readonly Manifest[] = [
  layer("failing", { path: "./clusters/nowhere" }),
  // Of another cluster: encrypted for an identity that is not in sops-age
  layer("undecryptable", {
    path: "./clusters/dev/apps",
    decryption: { provider: "sops", secretRef: { name: "sops-age" } },
  }),
  layer("stalled", {
    path: "./clusters/local/certs",
    healthCheckExprs: [{ apiVersion: "v1", kind: "ConfigMap", current: "1 +" }],
  }),
  {
    apiVersion: "helm.toolkit.fluxcd.io/v2",
    kind: "HelmRelease",
    metadata: { name: "suspended", ...fluxSystem },
    spec: {
      interval: "10m",
      suspend: true,
      chart: { spec: { chart: "none", sourceRef: { kind: "HelmRepository", name: "none" } } },
    },
  },
  {
    apiVersion: "source.toolkit.fluxcd.io/v1",
    kind: "HelmChart",
    metadata: { name: "stuck", ...fluxSystem },
    // The source-controller passes over it, and no Kustomization brings it, as for what a rehearsal simulates.
    spec: {
      ...{ interval: "10m", suspend: true, chart: "none" },
      sourceRef: { kind: "HelmRepository", name: "none" },
    },
  },
];

/** A namespace whose quota is used up for pods, and nearly for memory. */
export const quota: readonly Manifest[] = [
  { apiVersion: "v1", kind: "Namespace", metadata: { name: "quota" } },
  {
    apiVersion: "v1",
    kind: "ResourceQuota",
    metadata: { name: "tenant", namespace: "quota" },
    spec: { hard: { pods: "1", "requests.memory": "100Mi" } },
  },
];

/** The pod that uses it up. */
export const pod: Manifest = {
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "only", namespace: "quota" },
  spec: {
    containers: [{ name: "only", image: "none:1", resources: { requests: { memory: "95Mi" } } }],
  },
};

/** A report as Kyverno writes it. */
export const report: Manifest = {
  apiVersion: "wgpolicyk8s.io/v1alpha2",
  kind: "PolicyReport",
  metadata: { name: "6b0e0f2c-8a0f-4c4f-9d3c-8a51c0c7b1a5", namespace: "whoami" },
  scope: { apiVersion: "apps/v1", kind: "Deployment", name: "whoami", namespace: "whoami" },
  results: [
    { source: "kyverno", policy: "require-labels", rule: "labels", result: "fail", severity: "medium" },
    { source: "kyverno", policy: "disallow-latest-tag", rule: "tag", result: "error", severity: "medium" },
    { source: "kyverno", policy: "require-probes", rule: "probes", result: "pass", severity: "medium" },
  ],
  summary: { pass: 1, fail: 1, warn: 0, error: 1, skip: 0 },
};

/** Workloads as the charts of Loki and Alloy install them, for a scheduler and a kubelet that take any image. */
export const logs: readonly Manifest[] = [
  { kind: "StatefulSet", name: "loki", spec: { replicas: 1, serviceName: "loki" } },
  { kind: "DaemonSet", name: "alloy", spec: {} },
].map(({ kind, name, spec }) => ({
  apiVersion: "apps/v1",
  kind,
  metadata: { name, namespace: "monitoring" },
  spec: {
    ...spec,
    selector: { matchLabels: { app: name } },
    template: {
      metadata: { labels: { app: name } },
      spec: { containers: [{ name, image: "none:1" }] },
    },
  },
}));

/** What helm-controller says of a release whose chart is installed, and whether it has drifted. */
export async function release(api: KubernetesClient, drifted: boolean): Promise<void> {
  const now = new Date().toISOString();
  const condition = (type: string, status: string, reason: string) => ({
    ...{ type, status, reason, message: reason },
    lastTransitionTime: now,
  });
  await api.mergeStatus(traefik, {
    conditions: [
      condition("Ready", "True", "UpgradeSucceeded"),
      condition("Drifted", drifted ? "True" : "False", drifted ? "DriftDetected" : "NoDriftDetected"),
    ],
    history: [
      {
        ...{ name: "traefik", namespace: "traefik", version: 1, status: "deployed" },
        ...{ chartName: "traefik", chartVersion: "41.6.1", appVersion: "v3.7.13" },
        ...{ configDigest: "sha256:0", digest: "sha256:0", firstDeployed: now, lastDeployed: now },
      },
    ],
  });
}
