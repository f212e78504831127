import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import type { Kind, KindNode } from "../../components/cluster/kind/client";
import { KindLifecycle, type KindInputs, type KindOutputs } from "../../components/cluster/kind/lifecycle";
import { kindConfig } from "../../components/cluster/kind-cluster";
import type { Manifest, ManifestRef } from "../../components/kubernetes";
import { FakeClock } from "./clock";
import { temporaryDirectory, writeFiles } from "./temporary";

const own = { "platform.pulumi.com/owner": "platform" };
const certs = "/etc/containerd/certs.d";

/** When a node started: the first one of all, the second, and so on. */
const startOf = (count: number) => `2026-01-01T00:00:0${count}Z`;

/** A node, and the files that were written into it: path → content. */
interface FakeNode extends KindNode {
  readonly files: ReadonlyMap<string, string>;
}

/** As much of Kind and of the Docker Engine as the lifecycle sees. */
class FakeKind implements Kind {
  /** Node → what it is, in the order of their making. */
  readonly found = new Map<string, FakeNode>();
  /** What was changed, in order. */
  readonly log: string[] = [];
  /** The configuration of the last cluster that was made. */
  config = "";
  /** Method → what it fails with. */
  readonly failures: Partial<Record<keyof Kind, string>> = {};
  private readonly labelled = new Set<string>();
  private kubeconfigs = 0;
  private starts = 0;

  nodes(cluster: string): Promise<KindNode[]> {
    return Promise.resolve(
      [...this.found.values()]
        .filter(({ name }) => name.startsWith(`${cluster}-`))
        .map(({ name, labels, status, startedAt }) => ({ name, labels, status, startedAt })),
    );
  }

  labelImage(image: string, tag: string, pull: boolean): Promise<void> {
    this.labelled.add(tag);
    return this.act("labelImage", `label ${image} as ${tag}, ${pull ? "pulled" : "never pulled"}`);
  }

  removeImage(tag: string): Promise<void> {
    return this.act("removeImage", `remove ${tag}`);
  }

  async create(name: string, network: string, config: string): Promise<void> {
    await this.act("create", `create ${name} in ${network}`);
    this.config = config;
    const counts: Record<string, number> = {};
    for (const { role, image } of (parse(config) as { nodes: { role: string; image: string }[] }).nodes) {
      const count = (counts[role] = (counts[role] ?? 0) + 1);
      // A container inherits the labels of its image.
      this.add(`${name}-${role}${count > 1 ? count : ""}`, this.labelled.has(image) ? own : {});
    }
  }

  kubeconfig(name: string): Promise<string> {
    return Promise.resolve(`kubeconfig of ${name}, read ${++this.kubeconfigs} times\n\n`);
  }

  mergeKubeconfig(name: string): Promise<void> {
    return this.act("mergeKubeconfig", `merge ${name}`);
  }

  async delete(name: string): Promise<void> {
    for (const node of await this.nodes(name)) this.found.delete(node.name);
    return this.act("delete", `delete ${name}`);
  }

  async revive({ name, status }: KindNode): Promise<void> {
    const operation = status === "paused" ? "unpause" : "start";
    await this.act("revive", `${operation} ${name}`);
    if (operation === "start") this.restart(name);
    else this.become(name, "running");
  }

  readFile(node: string, path: string): Promise<string | undefined> {
    return Promise.resolve(this.running(node).get(path));
  }

  writeFiles(node: string, directory: string, files: Readonly<Record<string, string>>): Promise<void> {
    const kept = [...this.running(node)].filter(([path]) => !path.startsWith(`${directory}/`));
    const written = Object.entries(files).map(([path, text]) => [`${directory}/${path}`, text] as const);
    this.set(node, { files: new Map([...kept, ...written]) });
    return this.act("writeFiles", `write ${node}:${directory}`);
  }

  add(name: string, labels: Readonly<Record<string, string>> | null, status = "running"): void {
    this.found.set(name, { name, labels, status, startedAt: startOf(++this.starts), files: new Map() });
  }

  /** A node started once more. */
  restart(node: string): void {
    this.set(node, { status: "running", startedAt: startOf(++this.starts) });
  }

