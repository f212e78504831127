import { deepEqual, equal, match, ok, throws } from "node:assert/strict";
import type { Output } from "@pulumi/pulumi";
import type { PlatformConfig } from "../../core/settings/config";
import type { PlatformArgs } from "../../components/platform";
import { apiServerFiles, defaultNodeImage, kindConfig } from "../../core/cluster/kind/config";
import { registryHosts } from "../../core/registry/hosts";
import { record, type FakeOutputs, type Recorded } from "./recorder";

const homepage = [
  "apiVersion: v1",
  "kind: Secret",
  "metadata: {name: homepage, namespace: homepage}",
  'stringData: {TOKEN: "", KEY: ""}',
].join("\n");

const local = {
  ...{ stack: "local", owner: "platform/local" },
  cluster: {
    ...{ kind: "kind", name: "local", workers: 1, cni: "cilium", podSecurity: "baseline", ports: [] },
    ...{ podSubnet: "10.244.0.0/16", serviceSubnet: "10.96.0.0/16" },
    ...{ mounts: [], kubeadmConfigPatches: [], kubeconfig: "output", allowReplace: false },
  },
  registry: {
    kind: "local",
    port: 5051,
    image: "registry:3",
    mirrors: [],
    airGapped: false,
    keep: 20,
    retain: false,
  },
  domain: "platform.localhost",
  gitops: { tree: "/project/gitops", cluster: "local", requireClean: false },
  sops: { generate: "empty", identityFile: "/home/me/local.agekey", valuesRevision: 0 },
  release: { timeoutSeconds: 600 },
  hooks: { afterReady: [] },
  ...{ protect: false, directory: "/state/local" },
} as const satisfies PlatformConfig;
const prod: PlatformConfig = {
  ...{ stack: "prod", owner: "platform/prod" },
  cluster: {
    kind: "existing",
    kubeconfigFile: "/home/me/prod.yaml",
    loadBalancerCidr: "10.20.0.0/24",
    cni: "auto",
  },
  registry: { kind: "remote", repository: "ghcr.io/example/platform", insecure: false },
  domain: "example.com",
  gitops: { tree: "/project/gitops", cluster: "prod", requireClean: true },
  sops: { generate: "none", identityFile: "/home/me/prod.agekey", valuesRevision: 0 },
  release: { timeoutSeconds: 900 },
  hooks: { afterReady: [] },
  ...{ protect: false, directory: "/state/prod" },
};
const source = {
  revision: "sha1:abc",
  source: "https://example.com/platform",
  created: "2026-01-01T00:00:00Z",
};

const digest = `sha256:${"d".repeat(64)}`;
const layers = [{ name: "apps", ready: true, seconds: 1, objects: 2 }];
const made: FakeOutputs = {
  "pulumi-nodejs:dynamic/sops:AgeIdentity": () => ({ identity: "the identity", recipients: ["age1local"] }),
  "pulumi-nodejs:dynamic/docker:Network": () => ({ subnet: "172.18.0.0/16" }),
  "pulumi-nodejs:dynamic/docker:Container": (inputs) => {
    const { name, port } = inputs as { name: string; port: { container: number; host: number } };
    return { hostAddress: `127.0.0.1:${port.host}`, networkAddress: `${name}:${port.container}` };
  },
  "pulumi-nodejs:dynamic/cluster:Kind": () => ({ kubeconfig: "the kubeconfig" }),
  "pulumi-nodejs:dynamic/flux:Namespace": () => ({ name: "flux-system", uid: "the uid" }),
  "docker:index/remoteImage:RemoteImage": () => ({ imageId: "sha256:image" }),
  "random:index/randomPassword:RandomPassword": ({ length }) => ({ result: "x".repeat(Number(length)) }),
  "pulumi-nodejs:dynamic/sops:GeneratedSecrets": () => ({
    encrypted: { "clusters/local/a.enc.yaml": "sealed" },
  }),
  "pulumi-nodejs:dynamic/release:Artifact": () => ({ digest }),
  "pulumi-nodejs:dynamic/release:Gate": () => ({ ready: true, layers }),
};

interface Composed {
  readonly resources: readonly Recorded[];
  readonly platform: {
    kubeconfig: Output<string>;
    digest: Output<string>;
    ready: Output<boolean>;
    layers: Output<unknown>;
  };
}

async function compose(config: PlatformConfig, args: Partial<PlatformArgs> = {}): Promise<Composed> {
  let platform: Composed["platform"] | undefined;
  const resources = await record(async () => {
    const { Platform } = await import("../../components/platform");
    platform = new Platform("platform", {
      ...{ config, provenance: source, commit: "abc1234", content: "content" },
      generated: new Map<string, string>(),
      ...args,
    });
  }, made);
  ok(platform);
  return { resources, platform };
}

