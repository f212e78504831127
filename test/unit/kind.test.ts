import { deepEqual, equal, rejects } from "node:assert/strict";
import type { Kind } from "../../components/cluster/kind/client";
import { KindLifecycle, lastAddresses, type KindInputs } from "../../components/cluster/kind/lifecycle";
import { kindConfig } from "../../components/cluster/kind-cluster";
import type { KubernetesApi, Manifest, ManifestRef } from "../../components/kubernetes";

class FakeKind implements Kind {
  readonly nodes = new Map<string, Manifest>();
  readonly log: string[] = [];
  failure: string | undefined;

  clusters(): Promise<string[]> {
    return Promise.resolve([...this.nodes.keys()].map((name) => name.replace("-control-plane", "")));
  }

  create(name: string, network: string, config: string): Promise<void> {
    if (this.failure !== undefined) return Promise.reject(new Error(this.failure));
    this.log.push(`create ${name} in ${network}: ${config}`);
    this.add(name, { "platform.pulumi.com/owner": "platform" });
    return Promise.resolve();
  }

  kubeconfig(name: string): Promise<string> {
    return Promise.resolve(`kubeconfig of ${name}`);
  }

  delete(name: string): Promise<void> {
    this.log.push(`delete ${name}`);
    this.nodes.delete(`${name}-control-plane`);
    return Promise.resolve();
  }

  subnet(): Promise<string> {
    return Promise.resolve("172.18.0.0/16");
  }

  add(name: string, labels: Record<string, string>): void {
    const node = { apiVersion: "v1", kind: "Node", metadata: { name: `${name}-control-plane`, labels } };
    this.nodes.set(`${name}-control-plane`, node);
  }

  /** The API server behind the kubeconfig of a cluster. */
  connect(kubeconfig: string): KubernetesApi {
    const unused = () => {
      throw new Error("the lifecycle only reads");
    };
    return {
      get: (ref: ManifestRef) =>
        Promise.resolve(
          `kubeconfig of ${ref.name.replace("-control-plane", "")}` === kubeconfig
            ? this.nodes.get(ref.name)
            : undefined,
        ),
      ...{ apply: unused, list: unused, annotate: unused },
    };
  }
}

const inputs: KindInputs = { name: "local", network: "platform-local", config: "the config" };
const outputs = { ...inputs, kubeconfig: "kubeconfig of local", loadBalancerCidr: "172.18.255.0/24" };

function cluster() {
  const kind = new FakeKind();
  return { kind, lifecycle: new KindLifecycle(kind, (kubeconfig) => kind.connect(kubeconfig)) };
}

describe("Kind cluster", () => {
  it("is made in its network", async () => {
    const { kind, lifecycle } = cluster();
    deepEqual(await lifecycle.create(inputs), outputs);
    deepEqual(kind.log, ["create local in platform-local: the config"]);
  });

  it("is adopted when it is this project's", async () => {
    const { kind, lifecycle } = cluster();
    kind.add("local", { "platform.pulumi.com/owner": "platform" });
    deepEqual(await lifecycle.create(inputs), outputs);
    deepEqual(kind.log, []);
  });

  it("is not adopted when it is somebody else's", async () => {
    const { kind, lifecycle } = cluster();
    kind.add("local", { "platform.pulumi.com/owner": "another" });
    await rejects(lifecycle.create(inputs), {
      message:
        'Adopting Kind cluster "local" failed: it exists and is not this project\'s (its nodes lack the label platform.pulumi.com/owner=platform). Set platform:cluster.name to another name, or delete it with "kind delete cluster --name local".',
    });
    deepEqual(kind.log, []);
  });

  it("is gone when Kind does not know it, whatever else is there", async () => {
    const { kind, lifecycle } = cluster();
    kind.add("other", {});
    equal(await lifecycle.read(outputs), undefined);
    kind.add("local", {});
    deepEqual(await lifecycle.read(outputs), outputs);
  });

  it("is deleted when it is this project's, and only then", async () => {
    const { kind, lifecycle } = cluster();
    await lifecycle.delete(outputs);
    kind.add("local", {});
    await rejects(lifecycle.delete(outputs), /it exists and is not this project's/);
    deepEqual(kind.log, []);
    kind.add("local", { "platform.pulumi.com/owner": "platform" });
    await lifecycle.delete(outputs);
    deepEqual(kind.log, ["delete local"]);
  });

  it("says of a refused deletion that it is one", async () => {
    const { kind, lifecycle } = cluster();
    kind.add("local", {});
    await rejects(lifecycle.delete(outputs), /^Error: Deleting Kind cluster "local" failed: /);
  });

  it("is replaced for another name, network or config, and for nothing else", () => {
    const { lifecycle } = cluster();
    deepEqual(lifecycle.diff(outputs, inputs), []);
    deepEqual(lifecycle.diff({ ...outputs, kubeconfig: "x" } as KindInputs, inputs), []);
    deepEqual(lifecycle.diff(outputs, { name: "a", network: "b", config: "c" }), [
      "name",
      "network",
      "config",
    ]);
    deepEqual(lifecycle.diff(outputs, { ...inputs, config: "c" }), ["config"]);
  });

  it("says what Kind said when it cannot be made, in whole sentences", async () => {
    const { kind, lifecycle } = cluster();
    kind.failure = '"kind create cluster" failed: ERROR: failed to create cluster';
    await rejects(lifecycle.create(inputs), {
      message:
        'Creating Kind cluster "local" failed: "kind create cluster" failed: ERROR: failed to create cluster. Mend it and run again.',
    });
  });
});

describe("load-balancer addresses of a Docker network", () => {
  for (const [subnet, last] of [
    ["172.18.0.0/16", "172.18.255.0/24"],
    ["10.0.0.0/8", "10.255.255.0/24"],
    ["192.168.64.0/20", "192.168.79.0/24"],
    ["10.1.0.0/22", "10.1.3.0/24"],
    ["10.1.0.0/23", "10.1.1.128/25"],
    ["192.168.1.0/24", "192.168.1.192/26"],
    ["192.168.1.128/25", "192.168.1.224/27"],
    ["192.168.1.16/28", "192.168.1.28/30"],
  ] as const) {
    it(`of ${subnet} are ${last}`, () => {
      equal(lastAddresses(subnet), last);
    });
  }
});

describe("kindConfig", () => {
  it("is one control plane without CNI and kube-proxy", () => {
    equal(
      kindConfig({ clusterName: "local", network: "n" }),
      `kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  disableDefaultCNI: true
  kubeProxyMode: none
  podSubnet: 10.244.0.0/16
  serviceSubnet: 10.96.0.0/16
nodes:
  - role: control-plane
    labels:
      platform.pulumi.com/owner: platform
`,
    );
  });

  it("gives every node its image and label, and the network its subnets", () => {
    equal(
      kindConfig({
        ...{ clusterName: "local", network: "n", workers: 2, nodeImage: "kindest/node:v1.36.3" },
        ...{ podSubnet: "10.1.0.0/16", serviceSubnet: "10.2.0.0/16" },
      }),
      `kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  disableDefaultCNI: true
  kubeProxyMode: none
  podSubnet: 10.1.0.0/16
  serviceSubnet: 10.2.0.0/16
nodes:
  - role: control-plane
    labels:
      platform.pulumi.com/owner: platform
    image: kindest/node:v1.36.3
  - role: worker
    labels:
      platform.pulumi.com/owner: platform
    image: kindest/node:v1.36.3
  - role: worker
    labels:
      platform.pulumi.com/owner: platform
    image: kindest/node:v1.36.3
`,
    );
  });
});
