import { deepEqual, ok } from "node:assert/strict";
import { readdirSync } from "node:fs";
import { cp, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse } from "yaml";
import { applyInOrder } from "../../clients/kubernetes/apply";
import { buildTree } from "../../core/tree/build";
import { SystemClock } from "../../system/clock";
import { run } from "../../tools/command";
import { KubernetesClient, type Manifest, type ManifestRef } from "../../clients/kubernetes/client";
import { SopsCli } from "../../clients/sops/client";
import { identityIn } from "../../core/secrets/identity";
import { ControlPlane, controlPlaneTools } from "../../rehearsal/control-plane";
import { ensureTools } from "../../tools/tools";
import { Rehearsal } from "../../rehearsal/rehearsal";
import { fluxDistribution } from "../../tools/upstream";
import { foretell, outcomes, type Outcomes } from "./applied";
import { KnownSecrets } from "./known-secrets";

const corpus = join(__dirname, "..", "gitops", "corpus");
const trees = readdirSync(corpus);

/**
 * Each directory of `test/gitops/corpus` is a tree, and lives in a namespace of its name: the real Flux controllers
 * pull and apply all of them side by side. What this project says of a tree must be what they did, object by object
 * and word by word.
 *
 * In what Flux pulls, `*.enc.*` and `*.sealed.*` are encrypted; the program is given the former in plain.
 */
describe("a tree is built as Flux builds it:", function () {
  this.timeout(400_000);
  const decrypted = new Map<string, Readonly<Record<string, string>>>();
  let parent: string;
  let controlPlane: ControlPlane | undefined;
  let applied: Outcomes;

  before(async () => {
    const own = ["age-keygen", "crane", "platform-tree", "sops"] as const;
    const tools = await ensureTools([...controlPlaneTools, ...own], { report: console.error });
    parent = await mkdtemp(join(tmpdir(), "platform-corpus-"));
    const key = identityIn(await new SopsCli().keygen());
    const [recipient = ""] = await new SopsCli().recipients(key);
    const started = await ControlPlane.start({ directory: join(parent, "state"), tools, audit: true });
    controlPlane = started;
    const api = new KubernetesClient(started.kubeconfig);
    await Promise.all([
      startFlux(started, api),
      sideBySide(trees, async (name) => {
        const tree = join(parent, name);
        decrypted.set(name, await stage(name, tree, key, recipient));
        await push(tree, `${started.registry}/${name}`);
      }),
    ]);
    const around = trees.flatMap((name) => objectsAround(name, started, key));
    await applyInOrder(api, new SystemClock(), around, "test");
    const roots = trees.map((name) => `${name}/flux-system`);
    applied = await outcomes(api, roots, started.auditLog, 300);
  });

  after(async () => {
    await controlPlane?.stop();
    await rm(parent, { recursive: true, force: true });
  });

  for (const name of trees) {
    it(name.replaceAll("-", " "), async () => {
      const files = decrypted.get(name) ?? {};
      const built = await buildTree(join(parent, name), "test", { applied: true, namespace: name, files });
      const done = Object.entries(applied).filter(([, { source }]) => source.namespace === name);
      deepEqual(foretell(built), Object.fromEntries(done));
    });
  }
});

describe("a stack is built as Flux builds it in a rehearsal:", function () {
  this.timeout(600_000);

  for (const stack of ["local", "dev", "prod"]) {
    it(stack, async () => {
      const known = await KnownSecrets.make({ stack });
      const rehearsal = await Rehearsal.start({
        ...{ stack, project: known.project, identity: true, audit: true, timeoutSeconds: 300 },
        report: () => undefined,
      });
      try {
        await rehearsal.up(await known.settings());
        const { controlPlane } = rehearsal;
        const api = new KubernetesClient(controlPlane.kubeconfig);
        const done = await outcomes(api, ["flux-system/flux-system"], controlPlane.auditLog, 60);
        const runtime = await api.get(platformRuntime);
        ok(runtime !== undefined);
        const files = Object.fromEntries(
          await Promise.all(
            known.files.map(async ({ path }) => {
              const sealed = await readFile(join(known.tree, path), "utf8");
              return [path, await known.store.sops.decrypt(sealed, path, known.key)] as const;
            }),
          ),
        );
        const built = await buildTree(known.tree, stack, { applied: true, given: [runtime], files });
        deepEqual(foretell(built), done);
        const counts = Object.values(done).map(({ objects = {} }) => Object.keys(objects).length);
        console.log(`      ${stack}: ${counts.reduce((sum, count) => sum + count, 0)} objects`);
      } finally {
        await rehearsal.stop();
        await known.remove();
      }
    });
  }
});