function find(resources: readonly Recorded[], name: string): Recorded {
  const found = resources.find((resource) => resource.name === name);
  ok(found, `there is no resource "${name}"`);
  return found;
}

/** Whether a resource waits for another one; components and passwords, which make nothing, count as if they did. */
function waitsFor(resources: readonly Recorded[], resource: Recorded, name: string): boolean {
  if (/^(platform|random):/.test(resource.type)) return true;
  return resource.dependencies.some(
    (dependency) =>
      dependency === name ||
      resources.some(
        (other) =>
          other.name === dependency && !/^random:/.test(other.type) && waitsFor(resources, other, name),
      ),
  );
}

/** The inputs of a dynamic resource that are not undefined, without the provider's text. */
function dynamicInputs(resource: Recorded): Record<string, unknown> {
  return Object.fromEntries(Object.entries(resource.inputs).filter(([key]) => key !== "__provider"));
}

const pairs = (resources: readonly Recorded[]) => resources.map(({ type, name }) => [type, name]);
const dynamic = (type: string) => `pulumi-nodejs:dynamic/${type}`;

/** What Pulumi owns in a cluster: in another namespace of that name it is made again, always by one field manager. */
const ownedBy = (stack: string) => ({
  "platform.pulumi.com/namespace-uid": "the uid",
  "platform.pulumi.com/owner": `platform/${stack}`,
  "pulumi.com/patchFieldManager": "platform",
});

/** The resources that another annotation replaces, the old one first; no other property replaces any. */
function replacedWithNamespace(resources: readonly Recorded[], stack: string): string[] {
  const replaced = resources.filter(
    ({ replaceOnChanges, deleteBeforeReplace }) => replaceOnChanges.length > 0 || deleteBeforeReplace,
  );
  for (const { name, inputs, replaceOnChanges, deleteBeforeReplace } of replaced) {
    const uid = 'metadata.annotations["platform.pulumi.com/namespace-uid"]';
    deepEqual([replaceOnChanges, deleteBeforeReplace], [[uid], true], name);
    deepEqual((inputs.metadata as { annotations?: unknown }).annotations, ownedBy(stack), name);
  }
  return replaced.map(({ name }) => name);
}

/** Every object that Pulumi's Kubernetes provider applies was looked at before: it applies with force. */
function asksForOwners(resources: readonly Recorded[]): void {
  const { owned } = find(resources, "platform-flux-system").inputs;
  const applied = resources.filter(({ type }) => type.startsWith("kubernetes:core/v1:"));
  deepEqual(
    applied
      .map(({ inputs }) => `${String(inputs.kind)} ${(inputs.metadata as { name: string }).name}`)
      .sort(),
    (owned as { kind: string; name: string }[]).map(({ kind, name }) => `${kind} ${name}`).sort(),
  );
}

const seedVariables = {
  artifact_repository: "platform-local-registry:5000/platform",
  channel: "local",
  domain: "platform.localhost",
  load_balancer_cidr: "172.18.255.0/24",
  registry_address: "platform-local-registry:5000",
};