  /** Somebody stopped, paused or started a node. */
  become(node: string, status: string): void {
    this.set(node, { status });
  }

  /** A run was killed before the node had its marker. */
  forget(node: string): void {
    const files = [...(this.found.get(node)?.files ?? [])];
    this.set(node, { files: new Map(files.filter(([path]) => !path.startsWith("/kind/"))) });
  }

  /** The files of a node below a directory, with their paths relative to it. */
  filesOf(node: string, directory: string): Record<string, string> {
    const files = [...this.running(node)].filter(([path]) => path.startsWith(`${directory}/`));
    return Object.fromEntries(files.map(([path, text]) => [path.slice(directory.length + 1), text]));
  }

  private set(node: string, change: Partial<FakeNode>): void {
    const found = this.found.get(node);
    if (found !== undefined) this.found.set(node, { ...found, ...change });
  }

  private running(node: string): ReadonlyMap<string, string> {
    const found = this.found.get(node);
    if (found?.status !== "running") throw new Error(`container ${node} is not running`);
    return found.files;
  }

  private act(method: keyof Kind, what: string): Promise<void> {
    const failure = this.failures[method];
    if (failure !== undefined) return Promise.reject(new Error(failure));
    this.log.push(what);
    return Promise.resolve();
  }
}

/** An API server that answers from a time on. */
class FakeApi {
  answersAt = 0;
  readonly asked: string[] = [];

  constructor(private readonly clock: FakeClock) {}

  connect(kubeconfig: string) {
    return {
      get: (ref: ManifestRef): Promise<Manifest | undefined> => {
        this.asked.push(`${ref.kind} ${ref.name} with ${kubeconfig}`);
        return this.clock.time < this.answersAt
          ? Promise.reject(new Error("Reading Namespace kube-system failed: connection refused"))
          : Promise.resolve(undefined);
      },
    };
  }
}

const image = "kindest/node:v1.37.0";
const tag = (of: string) =>
  `platform-node-local:${createHash("sha256").update(of).digest("hex").slice(0, 12)}`;

/** The kubeconfig as it is given out after it was read so often, of nodes that started then. */
const kubeconfigOf = (reads: number, ...starts: readonly [number, number]) =>
  `kubeconfig of local, read ${reads} times\n# Started ${starts.map(startOf).join(", ")}\n`;

function cluster() {
  const directory = temporaryDirectory();
  const kind = new FakeKind();
  const clock = new FakeClock();
  const api = new FakeApi(clock);
  const inputs: KindInputs = {
    ...{ name: "local", network: "platform-local", image, pull: true, mergeKubeconfig: false },
    config: kindConfig({ directory, workers: 1 }),
    files: { [join(directory, "api-server", "a.yaml")]: "a\n", [join(directory, "api-server", "b")]: "b\n" },
    hosts: { "registry:5000": "own\n", "ghcr.io": "mirror\n" },
  };
  const lifecycle = new KindLifecycle(kind, (kubeconfig) => api.connect(kubeconfig), clock);
  return { directory, kind, clock, api, inputs, lifecycle };
}

/** Another text of the same configuration. */
const rewritten = (config: string) => `# Another text\n${JSON.stringify(parse(config), null, 2)}\n`;

/** A machine on which the cluster runs, and what creating it came to. */
async function running() {
  const made = cluster();
  const outputs = await made.lifecycle.create(made.inputs);
  made.kind.log.length = 0;
  return { ...made, outputs };
}

const configured = [
  `write local-control-plane:${certs}`,
  `write local-worker:${certs}`,
  "write local-control-plane:/kind/platform",
  "write local-worker:/kind/platform",
];
const madeAnew = [
  "delete local",
  `label ${image} as ${tag(image)}, pulled`,
  "create local in platform-local",
  ...configured,
];

