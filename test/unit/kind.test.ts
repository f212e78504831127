import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import type { Kind, KindNode, NodeImage } from "../../clients/kind/client";
import { KindLifecycle, type KindInputs, type KindOutputs } from "../../core/cluster/kind/lifecycle";
import { kindConfig } from "../../core/cluster/kind/config";
import type { Manifest, ManifestRef } from "../../clients/kubernetes/client";
import { FakeClock } from "./clock";
import { temporaryDirectory, writeFiles } from "./temporary";

const owner = "platform/local";
const own = { "platform.pulumi.com/owner": owner };
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
  /** After how many changes the run is killed. */
  changesLeft = Infinity;
  /** Tag → the files of the image. */
  private readonly images = new Map<string, Readonly<Record<string, string>>>();
  private kubeconfigs = 0;
  private starts = 0;

  nodes(cluster: string): Promise<KindNode[]> {
    return Promise.resolve(
      [...this.found.values()]
        .filter(({ name }) => name.startsWith(`${cluster}-`))
        .map(({ name, labels, status, startedAt }) => ({ name, labels, status, startedAt })),
    );
  }

  makeImage(
    { image, owner: of, network, pull }: NodeImage,
    tag: string,
    files: Readonly<Record<string, string>>,
  ): Promise<void> {
    equal(of, owner);
    this.images.set(tag, files);
    return this.act(
      "makeImage",
      `label ${image} as ${tag} for ${network}, ${pull ? "pulled" : "never pulled"}`,
    );
  }

  removeImages(network: string): Promise<void> {
    return this.act("removeImages", `remove the images of ${network}`);
  }

  async create(name: string, network: string, config: string): Promise<void> {
    await this.act("create", `create ${name} in ${network}`);
    this.config = config;
    const counts: Record<string, number> = {};
    for (const { role, image } of (parse(config) as { nodes: { role: string; image: string }[] }).nodes) {
      const count = (counts[role] = (counts[role] ?? 0) + 1);
      // A container inherits the labels and the files of its image.
      const files = this.images.get(image);
      const node = `${name}-${role}${count > 1 ? count : ""}`;
      if (this.changesLeft-- <= 0) throw new Error("killed");
      this.add(node, files === undefined ? {} : own);
      this.put(node, files ?? {});
    }
  }

  kubeconfig(name: string): Promise<string> {
    return Promise.resolve(`kubeconfig of ${name}, read ${++this.kubeconfigs} times\n\n`);
  }

  mergeKubeconfig(name: string): Promise<void> {
    return this.act("mergeKubeconfig", `merge ${name}`);
  }

  async delete(name: string): Promise<void> {
    await this.act("delete", `delete ${name}`);
    for (const node of await this.nodes(name)) {
      // Docker removes one node after the other.
      if (this.changesLeft-- <= 0) throw new Error("killed");
      this.found.delete(node.name);
    }
  }

  async revive({ name, status }: KindNode): Promise<void> {
    const operation = status === "paused" ? "unpause" : "start";
    await this.act("revive", `${operation} ${name}`);
    if (operation === "start") this.restart(name);
    else this.become(name, "running");
  }

  readFiles(node: string, directory: string): Promise<Readonly<Record<string, string>>> {
    return Promise.resolve(this.filesOf(node, directory));
  }

  async copyFiles(node: string, files: Readonly<Record<string, string>>): Promise<void> {
    await this.act("copyFiles", `mark ${node}`);
    this.put(node, files);
  }

  private put(node: string, files: Readonly<Record<string, string>>): void {
    this.set(node, { files: new Map([...(this.found.get(node)?.files ?? []), ...Object.entries(files)]) });
  }

  async writeFile(node: string, path: string, content: string): Promise<void> {
    this.checkRunning(node);
    await this.act("writeFile", `write ${node}:${path}`);
    this.set(node, { files: new Map([...(this.found.get(node)?.files ?? []), [path, content]]) });
  }

  async removeFile(node: string, path: string): Promise<void> {
    this.checkRunning(node);
    const files = [...(this.found.get(node)?.files ?? [])];
    await this.act("removeFile", `remove ${node}:${path}`);
    this.set(node, { files: new Map(files.filter(([name]) => name !== path)) });
  }

  replaceFiles(node: string, directory: string, files: Readonly<Record<string, string>>): Promise<void> {
    this.checkRunning(node);
    const kept = [...(this.found.get(node)?.files ?? [])].filter(
      ([path]) => !path.startsWith(`${directory}/`),
    );
    const written = Object.entries(files).map(([path, text]) => [`${directory}/${path}`, text] as const);
    this.set(node, { files: new Map([...kept, ...written]) });
    return this.act("replaceFiles", `write ${node}:${directory}`);
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

  /** A node lost what it says of itself. */
  forget(node: string): void {
    this.mark(node, {});
  }

  /** A node says this of itself, and nothing else. */
  mark(node: string, marks: Readonly<Record<string, string>>): void {
    const files = [...(this.found.get(node)?.files ?? [])].filter(([path]) => !path.startsWith("/kind/"));
    const marked = Object.entries(marks).map(([name, text]) => [`/kind/platform/${name}`, text] as const);
    this.set(node, { files: new Map([...files, ...marked]) });
  }

  /** The files of a node below a directory, with their paths relative to it. */
  filesOf(node: string, directory: string): Record<string, string> {
    const all = [...(this.found.get(node)?.files ?? [])];
    const files = all.filter(([path]) => path.startsWith(`${directory}/`));
    return Object.fromEntries(files.map(([path, text]) => [path.slice(directory.length + 1), text]));
  }

  private set(node: string, change: Partial<FakeNode>): void {
    const found = this.found.get(node);
    if (found !== undefined) this.found.set(node, { ...found, ...change });
  }

  private checkRunning(node: string): void {
    if (this.found.get(node)?.status !== "running") throw new Error(`container ${node} is not running`);
  }

  private act(method: keyof Kind, what: string): Promise<void> {
    const failure = this.changesLeft-- > 0 ? this.failures[method] : "killed";
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
    ...{ name: "local", owner, network: "platform-local", image, pull: true, mergeKubeconfig: false },
    allowReplace: false,
    config: kindConfig({ directory, workers: 1 }),
    files: { "/etc/kubernetes/platform/a.yaml": "a\n", "/etc/kubernetes/platform/b": "b\n" },
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

const unfinished = "/kind/platform/unfinished";
const registries = [`write local-control-plane:${certs}`, `write local-worker:${certs}`];
const marked = [
  "write local-control-plane:/kind/platform/settings",
  "write local-worker:/kind/platform/settings",
];
const finished = [`remove local-control-plane:${unfinished}`, `remove local-worker:${unfinished}`];
/** A cluster whose nodes say what it is made of. */
const configured = [...registries, ...finished];
const deleted = ["mark local-control-plane", "mark local-worker", "delete local"];
const recreated = [
  ...deleted,
  `label ${image} as ${tag(image)} for platform-local, pulled`,
  "create local in platform-local",
  ...registries,
  ...marked,
  ...finished,
];
const refused = (what: string) =>
  `Replacing Kind cluster "local" was refused: all that its volumes hold would be lost, because Kind cannot change in place ${what}. Set it back; or, to lose it, run "npx platform up" with --replace or set platform:cluster.allowReplace to true.`;

describe("Kind cluster that is not there", () => {
  it("is made of nodes that carry the owner's label, in its network", async () => {
    const { kind, inputs, lifecycle } = cluster();
    const outputs = await lifecycle.create(inputs);
    deepEqual(kind.log, recreated.slice(3));
    deepEqual(
      [...kind.found.values()].map(({ name, labels }) => [name, labels]),
      [
        ["local-control-plane", own],
        ["local-worker", own],
      ],
    );
    deepEqual(outputs, { ...inputs, kubeconfig: kubeconfigOf(1, 1, 2), running: true });
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

  it("has its files in its nodes, which need none of this machine", async () => {
    const { kind, inputs, lifecycle } = cluster();
    await lifecycle.create(inputs);
    deepEqual(kind.filesOf("local-control-plane", "/etc/kubernetes/platform"), { "a.yaml": "a\n", b: "b\n" });
  });

  it("writes its log into a directory of this user, which is there before it is made", async () => {
    const { directory, kind, inputs, lifecycle } = cluster();
    kind.failures.create = "stop";
    await rejects(lifecycle.create(inputs));
    equal(existsSync(join(directory, "audit")), true);
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

  it("says of itself that it is unfinished until it is whole, and what it was made of from then on", async () => {
    const { kind, inputs, lifecycle } = cluster();
    kind.failures.replaceFiles = "stop";
    await rejects(lifecycle.create(inputs));
    for (const node of kind.found.keys()) {
      deepEqual(Object.keys(kind.filesOf(node, "/kind/platform")), ["unfinished"]);
    }
    delete kind.failures.replaceFiles;
    await lifecycle.create(inputs);
    deepEqual(kind.log.slice(-4), [...marked, ...finished]);
    for (const node of kind.found.keys()) {
      const { settings = "", ...others } = kind.filesOf(node, "/kind/platform");
      deepEqual(others, {});
      const { config, ...rest } = JSON.parse(settings) as Record<string, unknown>;
      deepEqual(rest, { network: "platform-local", image, files: { "a.yaml": "a\n", b: "b\n" } });
      equal(JSON.stringify(config).includes(tmpdir()), false);
    }
  });

  it("is added to the user's own kubeconfig when it is asked for, and else not", async () => {
    const { kind, inputs, lifecycle } = cluster();
    await lifecycle.create({ ...inputs, mergeKubeconfig: true });
    equal(kind.log.at(-1), "merge local");
  });

  it("is not disturbed by another cluster on this machine", async () => {
    const { kind, inputs, lifecycle } = cluster();
    kind.add("other-control-plane", {});
    await lifecycle.create(inputs);
    deepEqual(kind.log, recreated.slice(3));
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
            "makeImage",
            failure,
            true,
            `Set platform:cluster.nodeImage or platform:cluster.kubernetesVersion to an image that exists; "${image}" does not.`,
          ],
          [
            `the image is not there and must not be pulled ("${failure}")`,
            "makeImage",
            failure,
            false,
            `Load "${image}" into the Docker Engine ("docker load"): platform:registry.airGapped forbids to pull it.`,
          ],
        ] as const,
    ),
    ["Kind fails", "create", "ERROR: failed to create cluster:\n", true, "Fix the cause and run again."],
  ] as const) {
    it(`says what to do when ${what}`, async () => {
      const { kind, inputs, lifecycle } = cluster();
      kind.failures[method] = failure;
      await rejects(lifecycle.create({ ...inputs, pull }), {
        message: `Creating Kind cluster "local" failed: ${failure.trim()}. ${remedy}`,
      });
    });
  }

  it("says so when the directory of its log cannot be made", async () => {
    const { directory, inputs, lifecycle } = cluster();
    writeFiles(directory, { file: "" });
    const config = kindConfig({ directory: join(directory, "file") });
    await rejects(lifecycle.create({ ...inputs, config }), {
      message: /^Creating Kind cluster "local" failed: [^\n]*\/file\/audit'\. Fix the cause and run again\.$/,
    });
  });

  it("does not pull an image that it must not", async () => {
    const { kind, inputs, lifecycle } = cluster();
    await lifecycle.create({ ...inputs, pull: false });
    equal(kind.log[0], `label ${image} as ${tag(image)} for platform-local, never pulled`);
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
          'Starting node local-worker of Kind cluster "local" failed: "docker start local-worker" failed: network platform-local not found. Fix the cause, or delete the cluster with all that its volumes hold ("kind delete cluster --name local"), and run again.',
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
        'Adopting Kind cluster "local" failed: its nodes run, but its API server did not answer within 90 s (Reading Namespace kube-system failed: connection refused.) Fix the cause, or delete the cluster with all that its volumes hold ("kind delete cluster --name local"), and run again.',
    });
    deepEqual(kind.log, []);
    equal(kind.found.size, 2);
  });

  for (const nodes of [["local-control-plane"], ["local-worker"], ["local-control-plane", "local-worker"]]) {
    it(`is adopted when ${nodes.join(" and ")} lost what it said of itself, and says it again`, async () => {
      const { kind, inputs, lifecycle } = await running();
      for (const node of nodes) kind.forget(node);
      await lifecycle.create(inputs);
      equal(kind.log.includes("delete local"), false);
      deepEqual(
        kind.log.filter((line) => line.endsWith("/settings")),
        nodes.map((node) => `write ${node}:/kind/platform/settings`),
      );
      equal((await lifecycle.read({ ...inputs, kubeconfig: "", running: true }))?.running, true);
    });
  }

  for (const node of ["local-control-plane", "local-worker"]) {
    it(`is made again when it is half-made: ${node} says so`, async () => {
      const { kind, inputs, lifecycle } = await running();
      kind.mark(node, { unfinished: "" });
      await lifecycle.create(inputs);
      deepEqual(kind.log, recreated);
    });
  }

  it("is made again when a run was killed while Kind made it, without being started", async () => {
    const { kind, inputs, lifecycle } = cluster();
    kind.add("local-control-plane", own, "created");
    await kind.copyFiles("local-control-plane", { [unfinished]: "" });
    kind.log.length = 0;
    await lifecycle.create(inputs);
    deepEqual(kind.log, ["mark local-control-plane", ...recreated.slice(2)]);
  });

  it("is made again when what is left of it has no control plane", async () => {
    const { kind, inputs, outputs, lifecycle } = await running();
    kind.found.delete("local-control-plane");
    equal(await lifecycle.read(outputs), undefined);
    await lifecycle.create(inputs);
    deepEqual(kind.log, recreated.slice(1));
  });

  for (const [what, change, reason] of [
    ["network", { network: "platform-other" }, 'network: "platform-local" → "platform-other"'],
    ["image", { image: "kindest/node:v1.36.3" }, `image: "${image}" → "kindest/node:v1.36.3"`],
    [
      "config",
      { config: kindConfig({ directory: "/", workers: 1, podSubnet: "10.1.0.0/16" }) },
      'networking.podSubnet: "10.244.0.0/16" → "10.1.0.0/16"',
    ],
    ["file", { files: { "/etc/kubernetes/platform/a.yaml": "other\n" } }, "files of the API server"],
  ] as const) {
    it(`is kept when it is of another ${what}: check and create refuse, and say what would be lost`, async () => {
      const { kind, inputs, lifecycle } = await running();
      const changed: KindInputs = { ...inputs, ...change };
      for (const status of ["running", "exited"]) {
        kind.become("local-control-plane", status);
        deepEqual(await lifecycle.check(changed), [refused(reason)]);
        await rejects(lifecycle.create(changed), { message: refused(reason) });
      }
      deepEqual(kind.log, []);
    });

    it(`is made again of another ${what} when the user agrees`, async () => {
      const { kind, inputs, lifecycle } = await running();
      const changed: KindInputs = { ...inputs, ...change, allowReplace: true };
      deepEqual(await lifecycle.check(changed), []);
      await lifecycle.create(changed);
      deepEqual(kind.log.slice(0, 5), [
        ...deleted,
        `label ${changed.image} as ${tag(changed.image)} for ${changed.network}, pulled`,
        `create local in ${changed.network}`,
      ]);
    });
  }

  it("is the same wherever this machine keeps state, when state is lost and when it is not", async () => {
    const { kind, inputs, outputs, lifecycle } = await running();
    const moved = { ...inputs, config: kindConfig({ directory: "/home/another/state", workers: 1 }) };
    deepEqual(lifecycle.diff(outputs, moved), { changes: false, replaces: [], reasons: [] });
    deepEqual(await lifecycle.check(moved), []);
    await lifecycle.create(moved);
    deepEqual(kind.log, configured);
  });

  it("is not refused by a preview that does not know the network yet", async () => {
    const { inputs, lifecycle } = await running();
    const unknown = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";
    deepEqual(await lifecycle.check({ ...inputs, network: unknown }), []);
  });

  describe("of an earlier version of this project", () => {
    /** What it left: files mounted from this machine, a hash in each node, and state without this version's fields. */
    async function earlier() {
      const made = await running();
      const { directory, inputs, kind } = made;
      const from = join(directory, "api-server");
      const { nodes, ...whole } = parse(inputs.config) as { nodes: { extraMounts: object[] }[] };
      const [first, ...rest] = nodes;
      const mount = { hostPath: from, containerPath: "/etc/kubernetes/platform", readOnly: true };
      const mounted = { ...first, extraMounts: [mount, ...(first?.extraMounts ?? [])] };
      const config = stringify({ ...whole, nodes: [mounted, ...rest] });
      const files = { [join(from, "a.yaml")]: "a\n", [join(from, "b")]: "b\n" };
      const text = JSON.stringify([
        inputs.network,
        inputs.image,
        parse(config),
        Object.entries(files).sort(),
      ]);
      const fingerprint = createHash("sha256").update(text).digest("hex");
      for (const node of kind.found.keys()) kind.mark(node, { fingerprint });
      const { allowReplace, ...others } = inputs;
      equal(allowReplace, false);
      const state = { ...others, config, files, kubeconfig: "kubeconfig" } as unknown as KindOutputs;
      return { ...made, state };
    }

    it("is changed in place, after which its nodes say what it was made of", async () => {
      const { inputs, kind, lifecycle, state } = await earlier();
      deepEqual(lifecycle.diff(state, inputs), { changes: true, replaces: [], reasons: [] });
      const updated = await lifecycle.update(inputs);
      deepEqual(kind.log, [...registries, ...marked, ...finished]);
      deepEqual(lifecycle.diff(updated, inputs), { changes: false, replaces: [], reasons: [] });
      equal((await lifecycle.read(updated))?.running, true);
    });

    it("is adopted when its state is lost", async () => {
      const { inputs, kind, lifecycle } = await earlier();
      deepEqual(await lifecycle.check(inputs), []);
      await lifecycle.create(inputs);
      deepEqual(kind.log, [...registries, ...marked, ...finished]);
    });

    it("is kept when it was made of other settings, which it cannot name", async () => {
      const { inputs, kind, lifecycle } = await earlier();
      const message = refused("settings that an earlier version of this project made it of");
      await rejects(lifecycle.create({ ...inputs, image: "kindest/node:v1.36.3" }), { message });
      deepEqual(kind.log, []);
    });
  });

  for (const [whose, labels, why] of [
    ["without labels", null, "lacks the label platform.pulumi.com/owner"],
    [
      "of another stack",
      { "platform.pulumi.com/owner": "platform/dev" },
      "has the label platform.pulumi.com/owner=platform/dev",
    ],
  ] as const) {
    it(`is neither adopted nor deleted when one of its nodes is somebody else's, ${whose}`, async () => {
      const { kind, inputs, outputs, lifecycle } = await running();
      kind.add("local-worker2", labels, "exited");
      for (const [operation, call] of [
        ["Adopting", lifecycle.create(inputs)],
        ["Deleting", lifecycle.delete(outputs)],
      ] as const) {
        await rejects(call, {
          message: `${operation} Kind cluster "local" failed: it exists and is not of "platform/local" (its node local-worker2 ${why}). Set platform:cluster.name to another name, or delete it with "kind delete cluster --name local".`,
        });
      }
      deepEqual(kind.log, []);
      equal(kind.found.get("local-worker2")?.status, "exited");
    });
  }

  it("is deleted with its images", async () => {
    const { kind, outputs, lifecycle } = await running();
    await lifecycle.delete(outputs);
    await lifecycle.delete(outputs);
    deepEqual(kind.log, [...deleted, "remove the images of platform-local"]);
  });

  it("is deleted although a node takes no mark any more", async () => {
    const { kind, outputs, lifecycle } = await running();
    kind.failures.copyFiles = "no space left on device";
    await lifecycle.delete(outputs);
    equal(kind.found.size, 0);
  });
});

describe("a run that is killed", () => {
  /** Kills a run after 0, 1, 2 … changes until it ends; @returns how many moments there were */
  async function killed(
    prepare: () => Promise<Awaited<ReturnType<typeof running>>>,
    run: (on: Awaited<ReturnType<typeof running>>) => Promise<unknown>,
    then: (on: Awaited<ReturnType<typeof running>>, moment: number) => Promise<void>,
  ): Promise<number> {
    for (let moment = 0; ; moment++) {
      const on = await prepare();
      on.kind.changesLeft = moment;
      const ended = await run(on).then(
        () => true,
        (error: unknown) => !/killed/.test((error as Error).message),
      );
      on.kind.changesLeft = Infinity;
      on.kind.log.length = 0;
      if (ended) return moment;
      await then(on, moment);
    }
  }

  /** A machine on which nothing runs yet. */
  const nothing = () => {
    const made = cluster();
    return Promise.resolve({ ...made, outputs: { ...made.inputs, kubeconfig: "", running: true } });
  };

  it("while it makes a cluster is followed by one that makes it whole, of whatever settings, without asking", async () => {
    const moments = await killed(
      nothing,
      ({ lifecycle, inputs }) => lifecycle.create(inputs),
      async ({ lifecycle, inputs, kind }, moment) => {
        const isWhole =
          !kind.filesOf("local-control-plane", "/kind/platform").unfinished && kind.found.size === 2;
        const changed = isWhole ? inputs : { ...inputs, image: "kindest/node:v1.36.3" };
        deepEqual(await lifecycle.check(changed), [], `after ${moment} changes`);
        const outputs = await lifecycle.create(changed);
        equal((await lifecycle.read(outputs))?.running, true, `after ${moment} changes`);
        equal(kind.found.size, 2);
      },
    );
    ok(moments >= 10, `${moments} moments`);
  });

  it("while it changes or adopts a cluster never leads to its deletion", async () => {
    for (const run of ["update", "create"] as const) {
      const moments = await killed(
        running,
        ({ lifecycle, inputs }) => lifecycle[run]({ ...inputs, hosts: {} }),
        async ({ lifecycle, inputs, outputs, kind }, moment) => {
          equal((await lifecycle.read(outputs))?.name, "local", `after ${moment} changes`);
          await lifecycle.create(inputs);
          equal(kind.log.includes("delete local"), false, `after ${moment} changes`);
        },
      );
      ok(moments >= 4, `${moments} moments`);
    }
  });

  it("while it deletes a cluster is followed by one that makes it again or finds it whole, without asking", async () => {
    const moments = await killed(
      running,
      ({ lifecycle, outputs }) => lifecycle.delete(outputs),
      async ({ lifecycle, inputs, outputs, kind }, moment) => {
        if ((await lifecycle.read(outputs)) === undefined) {
          await lifecycle.create({ ...inputs, image: "kindest/node:v1.36.3" });
        } else {
          await lifecycle.update(inputs);
        }
        equal(kind.found.size, 2, `after ${moment} changes`);
      },
    );
    ok(moments >= 4, `${moments} moments`);
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
    "it is half-made or half-deleted": (kind) => {
      kind.mark("local-worker", { unfinished: "" });
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

  for (const [what, change] of [
    [
      "a node is stopped",
      (kind: FakeKind) => {
        kind.become("local-worker", "exited");
      },
    ],
    [
      "a node is paused",
      (kind: FakeKind) => {
        kind.become("local-control-plane", "paused");
      },
    ],
    [
      "a node does not say any more what it was made of",
      (kind: FakeKind) => {
        kind.forget("local-worker");
      },
    ],
  ] as const) {
    it(`finds it there when ${what}, to be put right in place`, async () => {
      const { kind, inputs, outputs, lifecycle } = await running();
      change(kind);
      const found = await lifecycle.read(outputs);
      equal(found?.running, false);
      deepEqual(lifecycle.diff(found, inputs), { changes: true, replaces: [], reasons: [] });
      const updated = await lifecycle.update(inputs);
      equal(kind.log.includes("delete local"), false);
      deepEqual(lifecycle.diff(updated, inputs), { changes: false, replaces: [], reasons: [] });
      equal((await lifecycle.read(updated))?.running, true);
    });
  }

  it("finds what it was made of, whatever the state says", async () => {
    const { inputs, outputs, lifecycle } = await running();
    const found = await lifecycle.read({ ...outputs, image: "kindest/node:v1.36.3" });
    equal(found?.image, image);
    deepEqual(lifecycle.diff(found, inputs).replaces, []);
    deepEqual(lifecycle.diff(found, { ...inputs, image: "kindest/node:v1.36.3" }).replaces, ["image"]);
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
    ["name", { name: "other" }, 'name: "local" → "other"'],
    ["network", { network: "other" }, 'network: "platform-local" → "other"'],
    ["image", { image: "other" }, `image: "${image}" → "other"`],
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
      reasons: [
        'name: "local" → "a"',
        'network: "platform-local" → "b"',
        `image: "${image}" → "c"`,
        "files of the API server",
      ],
    });
  });

  it("in place write the registries again and keep the nodes", async () => {
    const { kind, inputs, lifecycle } = await running();
    const hosts = { "docker.io": "new\n" };
    const outputs = await lifecycle.update({ ...inputs, hosts, mergeKubeconfig: true });
    deepEqual(kind.log, [...configured, "merge local"]);
    deepEqual(kind.filesOf("local-control-plane", certs), { "docker.io/hosts.toml": "new\n" });
    deepEqual([outputs.hosts, outputs.mergeKubeconfig], [hosts, true]);
    equal((await lifecycle.read(outputs))?.name, "local");
  });
});