describe("Platform of a stack on this machine", () => {
  let resources: readonly Recorded[];
  let platform: Composed["platform"];

  before(async () => {
    ({ resources, platform } = await compose(local, {
      generated: new Map([["clusters/local/apps/homepage.enc.yaml", homepage]]),
    }));
  });

  it("registers these resources and no other", () => {
    deepEqual(
      pairs(resources),
      [
        ["platform:index:Platform", "platform"],
        ["platform:cluster:KindCluster", "platform-cluster"],
        [dynamic("cluster:Kind"), "platform-cluster-kind"],
        [dynamic("flux:Namespace"), "platform-flux-system"],
        [dynamic("sops:GeneratedSecrets"), "platform-generated-secrets"],
        ["random:index/randomPassword:RandomPassword", "platform-apps-homepage-KEY"],
        ["random:index/randomPassword:RandomPassword", "platform-apps-homepage-TOKEN"],
        [dynamic("sops:AgeIdentity"), "platform-identity"],
        ["pulumi:providers:kubernetes", "platform-kubernetes"],
        [dynamic("docker:Network"), "platform-network"],
        ["platform:registry:LocalRegistry", "platform-registry"],
        [dynamic("docker:Container"), "platform-registry-container"],
        [dynamic("docker:Garbage"), "platform-registry-garbage"],
        ["docker:index/remoteImage:RemoteImage", "platform-registry-image"],
        ["docker:index/volume:Volume", "platform-registry-volume"],
        ["platform:release:Release", "platform-release"],
        [dynamic("release:Artifact"), "platform-release-artifact"],
        [dynamic("release:Gate"), "platform-release-gate"],
        ["kubernetes:core/v1:ConfigMap", "platform-runtime"],
        [dynamic("seed:Seed"), "platform-seed-cilium"],
        [dynamic("seed:Seed"), "platform-seed-flux"],
        [dynamic("seed:Seed"), "platform-seed-flux-operator"],
        ["platform:sops:SopsAgeSecret", "platform-sops-age"],
        ["kubernetes:core/v1:Secret", "platform-sops-age-secret"],
      ].sort(([, a = ""], [, b = ""]) => (a < b ? -1 : 1)),
    );
  });

  it("makes nothing before the identity was found good", () => {
    deepEqual(
      resources
        .filter((resource) => !waitsFor(resources, resource, "platform-identity"))
        .map(({ name }) => name),
      ["platform-identity"],
    );
  });

  it("asks for the identity first, and makes nothing on the machine before it", () => {
    const identity = find(resources, "platform-identity");
    deepEqual(dynamicInputs(identity), {
      stack: "local",
      file: "/home/me/local.agekey",
      generate: "empty",
      tree: "/project/gitops",
      cluster: "local",
    });
    deepEqual(identity.dependencies, []);
    deepEqual(identity.secretOutputs, ["identity", "key"]);
    deepEqual(find(resources, "platform-network").dependencies, ["platform-identity"]);
    deepEqual(find(resources, "platform-cluster-kind").dependencies, ["platform-network"]);
    for (const name of ["volume", "image"]) {
      deepEqual(find(resources, `platform-registry-${name}`).dependencies, ["platform-network"]);
    }
    for (const name of ["network", "registry-volume", "registry-image"]) {
      ok(find(resources, "platform-registry-container").dependencies.includes(`platform-${name}`), name);
    }
  });

  it("makes a network of the stack's own", () => {
    deepEqual(dynamicInputs(find(resources, "platform-network")), {
      name: "platform-local",
      owner: "platform/local",
    });
  });

  it("makes a Kind cluster in that network, whose kubeconfig is secret", () => {
    const kind = find(resources, "platform-cluster-kind");
    const { config, files, ...inputs } = dynamicInputs(kind);
    deepEqual(inputs, {
      ...{
        name: "local",
        owner: "platform/local",
        network: "platform-local",
        image: defaultNodeImage,
        pull: true,
      },
      hosts: registryHosts({ containerName: "platform-local-registry" }),
      mergeKubeconfig: false,
      allowReplace: false,
    });
    equal(config, kindConfig({ directory: "/state/local", workers: 1 }));
    deepEqual(files, apiServerFiles({}));
    deepEqual(kind.secretOutputs, ["kubeconfig"]);
  });

  it("collects the registry's garbage after each release", () => {
    const garbage = find(resources, "platform-registry-garbage");
    deepEqual(dynamicInputs(garbage), {
      ...{ container: "platform-local-registry", owner: "platform/local" },
      address: "127.0.0.1:5051",
      after: find(resources, "platform-release-gate").inputs.digest,
    });
    ok(garbage.dependencies.includes("platform-release-gate"));
  });

  it("publishes the registry on a volume of its own", () => {
    deepEqual(dynamicInputs(find(resources, "platform-registry-container")), {
      ...{ name: "platform-local-registry", owner: "platform/local" },
      ...{ hostAddress: "127.0.0.1:5051", networkAddress: "platform-local-registry:5000" },
      image: "sha256:image",
      network: "platform-local",
      port: { container: 5000, host: 5051 },
      volume: { name: "platform-local-registry", path: "/var/lib/registry" },
      env: { OTEL_TRACES_EXPORTER: "none", REGISTRY_STORAGE_DELETE_ENABLED: "true" },
    });
    const volume = find(resources, "platform-registry-volume");
    deepEqual(volume.inputs, {
      name: "platform-local-registry",
      labels: [{ label: "platform.pulumi.com/owner", value: "platform/local" }],
    });
    equal(volume.retainOnDelete, false);
    // Another label would be another volume, and an empty one.
    deepEqual(volume.ignoreChanges, ["labels"]);
    deepEqual(find(resources, "platform-registry-image").inputs, { name: "registry:3", keepLocally: true });
  });

  it("deletes what is in the cluster with the cluster, and nothing else", () => {
    deepEqual(
      resources.filter(({ deletedWith }) => deletedWith !== "").map((each) => [each.name, each.deletedWith]),
      [
        ["platform-flux-system", "platform-cluster-kind"],
        ["platform-runtime", "platform-cluster-kind"],
        ["platform-sops-age-secret", "platform-cluster-kind"],
      ],
    );
  });

  it("makes anew what is in the namespace of Flux when that is another one, and nothing else", () => {
    deepEqual(replacedWithNamespace(resources, "local"), ["platform-runtime", "platform-sops-age-secret"]);
  });

  it("protects nothing, and keeps nothing, that it is not told to", () => {
    deepEqual(
      resources.filter(({ protect, retainOnDelete }) => protect || retainOnDelete).map(({ name }) => name),
      [],
    );
  });

  it("reaches the cluster in a way that adopts what is there and lets go of what is lost", () => {
    const provider = find(resources, "platform-kubernetes");
    deepEqual(provider.inputs, {
      kubeconfig: "the kubeconfig",
      enableServerSideApply: "true",
      enablePatchForce: "true",
      deleteUnreachable: "true",
      upsertExistingObjects: "true",
      enableConfigMapMutable: "true",
      enableSecretMutable: "true",
    });
  });

  it("makes the namespace of Flux in that cluster, whose kubeconfig stays secret", () => {
    const namespace = find(resources, "platform-flux-system");
    deepEqual(dynamicInputs(namespace), {
      kubeconfig: "the kubeconfig",
      ownCluster: true,
      owner: "platform/local",
      owned: [
        { apiVersion: "v1", kind: "ConfigMap", namespace: "flux-system", name: "platform-runtime" },
        { apiVersion: "v1", kind: "Secret", namespace: "flux-system", name: "sops-age" },
      ],
    });
    deepEqual(namespace.secretOutputs, ["kubeconfig"]);
  });

  it("asks who owns every object that its Kubernetes provider applies with force", () => {
    asksForOwners(resources);
  });

  it("writes the facts of this run for Flux to substitute", () => {
    deepEqual(find(resources, "platform-runtime").inputs, {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { name: "platform-runtime", namespace: "flux-system", annotations: ownedBy("local") },
      data: seedVariables,
    });
  });

  it("names every fact that the tree may use, and no other", async () => {
    const { runtimeKeys } = await import("../../core/tree/check");
    deepEqual(Object.keys(seedVariables).sort(), [...runtimeKeys].sort());
  });

  it("hands Flux the identity as a secret", () => {
    const secret = find(resources, "platform-sops-age-secret");
    deepEqual(secret.inputs, {
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name: "sops-age", namespace: "flux-system", annotations: ownedBy("local") },
      stringData: { "age.agekey": "the identity" },
    });
    deepEqual(secret.secrets, ["stringData"]);
  });

  it("seeds network, operator and instance, the instance after its operator", () => {
    const common = {
      kubeconfig: "the kubeconfig",
      ownCluster: true,
      namespaceUid: "the uid",
      tree: "/project/gitops",
      cluster: "local",
      variables: seedVariables,
    };
    for (const [name, object] of [
      ["platform-seed-cilium", { kind: "HelmRelease", namespace: "kube-system", name: "cilium" }],
      [
        "platform-seed-flux-operator",
        { kind: "HelmRelease", namespace: "flux-system", name: "flux-operator" },
      ],
      ["platform-seed-flux", { kind: "FluxInstance", namespace: "flux-system", name: "flux" }],
    ] as const) {
      const seed = find(resources, name);
      deepEqual(dynamicInputs(seed), { ...common, object });
      ok(seed.secretOutputs.includes("kubeconfig"), `${name} keeps the kubeconfig in plain text`);
      ok(
        seed.dependencies.includes(
          name === "platform-seed-flux" ? "platform-seed-flux-operator" : "platform-flux-system",
        ),
      );
    }
  });

  it("makes one password for each key of a generated file, and encrypts them for the identity", () => {
    for (const key of ["KEY", "TOKEN"]) {
      const { inputs } = find(resources, `platform-apps-homepage-${key}`);
      deepEqual(inputs, { length: 32, special: false });
    }
    const generated = find(resources, "platform-generated-secrets");
    const path = "clusters/local/apps/homepage.enc.yaml";
    deepEqual(dynamicInputs(generated), {
      files: { [path]: homepage },
      values: { [path]: { TOKEN: "x".repeat(32), KEY: "x".repeat(32) } },
      recipients: ["age1local"],
      identity: "the identity",
      repository: "127.0.0.1:5051/platform",
      insecure: false,
      channel: "local",
      kubeconfig: "the kubeconfig",
      revision: 0,
    });
    deepEqual([...generated.secrets].sort(), ["identity", "kubeconfig", "values"]);
  });

  it("names two passwords of the same name by their paths, and leaves the names of all others", async () => {
    const shape = (...keys: readonly string[]) =>
      `kind: Secret\nmetadata: {name: s}\nstringData:\n${keys.map((key) => `  ${key}: ""\n`).join("")}`;
    const { resources } = await compose(local, {
      generated: new Map([
        ["clusters/local/apps/a.enc.yaml", shape("b-c", "d")],
        ["clusters/local/apps/a-b.enc.yaml", shape("c")],
        ["clusters/local/apps/a/b.enc.yaml", shape("c", "e")],
        // The same key in two Secrets of one file.
        ["clusters/local/certs/x.enc.yaml", `${shape("k")}---\n${shape("k")}`],
      ]),
    });
    const names = resources.filter(({ type }) => type.startsWith("random:")).map(({ name }) => name);
    deepEqual(names, [
      "platform-apps-a-b-e",
      "platform-apps-a-d",
      "platform-apps/a-b/c",
      "platform-apps/a/b-c",
      "platform-apps/a/b/c",
      "platform-certs-x-k",
    ]);
  });

  it("pushes the tree with its encrypted files, without waiting for the cluster", () => {
    const artifact = find(resources, "platform-release-artifact");
    deepEqual(dynamicInputs(artifact), {
      ...source,
      content: "content",
      commit: "abc1234",
      tree: "/project/gitops",
      cluster: "local",
      files: { "clusters/local/a.enc.yaml": "sealed" },
      repository: "127.0.0.1:5051/platform",
      insecure: false,
    });
    deepEqual(
      artifact.dependencies.filter((name) => /cluster|seed|flux|sops-age|runtime/.test(name)),
      [],
    );
  });

  it("opens the gate after Flux, its secret and its facts are in the cluster", () => {
    const gate = find(resources, "platform-release-gate");
    deepEqual(dynamicInputs(gate), {
      kubeconfig: "the kubeconfig",
      ownCluster: true,
      namespaceUid: "the uid",
      channel: "local",
      variables: seedVariables,
      timeoutSeconds: 600,
      keep: 20,
      repository: "127.0.0.1:5051/platform",
      insecure: false,
      digest,
    });
    ok(gate.secretOutputs.includes("kubeconfig"));
    for (const name of ["cilium", "flux-operator", "flux"])
      ok(gate.dependencies.includes(`platform-seed-${name}`), name);
    for (const name of ["sops-age-secret", "runtime", "release-artifact"]) {
      ok(gate.dependencies.includes(`platform-${name}`), name);
    }
  });

  it("gives out what the release came to, and the kubeconfig as a secret", async () => {
    const value = <T>(wanted: Output<T>) => new Promise((resolve) => wanted.apply(resolve));
    equal(await value(platform.digest), digest);
    equal(await value(platform.ready), true);
    deepEqual(await value(platform.layers), layers);
    equal(await value(platform.kubeconfig), "the kubeconfig");
    equal(await (platform.kubeconfig as unknown as { isSecret: Promise<boolean> }).isSecret, true);
  });
});