describe("Kind cluster that is not there", () => {
  it("is made of nodes that carry the owner's label, in its network", async () => {
    const { kind, inputs, lifecycle } = cluster();
    const outputs = await lifecycle.create(inputs);
    deepEqual(kind.log, madeAnew.slice(1));
    deepEqual(
      [...kind.found.values()].map(({ name, labels }) => [name, labels]),
      [
        ["local-control-plane", own],
        ["local-worker", own],
      ],
    );
    deepEqual(outputs, { ...inputs, kubeconfig: kubeconfigOf(1, 1, 2) });
  });

  it("has its image in each node of Kind's configuration, which is else as it was asked for", async () => {
    const { kind, inputs, lifecycle } = cluster();
    await lifecycle.create(inputs);
    const config = parse(inputs.config) as { nodes: object[] };
    deepEqual(parse(kind.config), {
      ...config,
      nodes: config.nodes.map((node) => ({ ...node, image: tag(image) })),
    });
  });

  it("has its files on this machine before it is made", async () => {
    const { kind, inputs, lifecycle } = cluster();
    kind.failures.create = "stop";
    await rejects(lifecycle.create(inputs));
    for (const [path, content] of Object.entries(inputs.files)) equal(readFileSync(path, "utf8"), content);
  });

  it("finds registries as it is told, in every node", async () => {
    const { kind, inputs, lifecycle } = cluster();
    await lifecycle.create(inputs);
    for (const node of ["local-control-plane", "local-worker"]) {
      deepEqual(kind.filesOf(node, certs), {
        "registry:5000/hosts.toml": "own\n",
        "ghcr.io/hosts.toml": "mirror\n",
      });
    }
  });

  it("is marked as whole last, in every node, with the fingerprint of what it was made of", async () => {
    const { kind, inputs, lifecycle } = cluster();
    await lifecycle.create(inputs);
    const marks = [...kind.found.keys()].map((node) => kind.filesOf(node, "/kind/platform"));
    match(marks[0]?.fingerprint ?? "", /^[0-9a-f]{64}$/);
    deepEqual(marks[1], marks[0]);
    deepEqual(kind.log.slice(-2), configured.slice(-2));
  });

  it("is added to the user's own kubeconfig when it is asked for, and else not", async () => {
    const { kind, inputs, lifecycle } = cluster();
    await lifecycle.create({ ...inputs, mergeKubeconfig: true });
    equal(kind.log.at(-1), "merge local");
  });

  it("gives out no more than what it is made of and its kubeconfig", async () => {
    const { inputs, lifecycle } = cluster();
    const outputs = await lifecycle.create({ ...inputs, __provider: "code" } as KindInputs);
    deepEqual(Object.keys(outputs).sort(), [...Object.keys(inputs), "kubeconfig"].sort());
  });

  it("is not disturbed by another cluster on this machine", async () => {
    const { kind, inputs, lifecycle } = cluster();
    kind.add("other-control-plane", {});
    await lifecycle.create(inputs);
    deepEqual(kind.log, madeAnew.slice(1));
  });

  for (const [what, method, failure, pull, remedy] of [
    [
      "a port is taken by a container",
      "create",
      "Bind for 127.0.0.1:443 failed: port is already allocated",
      true,
      "Stop what listens on that port, or change platform:cluster.ports.",
    ],
    [
      "a port is taken by a process",
      "create",
      "listen tcp4 127.0.0.1:443: bind: address already in use",
      true,
      "Stop what listens on that port, or change platform:cluster.ports.",
    ],
    ...(
      [
        "No such image: kindest/node:v1.37.0",
        "docker.io/kindest/node:v1.37.0: not found: manifest unknown",
        "pull access denied for kindest/node",
        "Unable to find image 'kindest/node:v1.37.0' locally",
      ] as const
    ).flatMap(
      (failure) =>
        [
          [
            `there is no image ("${failure}")`,
            "labelImage",
            failure,
            true,
            `Set platform:cluster.nodeImage or platform:cluster.kubernetesVersion to an image that exists; "${image}" does not.`,
          ],
          [
            `the image is not there and must not be pulled ("${failure}")`,
            "labelImage",
            failure,
            false,
            `Load "${image}" into the Docker Engine ("docker load"): platform:registry.airGapped forbids to pull it.`,
          ],
        ] as const,
    ),
    ["Kind fails", "create", "ERROR: failed to create cluster:\n", true, "Mend it and run again."],
  ] as const) {
    it(`says how to mend it when ${what}`, async () => {
      const { kind, inputs, lifecycle } = cluster();
      kind.failures[method] = failure;
      await rejects(lifecycle.create({ ...inputs, pull }), {
        message: `Creating Kind cluster "local" failed: ${failure.trim()}. ${remedy}`,
      });
    });
  }

  it("says so when its files cannot be written", async () => {
    const { directory, inputs, lifecycle } = cluster();
    writeFiles(directory, { file: "" });
    await rejects(lifecycle.create({ ...inputs, files: { [join(directory, "file", "a.yaml")]: "" } }), {
      message: /^Creating Kind cluster "local" failed: [^\n]*\/file'\. Mend it and run again\.$/,
    });
  });

  it("does not pull an image that it must not", async () => {
    const { kind, inputs, lifecycle } = cluster();
    await lifecycle.create({ ...inputs, pull: false });
    equal(kind.log[0], `label ${image} as ${tag(image)}, never pulled`);
  });
});

