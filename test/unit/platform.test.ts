import { deepEqual, equal, match, ok, throws } from "node:assert/strict";
import type { Output } from "@pulumi/pulumi";
import type { PlatformConfig } from "../../config";
import type { PlatformArgs } from "../../components/platform";
import { record, type FakeOutputs, type Recorded } from "./recorder";

const homepage = [
  "apiVersion: v1",
  "kind: Secret",
  "metadata: {name: homepage, namespace: homepage}",
  'stringData: {TOKEN: "", KEY: ""}',
].join("\n");

const local: PlatformConfig = {
  stack: "local",
  cluster: { kind: "kind", name: "local", workers: 1 },
  registry: { kind: "local", port: 5051 },
  domain: "platform.localhost",
  gitops: { tree: "/project/gitops", cluster: "local", requireClean: false },
  sops: { generate: "empty", identityFile: "/home/me/local.agekey" },
  release: { timeoutSeconds: 600 },
};
const prod: PlatformConfig = {
  stack: "prod",
  cluster: { kind: "existing", kubeconfigFile: "/home/me/prod.yaml", loadBalancerCidr: "10.20.0.0/24" },
  registry: { kind: "remote", repository: "ghcr.io/example/platform", insecure: false },
  domain: "example.com",
  gitops: { tree: "/project/gitops", cluster: "prod", requireClean: true },
  sops: { generate: "none", identityFile: "/home/me/prod.agekey" },
  release: { timeoutSeconds: 900 },
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
  "pulumi-nodejs:dynamic/cluster:Kind": () => ({
    kubeconfig: "the kubeconfig",
    loadBalancerCidr: "172.18.255.0/24",
  }),
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
      ...{ config, provenance: source, content: "content", generated: new Map<string, string>() },
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
        ["command:local:Command", "platform-docker"],
        ["kubernetes:core/v1:Namespace", "platform-flux-system"],
        [dynamic("sops:GeneratedSecrets"), "platform-generated-secrets"],
        ["random:index/randomPassword:RandomPassword", "platform-apps-homepage-KEY"],
        ["random:index/randomPassword:RandomPassword", "platform-apps-homepage-TOKEN"],
        [dynamic("sops:AgeIdentity"), "platform-identity"],
        ["pulumi:providers:kubernetes", "platform-kubernetes"],
        ["docker:index/network:Network", "platform-network"],
        ["platform:registry:LocalRegistry", "platform-registry"],
        ["docker:index/container:Container", "platform-registry-container"],
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
    deepEqual(identity.secretOutputs, ["identity"]);
    deepEqual(find(resources, "platform-docker").dependencies, ["platform-identity"]);
    deepEqual(find(resources, "platform-network").dependencies, ["platform-docker"]);
    deepEqual(find(resources, "platform-cluster-kind").dependencies, ["platform-network"]);
    ok(find(resources, "platform-registry-container").dependencies.includes("platform-network"));
  });

  it("makes a network that reaches the Internet and carries the owner's label", () => {
    deepEqual(find(resources, "platform-network").inputs, {
      name: "platform-local",
      internal: false,
      labels: [{ label: "platform.pulumi.com/owner", value: "platform" }],
    });
  });

  it("makes a Kind cluster in that network, whose kubeconfig is secret", () => {
    const kind = find(resources, "platform-cluster-kind");
    const { config, ...inputs } = dynamicInputs(kind);
    deepEqual(inputs, { name: "local", network: "platform-local" });
    match(String(config), /role: worker/);
    deepEqual(kind.secretOutputs, ["kubeconfig"]);
  });

  it("publishes the registry on 127.0.0.1 only, on a volume of its own", () => {
    const labels = [{ label: "platform.pulumi.com/owner", value: "platform" }];
    deepEqual(find(resources, "platform-registry-container").inputs, {
      name: "platform-local-registry",
      image: "sha256:image",
      labels,
      restart: "unless-stopped",
      ports: [{ internal: 5000, external: 5051, ip: "127.0.0.1" }],
      volumes: [{ volumeName: "platform-local-registry", containerPath: "/var/lib/registry" }],
      networksAdvanced: [{ name: "platform-local" }],
      envs: ["REGISTRY_STORAGE_DELETE_ENABLED=true"],
    });
    deepEqual(find(resources, "platform-registry-volume").inputs, {
      name: "platform-local-registry",
      labels,
    });
    deepEqual(find(resources, "platform-registry-image").inputs, { name: "registry:3", keepLocally: true });
  });

  it("reaches the cluster in a way that adopts what is there and lets go of what is lost", () => {
    const provider = find(resources, "platform-kubernetes");
    deepEqual(provider.inputs, {
      kubeconfig: "the kubeconfig",
      enableServerSideApply: "true",
      deleteUnreachable: "true",
      upsertExistingObjects: "true",
    });
  });

  it("owns the namespace, not its labels", () => {
    const namespace = find(resources, "platform-flux-system");
    deepEqual(namespace.inputs, {
      apiVersion: "v1",
      kind: "Namespace",
      metadata: { name: "flux-system" },
    });
    deepEqual([...namespace.ignoreChanges].sort(), ["metadata.annotations", "metadata.labels"]);
  });

  it("writes the facts of this run for Flux to substitute", () => {
    deepEqual(find(resources, "platform-runtime").inputs, {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { name: "platform-runtime", namespace: "flux-system" },
      data: seedVariables,
    });
  });

  it("names every fact that the tree may use, and no other", async () => {
    const { runtimeKeys } = await import("../../components/artifact/check");
    deepEqual(Object.keys(seedVariables).sort(), [...runtimeKeys].sort());
  });

  it("hands Flux the identity as a secret", () => {
    const secret = find(resources, "platform-sops-age-secret");
    deepEqual(secret.inputs, {
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name: "sops-age", namespace: "flux-system" },
      stringData: { "age.agekey": "the identity" },
    });
    deepEqual(secret.secrets, ["stringData"]);
  });

  it("seeds network, operator and instance, the instance after its operator", () => {
    const common = {
      kubeconfig: "the kubeconfig",
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
    });
    deepEqual(generated.secrets, ["values"]);
  });

  it("pushes the tree with its encrypted files, without waiting for the cluster", () => {
    const artifact = find(resources, "platform-release-artifact");
    deepEqual(dynamicInputs(artifact), {
      ...source,
      content: "content",
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
      channel: "local",
      timeoutSeconds: 600,
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
      ["kubernetes:core/v1:Namespace", "platform-flux-system"],
      [dynamic("sops:GeneratedSecrets"), "platform-generated-secrets"],
      [dynamic("sops:AgeIdentity"), "platform-identity"],
      ["pulumi:providers:kubernetes", "platform-kubernetes"],
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