describe("Platform of a stack on a cluster that is there", () => {
  let resources: readonly Recorded[];

  before(async () => {
    ({ resources } = await compose(prod, { kubeconfig: "the kubeconfig of prod" }));
  });

  it("registers these resources and no other: no Docker, no password", () => {
    deepEqual(pairs(resources), [
      ["platform:index:Platform", "platform"],
      [dynamic("flux:Namespace"), "platform-flux-system"],
      [dynamic("sops:GeneratedSecrets"), "platform-generated-secrets"],
      [dynamic("sops:AgeIdentity"), "platform-identity"],
      ["pulumi:providers:kubernetes", "platform-kubernetes"],
      ["kubernetes:core/v1:Secret", "platform-pull-secret"],
      ["platform:release:Release", "platform-release"],
      [dynamic("release:Artifact"), "platform-release-artifact"],
      [dynamic("release:Gate"), "platform-release-gate"],
      ["kubernetes:core/v1:ConfigMap", "platform-runtime"],
      [dynamic("seed:Seed"), "platform-seed-cilium"],
      [dynamic("seed:Seed"), "platform-seed-flux"],
      [dynamic("seed:Seed"), "platform-seed-flux-operator"],
      ["platform:sops:SopsAgeSecret", "platform-sops-age"],
      ["kubernetes:core/v1:Secret", "platform-sops-age-secret"],
    ]);
  });

  it("touches the cluster only after the identity was found good", () => {
    const provider = find(resources, "platform-kubernetes");
    deepEqual(provider.dependencies, ["platform-identity"]);
    deepEqual(provider.secrets, ["kubeconfig"]);
    equal(provider.inputs.kubeconfig, "the kubeconfig of prod");
  });

  it("asks there, too, who owns every object that its Kubernetes provider applies with force", () => {
    asksForOwners(resources);
  });

  it("brings a network only where there is none", () => {
    equal(find(resources, "platform-seed-cilium").inputs.network, "auto");
  });

  it("forgets nothing when that cluster does not answer", () => {
    equal(find(resources, "platform-kubernetes").inputs.deleteUnreachable, "false");
    const asked = resources.filter(({ inputs }) => "ownCluster" in inputs);
    deepEqual(
      asked.map(({ name, inputs }) => [name, inputs.ownCluster]),
      ["flux-system", "release-gate", "seed-cilium", "seed-flux", "seed-flux-operator"].map((name) => [
        `platform-${name}`,
        false,
      ]),
    );
  });

  it("takes the facts from the config", () => {
    deepEqual(find(resources, "platform-runtime").inputs.data, {
      artifact_repository: "ghcr.io/example/platform",
      channel: "prod",
      domain: "example.com",
      load_balancer_cidr: "10.20.0.0/24",
      registry_address: "ghcr.io",
    });
  });

  it("releases to the remote registry", () => {
    const { repository, insecure, files } = find(resources, "platform-release-artifact").inputs;
    equal(repository, "ghcr.io/example/platform");
    equal(insecure, false);
    deepEqual(files, { "clusters/local/a.enc.yaml": "sealed" });
  });
});

