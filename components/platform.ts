import { local } from "@pulumi/command";
import { Network } from "@pulumi/docker";
import { core, Provider } from "@pulumi/kubernetes";
import {
  all,
  ComponentResource,
  output,
  secret,
  type ComponentResourceOptions,
  type Output,
  type Resource,
} from "@pulumi/pulumi";
import { RandomPassword } from "@pulumi/random";
import type { ClusterConfig, PlatformConfig } from "../config";
import type { Provenance } from "./artifact/layout";
import type { Cluster } from "./cluster/cluster";
import { owner, ownerLabel } from "./cluster/kind/lifecycle";
import { KindCluster } from "./cluster/kind-cluster";
import type { LayerResult } from "./gate/lifecycle";
import { LocalRegistry, type Registry } from "./registry";
import { Release } from "./release";
import type { SeedInputs } from "./seed/lifecycle";
import { Seed, type SeedArgs } from "./seed/resource";
import { GeneratedSecrets } from "./sops/generated/resource";
import { AgeIdentity } from "./sops/identity/resource";
import { secretKeys } from "./sops/secret-file";
import { SopsAgeSecret } from "./sops/sops-age-secret";

/** Arguments of `Platform`: the stack's settings, and what the program read from disk and Git. */
export interface PlatformArgs {
  readonly config: PlatformConfig;
  /** Where the gitops tree comes from. */
  readonly provenance: Provenance;
  /** `Tree.content` of the gitops tree. */
  readonly content: string;
  /** Secrets whose values are generated: path relative to the tree → the file as committed. */
  readonly generated: ReadonlyMap<string, string>;
  /** Admin kubeconfig of an existing cluster; a cluster that is made has its own. */
  readonly kubeconfig?: string;
}

/**
 * The whole platform: layer 0, and the release that hands over to Flux.
 *
 * The age identity comes first and everything waits for it; then cluster, registry and artifact side by side.
 */
export class Platform extends ComponentResource {
  readonly kubeconfig: Output<string>;
  /** `sha256:…` of the released artifact. */
  readonly digest: Output<string>;
  readonly ready: Output<boolean>;
  readonly layers: Output<LayerResult[]>;

  constructor(name: string, args: PlatformArgs, opts?: ComponentResourceOptions) {
    super("platform:index:Platform", name, {}, opts);
    const { config } = args;
    const channel = config.stack;

    const identity = new AgeIdentity(
      `${name}-identity`,
      {
        stack: config.stack,
        file: config.sops.identityFile,
        generate: config.sops.generate,
        tree: config.gitops.tree,
        cluster: config.gitops.cluster,
      },
      { parent: this },
    );
    const host = this.host(name, config, identity);
    const cluster = this.cluster(name, config.cluster, args.kubeconfig, host, identity);
    const registry = this.registry(name, config, host);
    const kubernetes = new Provider(
      `${name}-kubernetes`,
      {
        kubeconfig: cluster.kubeconfig,
        enableServerSideApply: true,
        deleteUnreachable: true,
        upsertExistingObjects: true,
      },
      { parent: this },
    );
    const inCluster = { parent: this, provider: kubernetes };

    const namespace = new core.v1.Namespace(
      `${name}-flux-system`,
      // Flux and its operator label this namespace too; Pulumi owns its existence, not its labels.
      { metadata: { name: "flux-system" } },
      { ...inCluster, ignoreChanges: ["metadata.labels", "metadata.annotations"] },
    );
    const namespaceName = namespace.metadata.name;
    const sopsAge = new SopsAgeSecret(
      `${name}-sops-age`,
      { namespace: namespaceName, identity: identity.identity },
      { parent: this, providers: { kubernetes } },
    );
    const variables = {
      artifact_repository: registry.clusterRepository,
      channel,
      domain: config.domain,
      load_balancer_cidr: cluster.loadBalancerCidr,
      registry_address: registry.clusterAddress,
    };
    const runtime = new core.v1.ConfigMap(
      `${name}-runtime`,
      { metadata: { name: "platform-runtime", namespace: namespaceName }, data: variables },
      inCluster,
    );

    const seeded = this.seeds(name, {
      kubeconfig: cluster.kubeconfig,
      tree: config.gitops.tree,
      cluster: config.gitops.cluster,
      variables: all(variables),
      chartMirror: config.chartMirror,
      after: [namespace],
    });

    const release = new Release(
      `${name}-release`,
      {
        ...args.provenance,
        content: args.content,
        tree: config.gitops.tree,
        cluster: config.gitops.cluster,
        files: this.generatedSecrets(name, args.generated, identity),
        repository: registry.repository,
        insecure: config.registry.kind === "remote" && config.registry.insecure,
        kubeconfig: cluster.kubeconfig,
        channel,
        timeoutSeconds: config.release.timeoutSeconds,
        after: [sopsAge, runtime, ...seeded],
      },
      { parent: this },
    );

    this.kubeconfig = secret(cluster.kubeconfig);
    this.digest = release.digest;
    this.ready = release.ready;
    this.layers = release.layers;
    this.registerOutputs({
      kubeconfig: this.kubeconfig,
      digest: this.digest,
      ready: this.ready,
      layers: this.layers,
    });
  }