const platformRuntime: ManifestRef = {
  ...{ apiVersion: "v1", kind: "ConfigMap" },
  ...{ name: "platform-runtime", namespace: "flux-system" },
};

/** The Flux that `gitops/` installs: its definitions, and its controllers. */
async function startFlux(controlPlane: ControlPlane, api: KubernetesClient): Promise<void> {
  const instance = join(__dirname, "../../gitops/bases/controllers/flux/flux-instance.yaml");
  const { spec } = parse(await readFile(instance, "utf8")) as {
    spec: { distribution: { version: string } };
  };
  const distribution = (await fluxDistribution(spec.distribution.version)) as Manifest[];
  const definitions = distribution.filter(({ kind }) => kind === "CustomResourceDefinition");
  await applyInOrder(api, new SystemClock(), definitions, "test");
  const flags = ["--concurrent=20", "--kube-api-qps=2000", "--kube-api-burst=4000"];
  await controlPlane.startFlux({
    "source-controller": flags,
    "kustomize-controller": [...flags, "--requeue-dependency=500ms"],
    "helm-controller": [],
    "notification-controller": [],
  });
}

/**
 * Copies a tree of the corpus and encrypts what is to be encrypted.
 *
 * @param to absolute path of the copy
 * @param key an age identity
 * @param recipient of that identity: `age1…`
 * @returns the text of `*.enc.*` by path
 */
async function stage(
  name: string,
  to: string,
  key: string,
  recipient: string,
): Promise<Record<string, string>> {
  await cp(join(corpus, name), to, { recursive: true, verbatimSymlinks: true });
  const decrypted: Record<string, string> = {};
  for (const path of await readdir(to, { recursive: true })) {
    if (!/\.(enc|sealed)\.(yaml|json|env|ini|txt)$/.test(path)) continue;
    const file = join(to, path);
    const text = await readFile(file, "utf8");
    const keys = text.includes("kind: Secret") ? ["--encrypted-regex", "^(data|stringData)$"] : [];
    await run("sops", ["--config", "/dev/null", "encrypt", "--in-place", "--age", recipient, ...keys, file]);
    // As SOPS prints it, which is what Flux takes: it indents anew.
    if (path.includes(".enc."))
      decrypted[path] = await run("sops", ["--config", "/dev/null", "decrypt", file], {
        env: { SOPS_AGE_KEY: key },
      });
  }
  return decrypted;
}

/** Pushes all files of a directory, links too: what Flux leaves out is for Flux to leave out. */
async function push(tree: string, repository: string): Promise<void> {
  const archive = `${tree}.tar.gz`;
  await run("tar", ["-czf", archive, "-C", tree, "."]);
  await run("crane", [
    "append",
    "--oci-empty-base",
    "--new_layer",
    archive,
    "--new_tag",
    `${repository}:latest`,
  ]);
}

/**
 * What a cluster has before a tree comes: its namespace, identity and source, the way to "another" cluster, which is
 * itself, and the root Kustomization.
 */
function objectsAround(name: string, { registry, kubeconfig }: ControlPlane, key: string): Manifest[] {
  const metadata = { name: "flux-system", namespace: name };
  return [
    { apiVersion: "v1", kind: "Namespace", metadata: { name } },
    {
      ...{ apiVersion: "v1", kind: "Secret", metadata: { name: "sops-age", namespace: name } },
      stringData: { "age.agekey": key },
    },
    {
      ...{ apiVersion: "v1", kind: "Secret", metadata: { name: "other-cluster", namespace: name } },
      stringData: { value: kubeconfig },
    },
    {
      ...{ apiVersion: "source.toolkit.fluxcd.io/v1", kind: "OCIRepository", metadata },
      spec: { interval: "1h", url: `oci://${registry}/${name}`, ref: { tag: "latest" }, insecure: true },
    },
    {
      ...{ apiVersion: "kustomize.toolkit.fluxcd.io/v1", kind: "Kustomization", metadata },
      spec: {
        ...{ interval: "1h", path: "clusters/test", prune: true },
        sourceRef: { kind: "OCIRepository", name: "flux-system" },
      },
    },
  ];
}

/** Does a work for each item, a few at a time: each starts processes. */
async function sideBySide<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const waiting = [...items];
  const worker = async () => {
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) await work(item);
  };
  await Promise.all(Array.from({ length: 4 }, worker));
}