/** What a container is made of, without what every one here has alike. */
function containerOf(resources: readonly Recorded[], name: string) {
  const { name: container, image, port, env } = find(resources, name).inputs;
  return { container, image, port: (port as { host: number }).host, env };
}

const storage = "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY";
const mirrored = {
  ...local,
  registry: { ...local.registry, mirrors: ["docker.io", "ghcr.io", "registry.lan:5000"] },
} as const satisfies PlatformConfig;

describe("Platform with mirrors", () => {
  it("keeps each registry's images in a container of its own, forgets none, and takes the ports that follow", async () => {
    const { resources } = await compose(mirrored);
    const mirror = (host: string) => containerOf(resources, `platform-registry-mirror-${host}`);
    const proxy = (url: string) => ({ REGISTRY_PROXY_REMOTEURL: url, REGISTRY_PROXY_TTL: "0s" });
    const common = { image: "sha256:image" };
    deepEqual(mirror("docker.io"), {
      ...{ ...common, container: "platform-local-registry-docker.io", port: 5052 },
      env: {
        ...{ OTEL_TRACES_EXPORTER: "none", [storage]: "/var/lib/registry/docker.io" },
        ...proxy("https://registry-1.docker.io"),
      },
    });
    deepEqual(mirror("ghcr.io"), {
      ...{ ...common, container: "platform-local-registry-ghcr.io", port: 5053 },
      env: {
        ...{ OTEL_TRACES_EXPORTER: "none", [storage]: "/var/lib/registry/ghcr.io" },
        ...proxy("https://ghcr.io"),
      },
    });
    deepEqual(mirror("registry.lan:5000"), {
      ...{ ...common, container: "platform-local-registry-registry.lan-5000", port: 5054 },
      env: {
        ...{ OTEL_TRACES_EXPORTER: "none", [storage]: "/var/lib/registry/registry.lan:5000" },
        ...proxy("https://registry.lan:5000"),
      },
    });
    const { network, volume } = find(resources, "platform-registry-mirror-ghcr.io").inputs;
    deepEqual(
      [network, volume],
      ["platform-local", { name: "platform-local-registry", path: "/var/lib/registry" }],
    );
  });

  it("sends the nodes to them", async () => {
    const { resources } = await compose(mirrored);
    deepEqual(
      find(resources, "platform-cluster-kind").inputs.hosts,
      registryHosts({ containerName: "platform-local-registry", mirrors: mirrored.registry.mirrors }),
    );
  });

  it("pulls nothing and asks nobody when it is air-gapped", async () => {
    const { resources } = await compose({
      ...mirrored,
      registry: { ...mirrored.registry, airGapped: true, image: "registry:3.0.0" },
      chartMirror: "/charts",
    });
    deepEqual(
      resources.filter(({ type }) => type.endsWith(":RemoteImage")),
      [],
    );
    deepEqual(containerOf(resources, "platform-registry-container"), {
      ...{ container: "platform-local-registry", image: "registry:3.0.0", port: 5051 },
      env: { OTEL_TRACES_EXPORTER: "none", REGISTRY_STORAGE_DELETE_ENABLED: "true" },
    });
    deepEqual(containerOf(resources, "platform-registry-mirror-docker.io"), {
      ...{ container: "platform-local-registry-docker.io", image: "registry:3.0.0", port: 5052 },
      env: { OTEL_TRACES_EXPORTER: "none", [storage]: "/var/lib/registry/docker.io" },
    });
    const { pull, hosts } = find(resources, "platform-cluster-kind").inputs;
    equal(pull, false);
    deepEqual(
      hosts,
      registryHosts({
        ...{ containerName: "platform-local-registry", airGapped: true },
        mirrors: mirrored.registry.mirrors,
      }),
    );
    deepEqual(
      resources
        .filter((resource) => !waitsFor(resources, resource, "platform-identity"))
        .map(({ name }) => name),
      ["platform-identity"],
    );
  });
});

