import { deepEqual, equal, match, notEqual, ok, rejects } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { parse } from "yaml";
import { packTree } from "../../core/tree/build";
import { inspectTree, readTree } from "../../core/tree/tree";
import { Crane } from "../../clients/registry/oci";
import { binDirectory } from "../../tools/bin";
import { ensureTools } from "../../tools/tools";
import { FakeApiServer, kubeconfigOf } from "../unit/api-server";
import { smallTree } from "../unit/small-tree";
import { fakeTools, temporaryDirectory, writeFiles } from "../unit/temporary";
import { ProviderHost, type Properties } from "./host";
import { freePort, RegistryProcess } from "./registry";

const marker = "value-of-the-environment-of-whoever-serialised";
let providers: ReadonlyMap<string, string>;
let tools: Readonly<Record<"sops" | "age-keygen" | "platform-tree" | "crane" | "registry", string>>;

before("tools, and providers as state holds them", async function () {
  this.timeout(1_800_000);
  tools = await ensureTools(["sops", "age-keygen", "platform-tree", "crane", "registry"], {
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
      "docker:Container",
      "docker:Garbage",
      "docker:Network",
      "flux:Namespace",
      "release:Artifact",
      "release:Gate",
      "seed:Seed",
      "sops:AgeIdentity",
      "sops:GeneratedSecrets",
    ]);
    const adapters = readdirSync(join(__dirname, "..", "..", "components", "dynamic"));
    equal(adapters.filter((file) => file !== "provider.ts").length, providers.size);
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
    equal(state.identity, readFileSync(file, "utf8").replace(/^#.*\n/gm, ""));
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
      `identity: Decrypting clusters/x/s.enc.yaml with the identity of stack "x" failed: it is encrypted for ${theirs.recipient}, the identity is ${mine.recipient}. Set SOPS_AGE_KEY_FILE to the right identity, ask a person whose identity opens it to run "npx platform secrets init x --recipient ${mine.recipient}", or replace the file with a Secret of your own.`,
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
      /^identity: Decrypting clusters\/x\/s\.enc\.yaml .*: its MAC does not hold: another program than SOPS changed the file/,
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
  const path = "clusters/x/s.enc.yaml";
  let host: ProviderHost;
  let registry: RegistryProcess;
  let cluster: FakeApiServer;

  before(async () => {
    const port = await freePort();
    [host, registry, cluster] = await Promise.all([
      ProviderHost.start(),
      RegistryProcess.start(tools.registry, port),
      FakeApiServer.start({ v1: { Secret: ["secrets", true] } }),
    ]);
  });
  after(async () => {
    host.stop();
    cluster.stop();
    await registry.stop();
  });

  const inputsFor = (name: string, { content, recipient }: ReturnType<typeof identity>) =>
    inputsOf("sops:GeneratedSecrets", {
      files: { [path]: secretFile.replace("hunter2", "") },
      values: { [path]: { A: "generated-value" } },
      recipients: [recipient],
      identity: content,
      ...{ repository: `${registry.address}/${name}`, insecure: false, channel: "x" },
      ...{ kubeconfig: cluster.kubeconfig, revision: 0 },
    });
  const decrypt = (state: Properties, { content }: ReturnType<typeof identity>) => {
    const sealed = (state.encrypted as Record<string, string>)[path] ?? "";
    const plain = execFileSync(
      tools.sops,
      ["decrypt", "--input-type", "yaml", "--output-type", "yaml", "--filename-override", "s.yaml"],
      { input: sealed, encoding: "utf8", env: { ...process.env, SOPS_AGE_KEY: content } },
    );
    return (parse(plain) as { stringData: object }).stringData;
  };

  it("encrypts what only the identity opens, and keeps no value", async () => {
    const own = identity();
    const inputs = inputsFor("new", own);
    const { id, state } = await host.create(inputs);
    const outputs = withoutProvider(state);
    deepEqual(Object.keys(outputs).sort(), ["encrypted", "fingerprint", "revision"]);
    equal(/generated-value|hunter2|AGE-SECRET/.test(JSON.stringify(outputs)), false);
    deepEqual(decrypt(outputs, own), { A: "generated-value" });

    deepEqual(await host.diff(id, state, inputs), { changes: false, replaces: [] });
    const values = { [path]: { A: "another-value" } };
    equal((await host.diff(id, state, { ...inputs, values })).changes, true);
    const updated = await host.update(id, state, { ...inputs, values, revision: 1 });
    notEqual(updated.fingerprint, state.fingerprint);
    deepEqual(decrypt(updated, own), { A: "another-value" });
  });

  it("finds the value in force in the artifact, else in the cluster, when state is lost", async () => {
    const own = identity();
    const inputs = inputsFor("lost", own);
    const { state } = await host.create(inputs);
    const tree = temporaryDirectory();
    writeFiles(tree, { [path]: (state.encrypted as Record<string, string>)[path] ?? "", "README.md": "x" });
    const layout = join(temporaryDirectory(), "layout");
    const provenance = { revision: "unknown", source: "unknown", created: "1970-01-01T00:00:00Z" };
    const { content } = await readTree(tree);
    const digest = (await packTree(tree, layout, { ...provenance, content, files: {} })) ?? "";
    const crane = new Crane(false);
    const repository = String(inputs.repository);
    await crane.push(layout, repository, digest);
    await crane.tag(repository, digest, "x-ready");

    const values = { [path]: { A: "another-value" } };
    const again = await host.create({ ...inputs, values });
    deepEqual(decrypt(again.state, own), { A: "generated-value" });
    deepEqual(await host.diff(again.id, again.state, { ...inputs, values }), {
      changes: false,
      replaces: [],
    });

    // With a new identity nobody opens the artifact.
    const other = identity();
    const data = { A: Buffer.from("value-of-the-cluster").toString("base64") };
    const metadata = { name: "s", namespace: "web", labels: { "kustomize.toolkit.fluxcd.io/name": "apps" } };
    cluster.objects.set("/api/v1/secrets/s", { metadata, data });
    const fresh = await host.create({
      ...{ ...inputs, values },
      ...{ identity: other.content, recipients: [other.recipient] },
    });
    deepEqual(decrypt(fresh.state, other), { A: "value-of-the-cluster" });
  });

  it("makes nothing up where the registry does not answer", async () => {
    const inputs = { ...inputsFor("gone", identity()), repository: `127.0.0.1:${await freePort()}/x` };
    await rejects(host.create(inputs), /Looking up 127\.0\.0\.1:\d+\/x:x-ready failed: .*connection refused/);
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
    await refused(host.create(inputs), /was refused: the tree changed during the run\./);
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
        ...{
          channel: "x",
          digest: artifact.digest,
          timeoutSeconds: 15,
          keep: 1,
          namespaceUid: "u",
          ownCluster: true,
        },
        variables: {},
      });
      // It serves the digest already: the gate asks for another look, and waits for it.
      cluster.override = (method, path) => {
        if (method === "PATCH" && path.includes("/kustomizations/")) {
          Object.assign(root.status, { lastHandledReconcileAt: "asked" });
        }
        return undefined;
      };
      const { id, state } = await host.create(inputs);
      equal(id, "x");
      equal(state.ready, true);
      deepEqual(
        (state.layers as { name: string; objects: number }[]).map(({ name, objects }) => [name, objects]),
        [["flux-system", 2]],
      );
      const short = String(artifact.digest).slice("sha256:".length, "sha256:".length + 12);
      deepEqual(
        (await new Crane(false).tags(String(artifact.repository)))
          .map((tag) => tag.replace(/\d{14}/, "TIME"))
          .sort(),
        ["x", `x-TIME-${short}`, "x-ready"],
      );

      deepEqual(await host.read(id, state), state);
      equal((await host.diff(id, state, inputs)).changes, false);
      root.status.conditions = [{ type: "Ready", status: "False" }];
      const seen = await host.read(id, state);
      equal(seen?.ready, false);
      equal((await host.diff(id, seen, inputs)).changes, true);
      equal((await host.diff(id, state, { ...inputs, namespaceUid: "of another" })).changes, true);

      // What runs goes on when the gate goes, as when it is replaced or gets another name.
      await host.delete(id, state);
      deepEqual(root.spec, { sourceRef: { name: "flux-system" } });
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
      ...{
        channel: "x",
        digest: artifact.digest,
        timeoutSeconds: 1,
        keep: 1,
        namespaceUid: "u",
        ownCluster: true,
      },
      variables: {},
    });
    await refused(
      host.create(inputs),
      /^Releasing sha256:[0-9a-f]{64} to channel "x" failed: .*: the API server at https:\/\/127\.0\.0\.1:1 does not answer \(ECONNREFUSED\)\./,
    );
    const state = { ...inputs, ready: true, layers: [] };
    equal(await host.read("x", state), undefined);
    await refused(
      host.read("x", { ...state, ownCluster: false }),
      /does not answer \(ECONNREFUSED\)\. Bring the cluster back and run again; /,
    );
    await host.delete("x", state);
  });
});