describe("Kind cluster that is there", () => {
  it("is adopted when it is whole, with the registries of now", async () => {
    const { kind, inputs, lifecycle } = await running();
    const hosts = { "ghcr.io": "new\n" };
    const adopted = await lifecycle.create({ ...inputs, hosts });
    deepEqual(kind.log, configured);
    deepEqual(adopted.hosts, hosts);
    deepEqual(kind.filesOf("local-worker", certs), { "ghcr.io/hosts.toml": "new\n" });
  });

  it("is adopted whatever the order of its files", async () => {
    const { kind, inputs, lifecycle } = await running();
    await lifecycle.create({
      ...inputs,
      files: Object.fromEntries(Object.entries(inputs.files).reverse()),
    });
    deepEqual(kind.log, configured);
  });

  it("is adopted whatever the text of its configuration, as long as it says the same", async () => {
    const { kind, inputs, lifecycle } = await running();
    await lifecycle.create({ ...inputs, config: rewritten(inputs.config) });
    deepEqual(kind.log, configured);
  });

  it("is adopted only when its API server answers: it is asked with the cluster's own kubeconfig", async () => {
    const { api, inputs, lifecycle } = await running();
    await lifecycle.create(inputs);
    deepEqual(api.asked, ["Namespace kube-system with kubeconfig of local, read 2 times\n\n"]);
  });

  it("is started again when it was stopped, and its API server waited for", async () => {
    const { kind, clock, api, inputs, lifecycle } = await running();
    kind.become("local-control-plane", "exited");
    kind.become("local-worker", "paused");
    api.answersAt = clock.time + 30_000;
    await lifecycle.create(inputs);
    deepEqual(kind.log, ["start local-control-plane", "unpause local-worker", ...configured]);
    equal(clock.time, api.answersAt);
  });

  it("has another kubeconfig when a node was started again, and the same one when none was", async () => {
    const { kind, inputs, lifecycle } = await running();
    equal((await lifecycle.create(inputs)).kubeconfig, kubeconfigOf(3, 1, 2));
    kind.become("local-control-plane", "exited");
    equal((await lifecycle.create(inputs)).kubeconfig, kubeconfigOf(5, 2, 3));
  });

  for (const status of ["exited", "paused"]) {
    it(`is kept when a node that is ${status} does not start again, which it says`, async () => {
      const { kind, inputs, lifecycle } = await running();
      kind.become("local-worker", status);
      kind.failures.revive = '"docker start local-worker" failed: network platform-local not found\n';
      await rejects(lifecycle.create(inputs), (error: Error) => {
        equal(
          error.message,
          'Starting node local-worker of Kind cluster "local" failed: "docker start local-worker" failed: network platform-local not found. Mend it, or delete the cluster with all that its volumes hold ("kind delete cluster --name local"), and run again.',
        );
        equal((error.cause as Error).message, kind.failures.revive);
        return true;
      });
      deepEqual(kind.log, []);
      equal(kind.found.size, 2);
    });
  }

  it("is kept when its API server never answers: what is on its volumes is not thrown away", async () => {
    const { kind, api, inputs, lifecycle } = await running();
    api.answersAt = Infinity;
    await rejects(lifecycle.create(inputs), {
      message:
        'Adopting Kind cluster "local" failed: its nodes run, but its API server did not answer within 90 s (Reading Namespace kube-system failed: connection refused.) Mend it, or delete it with all that its volumes hold ("kind delete cluster --name local"), and run again.',
    });
    deepEqual(kind.log, []);
    equal(kind.found.size, 2);
  });

  for (const node of ["local-control-plane", "local-worker"]) {
    it(`is made again when it is half-made: ${node} has no marker`, async () => {
      const { kind, inputs, lifecycle } = await running();
      kind.forget(node);
      await lifecycle.create(inputs);
      deepEqual(kind.log, madeAnew);
    });
  }

  it("is made again when a run was killed while Kind made it", async () => {
    const { kind, inputs, lifecycle } = cluster();
    kind.add("local-control-plane", own, "created");
    await lifecycle.create(inputs);
    deepEqual(kind.log, ["start local-control-plane", ...madeAnew]);
  });

  for (const [what, change] of [
    ["network", () => ({ network: "platform-other" })],
    ["image", () => ({ image: "kindest/node:v1.36.3" })],
    ["config", () => ({ config: "kind: Cluster\nnodes: [{role: control-plane}]\n" })],
    ["file", (directory: string) => ({ files: { [join(directory, "api-server", "a.yaml")]: "other\n" } })],
  ] as const) {
    it(`is made again when it is of another ${what}`, async () => {
      const { directory, kind, inputs, lifecycle } = await running();
      const changed: KindInputs = { ...inputs, ...change(directory) };
      await lifecycle.create(changed);
      deepEqual(kind.log.slice(0, 3), [
        "delete local",
        `label ${changed.image} as ${tag(changed.image)}, pulled`,
        `create local in ${changed.network}`,
      ]);
    });
  }

  for (const [whose, labels] of [
    ["without labels", null],
    ["of another owner", { "platform.pulumi.com/owner": "another" }],
  ] as const) {
    it(`is neither adopted nor deleted when one of its nodes is somebody else's, ${whose}`, async () => {
      const { kind, inputs, outputs, lifecycle } = await running();
      kind.add("local-worker2", labels, "exited");
      for (const [operation, refused] of [
        ["Adopting", lifecycle.create(inputs)],
        ["Deleting", lifecycle.delete(outputs)],
      ] as const) {
        await rejects(refused, {
          message: `${operation} Kind cluster "local" failed: it exists and is not this project's (its node local-worker2 lacks the label platform.pulumi.com/owner=platform). Set platform:cluster.name to another name, or delete it with "kind delete cluster --name local".`,
        });
      }
      deepEqual(kind.log, []);
      equal(kind.found.get("local-worker2")?.status, "exited");
    });
  }

  it("is deleted with its image", async () => {
    const { kind, outputs, lifecycle } = await running();
    await lifecycle.delete(outputs);
    await lifecycle.delete(outputs);
    deepEqual(kind.log, ["delete local", `remove ${tag(image)}`]);
  });

  it("is deleted although its image is in use", async () => {
    const { kind, outputs, lifecycle } = await running();
    kind.failures.removeImage = "image is being used";
    await lifecycle.delete(outputs);
    deepEqual(kind.log, ["delete local"]);
  });
});