describe("Platform with other settings", () => {
  it("keeps the registry's volume when it is told to, and nothing else", async () => {
    const { resources } = await compose({ ...local, registry: { ...local.registry, retain: true } });
    deepEqual(
      resources.filter(({ retainOnDelete }) => retainOnDelete).map(({ name }) => name),
      ["platform-registry-volume"],
    );
  });

  it("runs the commands of a stack one after another when its release is Ready, again for each release", async () => {
    const hooks = { afterReady: ["./smoke-test", "./notice"] };
    const { resources } = await compose({ ...local, hooks });
    const [first, second] = [1, 2].map((number) => find(resources, `platform-after-ready-${number}`));
    deepEqual([first?.inputs.create, second?.inputs.create], hooks.afterReady);
    deepEqual(first?.inputs.environment, {
      ...{ PLATFORM_STACK: "local", PLATFORM_DOMAIN: "platform.localhost" },
      PLATFORM_DIGEST: digest,
    });
    deepEqual(first.inputs.triggers, [digest, find(resources, "platform-runtime").inputs.data]);
    ok(first.dependencies.includes("platform-release-gate"), first.dependencies.join());
    ok(second?.dependencies.includes("platform-after-ready-1"), second?.dependencies.join());
  });

  it("pulls the image of the registry that it is told to", async () => {
    const { resources } = await compose({ ...local, registry: { ...local.registry, image: "registry:2" } });
    deepEqual(find(resources, "platform-registry-image").inputs, { name: "registry:2", keepLocally: true });
  });

  it("keeps as many revisions as it is told to, and all in a registry of somebody else", async () => {
    const few = await compose({ ...local, registry: { ...local.registry, keep: 3 } });
    equal(find(few.resources, "platform-release-gate").inputs.keep, 3);
    const { resources } = await compose(prod, { kubeconfig: "k" });
    equal(find(resources, "platform-release-gate").inputs.keep, 0);
  });

  it("protects the cluster that it makes and the namespace of Flux when it is told to", async () => {
    const protectedOf = (resources: readonly Recorded[]) =>
      resources.filter(({ protect }) => protect).map(({ name }) => name);
    deepEqual(protectedOf((await compose({ ...local, protect: true })).resources), [
      "platform-cluster",
      "platform-cluster-kind",
      "platform-flux-system",
    ]);
    deepEqual(protectedOf((await compose({ ...prod, protect: true }, { kubeconfig: "k" })).resources), [
      "platform-flux-system",
    ]);
  });

  it("seeds no Cilium where Kind brings its own network", async () => {
    const { resources } = await compose({ ...local, cluster: { ...local.cluster, cni: "kindnet" } });
    deepEqual(
      resources.filter(({ type }) => type === dynamic("seed:Seed")).map(({ name }) => name),
      ["platform-seed-flux", "platform-seed-flux-operator"],
    );
    const gate = find(resources, "platform-release-gate");
    for (const name of ["flux-operator", "flux"])
      ok(gate.dependencies.includes(`platform-seed-${name}`), name);
    equal(
      find(resources, "platform-cluster-kind").inputs.config,
      kindConfig({ directory: "/state/local", workers: 1, cni: "kindnet" }),
    );
  });

  it("seeds no Cilium into a cluster of somebody else that keeps its network", async () => {
    const cluster = {
      kind: "existing",
      kubeconfigFile: "/k",
      loadBalancerCidr: "10.20.0.0/24",
      cni: "existing",
    } as const;
    const { resources } = await compose({ ...prod, cluster }, { kubeconfig: "k" });
    deepEqual(
      resources.filter(({ type }) => type === dynamic("seed:Seed")).map(({ name }) => name),
      ["platform-seed-flux", "platform-seed-flux-operator"],
    );
  });

  it("makes the cluster of every setting of the stack", async () => {
    const shape = {
      ...{ workers: 2, podSubnet: "10.1.0.0/16", serviceSubnet: "10.2.0.0/16" },
      ports: [{ containerPort: 30443, hostPort: 443, protocol: "TCP" }],
      mounts: [{ hostPath: "/data", containerPath: "/mnt/data", readOnly: false }],
      kubeadmConfigPatches: ["kind: InitConfiguration\n"],
    } as const;
    const { resources } = await compose({
      ...local,
      cluster: {
        ...{ ...local.cluster, ...shape, name: "other", nodeImage: "kindest/node:v1.36.3" },
        podSecurity: "restricted",
        kubeconfig: "merge",
        allowReplace: true,
      },
    });
    const { name, image, config, files, mergeKubeconfig, allowReplace } = find(
      resources,
      "platform-cluster-kind",
    ).inputs;
    deepEqual([name, image, mergeKubeconfig, allowReplace], ["other", "kindest/node:v1.36.3", true, true]);
    equal(config, kindConfig({ ...shape, directory: "/state/local" }));
    deepEqual(files, apiServerFiles({ podSecurity: "restricted" }));
  });

  it("tells nodes nothing of registries where none is local", async () => {
    const { resources } = await compose({ ...local, registry: prod.registry });
    const { hosts, pull } = find(resources, "platform-cluster-kind").inputs;
    deepEqual([hosts, pull], [{}, true]);
    deepEqual(
      resources.filter(({ type }) => type.endsWith("docker:Container")),
      [],
    );
  });

  it("leaves what is in a cluster that stays to be deleted by itself", async () => {
    const { resources } = await compose(prod, { kubeconfig: "k" });
    deepEqual(
      resources.filter(({ deletedWith }) => deletedWith !== ""),
      [],
    );
    deepEqual(replacedWithNamespace(resources, "prod"), [
      "platform-pull-secret",
      "platform-runtime",
      "platform-sops-age-secret",
    ]);
  });
});