describe("Crane", () => {
  let host: ProviderHost;
  let registry: RegistryProcess;

  before(async () => {
    const port = await freePort();
    [host, registry] = await Promise.all([ProviderHost.start(), RegistryProcess.start(tools.registry, port)]);
  });
  after(async () => {
    host.stop();
    await registry.stop();
  });

  /** Two artifacts in a repository of their own, by their digests. */
  async function pushed(): Promise<{ repository: string; digests: readonly [string, string] }> {
    const inputs = await artifactInputs(registry.address);
    const { id, state } = await host.create(inputs);
    writeFileSync(join(String(inputs.tree), "README.md"), "new\n");
    const { content } = await readTree(String(inputs.tree));
    const updated = await host.update(id, state, { ...inputs, content });
    return {
      repository: String(inputs.repository),
      digests: [String(state.digest), String(updated.digest)],
    };
  }

  it("lists every tag of a repository, and none of one that is not there", async () => {
    const crane = new Crane(false);
    deepEqual(await crane.tags(`${registry.address}/other`), []);
    const { repository, digests } = await pushed();
    for (const [index, tag] of ["a", "b", "c"].entries()) {
      await crane.tag(repository, digests[index % 2] ?? "", tag);
    }
    deepEqual((await crane.tags(repository)).sort(), ["a", "b", "c"]);
  });

  it("deletes a manifest with the tags that point at it, and no other", async () => {
    const crane = new Crane(false);
    const { repository, digests } = await pushed();
    const [old, current] = digests;
    for (const tag of ["old", "older"]) await crane.tag(repository, old, tag);
    await crane.tag(repository, current, "current");
    await crane.delete(repository, old);
    equal(await crane.digest(repository, old), undefined);
    equal(await crane.digest(repository, "older"), undefined);
    equal(await crane.digest(repository, "current"), current);
    const tags = await crane.tags(repository);
    deepEqual(
      tags.filter((tag) => tag.startsWith("old")),
      [],
    );
    ok(tags.includes("current"));
  });

  it("says what it could not do, and with what", async () => {
    const crane = new Crane(false);
    const { repository } = await pushed();
    const nothing = `sha256:${"0".repeat(64)}`;
    await rejects(crane.delete(repository, nothing), {
      message: new RegExp(`^Deleting ${repository}@${nothing} failed: "crane delete .*" failed: `),
    });
    await rejects(crane.tags("127.0.0.1:1/platform"), {
      message: /^Listing 127\.0\.0\.1:1\/platform failed: "crane ls .*" failed: .*connection refused/,
    });
  });
});

