import { local } from "@pulumi/command";
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
import type { PlatformConfig } from "../core/settings/config";
import { runtimeName } from "../core/tree/check";
import type { Provenance } from "../core/tree/source";
import { clusterKindOf } from "../core/cluster/kinds";
import { clusterOf } from "./cluster/kinds";
import { Garbage } from "./dynamic/garbage";
import { Network } from "./dynamic/network";
import { fieldManager, namespaceUidAnnotation, ownerAnnotation } from "../core/flux-system/claim";
import { fluxNamespace } from "../clients/flux/finalizers";
import { FluxNamespace } from "./dynamic/flux-namespace";
import type { LayerResult } from "../core/release/wait";
import { dockerConfig, type RegistryLogin } from "../clients/registry/login";
import { LocalRegistry, type Registry } from "./registry";
import { registryName, repositoryPath } from "../core/registry/names";
import { Release } from "./release";
import type { NetworkSetting } from "../core/cluster/existing/network";
import type { SeedInputs } from "../core/flux-system/seed";
import { Seed, type SeedArgs } from "./dynamic/seed";
import { GeneratedSecrets, type GeneratedSecretsArgs } from "./dynamic/generated-secrets";
import { AgeIdentity } from "./dynamic/age-identity";
import { secretKeys } from "../clients/sops/secret-file";
import { SopsAgeSecret } from "./sops-age-secret";

/** Arguments of `Platform`: the stack's settings, and the facts that the program read from disk and Git. */
export interface PlatformArgs {
  readonly config: PlatformConfig;
  /** The origin of the gitops tree. */
  readonly provenance: Provenance;
  /** The Git commit whose files are released. @default the files on the disk */
  readonly commit?: string;
  /** `Tree.content` of the gitops tree. */
  readonly content: string;
  /** Secrets whose values are generated: path relative to the tree → the file as committed. */
  readonly generated: ReadonlyMap<string, string>;
  /** Admin kubeconfig of an existing cluster; a cluster that this project makes has its own. */
  readonly kubeconfig?: string;
  /** The age identity, if the stack's settings hold it. */
  readonly ageKey?: string;
  /** The login with which the cluster pulls from a remote registry. @default the cluster pulls without a login */
  readonly pullLogin?: RegistryLogin;
}

