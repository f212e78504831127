import {
  helmApi,
  kustomizationLabel,
  kustomizeApi,
  operatorApi,
  receiverApi,
  sourceApi,
} from "../clients/flux/kinds";
import { applyInOrder } from "../clients/kubernetes/apply";
import { kustomized } from "../core/tree/build";
import { SystemClock } from "../system/clock";
import { chartOf, type ChartRenderer } from "../clients/helm/chart";
import { nameOf, KubernetesClient, refOf, type Manifest } from "../clients/kubernetes/client";
import { sentence } from "../system/sentence";
import type { FluxController, FluxFlags } from "./control-plane";
import { simulatedLabel } from "./real-charts";
import { fluxDistribution, upstreamCrds, type CrdComponent } from "../tools/upstream";

/** The needs of the simulated controllers in their rehearsal. */
export interface SimulationOptions {
  readonly kubeconfig: string;
  /**
   * Starts the Flux controllers that run for real, with the flags that the FluxInstance gives them. A failure is
   * its own to report: it is not tried again.
   */
  readonly startFlux: (flags: FluxFlags) => Promise<void>;
  /** Whether the helm-controller runs for real; objects that stay simulated carry a label. */
  readonly helm: boolean;
  /** Whether the notification-controller runs for real. */
  readonly notification: boolean;
  /** The source of the charts that bring definitions which no Go module has. */
  readonly charts: ChartRenderer;
  /** Definitions that the settings of the stack name, in addition to those of the charts. */
  readonly definitions: readonly Manifest[];
  readonly report: (line: string) => void;
}

const fluxInstances = { apiVersion: operatorApi, kind: "FluxInstance" };
const helmReleases = { apiVersion: helmApi, kind: "HelmRelease" };
const sources = { apiVersion: sourceApi, kind: "OCIRepository" };
const claims = { apiVersion: "v1", kind: "PersistentVolumeClaim" };
type Served = typeof fluxInstances;

/** Kinds that a source-controller makes Ready; the root source of Flux is real. */
const sourceKinds: readonly Served[] = [
  sources,
  ...["HelmRepository", "GitRepository", "Bucket", "HelmChart", "ExternalArtifact"].map((kind) => ({
    ...{ apiVersion: sourceApi, kind },
  })),
];
/** Kinds that a notification-controller makes Ready, if none is on PATH; Alerts and Providers have no status. */
const receivers = { apiVersion: receiverApi, kind: "Receiver" };
/** API groups of every API server, with any charts. Source: `kubectl api-versions` of a bare cluster */
const builtInGroup =
  /^([^.]*|(admissionregistration|apiextensions|authentication|authorization|certificates|coordination|discovery|events|flowcontrol\.apiserver|internal\.apiserver|networking|node|rbac\.authorization|resource|scheduling|storage|storagemigration)\.k8s\.io|apiregistration\.k8s\.io)$/;

/** The last part of a chart's address → the objects of its HelmRelease that other objects need. */
const chartCrds: Readonly<Record<string, CrdComponent>> = {
  cilium: "cilium",
  "cert-manager": "cert-manager",
  kyverno: "kyverno",
  traefik: "traefik",
  "flux-operator": "flux-operator",
  "prometheus-operator-crds": "prometheus-operator",
};

/** Sources that no Kustomization applied: the real source-controller handles only these. */
export const rootSourcesOnly = "--watch-label-selector=!kustomize.toolkit.fluxcd.io/name";

const pollMilliseconds = 100;
/** The number of equal failures in a row before a failure is reported: 3 s. */
const looksBeforeWord = 30;

/**
 * Does the work of the Flux Operator, the helm-controller and the charts of a tree, as far as other objects wait for
 * it. A FluxInstance becomes the objects that the operator makes of it, a HelmRelease brings its chart's CRDs, and both
 * are marked Ready. Every marked object is in `simulated`.
 */