describe("the login of a remote registry", () => {
  const auths = (resources: readonly Recorded[]) => {
    const { inputs, secrets } = find(resources, "platform-pull-secret");
    equal(inputs.type, "kubernetes.io/dockerconfigjson");
    deepEqual(secrets, ["stringData"]);
    const { ".dockerconfigjson": text } = inputs.stringData as Record<string, string>;
    return (JSON.parse(String(text)) as { auths: Record<string, { username?: string }> }).auths;
  };

  it("is in the Secret that the FluxInstance names, and there before Flux and the release", async () => {
    const { resources } = await compose(prod, {
      kubeconfig: "k",
      pullLogin: { username: "reader", password: "correct" },
    });
    equal(auths(resources)["ghcr.io"]?.username, "reader");
    for (const later of ["platform-seed-flux-operator", "platform-release-gate"]) {
      ok(
        waitsFor(resources, find(resources, later), "platform-pull-secret"),
        `${later} does not wait for the login`,
      );
    }
  });

  it("is an empty Secret where nobody needs one, and none for a registry on this machine", async () => {
    deepEqual(auths((await compose(prod, { kubeconfig: "k" })).resources), {});
    const { resources } = await compose(local);
    deepEqual(
      resources.filter(({ name }) => name === "platform-pull-secret"),
      [],
    );
  });
});