/**
 * The whole platform: layer 0, and the release that hands over to Flux.
 *
 * The age identity comes first and every other resource waits for it; then cluster, registry and artifact run in
 * parallel.
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
        key: args.ageKey === undefined ? undefined : secret(args.ageKey),
        command: config.sops.ageKeyCommand?.slice(),
      },
      { parent: this },
    );
    const host = this.host(name, config, identity);
    const { owner } = config;
    const cluster = clusterOf(
      `${name}-cluster`,
      {
        ...config,
        ...{ config: config.cluster, network: host, kubeconfig: args.kubeconfig, after: identity },
      },
      { parent: this, protect: config.protect },
    );
    const registry = this.registry(name, config, host);
    const ownCluster = cluster.container !== undefined;
    const kubernetes = new Provider(
      `${name}-kubernetes`,
      {
        kubeconfig: cluster.kubeconfig,
        enableServerSideApply: true,
        // `FluxNamespace` checked the owners of these objects before; state may be lost, and its field managers with
        // it.
        enablePatchForce: true,
        // An existing cluster that does not answer is not lost.
        deleteUnreachable: ownCluster,
        upsertExistingObjects: true,
        // A changed object is never gone for a moment, in which Flux would miss it.
        enableConfigMapMutable: true,
        enableSecretMutable: true,
      },
      { parent: this },
    );
    // The deletion of the cluster deletes the objects in it, without waiting for running workloads.
    const deletedWith = cluster.container;
    const namespace = new FluxNamespace(
      `${name}-flux-system`,
      {
        kubeconfig: cluster.kubeconfig,
        ownCluster,
        owner,
        owned: [
          { kind: "ConfigMap", name: runtimeName },
          { kind: "Secret", name: "sops-age" },
          ...(config.registry.kind === "remote" ? [{ kind: "Secret", name: "platform-registry" }] : []),
        ].map((object) => ({ apiVersion: "v1", namespace: fluxNamespace, ...object })),
      },
      { parent: this, deletedWith, protect: config.protect, dependsOn: [kubernetes] },
    );
    // A new namespace of this name holds none of the objects of the old one, even if a refresh still saw them.
    const annotations = {
      [namespaceUidAnnotation]: namespace.uid,
      [ownerAnnotation]: owner,
      // Pulumi's Kubernetes provider reads this; otherwise it takes another field manager for each state.
      "pulumi.com/patchFieldManager": fieldManager,
    };
    const inNamespace = {
      deletedWith,
      provider: kubernetes,
      replaceOnChanges: [`metadata.annotations["${namespaceUidAnnotation}"]`],
      deleteBeforeReplace: true,
    };
    const sopsAge = new SopsAgeSecret(
      `${name}-sops-age`,
      { namespace: namespace.name, annotations, identity: identity.identity, options: inNamespace },
      { parent: this },
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
      { metadata: { name: runtimeName, namespace: namespace.name, annotations }, data: variables },
      { parent: this, ...inNamespace },
    );

    // The FluxInstance names it: distributions/talos/controllers/flux-instance-patch.yaml
    const pullSecret =
      config.registry.kind !== "remote"
        ? []
        : [
            new core.v1.Secret(
              `${name}-pull-secret`,
              {
                metadata: { name: "platform-registry", namespace: namespace.name, annotations },
                type: "kubernetes.io/dockerconfigjson",
                stringData: {
                  ".dockerconfigjson": secret(
                    registry.clusterAddress.apply((host) => dockerConfig(host, args.pullLogin)),
                  ),
                },
              },
              { parent: this, ...inNamespace },
            ),
          ];

    const place = {
      ...{ kubeconfig: cluster.kubeconfig, ownCluster, namespaceUid: namespace.uid },
      variables: all(variables),
    };
    const { tree, cluster: clusterPath } = config.gitops;
    const seeded = this.seeds(name, config.cluster.cni, [namespace, ...pullSecret], {
      ...{ ...place, tree, cluster: clusterPath, chartMirror: config.chartMirror },
    });

    const insecure = config.registry.kind === "remote" && config.registry.insecure;
    const release = new Release(
      `${name}-release`,
      {
        artifact: {
          ...args.provenance,
          ...{ content: args.content, commit: args.commit },
          tree: config.gitops.tree,
          cluster: config.gitops.cluster,
          files: this.generatedSecrets(name, args.generated, identity, config.sops.valuesRevision, {
            repository: registry.repository,
            insecure,
            channel,
            kubeconfig: secret(cluster.kubeconfig),
          }),
          repository: registry.repository,
          insecure,
        },
        gate: {
          ...{ ...place, channel },
          timeoutSeconds: config.release.timeoutSeconds,
          keep: config.registry.kind === "local" ? config.registry.keep : 0,
        },
        after: [sopsAge, runtime, ...pullSecret, ...seeded],
      },
      { parent: this },
    );

    if (config.registry.kind === "local") {
      new Garbage(
        `${name}-registry-garbage`,
        {
          container: registryName(config.stack),
          owner,
          address: `127.0.0.1:${config.registry.port}`,
          after: release.digest,
        },
        { parent: this, dependsOn: [release] },
      );
    }

    // The hooks run one after another, and again for each release; a failing hook fails the run with its output.
    const environment = {
      ...{ PLATFORM_STACK: config.stack, PLATFORM_DOMAIN: config.domain },
      PLATFORM_DIGEST: release.digest,
    };
    config.hooks.afterReady.reduce<Resource>(
      (before, command, index) =>
        new local.Command(
          `${name}-after-ready-${index + 1}`,
          { create: command, environment, triggers: [release.digest, variables] },
          { parent: this, dependsOn: [before] },
        ),
      release,
    );

    this.kubeconfig = secret(cluster.kubeconfig);
    this.digest = release.digest;
    this.ready = release.ready;
    this.layers = release.layers;
    const { digest, ready, layers } = release;
    this.registerOutputs({ kubeconfig: this.kubeconfig, digest, ready, layers });
  }

  /** The Docker network that a local cluster and a local registry share; undefined when neither is local. */
  private host(name: string, config: PlatformConfig, identity: Resource): Network | undefined {
    if (!clusterKindOf(config.cluster).onThisMachine && config.registry.kind !== "local") return undefined;
    return new Network(
      `${name}-network`,
      { name: `platform-${config.stack}`, owner: config.owner },
      { parent: this, dependsOn: [identity] },
    );
  }

  private registry(
    name: string,
    { stack, owner, registry: config }: PlatformConfig,
    network: Network | undefined,
  ): Registry {
    if (config.kind === "local" && network !== undefined) {
      return new LocalRegistry(
        `${name}-registry`,
        { ...config, containerName: registryName(stack), owner, path: repositoryPath, network },
        { parent: this },
      );
    }
    const repository = config.kind === "remote" ? config.repository : "";
    return {
      repository: output(repository),
      clusterRepository: output(repository),
      clusterAddress: output(repository.split("/")[0] ?? ""),
    };
  }

  /** Flux needs a network, its operator, and the instance that makes it: objects of the controllers layer. */
  private seeds(
    name: string,
    cni: PlatformConfig["cluster"]["cni"],
    after: Resource[],
    args: Omit<SeedArgs, "object" | "network">,
  ): Resource[] {
    const seed = (object: SeedInputs["object"], dependsOn: Resource[], network?: NetworkSetting) =>
      new Seed(`${name}-seed-${object.name}`, { ...args, object, network }, { parent: this, dependsOn });
    const cilium = { kind: "HelmRelease", namespace: "kube-system", name: "cilium" };
    const network =
      cni === "auto" || cni === "cilium"
        ? [seed(cilium, after, args.ownCluster === true ? undefined : cni)]
        : [];
    const operator = seed({ kind: "HelmRelease", namespace: "flux-system", name: "flux-operator" }, after);
    const instance = seed({ kind: "FluxInstance", namespace: "flux-system", name: "flux" }, [operator]);
    return [...network, operator, instance];
  }

  /** Encrypted files of generated secrets; a password for each key of each file that has no value yet. */
  private generatedSecrets(
    name: string,
    files: ReadonlyMap<string, string>,
    identity: AgeIdentity,
    revision: number,
    inForce: Pick<GeneratedSecretsArgs, "repository" | "insecure" | "channel" | "kubeconfig">,
  ): Output<Record<string, string>> {
    const keepers = revision === 0 ? undefined : { revision: String(revision) };
    const generate = (password: string) =>
      new RandomPassword(`${name}-${password}`, { length: 32, special: false, keepers }, { parent: this })
        .result;
    const values = [...passwordNames(files)].map(([path, keys]) => {
      const passwords = keys.map(([key, password]) => [key, generate(password)] as const);
      return [path, all(Object.fromEntries(passwords))] as const;
    });
    return new GeneratedSecrets(
      `${name}-generated-secrets`,
      {
        files: Object.fromEntries(files),
        values: secret(all(Object.fromEntries(values))),
        recipients: identity.recipients,
        identity: secret(identity.identity),
        revision,
        ...inForce,
      },
      { parent: this },
    ).encrypted;
  }
}

/**
 * Names of the passwords of files: path → key and name. `apps-a-b` is the name for key "b" of `apps/a.enc.yaml`. If
 * another file's key has that name too, such as "a-b" of `apps.enc.yaml`, both names contain their path, and no alias
 * says which key had the name before. The values stay in any case: see `GeneratedLifecycle`.
 */
function passwordNames(
  files: ReadonlyMap<string, string>,
): Map<string, readonly (readonly [key: string, name: string])[]> {
  const place = (path: string) => path.replace(/^clusters\/[^/]+\//, "").replace(/\.enc\.yaml$/, "");
  const short = (path: string, key: string) => `${place(path).replaceAll("/", "-")}-${key}`;
  const keys = new Map([...files].map(([path, content]) => [path, secretKeys(content)]));
  const taken = [...keys].flatMap(([path, own]) => own.map((key) => short(path, key)));
  const isShared = (name: string) => taken.indexOf(name) !== taken.lastIndexOf(name);
  return new Map(
    [...keys].map(([path, own]) => [
      path,
      own.map((key) => {
        const name = short(path, key);
        return [key, isShared(name) ? `${place(path)}/${key}` : name] as const;
      }),
    ]),
  );
}