export class SimulatedControllers {
  /** The objects that were only marked Ready: "HelmRelease kube-system/cilium". */
  readonly simulated = new Set<string>();
  private readonly api: KubernetesClient;
  private readonly done = new Set<string>();
  private readonly components = new Set<CrdComponent>();
  private tree: () => Promise<readonly Manifest[]> = () => Promise.resolve([]);
  private missing: Promise<ReadonlySet<string>> | undefined;
  private readonly definitions = new Map<CrdComponent, Promise<readonly Manifest[]>>();
  /** HelmReleases whose charts could not be rendered → why. */
  private readonly unrendered = new Map<string, string>();
  private timer: NodeJS.Timeout | undefined;
  private stopped = false;
  private lastError = "";
  private looks = 0;

  constructor(private readonly options: SimulationOptions) {
    this.api = new KubernetesClient(options.kubeconfig);
  }

  /** Sets the function that lists the objects of the tree: definitions of other kinds can wait. */
  use(objects: () => Promise<readonly Manifest[]>): void {
    let found: Promise<readonly Manifest[]> | undefined;
    this.tree = () => (found ??= objects());
    this.missing = undefined;
  }

  /**
   * The addition to the failure of a run that lacks a definition, which a simulated HelmRelease would have brought; or
   * an empty text.
   */
  explain(message: string): string {
    const [, kind] = /no matches for kind "([^"]+)"/.exec(message) ?? [];
    const releases = [...this.simulated].filter((name) => name.startsWith("HelmRelease "));
    if (kind === undefined || releases.length === 0) return "";
    const reasons = [...this.unrendered].map(([release, reason]) => ` ${release}: ${reason}`).join("");
    return `No chart that the rehearsal knows defines ${kind}, and HelmReleases are simulated.${reasons} Put its CustomResourceDefinition into a directory, and set "platform:rehearsal.definitions" to that directory.`;
  }

  start(): void {
    const next = () => {
      void this.look().finally(() => {
        if (!this.stopped) this.timer = setTimeout(next, pollMilliseconds);
      });
    };
    next();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  /** One look at every object that waits for a missing controller. */
  private async look(): Promise<void> {
    try {
      const { helm, notification } = this.options;
      const has = ({ metadata }: Manifest, label: string) => metadata.labels?.[label] !== undefined;
      await Promise.all([
        this.each(fluxInstances, async (instance) => {
          await this.install(instance);
          return true;
        }),
        this.each(claims, async (claim) => {
          await this.provision(claim);
          return false;
        }),
        this.each(helmReleases, async (release) => {
          // With a real helm-controller too: Cilium's definitions come from its pods, which are simulated.
          await this.bringCrds(release);
          return !helm || has(release, simulatedLabel);
        }),
        ...sourceKinds.map((kind) =>
          this.each(kind, (source) =>
            Promise.resolve(has(source, helm ? simulatedLabel : kustomizationLabel)),
          ),
        ),
        ...(notification ? [] : [this.each(receivers, () => Promise.resolve(true))]),
      ]);
    } catch (error) {
      // The API server may be starting, or Flux may apply the missing object a moment later: only a lasting failure is
      // worth a message.
      const { message } = error as Error;
      this.looks = message === this.lastError ? this.looks + 1 : 1;
      this.lastError = message;
      if (this.looks === looksBeforeWord && !this.stopped) this.options.report(`simulation: ${message}`);
    }
  }

  /**
   * Handles each generation of each object of a kind, once.
   *
   * @param handle says whether this class must mark the object Ready
   */
  private async each(served: Served, handle: (object: Manifest) => Promise<boolean>): Promise<void> {
    const objects = await this.api.list(served.apiVersion, served.kind);
    await Promise.all(
      objects.map(async (object) => {
        const key = `${object.metadata.uid ?? ""}/${object.metadata.generation ?? 0}`;
        if (this.done.has(key) || object.metadata.deletionTimestamp !== undefined) return;
        this.done.add(key);
        try {
          if (!(await handle(object))) return;
          await this.markReady(object);
          this.simulated.add(nameOf(refOf(object)));
        } catch (error) {
          this.done.delete(key);
          throw error;
        }
      }),
    );
  }

  private async markReady(object: Manifest): Promise<void> {
    const { generation } = object.metadata;
    const ready = {
      type: "Ready",
      status: "True",
      reason: "Simulated",
      message: "Marked Ready by the rehearsal",
      lastTransitionTime: new Date().toISOString(),
      observedGeneration: generation,
    };
    await this.api.mergeStatus(refOf(object), { observedGeneration: generation, conditions: [ready] });
  }

  /**
   * Applies the definitions of a chart that the tree has objects of. The others cost the API server seconds and 300 MB
   * (Kyverno alone has 22) and no object waits for them: `completeCrds` applies them for `--keep`.
   */
  private async bringCrds(release: Manifest): Promise<void> {
    const component = chartCrds[await this.chartName(release)];
    const objects = await this.tree();
    const used = new Set(objects.map(groupKind));
    const isUsed = (definition: Manifest) => used.has(groupKindOf(definition));
    if (component !== undefined) {
      this.components.add(component);
      await this.define((await this.definitionsOf(component)).filter(isUsed));
    } else if ((await this.undefinedKinds(objects)).size > 0) {
      const name = nameOf(refOf(release));
      try {
        const chart = await this.options.charts.template(chartOf(release, objects));
        await this.define(chart.filter(({ kind }) => kind === "CustomResourceDefinition").filter(isUsed));
      } catch (error) {
        // Its chart may not be available, and may define nothing: a missing kind is reported elsewhere.
        this.unrendered.set(name, sentence((error as Error).message));
      }
    }
  }

  /** `group/Kind` of the tree's objects that neither the API server, the tree, a known chart nor a setting defines. */
  private undefinedKinds(objects: readonly Manifest[]): Promise<ReadonlySet<string>> {
    const custom = objects.filter(
      ({ apiVersion }) => !builtInGroup.test(apiVersion.replace(/\/?[^/]*$/, "")),
    );
    return (this.missing ??= (async () => {
      const own = objects.filter(({ kind }) => kind === "CustomResourceDefinition");
      const known = await Promise.all(
        Object.values(chartCrds).map((component) => this.definitionsOf(component)),
      );
      const defined = new Set([...own, ...known.flat(), ...this.options.definitions].map(groupKindOf));
      const kinds = custom
        .map(groupKind)
        .filter((kind) => !defined.has(kind) && !/(^|\.)fluxcd\.io\//.test(kind));
      return new Set(kinds);
    })());
  }

  /** Makes the volume that a claim waits for, as the provisioner of its class would; the controller-manager binds it. */
  private async provision({ metadata, spec }: Manifest): Promise<void> {
    const wanted = spec as {
      accessModes: readonly string[];
      resources: { requests: { storage: string } };
      storageClassName?: string;
      volumeMode?: string;
    };
    const { accessModes, resources, storageClassName, volumeMode = "Filesystem" } = wanted;
    const { name, namespace, uid } = metadata;
    const volume = {
      ...{ apiVersion: "v1", kind: "PersistentVolume", metadata: { name: `rehearsal-${uid ?? ""}` } },
      spec: {
        ...{ accessModes, storageClassName, volumeMode, capacity: resources.requests },
        hostPath: { path: "/nonexistent" },
        // With its uid, as a provisioner writes it, the controller binds the claim at once; else it may take 15 s.
        claimRef: { ...claims, name, namespace, uid },
      },
    };
    await this.api.apply(volume, "rehearsal");
  }

  private async chartName(release: Manifest): Promise<string> {
    const { chart, chartRef } = release.spec as {
      chart?: { spec: { chart: string } };
      chartRef?: { name: string; namespace?: string };
    };
    if (chart !== undefined) return chart.spec.chart;
    const namespace = chartRef?.namespace ?? release.metadata.namespace ?? "";
    const ref = { ...sources, name: chartRef?.name ?? "", namespace };
    const source = await this.api.get(ref);
    // Flux may apply the source a moment later; a failed look is repeated.
    if (source === undefined) throw new Error(`${nameOf(refOf(release))} waits for ${nameOf(ref)}.`);
    const { url = "" } = source.spec as { url?: string };
    return url.slice(url.lastIndexOf("/") + 1);
  }

  /** Applies the definitions that `bringCrds` left out. */
  async completeCrds(): Promise<void> {
    for (const component of this.components) await this.define(await this.definitionsOf(component));
  }

  private definitionsOf(component: CrdComponent): Promise<readonly Manifest[]> {
    const found =
      this.definitions.get(component) ?? (upstreamCrds(component) as Promise<unknown> as Promise<Manifest[]>);
    this.definitions.set(component, found);
    return found;
  }

  private async define(definitions: readonly Manifest[]): Promise<void> {
    await applyInOrder(this.api, new SystemClock(), definitions, "helm-controller");
  }

  /**
   * The objects that the Flux Operator makes of a FluxInstance, without the Deployments: their processes run here
   * instead.
   */
  private async install(instance: Manifest): Promise<void> {
    const objects = await this.fluxObjects(instance);
    const of = (...kinds: readonly string[]) => objects.filter(({ kind }) => kinds.includes(kind));
    const api = new KubernetesClient(this.options.kubeconfig, instance.metadata.namespace);
    const clock = new SystemClock();
    await applyInOrder(api, clock, of("CustomResourceDefinition"), "flux-operator");
    const own = of("ClusterRole", "ClusterRoleBinding", "ServiceAccount", "OCIRepository", "Kustomization");
    await applyInOrder(api, clock, this.options.definitions, "rehearsal");
    await Promise.all([
      this.fluxFlags(instance, objects).then((flags) => this.options.startFlux(flags)),
      applyInOrder(api, clock, own, "flux-operator"),
    ]);
  }

  /**
   * The operator's own manifests with the sync objects of its template; kustomize patches them as the operator does.
   */
  private async fluxObjects(instance: Manifest): Promise<Manifest[]> {
    const { sync, kustomize } = instance.spec as {
      sync: { url: string; ref: string; path: string; kind: string };
      kustomize?: { patches?: readonly unknown[] };
    };
    const metadata = { name: "flux-system", namespace: "flux-system" };
    const objects = [
      ...(await this.distribution(instance)),
      {
        ...{ ...sources, metadata },
        // The registry of a rehearsal speaks plain HTTP, even if the stack's own registry does not.
        spec: { interval: "1m", url: sync.url, ref: { tag: sync.ref }, insecure: true },
      },
      {
        ...{ apiVersion: kustomizeApi, kind: "Kustomization", metadata },
        spec: {
          ...{ interval: "10m", path: sync.path, prune: true },
          sourceRef: { kind: sync.kind, name: metadata.name },
        },
      },
    ];
    return kustomized(objects, { patches: kustomize?.patches ?? [] });
  }

  /** The flags that the FluxInstance's patches add to the controllers' Deployments. */
  private async fluxFlags(instance: Manifest, patched: readonly Manifest[]): Promise<FluxFlags> {
    const before = argsByDeployment(await this.distribution(instance));
    const after = argsByDeployment(patched);
    const added = (name: FluxController) =>
      (after.get(name) ?? []).filter((flag) => before.get(name)?.includes(flag) !== true);
    const real = `--watch-label-selector=!${simulatedLabel}`;
    return {
      "source-controller": [...added("source-controller"), this.options.helm ? real : rootSourcesOnly],
      "kustomize-controller": added("kustomize-controller"),
      "helm-controller": [...added("helm-controller"), real],
      "notification-controller": added("notification-controller"),
    };
  }

  private async distribution(instance: Manifest): Promise<Manifest[]> {
    const { distribution } = instance.spec as { distribution: { version: string } };
    return (await fluxDistribution(distribution.version)) as Manifest[];
  }
}

/** `group/Kind` of an object. */
export function groupKind({ apiVersion, kind }: Manifest): string {
  return `${apiVersion.split("/")[0] ?? ""}/${kind}`;
}

/** `group/Kind` that a CustomResourceDefinition defines. */
export function groupKindOf(definition: Manifest): string {
  const { group, names } = definition.spec as { group: string; names: { kind: string } };
  return `${group}/${names.kind}`;
}

function argsByDeployment(objects: readonly Manifest[]): Map<string, string[]> {
  const deployments = objects.filter(({ kind }) => kind === "Deployment");
  return new Map(
    deployments.map((deployment) => {
      const { template } = deployment.spec as {
        template: { spec: { containers: readonly { args?: string[] }[] } };
      };
      return [deployment.metadata.name, template.spec.containers[0]?.args ?? []];
    }),
  );
}