  /** The Docker network that a local cluster and a local registry share; undefined when neither is local. */
  private host(name: string, config: PlatformConfig, identity: Resource): Network | undefined {
    if (config.cluster.kind !== "kind" && config.registry.kind !== "local") return undefined;
    const docker = new local.Command(
      `${name}-docker`,
      { create: "docker info --format '{{.ServerVersion}}'" },
      { parent: this, dependsOn: [identity] },
    );
    return new Network(
      `${name}-network`,
      { name: `platform-${config.stack}`, internal: false, labels: [{ label: ownerLabel, value: owner }] },
      { parent: this, dependsOn: [docker] },
    );
  }

  private cluster(
    name: string,
    config: ClusterConfig,
    kubeconfig: string | undefined,
    network: Network | undefined,
    identity: Resource,
  ): Cluster {
    if (config.kind === "kind" && network !== undefined) {
      return new KindCluster(
        `${name}-cluster`,
        {
          clusterName: config.name,
          network: network.name,
          workers: config.workers,
          ...(config.nodeImage === undefined ? {} : { nodeImage: config.nodeImage }),
        },
        { parent: this },
      );
    }
    if (config.kind === "existing" && kubeconfig !== undefined) {
      // Known only once the identity is: nothing is applied to the cluster before.
      return {
        kubeconfig: secret(output(identity.urn).apply(() => kubeconfig)),
        loadBalancerCidr: output(config.loadBalancerCidr),
      };
    }
    throw new Error(
      `Composing the platform failed: a cluster of kind "${config.kind}" lacks its kubeconfig. Pass it to Platform.`,
    );
  }

  private registry(name: string, config: PlatformConfig, network: Network | undefined): Registry {
    if (config.registry.kind === "local" && network !== undefined) {
      return new LocalRegistry(
        `${name}-registry`,
        {
          containerName: `platform-${config.stack}-registry`,
          port: config.registry.port,
          path: "platform",
          network,
          ...(config.registry.image === undefined ? {} : { image: config.registry.image }),
        },
        { parent: this },
      );
    }
    const repository = config.registry.kind === "remote" ? config.registry.repository : "";
    return {
      repository: output(repository),
      clusterRepository: output(repository),
      clusterAddress: output(repository.split("/")[0] ?? ""),
    };
  }

  /** Flux needs a network, its operator, and the instance that makes it: objects of the controllers layer. */
  private seeds(
    name: string,
    args: Omit<SeedArgs, "object"> & { readonly after: readonly Resource[] },
  ): Resource[] {
    const { after, ...common } = args;
    const seed = (object: SeedInputs["object"], dependsOn: readonly Resource[]) =>
      new Seed(
        `${name}-seed-${object.name}`,
        { ...common, object },
        { parent: this, dependsOn: [...dependsOn] },
      );
    const network = seed({ kind: "HelmRelease", namespace: "kube-system", name: "cilium" }, after);
    const operator = seed({ kind: "HelmRelease", namespace: "flux-system", name: "flux-operator" }, after);
    const instance = seed({ kind: "FluxInstance", namespace: "flux-system", name: "flux" }, [operator]);
    return [network, operator, instance];
  }

  /** Encrypted files of generated secrets, one password for each key of each file. */
  private generatedSecrets(
    name: string,
    files: ReadonlyMap<string, string>,
    identity: AgeIdentity,
  ): Output<Record<string, string>> {
    const values = [...files].map(([path, content]) => {
      const file = path
        .replace(/^clusters\/[^/]+\//, "")
        .replace(/\.enc\.yaml$/, "")
        .replaceAll("/", "-");
      const passwords = secretKeys(content).map(
        (key) =>
          [
            key,
            new RandomPassword(`${name}-${file}-${key}`, { length: 32, special: false }, { parent: this })
              .result,
          ] as const,
      );
      return [path, all(Object.fromEntries(passwords))] as const;
    });
    return new GeneratedSecrets(
      `${name}-generated-secrets`,
      {
        files: Object.fromEntries(files),
        values: secret(all(Object.fromEntries(values))),
        recipients: identity.recipients,
      },
      { parent: this },
    ).encrypted;
  }
}