describe("reading a Kind cluster", () => {
  it("gives its kubeconfig of now", async () => {
    const { kind, outputs, lifecycle } = await running();
    equal(outputs.kubeconfig, kubeconfigOf(1, 1, 2));
    deepEqual(await lifecycle.read(outputs), { ...outputs, kubeconfig: kubeconfigOf(2, 1, 2) });
    kind.restart("local-control-plane");
    deepEqual(await lifecycle.read(outputs), { ...outputs, kubeconfig: kubeconfigOf(3, 2, 3) });
  });

  it("changes nothing", async () => {
    const { kind, outputs, lifecycle } = await running();
    await lifecycle.read(outputs);
    kind.become("local-worker", "exited");
    await lifecycle.read(outputs);
    deepEqual(kind.log, []);
  });

  const gone: Readonly<Record<string, (kind: FakeKind) => void>> = {
    "it is not there": (kind) => {
      kind.found.clear();
    },
    "a node is stopped": (kind) => {
      kind.become("local-worker", "exited");
    },
    "a node is paused": (kind) => {
      kind.become("local-control-plane", "paused");
    },
    "it is half-made": (kind) => {
      kind.forget("local-worker");
    },
    "it is somebody else's": (kind) => {
      kind.add("local-worker2", {});
    },
  };
  for (const [when, change] of Object.entries(gone)) {
    it(`finds it gone when ${when}`, async () => {
      const { kind, outputs, lifecycle } = await running();
      change(kind);
      equal(await lifecycle.read(outputs), undefined);
    });
  }

  it("finds it gone when it is of other settings than the state", async () => {
    const { outputs, lifecycle } = await running();
    equal(await lifecycle.read({ ...outputs, image: "kindest/node:v1.36.3" }), undefined);
  });
});