/** A `docker` that keeps containers and networks as files of a directory, as `docker inspect` prints them. */
const dockerScript = (directory: string) => `cd ${directory}
echo "docker $*" >> log
labels() {
  separator=
  while [ $# -gt 0 ]; do
    [ "$1" = --label ] && printf '%s"%s":"%s"' "$separator" "\${2%%=*}" "\${2#*=}" && separator=,
    shift
  done
}
case "$1 $2" in
  "inspect --type") cat "$3-$4" 2> /dev/null || { echo "Error: No such $3: $4" >&2; exit 1; } ;;
  "network create")
    subnets='{"Subnet":"fc00:1::/64"},{"Subnet":"172.30.0.0/16"}'
    printf '[{"Labels":{%s},"IPAM":{"Config":[%s]}}]' "$(labels "$@")" "$subnets" > "network-$5" ;;
  "network rm") rm "network-$3" ;;
  "run --detach")
    [ -f taken ] && { echo "Bind for 127.0.0.1:5050 failed: port is already allocated" >&2; exit 125; }
    printf '[{"Config":{"Labels":{%s}},"State":{"Status":"running"}}]' "$(labels "$@")" > "container-$6" ;;
  "rm --force") rm -f "container-$3" ;;
  "start "*) sed -i s/exited/running/ "container-$2" ;;
esac`;

