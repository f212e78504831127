import { deepEqual, equal, match, notEqual, ok, rejects } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { parse } from "yaml";
import { inspectTree, readTree } from "../../components/artifact/tree";
import { binDirectory, ensureTools } from "../../tools/tools";
import { FakeApiServer, kubeconfigOf } from "../unit/api-server";
import { smallTree } from "../unit/small-tree";
import { fakeTools, temporaryDirectory, writeFiles } from "../unit/temporary";
import { ProviderHost, type Properties } from "./host";
import { freePort, RegistryProcess } from "./registry";

const marker = "value-of-the-environment-of-whoever-serialised";
let providers: ReadonlyMap<string, string>;
let tools: Readonly<Record<"sops" | "age-keygen" | "kustomize" | "crane" | "registry", string>>;

before("tools, and providers as state holds them", async function () {
  this.timeout(1_800_000);
  tools = await ensureTools(["sops", "age-keygen", "kustomize", "crane", "registry"], {
    report: console.error,
  });
  const script = ["-r", "ts-node/register/transpile-only", join(__dirname, "serialise.ts")];
  const env = { ...process.env, PLATFORM_TEST_MARKER: marker, SOPS_AGE_KEY: marker };
  const printed = execFileSync(process.execPath, script, {
    env,
    encoding: "utf8",
    maxBuffer: 64 * 1024 * 1024,
  });
  providers = new Map(Object.entries(JSON.parse(printed) as Record<string, string>));
});

/** Inputs of a resource, with its provider as Pulumi adds it. */
function inputsOf(type: string, inputs: Properties): Properties {
  const provider = providers.get(type);
  ok(provider !== undefined && provider.length > 100, `there is no provider of ${type}`);
  return { ...inputs, __provider: provider };
}

/** State as the lifecycle made it. */
function withoutProvider(state: Properties): Properties {
  return Object.fromEntries(Object.entries(state).filter(([key]) => key !== "__provider"));
}

/** A host with fake tools first on its PATH, then the pinned ones, which `run` would else prefer. */
function hostWith(scripts: Readonly<Record<string, string>>): Promise<ProviderHost> {
  const { PATH, XDG_CACHE_HOME } = fakeTools(scripts);
  const [fakes = "", ...rest] = PATH.split(delimiter);
  return ProviderHost.start({ XDG_CACHE_HOME, PATH: [fakes, binDirectory(), ...rest].join(delimiter) });
}