describe("changes of a Kind cluster", () => {
  it("are none for the same settings, whatever else is in state", async () => {
    const { inputs, outputs, lifecycle } = await running();
    const none = { changes: false, replaces: [], reasons: [] };
    deepEqual(lifecycle.diff(outputs, inputs), none);
    deepEqual(lifecycle.diff({ ...outputs, __provider: "old" } as KindOutputs, inputs), none);
    deepEqual(lifecycle.diff(outputs, { ...inputs, pull: false }), none);
    deepEqual(lifecycle.diff(outputs, { ...inputs, config: rewritten(inputs.config) }), none);
  });

  for (const [key, change] of [
    ["hosts", { hosts: { "ghcr.io": "new\n" } }],
    ["mergeKubeconfig", { mergeKubeconfig: true }],
  ] as const) {
    it(`are made in place for ${key}`, async () => {
      const { inputs, outputs, lifecycle } = await running();
      deepEqual(lifecycle.diff(outputs, { ...inputs, ...change }), {
        ...{ changes: true, replaces: [], reasons: [] },
      });
    });
  }

  for (const [key, change, reason] of [
    ["name", { name: "other" }, "name"],
    ["network", { network: "other" }, "network"],
    ["image", { image: "other" }, "image"],
    ["files", { files: {} }, "files of the API server"],
  ] as const) {
    it(`replace it for another ${key}, and say so`, async () => {
      const { inputs, outputs, lifecycle } = await running();
      deepEqual(lifecycle.diff(outputs, { ...inputs, ...change }), {
        ...{ changes: true, replaces: [key], reasons: [reason] },
      });
    });
  }

  it("replace it for another configuration, and name each path that changed", async () => {
    const { directory, inputs, outputs, lifecycle } = await running();
    const config = kindConfig({
      ...{ directory, workers: 0, podSubnet: "10.1.0.0/16", cni: "kindnet" },
      ports: [{ containerPort: 80, hostPort: 8080 }],
    });
    deepEqual(lifecycle.diff(outputs, { ...inputs, config }), {
      changes: true,
      replaces: ["config"],
      reasons: [
        "networking.disableDefaultCNI: true → unset",
        'networking.kubeProxyMode: "none" → unset',
        'networking.podSubnet: "10.244.0.0/16" → "10.1.0.0/16"',
        'nodes.0.extraPortMappings.0: unset → {"listenAddress":"127.0.0.1","protocol":"TCP","containerPort":80,"hostPort":8080}',
        'nodes.1: {"role":"worker","extraMounts":[]} → unset',
      ],
    });
  });

  it("say all that changed at once", async () => {
    const { inputs, outputs, lifecycle } = await running();
    const changed = { ...inputs, name: "a", network: "b", image: "c", files: {}, hosts: {} };
    deepEqual(lifecycle.diff(outputs, changed), {
      changes: true,
      replaces: ["name", "network", "image", "files"],
      reasons: ["name", "network", "image", "files of the API server"],
    });
  });

  it("in place write the registries anew and keep the nodes and their files on this machine", async () => {
    const { directory, kind, inputs, lifecycle } = await running();
    const hosts = { "docker.io": "new\n" };
    const outputs = await lifecycle.update({ ...inputs, hosts, mergeKubeconfig: true });
    deepEqual(kind.log, [...configured, "merge local"]);
    deepEqual(kind.filesOf("local-control-plane", certs), { "docker.io/hosts.toml": "new\n" });
    deepEqual([outputs.hosts, outputs.mergeKubeconfig], [hosts, true]);
    equal(existsSync(join(directory, "api-server", "a.yaml")), true);
    equal((await lifecycle.read(outputs))?.name, "local");
  });
});