describe("Network and Container out of state", () => {
  let directory: string;
  let host: ProviderHost;
  const at = (name: string) => join(directory, name);
  /** What was asked of Docker that changes something, without the arguments. */
  const changes = () =>
    readFileSync(at("log"), "utf8")
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("docker inspect"))
      .map((line) => line.split(" ").slice(1, 3).join(" "));

  beforeEach(async () => {
    directory = temporaryDirectory();
    host = await hostWith({ docker: dockerScript(directory) });
  });
  afterEach(() => {
    host.stop();
  });

  it("make, adopt, find and delete a network with the docker program", async () => {
    const inputs = inputsOf("docker:Network", { name: "platform-x", owner: "p/s" });
    const { id, state } = await host.create(inputs);
    equal(id, "platform-x");
    deepEqual(withoutProvider(state), { name: "platform-x", owner: "p/s", subnet: "172.30.0.0/16" });
    deepEqual((await host.create(inputs)).state, state);
    deepEqual(withoutProvider((await host.read(id, state)) ?? {}), withoutProvider(state));
    deepEqual(await host.diff(id, state, inputs), { changes: false, replaces: [] });
    deepEqual(await host.diff(id, state, { ...inputs, name: "other" }), {
      changes: true,
      replaces: ["name"],
    });

    const own = readFileSync(at("network-platform-x"), "utf8");
    writeFileSync(at("network-platform-x"), own.replace('"p/s"', '"p/another"'));
    await refused(host.create(inputs), /^Adopting Docker network "platform-x" failed: it exists and is not/);
    await refused(host.delete(id, state), /^Deleting Docker network "platform-x" failed: it exists and is/);
    writeFileSync(at("network-platform-x"), own);

    await host.delete(id, state);
    equal(await host.read(id, state), undefined);
    await host.delete(id, state);
    deepEqual(changes(), ["network create", "image prune", "network rm"]);
  });

  it("run, adopt, start, replace, find and delete a container with the docker program", async () => {
    const server = createServer((_request, response) => response.end()).listen(0, "127.0.0.1");
    await once(server, "listening");
    const port = (server.address() as AddressInfo).port;
    const inputs = inputsOf("docker:Container", {
      ...{ name: "registry", owner: "p/s", image: "sha256:image", network: "platform-x" },
      env: { B: "2", A: "1" },
      ...{ port: { container: 5000, host: port }, volume: { name: "data", path: "/data" } },
    });
    const { id, state } = await host.create(inputs);
    equal(id, "registry");
    const outputs = { hostAddress: `127.0.0.1:${port}`, networkAddress: "registry:5000", running: true };
    deepEqual(withoutProvider(state), withoutProvider({ ...inputs, ...outputs }));

    deepEqual((await host.create(inputs)).state, state);
    deepEqual(await host.read(id, state), state);
    deepEqual(await host.diff(id, state, inputs), { changes: false, replaces: [] });
    deepEqual(await host.diff(id, state, { ...inputs, env: { A: "1", B: "2" } }), {
      changes: false,
      replaces: [],
    });
    deepEqual(await host.diff(id, state, { ...inputs, image: "sha256:other" }), {
      changes: true,
      replaces: [],
    });
    deepEqual(await host.diff(id, state, { ...inputs, name: "other" }), {
      ...{ changes: true, replaces: ["name"] },
      // Two of them cannot hold one port.
      deleteBeforeReplace: true,
    });
    deepEqual(changes(), ["run --detach"]);

    const running = readFileSync(at("container-registry"), "utf8");
    writeFileSync(at("container-registry"), running.replace("running", "exited"));
    const stopped = (await host.read(id, state)) ?? {};
    equal(stopped.running, false);
    equal((await host.diff(id, stopped, inputs)).changes, true);
    deepEqual(await host.update(id, stopped, inputs), state);
    deepEqual(changes().slice(1), ["start registry"]);
    const updated = await host.update(id, state, { ...inputs, image: "sha256:other" });
    equal(updated.image, "sha256:other");
    deepEqual(changes().slice(2), ["rm --force", "run --detach"]);

    await host.delete(id, updated);
    await host.delete(id, updated);
    equal(await host.read(id, updated), undefined);
    deepEqual(changes().slice(4), ["rm --force"]);
    server.close();
  });

  it("say in one sentence that a port is taken", async () => {
    writeFileSync(at("taken"), "");
    const inputs = inputsOf("docker:Container", {
      ...{ name: "registry", owner: "p/s", image: "i", network: "n", env: {} },
      ...{ port: { container: 5000, host: 5050 }, volume: { name: "data", path: "/data" } },
    });
    await refused(
      host.create(inputs),
      /^Starting container "registry" failed: port 5050 on 127\.0\.0\.1 is taken\. Stop what listens there, or set platform:registry\.port\.$/,
    );
  });
});

