import { deepEqual, equal, match, notEqual, ok, rejects } from "node:assert/strict";
import { appendFile, cp, mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KubernetesClient, type Manifest, type ManifestRef } from "../../clients/kubernetes/client";
import { Crane } from "../../clients/registry/oci";
import { readSecretFiles } from "../../core/secrets/files";
import { secretsIn } from "../../clients/sops/secret-file";
import { Rehearsal, type RehearsalResult } from "../../rehearsal/rehearsal";

const project = join(__dirname, "..", "..");
const whoami: ManifestRef = {
  apiVersion: "apps/v1",
  kind: "Deployment",
  name: "whoami",
  namespace: "whoami",
};
const layer = (name: string): ManifestRef => ({
  ...{ apiVersion: "kustomize.toolkit.fluxcd.io/v1", kind: "Kustomization" },
  ...{ name, namespace: "flux-system" },
});

/** Resolves when `condition` holds; fails with `what` after a minute. */
async function eventually(what: string, condition: () => Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < 300; attempt++) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`Timed out: ${what}.`);
}

/** The processes whose command line names a directory. */
async function processesOf(directory: string): Promise<string[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const commands = await Promise.all(
    pids.map((pid) => readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")),
  );
  return commands
    .filter((command) => command.includes(directory))
    .map((command) => command.replaceAll("\0", " "));
}

/** Kustomize-controller's inventory does not say when; the Ready condition's transition does. */
function readySince(object: Manifest | undefined): number {
  const { conditions = [] } = (object?.status ?? {}) as {
    conditions?: readonly { type: string; lastTransitionTime: string }[];
  };
  return Date.parse(conditions.find(({ type }) => type === "Ready")?.lastTransitionTime ?? "");
}

describe("rehearsal of local", function () {
  this.timeout(180_000);
  const progress: string[] = [];
  let rehearsal: Rehearsal;
  let api: KubernetesClient;
  let first: RehearsalResult;
  /** Of the project's own tree: secrets that are encrypted again, as without state, give another. */
  let revision: string;
  let scratch: string;

  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), "platform-e2e-"));
    rehearsal = await Rehearsal.start({
      ...{ stack: "local", project },
      report: (line) => progress.push(line),
    });
    api = new KubernetesClient(rehearsal.controlPlane.kubeconfig);
    first = await rehearsal.up();
    revision = first.revision;
  });

  after(async () => {
    await rehearsal.stop();
    deepEqual(await processesOf(rehearsal.directory), []);
    await rejects(stat(rehearsal.directory), { code: "ENOENT" });
    await rm(scratch, { recursive: true, force: true });
  });

  /** A copy of the tree with a text added to one of its files. */
  async function treeWith(name: string, file: string, text: string): Promise<Record<string, unknown>> {
    const tree = join(scratch, name);
    await cp(join(project, "gitops"), tree, { recursive: true });
    await appendFile(join(tree, file), text);
    return { "platform:gitops": { tree } };
  }

  it("takes every layer from nothing to Ready at the pushed digest, in order", async () => {
    equal(first.ready, true);
    deepEqual(
      first.layers.map(({ name }) => name),
      ["flux-system", "controllers", "certs", "apps"],
    );
    const since = await Promise.all(
      ["controllers", "certs", "apps"].map(async (name) => readySince(await api.get(layer(name)))),
    );
    deepEqual(
      [...since].sort((a, b) => a - b),
      since,
    );
    for (const { name } of first.layers) {
      const status = (await api.get(layer(name)))?.status;
      equal((status as { lastAppliedRevision?: string }).lastAppliedRevision, first.revision);
    }
    const digest = first.revision.replace("local@", "");
    const repository = `${rehearsal.controlPlane.registry}/platform`;
    equal(await new Crane(false).digest(repository, "local"), digest);
    equal(await new Crane(false).digest(repository, "local-ready"), digest);
  });

  it("says by name what was simulated", () => {
    for (const name of [
      "Kind cluster local",
      "container platform-local-registry (a registry process)",
      "garbage collection of platform-local-registry",
      "pods and nodes (KWOK)",
      "volumes",
      "HelmRelease cert-manager/cert-manager",
      "FluxInstance flux-system/flux",
    ]) {
      ok(first.simulated.includes(name), `${name} is not in ${first.simulated.join(", ")}`);
    }
  });

  it("decrypts a generated secret in the cluster, and keeps its value out of the artifact's files", async () => {
    const secret = await api.get({
      apiVersion: "v1",
      kind: "Secret",
      name: "homepage",
      namespace: "homepage",
    });
    const { HOMEPAGE_VAR_GREETING_TOKEN: encoded = "" } = secret?.data as Record<string, string>;
    const value = Buffer.from(encoded, "base64").toString();
    match(value, /^[0-9a-f]{32}$/);
    const file = await readFile(join(project, "gitops/clusters/local/apps/homepage.enc.yaml"), "utf8");
    ok(!file.includes(value), "the work tree holds the value");
  });

  it("changes nothing on a second run", async () => {
    progress.length = 0;
    const second = await rehearsal.up();
    equal(second.revision, first.revision);
    deepEqual(
      progress.filter((line) => /^(create|update|replace|restore) /.test(line)),
      [],
    );
  });

  it("keeps every generated value when Pulumi's state is lost, and changes nothing from then on", async () => {
    const files = await readSecretFiles(join(project, "gitops"), "local");
    const values = async () => {
      const secrets = [...files.values()].flatMap(secretsIn).map(async ({ apiVersion, kind, metadata }) => {
        const secret = await api.get({ apiVersion, kind, ...metadata });
        return [metadata.name, secret?.data as Record<string, string> | undefined] as const;
      });
      return Object.fromEntries(await Promise.all(secrets));
    };
    const before = await values();
    equal(Object.values(before).flatMap((data) => Object.values(data ?? {})).length >= 6, true);
    rehearsal.state = {};
    const lost = await rehearsal.up();
    revision = lost.revision;
    deepEqual(await values(), before);
    progress.length = 0;
    equal((await rehearsal.up()).revision, lost.revision);
    deepEqual(
      progress.filter((line) => /^(create|update|replace|restore) /.test(line)),
      [],
    );
  });

  it("reverts a manual change to a managed object", async () => {
    await api.apply(
      {
        ...{ apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "whoami", namespace: "whoami" } },
        spec: { replicas: 3 },
      },
      "somebody",
    );
    const replicas = async () => ((await api.get(whoami))?.spec as { replicas: number }).replicas;
    equal(await replicas(), 3);
    const requestedAt = new Date().toISOString();
    await api.annotate(layer("apps"), { "reconcile.fluxcd.io/requestedAt": requestedAt });
    await eventually("the replicas are back at 1", async () => (await replicas()) === 1);
    // What is deleted while Flux looks at its health is missed until that look times out.
    await eventually("Flux has looked at it", async () => {
      const { lastHandledReconcileAt, conditions = [] } = ((await api.get(layer("apps")))?.status ?? {}) as {
        lastHandledReconcileAt?: string;
        conditions?: readonly { type: string; status: string }[];
      };
      const ready = conditions.find(({ type }) => type === "Ready")?.status;
      return lastHandledReconcileAt === requestedAt && ready === "True";
    });
  });

  it("brings a deleted object back", async () => {
    await api.delete(whoami);
    await api.annotate(layer("apps"), { "reconcile.fluxcd.io/requestedAt": new Date().toISOString() });
    await eventually("whoami is back", async () => (await api.get(whoami)) !== undefined);
  });

  it("returns to the last good digest when a manifest is broken, and says why", async () => {
    const config = await treeWith(
      "broken",
      "bases/apps/whoami/service.yaml",
      "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: broken\n  namespace: whoami\nspec:\n  type: Nonsense\n  ports: [{port: 80}]\n",
    );
    await rejects(rehearsal.up(config), (error: Error) => {
      match(
        error.message,
        /^Releasing sha256:[0-9a-f]{64} to channel "local" failed: Kustomization flux-system\/apps: Service\/whoami\/broken dry-run failed \(Invalid\)/,
      );
      match(
        error.message,
        /The channel is back at the last good digest sha256:[0-9a-f]{64}; every layer is Ready on it again after [\d.]+ s\.\nSimulated: [^\n]*HelmRelease [^\n]*cilium[^\n]*\.$/,
      );
      ok(error.message.includes(revision.replace("local@", "")));
      return true;
    });
    const status = (await api.get(layer("apps")))?.status;
    equal((status as { lastAppliedRevision?: string }).lastAppliedRevision, revision);
    equal(readySince(await api.get(layer("apps"))) > 0, true);
  });

  it("refuses a tree with a plain-text Secret, and changes nothing", async () => {
    const config = await treeWith(
      "plain",
      "bases/apps/whoami/service.yaml",
      "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: leak\n  namespace: whoami\nstringData:\n  token: abc\n",
    );
    progress.length = 0;
    await rejects(
      rehearsal.up(config),
      /^Error: File bases\/apps\/whoami\/service\.yaml: Secret whoami\/leak holds "token" in plain text\. [^\n]*$/,
    );
    deepEqual(progress, []);
  });

  it("refuses an ill-typed setting, and changes nothing", async () => {
    progress.length = 0;
    await rejects(rehearsal.up({ "platform:domain": 7 }), /"platform:domain" is 7\. Set it to a text\./);
    deepEqual(progress, []);
  });

  it("releases a change", async () => {
    const config = await treeWith("changed", "bases/apps/homepage/config-map.yaml", "\n# changed\n");
    const result = await rehearsal.up(config);
    notEqual(result.revision, revision);
    equal(result.ready, true);
    await rehearsal.up();
  });

  it("restores a deleted flux-system", async () => {
    const namespace = { apiVersion: "v1", kind: "Namespace", name: "flux-system" };
    await api.delete(namespace);
    await eventually("flux-system is gone", async () => (await api.get(namespace)) === undefined);
    const restored = await rehearsal.up();
    equal(restored.ready, true);
    equal(restored.revision, revision);
    ok(
      (await api.get({ apiVersion: "v1", kind: "Secret", name: "sops-age", namespace: "flux-system" })) !==
        undefined,
    );
    ok((await api.get(whoami)) !== undefined);
  });
});