describe("Platform", () => {
  it("pulls seeds from the mirror of the config, and speaks plain HTTP where it is told to", async () => {
    const { resources } = await compose(
      {
        ...prod,
        chartMirror: "oci://mirror/charts",
        registry: { kind: "remote", repository: "r.lan:5000/platform", insecure: true },
      },
      { kubeconfig: "k" },
    );
    equal(find(resources, "platform-seed-cilium").inputs.chartMirror, "oci://mirror/charts");
    equal(find(resources, "platform-release-artifact").inputs.insecure, true);
    equal(find(resources, "platform-release-gate").inputs.insecure, true);
    deepEqual(
      (find(resources, "platform-runtime").inputs.data as Record<string, string>).registry_address,
      "r.lan:5000",
    );
  });

  it("makes passwords anew where the settings count on, and no others", async () => {
    const { resources } = await compose(
      { ...local, sops: { ...local.sops, valuesRevision: 2 } },
      { generated: new Map([["clusters/local/apps/homepage.enc.yaml", homepage]]) },
    );
    const { inputs } = find(resources, "platform-apps-homepage-KEY");
    deepEqual(inputs, { length: 32, special: false, keepers: { revision: "2" } });
  });

  it("takes the identity of the settings as a secret, and the command that prints one", async () => {
    const sops = { ...prod.sops, ageKeyCommand: ["pass", "show", "prod"] };
    const { resources } = await compose({ ...prod, sops }, { kubeconfig: "k", ageKey: "the key" });
    const identity = find(resources, "platform-identity");
    deepEqual(identity.secrets, ["key"]);
    const { key, command } = dynamicInputs(identity);
    deepEqual([key, command], ["the key", ["pass", "show", "prod"]]);
  });

  it("refuses an existing cluster without its kubeconfig", async () => {
    let refusal: unknown;
    await record(async () => {
      const { Platform } = await import("../../components/platform");
      throws(
        () =>
          new Platform("platform", { config: prod, provenance: source, content: "", generated: new Map() }),
        (error) => {
          refusal = error;
          return true;
        },
      );
    }, made);
    match(
      String(refusal),
      /Composing the platform failed: a cluster of kind "existing" lacks its kubeconfig\. Pass it to Platform\./,
    );
  });
});