describe("Kind out of state", () => {
  /** A `docker` whose containers are the nodes of Kind: status, start and owner by name; files below `files/<node>`. */
  const nodesScript = (directory: string) => `cd ${directory}
echo "docker $1" >> log
case "$1" in
  ps) ls nodes ;;
  inspect)
    shift 3
    separator=
    printf '['
    for node; do
      printf '%s{"Name":"/%s",' "$separator" "$node"
      printf '"State":{"Status":"%s","StartedAt":"%s"},' $(cut -d ' ' -f 1,2 "nodes/$node")
      printf '"Config":{"Labels":{"platform.pulumi.com/owner":"%s"}}}' $(cut -d ' ' -f 3 "nodes/$node")
      separator=,
    done
    echo ']' ;;
  commit) echo "$5" > image ;;
  start) sed -i 's/exited first/running again/' "nodes/$2" ;;
  cp)
    case "$2" in
      *:*)
        from="files/\${2%%:*}\${2#*:}"
        [ -d "$from" ] || { echo "Error response from daemon: Could not find the file in container" >&2; exit 1; }
        cp -r "$from" "$3" ;;
      *) to="files/\${3%%:*}\${3#*:}"; mkdir -p "$to"; cp -r "$2" "$to" ;;
    esac ;;
  exec)
    [ "$2" = --interactive ] && shift
    if [ "$3" = rm ]; then rm -f "files/$2$5"; else sh -c "$5" sh "files/$2$7" "files/$2$8"; fi ;;
esac`;
  const kindScript = (directory: string) => `cd ${directory}
echo "kind $*" >> log
case "$1 $2" in
  "get kubeconfig") cat kubeconfig ;;
  "create cluster")
    cat > config
    echo "$KIND_EXPERIMENTAL_DOCKER_NETWORK" > network
    # A container inherits the labels and the files of its image.
    grep -q "image: $(cat image)" config && owner=p/s
    rm -rf "files/$4-control-plane"
    cp -r files/platform-node-*-label "files/$4-control-plane"
    echo "running first $owner" > "nodes/$4-control-plane" ;;
  "delete cluster") rm "nodes/$4-control-plane" ;;
esac`;

  function kindInputs(): Properties {
    return inputsOf("cluster:Kind", {
      ...{ name: "local", owner: "p/s", network: "platform-local", image: "kindest/node:v1", pull: true },
      config: "kind: Cluster\nnodes:\n  - role: control-plane\n",
      files: { "/etc/kubernetes/platform/policy.yaml": "the policy\n" },
      hosts: { "ghcr.io": "the mirror\n" },
      ...{ mergeKubeconfig: false, allowReplace: false },
    });
  }

  it("makes, adopts, starts, changes, finds and deletes a cluster with the programs kind and docker", async () => {
    const directory = temporaryDirectory();
    const at = (name: string) => join(directory, name);
    mkdirSync(at("nodes"));
    const cluster = await FakeApiServer.start({ v1: { Namespace: ["namespaces", false] } });
    writeFileSync(at("kubeconfig"), cluster.kubeconfig);
    const host = await hostWith({ kind: kindScript(directory), docker: nodesScript(directory) });
    const count = (command: string) => readFileSync(at("log"), "utf8").split(`${command}\n`).length - 1;
    const made = () => count("kind create cluster --name local --config - --kubeconfig /dev/null");
    try {
      const inputs = kindInputs();
      const { id, state } = await host.create(inputs);
      equal(id, "local");
      const kubeconfig = cluster.kubeconfig.trimEnd();
      deepEqual(state, { ...inputs, kubeconfig: `${kubeconfig}\n# Started first\n`, running: true });
      const image = readFileSync(at("image"), "utf8").trim();
      match(image, /^platform-node-local:[0-9a-f]{12}$/);
      deepEqual(parse(readFileSync(at("config"), "utf8")), {
        kind: "Cluster",
        nodes: [{ role: "control-plane", image }],
      });
      equal(readFileSync(at("network"), "utf8"), "platform-local\n");
      const node = at("files/local-control-plane");
      equal(readFileSync(join(node, "etc/kubernetes/platform/policy.yaml"), "utf8"), "the policy\n");
      deepEqual(readdirSync(join(node, "kind/platform")), ["settings"]);
      const certs = join(node, "etc/containerd/certs.d");
      equal(readFileSync(join(certs, "ghcr.io", "hosts.toml"), "utf8"), "the mirror\n");

      deepEqual((await host.create(inputs)).state, state);
      equal(made(), 1);
      ok(cluster.requests.includes("GET /api/v1/namespaces/kube-system"));
      deepEqual(await host.read(id, state), state);
      deepEqual(await host.diff(id, state, inputs), { changes: false, replaces: [] });
      deepEqual(await host.check({}, inputs), []);
      for (const change of [{ config: "nodes: []\n" }, { image: "other" }, { network: "n" }, { files: {} }]) {
        await refused(
          host.diff(id, state, { ...inputs, ...change }),
          /^Replacing Kind cluster "local" was refused: all that its volumes hold would be lost, because Kind cannot change in place /,
        );
        match(
          (await host.check({}, { ...inputs, ...change })).join(),
          /^name: Replacing Kind cluster "local" was refused: /,
        );
        // What is in state is told by `diff`.
        deepEqual(await host.check(inputs, { ...inputs, ...change }), []);
        deepEqual(await host.diff(id, state, { ...inputs, ...change, allowReplace: true }), {
          ...{ changes: true, replaces: Object.keys(change) },
          deleteBeforeReplace: true,
        });
      }

      const hosts = { "quay.io": "another mirror\n" };
      deepEqual(await host.diff(id, state, { ...inputs, hosts }), { changes: true, replaces: [] });
      const updated = await host.update(id, state, { ...inputs, hosts });
      deepEqual(updated, { ...state, hosts });
      deepEqual(readdirSync(certs), ["quay.io"]);

      writeFileSync(at("nodes/local-control-plane"), "exited first platform\n");
      const stopped = (await host.read(id, state)) ?? {};
      equal(stopped.running, false);
      deepEqual(await host.diff(id, stopped, inputs), { changes: true, replaces: [] });
      const again = { ...state, kubeconfig: `${kubeconfig}\n# Started again\n` };
      deepEqual(await host.update(id, stopped, inputs), again);
      deepEqual(await host.read(id, state), again);
      equal(count("docker start"), 1);
      equal(made(), 1);

      rmSync(join(node, "kind"), { recursive: true });
      equal((await host.read(id, state))?.running, false);
      deepEqual((await host.create(inputs)).state, again);
      deepEqual(readdirSync(join(node, "kind/platform")), ["settings"]);
      equal(made(), 1);

      writeFileSync(join(node, "kind/platform/unfinished"), "");
      equal(await host.read(id, state), undefined);
      await host.create(inputs);
      equal(made(), 2);

      writeFileSync(at("nodes/local-control-plane"), "running first another\n");
      for (const [operation, call] of [
        ["Adopting", host.create(inputs)],
        ["Deleting", host.delete(id, state)],
      ] as const) {
        await refused(
          call,
          new RegExp(`^${operation} Kind cluster "local" failed: it exists and is not of "p/s"`),
        );
      }
      deepEqual(readdirSync(at("nodes")), ["local-control-plane"]);
      writeFileSync(at("nodes/local-control-plane"), "running first platform\n");

      await host.delete(id, state);
      deepEqual(readdirSync(at("nodes")), []);
      equal(await host.read(id, state), undefined);
      await host.delete(id, state);
    } finally {
      host.stop();
      cluster.stop();
    }
  });

  it("says what kind said when it fails", async () => {
    const host = await hostWith({ kind: 'echo "ERROR: no space left" >&2; exit 1', docker: "" });
    try {
      await refused(
        host.create(kindInputs()),
        /^Creating Kind cluster "local" failed: "kind create cluster" failed: ERROR: no space left\. Fix the cause and run again\.$/,
      );
    } finally {
      host.stop();
    }
  });

  it("says of a Docker that does not answer that it does not", async () => {
    const silence = 'echo "Cannot connect to the Docker daemon at unix:///x. Is it running" >&2; exit 1';
    const host = await hostWith({ docker: silence });
    try {
      const inputs = kindInputs();
      const sentence =
        /^Asking Docker for "ps --all" failed: the engine does not answer \(Cannot connect .*\)\. Start it, let this user reach it, and run again\.$/;
      await refused(host.create(inputs), sentence);
      await refused(host.read("local", { ...inputs, kubeconfig: "k", running: true }), sentence);
      await refused(host.delete("local", { ...inputs, kubeconfig: "k", running: true }), sentence);
    } finally {
      host.stop();
    }
  });
});