/** A new age identity: its file's content, and its recipient. */
function identity(): { content: string; recipient: string } {
  const content = execFileSync(tools["age-keygen"], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  return { content, recipient: /public key: (age1\w+)/.exec(content)?.[1] ?? "" };
}

const secretFile = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  A: hunter2\n";

function encrypt(manifest: string, recipient: string): string {
  const args = [
    "--config",
    "/dev/null",
    "encrypt",
    "--age",
    recipient,
    "--encrypted-regex",
    "^(data|stringData)$",
  ];
  const types = ["--input-type", "yaml", "--output-type", "yaml", "--filename-override", "s.yaml"];
  return execFileSync(tools.sops, [...args, ...types], { input: manifest, encoding: "utf8" });
}

/** That a call is refused in one line without a stack or the text of the provider. */
async function refused(promise: Promise<unknown>, message: RegExp): Promise<void> {
  await rejects(promise, (error: Error) => {
    match(error.message, message);
    equal(/\n|\bat .*:\d+:\d+|node_modules/.test(error.message), false, error.message);
    return true;
  });
}

describe("serialised providers", () => {
  it("are those of every dynamic resource", () => {
    deepEqual([...providers.keys()].sort(), [
      "cluster:Kind",
      "release:Artifact",
      "release:Gate",
      "seed:Seed",
      "sops:AgeIdentity",
      "sops:GeneratedSecrets",
    ]);
    const sources = readdirSync(join(__dirname, "..", "..", "components"), {
      recursive: true,
      encoding: "utf8",
    });
    equal(sources.filter((path) => /(^|\/)resource\.ts$/.test(path)).length, providers.size);
  });

  it("hold no value of the environment and no path of the machine", () => {
    const paths = [join(__dirname, "..", ".."), process.cwd(), `${homedir()}/`, process.execPath];
    for (const [type, text] of providers) {
      for (const value of [marker, ...paths]) equal(text.includes(value), false, `${type} holds "${value}"`);
    }
  });
});

describe("AgeIdentity out of state", () => {
  let host: ProviderHost;

  before(async () => {
    host = await ProviderHost.start({ SOPS_AGE_KEY: undefined, SOPS_AGE_KEY_FILE: undefined });
  });
  after(() => {
    host.stop();
  });

  function stack(generate: string, files: Readonly<Record<string, string>> = {}) {
    const directory = temporaryDirectory();
    writeFiles(directory, { "clusters/x/kustomization.yaml": "", ...files });
    const file = join(directory, "config", "x.agekey");
    return {
      file,
      inputs: inputsOf("sops:AgeIdentity", { stack: "x", file, generate, tree: directory, cluster: "x" }),
    };
  }

  it("makes an identity that only this user may read, finds it again, and knows when it is gone", async () => {
    const { file, inputs } = stack("empty", { "clusters/x/s.enc.yaml": secretFile.replace("hunter2", '""') });
    deepEqual(await host.check({}, inputs), []);
    const { id, state } = await host.create(inputs);
    equal(id, "x");
    equal(statSync(file).mode & 0o777, 0o600);
    equal(state.identity, readFileSync(file, "utf8"));
    match(String((state.recipients as string[])[0]), /^age1[0-9a-z]{58}$/);
    deepEqual(await host.read(id, state), state);
    deepEqual(await host.diff(id, state, inputs), { changes: false, replaces: [] });
    equal((await host.diff(id, state, { ...inputs, generate: "all" })).changes, true);
    deepEqual(await host.update(id, state, inputs), state);
    rmSync(file);
    equal(await host.read(id, state), undefined);
  });

  it("takes the identity that opens the files", async () => {
    const { content, recipient } = identity();
    const { file, inputs } = stack("none", { "clusters/x/s.enc.yaml": encrypt(secretFile, recipient) });
    writeFiles(join(file, ".."), { "x.agekey": content });
    deepEqual(await host.check({}, inputs), []);
    deepEqual((await host.create(inputs)).state.recipients, [recipient]);
  });

  it("refuses one that does not, naming file and recipients", async () => {
    const [mine, theirs] = [identity(), identity()];
    const { file, inputs } = stack("none", {
      "clusters/x/s.enc.yaml": encrypt(secretFile, theirs.recipient),
    });
    writeFiles(join(file, ".."), { "x.agekey": mine.content });
    deepEqual(await host.check({}, inputs), [
      `identity: Decrypting clusters/x/s.enc.yaml with the identity of stack "x" failed: it is encrypted for ${theirs.recipient}, the identity is ${mine.recipient}. Set SOPS_AGE_KEY_FILE to the right identity, or run "sops updatekeys clusters/x/s.enc.yaml".`,
    ]);
    await refused(
      host.create(inputs),
      /^Decrypting clusters\/x\/s\.enc\.yaml with the identity of stack "x" failed: /,
    );
  });

  it("refuses a file that was changed by hand", async () => {
    const { content, recipient } = identity();
    const tampered = encrypt(secretFile, recipient).replace("name: s", "name: other");
    const { file, inputs } = stack("none", { "clusters/x/s.enc.yaml": tampered });
    writeFiles(join(file, ".."), { "x.agekey": content });
    const failures = await host.check({}, inputs);
    match(
      failures.join(),
      /^identity: Decrypting clusters\/x\/s\.enc\.yaml .*: its MAC does not hold: the file was changed by something else than sops/,
    );
  });

  it("refuses a file that holds no identity, naming it and not what it holds", async () => {
    const { file, inputs } = stack("none", {
      "clusters/x/s.enc.yaml": encrypt(secretFile, identity().recipient),
    });
    writeFiles(join(file, ".."), { "x.agekey": "hunter2 is no identity\n" });
    const failure = await host.check({}, inputs).then(
      (failures) => failures.join(),
      (error: unknown) => (error as Error).message,
    );
    equal(failure.includes("hunter2"), false, failure);
    ok(failure.includes(file), failure);
  });

  it("refuses a stack without an identity", async () => {
    const { file, inputs } = stack("none");
    match(
      (await host.check({}, inputs)).join(),
      /^identity: Reading the age identity of stack "x" failed: .* does not exist\./,
    );
    await refused(host.create(inputs), /^Reading the age identity of stack "x" failed: /);
    equal(existsSync(file), false);
  });
});

describe("GeneratedSecrets out of state", () => {
  it("encrypts what only the identity opens, and keeps no value", async () => {
    const { content, recipient } = identity();
    const inputs = inputsOf("sops:GeneratedSecrets", {
      files: { "clusters/x/s.enc.yaml": secretFile },
      values: { "clusters/x/s.enc.yaml": { A: "generated-value" } },
      recipients: [recipient],
    });
    const host = await ProviderHost.start();
    try {
      const { id, state } = await host.create(inputs);
      const outputs = withoutProvider(state);
      deepEqual(Object.keys(outputs).sort(), ["encrypted", "fingerprint"]);
      equal(/generated-value|hunter2/.test(JSON.stringify(outputs)), false);
      const sealed = (outputs.encrypted as Record<string, string>)["clusters/x/s.enc.yaml"] ?? "";
      const plain = execFileSync(
        tools.sops,
        ["decrypt", "--input-type", "yaml", "--output-type", "yaml", "--filename-override", "s.yaml"],
        {
          ...{ input: sealed, encoding: "utf8", env: { ...process.env, SOPS_AGE_KEY: content } },
        },
      );
      deepEqual((parse(plain) as { stringData: object }).stringData, { A: "generated-value" });

      deepEqual(await host.diff(id, state, inputs), { changes: false, replaces: [] });
      const values = { "clusters/x/s.enc.yaml": { A: "another-value" } };
      equal((await host.diff(id, state, { ...inputs, values })).changes, true);
      const updated = await host.update(id, state, { ...inputs, values });
      notEqual(updated.fingerprint, state.fingerprint);
    } finally {
      host.stop();
    }
  });
});

/** An artifact of the small tree in a registry, ready to be created. */
async function artifactInputs(address: string): Promise<Properties> {
  const tree = temporaryDirectory();
  writeFiles(tree, smallTree);
  return inputsOf("release:Artifact", {
    ...{ tree, cluster: "x", files: {}, repository: `${address}/platform`, insecure: false },
    ...{ revision: "sha1:abc", source: "https://example.com/p", created: "2026-01-01T00:00:00Z" },
    content: (await inspectTree(tree, "x")).content,
  });
}

describe("Artifact and Gate out of state", () => {
  let host: ProviderHost;
  let port: number;
  let registry: RegistryProcess;

  beforeEach(async () => {
    port = await freePort();
    [host, registry] = await Promise.all([ProviderHost.start(), RegistryProcess.start(tools.registry, port)]);
  });
  afterEach(async () => {
    host.stop();
    await registry.stop();
  });

  it("pushes an artifact, finds it again, and knows when the registry lost it", async () => {
    const inputs = await artifactInputs(registry.address);
    const { id, state } = await host.create(inputs);
    equal(id, `${registry.address}/platform`);
    const manifest = await fetch(`http://${registry.address}/v2/platform/manifests/${String(state.digest)}`, {
      headers: { Accept: "application/vnd.oci.image.manifest.v1+json" },
    });
    equal(manifest.headers.get("docker-content-digest"), state.digest);
    deepEqual(
      await (
        await fetch(`http://${registry.address}/v2/platform/tags/list`)
      )
        .json()
        .then((list: unknown) => (list as { tags?: unknown }).tags ?? []),
      [],
    );

    deepEqual(await host.read(id, state), state);
    deepEqual(await host.diff(id, state, inputs), { changes: false, replaces: [] });
    equal((await host.diff(id, state, { ...inputs, content: "other" })).changes, true);

    writeFileSync(join(String(inputs.tree), "README.md"), "new\n");
    const changed = { ...inputs, content: (await readTree(String(inputs.tree))).content };
    const updated = await host.update(id, state, changed);
    notEqual(updated.digest, state.digest);
    deepEqual(await host.read(id, updated), updated);

    await registry.stop();
    equal(await host.read(id, updated), undefined);
    registry = await RegistryProcess.start(tools.registry, port);
    equal(await host.read(id, updated), undefined);
    equal((await host.create(changed)).state.digest, updated.digest);
  });

  it("refuses a tree that is not the one that was checked, and a registry that does not answer", async () => {
    const inputs = await artifactInputs(registry.address);
    await registry.stop();
    await refused(
      host.create(inputs),
      /^Pushing sha256:[0-9a-f]{64} to 127\.0\.0\.1:\d+\/platform failed: .*connection refused/,
    );
    writeFileSync(join(String(inputs.tree), "clusters/x/controllers/secret.enc.yaml"), secretFile);
    await refused(host.create(inputs), /was refused: it changed after it was checked\./);
  });

  it("opens the gate when every layer is Ready at the digest, and sees when one is not any more", async () => {
    const { state: artifact } = await host.create(await artifactInputs(registry.address));
    const cluster = await FakeApiServer.start({
      "source.toolkit.fluxcd.io/v1": { OCIRepository: ["ocirepositories", true] },
      "kustomize.toolkit.fluxcd.io/v1": { Kustomization: ["kustomizations", true] },
      "helm.toolkit.fluxcd.io/v2": { HelmRelease: ["helmreleases", true] },
    });
    try {
      const revision = `x@${String(artifact.digest)}`;
      const metadata = { name: "flux-system", namespace: "flux-system", generation: 1 };
      const root = {
        ...{ metadata, spec: { sourceRef: { name: "flux-system" } } },
        status: {
          ...{ observedGeneration: 1, lastAppliedRevision: revision, lastAttemptedRevision: revision },
          ...{ conditions: [{ type: "Ready", status: "True" }], inventory: { entries: [1, 2] } },
        },
      };
      cluster.objects.set(
        "/apis/source.toolkit.fluxcd.io/v1/namespaces/flux-system/ocirepositories/flux-system",
        {
          ...{ metadata, status: { artifact: { revision } } },
        },
      );
      cluster.objects.set(
        "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations/flux-system",
        root,
      );
      const inputs = inputsOf("release:Gate", {
        ...{ kubeconfig: cluster.kubeconfig, repository: artifact.repository, insecure: false },
        ...{ channel: "x", digest: artifact.digest, timeoutSeconds: 15 },
      });
      const { id, state } = await host.create(inputs);
      equal(id, "x");
      equal(state.ready, true);
      deepEqual(
        (state.layers as { name: string; objects: number }[]).map(({ name, objects }) => [name, objects]),
        [["flux-system", 2]],
      );
      const tags = (await (await fetch(`http://${registry.address}/v2/platform/tags/list`)).json()) as {
        tags: string[];
      };
      deepEqual(tags.tags.sort(), ["x", "x-ready"]);

      deepEqual(await host.read(id, state), state);
      equal((await host.diff(id, state, inputs)).changes, false);
      root.status.conditions = [{ type: "Ready", status: "False" }];
      const seen = await host.read(id, state);
      equal(seen?.ready, false);
      equal((await host.diff(id, seen, inputs)).changes, true);
    } finally {
      cluster.stop();
    }
  });

  it("says of a cluster that does not answer that it does not, and reads nothing from it", async () => {
    const { state: artifact } = await host.create(await artifactInputs(registry.address));
    const inputs = inputsOf("release:Gate", {
      ...{
        kubeconfig: kubeconfigOf("https://127.0.0.1:1"),
        repository: artifact.repository,
        insecure: false,
      },
      ...{ channel: "x", digest: artifact.digest, timeoutSeconds: 1 },
    });
    await refused(
      host.create(inputs),
      /^Releasing sha256:[0-9a-f]{64} to channel "x" failed: .*: the API server at https:\/\/127\.0\.0\.1:1 does not answer \(ECONNREFUSED\)\./,
    );
    equal(await host.read("x", { ...inputs, ready: true, layers: [] }), undefined);
  });
});

describe("Kind out of state", () => {
  it("makes, adopts, finds and deletes a cluster with the kind program", async () => {
    const directory = temporaryDirectory();
    const at = (name: string) => join(directory, name);
    mkdirSync(at("clusters"));
    const cluster = await FakeApiServer.start({ v1: { Node: ["nodes", false] } });
    const labels: Record<string, string> = { "platform.pulumi.com/owner": "platform" };
    cluster.objects.set("/api/v1/nodes/local-control-plane", {
      metadata: { name: "local-control-plane", labels },
    });
    writeFileSync(at("kubeconfig"), cluster.kubeconfig);
    const host = await hostWith({
      kind: `cd ${directory}
echo "kind $*" >> log
case "$1 $2" in
  "get clusters") ls clusters ;;
  "get kubeconfig") cat kubeconfig ;;
  "create cluster") cat > config; echo "$KIND_EXPERIMENTAL_DOCKER_NETWORK" > network; touch "clusters/$4" ;;
  "delete cluster") rm "clusters/$4" ;;
esac`,
      docker: `echo '[{"Subnet":"fc00:1::/64"},{"Subnet":"172.30.0.0/16"}]'`,
    });
    try {
      const inputs = inputsOf("cluster:Kind", {
        name: "local",
        network: "platform-local",
        config: "kind: Cluster\n",
      });
      const { id, state } = await host.create(inputs);
      equal(id, "local");
      deepEqual(state, { ...inputs, kubeconfig: cluster.kubeconfig, loadBalancerCidr: "172.30.255.0/24" });
      equal(readFileSync(at("config"), "utf8"), "kind: Cluster\n");
      equal(readFileSync(at("network"), "utf8"), "platform-local\n");

      deepEqual((await host.create(inputs)).state, state);
      equal(readFileSync(at("log"), "utf8").match(/create cluster/g)?.length, 1);
      deepEqual(await host.read(id, state), state);
      deepEqual(await host.diff(id, state, inputs), { changes: false, replaces: [] });
      deepEqual(await host.diff(id, state, { ...inputs, config: "other" }), {
        changes: true,
        replaces: ["config"],
      });

      labels["platform.pulumi.com/owner"] = "another";
      await refused(
        host.create(inputs),
        /^Adopting Kind cluster "local" failed: it exists and is not this project's/,
      );
      await refused(
        host.delete(id, state),
        /Kind cluster "local" failed: it exists and is not this project's/,
      );
      deepEqual(readdirSync(at("clusters")), ["local"]);
      labels["platform.pulumi.com/owner"] = "platform";

      await host.delete(id, state);
      deepEqual(readdirSync(at("clusters")), []);
      equal(await host.read(id, state), undefined);
      await host.delete(id, state);
    } finally {
      host.stop();
      cluster.stop();
    }
  });

  it("says what kind said when it fails", async () => {
    const host = await hostWith({ kind: 'test "$1" = get || { echo "ERROR: no space left" >&2; exit 1; }' });
    try {
      const inputs = inputsOf("cluster:Kind", { name: "local", network: "n", config: "" });
      await refused(host.create(inputs), /^Creating Kind cluster "local" failed: .*ERROR: no space left/);
    } finally {
      host.stop();
    }
  });
});

describe("Seed out of state", () => {
  let host: ProviderHost;
  let tree: string;

  before(async () => {
    host = await hostWith({
      helm: `cat > /dev/null
echo '{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"}}'
echo ---
echo '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"web"}}'`,
    });
    tree = temporaryDirectory();
    writeFiles(tree, smallTree);
  });
  after(() => {
    host.stop();
  });

  const seedInputs = (kubeconfig: string) =>
    inputsOf("seed:Seed", {
      ...{ kubeconfig, tree, cluster: "x", variables: { channel: "x" } },
      object: { kind: "HelmRelease", namespace: "web", name: "web" },
    });

  it("applies a chart once, finds it again, and knows when it is gone", async () => {
    const cluster = await FakeApiServer.start({
      v1: { ConfigMap: ["configmaps", true] },
      "apps/v1": { Deployment: ["deployments", true] },
    });
    const deployment = "/apis/apps/v1/namespaces/web/deployments/web";
    try {
      const inputs = seedInputs(cluster.kubeconfig);
      const { id, state } = await host.create(inputs);
      equal(id, "HelmRelease/web/web");
      const { fingerprint, ...rest } = withoutProvider(state);
      match(String(fingerprint), /^[0-9a-f]{64}$/);
      deepEqual(rest, {
        kubeconfig: cluster.kubeconfig,
        sentinel: { apiVersion: "apps/v1", kind: "Deployment", name: "web", namespace: "web" },
      });
      deepEqual([...cluster.objects.keys()].sort(), ["/api/v1/namespaces/web/configmaps/web", deployment]);

      deepEqual(await host.read(id, state), state);
      deepEqual(await host.diff(id, state, inputs), { changes: false, replaces: [] });
      deepEqual(await host.diff(id, state, { ...inputs, kubeconfig: "other" }), {
        changes: true,
        replaces: ["kubeconfig"],
      });

      const owned = { metadata: { name: "web", labels: { "helm.toolkit.fluxcd.io/name": "web" } } };
      cluster.objects.set(deployment, owned);
      cluster.requests.length = 0;
      await host.create(inputs);
      deepEqual(
        cluster.requests.filter((request) => request.startsWith("PATCH")),
        [],
      );

      cluster.objects.clear();
      equal(await host.read(id, state), undefined);
    } finally {
      cluster.stop();
    }
  });

  it("says of a cluster that does not answer that it does not, and finds nothing in it", async () => {
    const inputs = seedInputs(kubeconfigOf("https://127.0.0.1:1"));
    await refused(
      host.create(inputs),
      /^Reading Deployment web\/web failed: the API server at https:\/\/127\.0\.0\.1:1 does not answer \(ECONNREFUSED\)\.$/,
    );
    const sentinel = { apiVersion: "apps/v1", kind: "Deployment", name: "web", namespace: "web" };
    equal(await host.read("x", { ...inputs, sentinel }), undefined);
  });
});