describe("FluxNamespace out of state", () => {
  let host: ProviderHost;
  const path = "/api/v1/namespaces/flux-system";

  before(async () => {
    host = await ProviderHost.start();
  });
  after(() => {
    host.stop();
  });

  it("makes the namespace of Flux, finds it again, and deletes it after Flux was told to change nothing", async () => {
    const cluster = await FakeApiServer.start({
      v1: { Namespace: ["namespaces", false] },
      "kustomize.toolkit.fluxcd.io/v1": { Kustomization: ["kustomizations", true] },
    });
    try {
      cluster.override = (method, asked) => {
        const object = method === "GET" && asked === path ? cluster.objects.get(path) : undefined;
        if (object === undefined) return undefined;
        return { status: 200, body: JSON.stringify({ ...object, metadata: { uid: "the uid" } }) };
      };
      const told = { kubeconfig: cluster.kubeconfig, ownCluster: true, owner: "p/s", owned: [] };
      const inputs = inputsOf("flux:Namespace", told);
      const { id, state } = await host.create(inputs);
      equal(id, "flux-system");
      deepEqual(withoutProvider(state), {
        ...{ ...told, name: "flux-system", uid: "the uid" },
      });
      deepEqual(await host.read(id, state), state);
      deepEqual(await host.diff(id, state, inputs), { changes: false, replaces: [] });
      deepEqual(await host.diff(id, state, { ...inputs, kubeconfig: "other" }), {
        changes: true,
        replaces: [],
      });
      deepEqual(await host.update(id, state, inputs), state);

      const apps = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations/apps";
      cluster.objects.set(apps, { metadata: { name: "apps", namespace: "flux-system" }, spec: {} });
      cluster.requests.length = 0;
      await host.delete(id, state);
      deepEqual(
        cluster.requests.filter((request) => !request.startsWith("GET")),
        [`PATCH ${apps}`, `DELETE ${path}`],
      );
      equal(cluster.objects.has(path), false);
      equal(await host.read(id, state), undefined);
      await host.delete(id, state);
      // State of before there were owners is brought up to date.
      const former = { kubeconfig: cluster.kubeconfig, name: "flux-system", uid: "the uid" };
      deepEqual(await host.diff(id, former, inputs), { changes: true, replaces: [] });
    } finally {
      cluster.stop();
    }
  });

  it("refuses an object of somebody else that Pulumi would apply with force", async () => {
    const cluster = await FakeApiServer.start({
      v1: { Namespace: ["namespaces", false], Secret: ["secrets", true] },
    });
    try {
      const secret = { apiVersion: "v1", kind: "Secret", namespace: "flux-system", name: "sops-age" };
      cluster.objects.set("/api/v1/namespaces/flux-system/secrets/sops-age", {
        metadata: { name: "sops-age" },
      });
      const told = { kubeconfig: cluster.kubeconfig, ownCluster: true, owner: "p/s", owned: [secret] };
      await refused(
        host.create(inputsOf("flux:Namespace", told)),
        /^Adopting Secret flux-system\/sops-age failed: it exists and is not of "p\/s" \(it lacks the annotation /,
      );
    } finally {
      cluster.stop();
    }
  });

  it("says of a cluster that does not answer that it does not, and finds nothing in it if it is its own", async () => {
    const kubeconfig = kubeconfigOf("https://127.0.0.1:1");
    const inputs = inputsOf("flux:Namespace", { kubeconfig, ownCluster: true, owner: "p/s", owned: [] });
    await refused(
      host.create(inputs),
      /^Reading Namespace flux-system failed: the API server at https:\/\/127\.0\.0\.1:1 does not answer \(ECONNREFUSED\)\.$/,
    );
    const state = { ...inputs, name: "flux-system", uid: "u" };
    equal(await host.read("flux-system", state), undefined);
    await refused(
      host.read("flux-system", { ...state, ownCluster: false }),
      /^Reading Namespace flux-system failed: the API server at \S+ does not answer \(ECONNREFUSED\)\. Bring the cluster back and run again; /,
    );
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
      ...{ kubeconfig, ownCluster: true, namespaceUid: "u", tree, cluster: "x", variables: { channel: "x" } },
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
        ownCluster: true,
        namespaceUid: "u",
        sentinel: { apiVersion: "apps/v1", kind: "Deployment", name: "web", namespace: "web" },
        fieldManager: "helm-controller",
      });
      deepEqual([...cluster.objects.keys()].sort(), ["/api/v1/namespaces/web/configmaps/web", deployment]);

      deepEqual(await host.read(id, state), state);
      deepEqual(await host.diff(id, state, inputs), { changes: false, replaces: [] });
      for (const change of [{ kubeconfig: "other" }, { namespaceUid: "of another" }, { ownCluster: false }]) {
        deepEqual(await host.diff(id, state, { ...inputs, ...change }), { changes: true, replaces: [] });
      }
      // State of before fields had the names of their takers is brought up to date.
      const { fieldManager, ...former } = state;
      equal(fieldManager, "helm-controller");
      deepEqual(await host.diff(id, former, inputs), { changes: true, replaces: [] });

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
    await refused(
      host.read("x", { ...inputs, sentinel, ownCluster: false }),
      /^Reading Deployment web\/web failed: .* does not answer \(ECONNREFUSED\)\. Bring the cluster back and run again; /,
    );
  });
});
