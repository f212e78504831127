import { deepEqual, equal, match, notEqual, ok } from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { createServer as createTcpServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parse } from "yaml";
import {
  KubernetesClient,
  nameOf,
  refOf,
  type Manifest,
  type ManifestRef,
} from "../../clients/kubernetes/client";
import { ProcessGroup } from "../../system/process";
import { Rehearsal } from "../../rehearsal/rehearsal";
import { findOptional } from "../../tools/tools";
import { isReloaded, secretsOf, workloadKinds } from "../gitops/secret-readers";
import { KnownSecrets, newValue, type KnownFile } from "./known-secrets";

const stack = "prod";
const flux = "flux-system";
const apps: ManifestRef = {
  ...{ apiVersion: "kustomize.toolkit.fluxcd.io/v1", kind: "Kustomization" },
  ...{ name: "apps", namespace: flux },
};
const sopsAge: ManifestRef = { apiVersion: "v1", kind: "Secret", name: "sops-age", namespace: flux };
/** Where Reloader always listens, on every address. */
const reloaderPort = 9090;

/** An alert as Alertmanager takes it, and when it came. */
interface Alert {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly arrived: number;
}

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
}

/** A workload and the uids of its pods. */
interface Running {
  readonly object: Manifest;
  readonly pods: readonly string[];
}

/** Resolves to the time when `condition` holds; fails with `what` after two minutes. */
async function eventually(what: string, condition: () => Promise<boolean>): Promise<number> {
  const end = Date.now() + 120_000;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`Timed out: ${what}.`);
    await sleep(50);
  }
  return Date.now();
}

const named = (object: Manifest) => nameOf(refOf(object));
const seconds = (from: number, to: number) => ((to - from) / 1000).toFixed(1);

describe("secrets of a rehearsed stack that change, or do not open", function () {
  this.timeout(300_000);
  let known: KnownSecrets;
  let rehearsal: Rehearsal;
  let api: KubernetesClient;
  let receiver: Server;
  let scratch: string;
  let group: ProcessGroup;
  const alerts: Alert[] = [];
  /** A key that opens nothing of the stack. */
  let strange: string;

  before(async () => {
    known = await KnownSecrets.make({ stack });
    strange = (await known.store.newKey()).key;
    scratch = await mkdtemp(join(tmpdir(), "platform-secret-events-"));
    group = new ProcessGroup(join(scratch, "processes"));
    receiver = await startReceiver(alerts);
    await sendAlertsTo(`http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`);
    const { project } = known;
    rehearsal = await Rehearsal.start({ stack, project, identity: true, report: () => undefined });
    api = new KubernetesClient(rehearsal.controlPlane.kubeconfig);
    await up();
  });

  after(async () => {
    await group.stop();
    await rehearsal.stop();
    receiver.close();
    await known.remove();
    await rm(scratch, { recursive: true, force: true });
  });

  async function up(): Promise<void> {
    const { ready } = await rehearsal.up(await known.settings());
    equal(ready, true);
  }

  /** Has the copied tree send its alerts to an address of this machine. */
  async function sendAlertsTo(address: string): Promise<void> {
    const file = join(known.tree, "bases/controllers/flux/alerts/provider.yaml");
    const before = await readFile(file, "utf8");
    const after = before.replace(/^( +address:) .*$/m, `$1 ${address}`);
    notEqual(after, before);
    await writeFile(file, after);
  }

  /** Every workload of the cluster by name. */
  async function running(): Promise<Map<string, Running>> {
    const [workloads, pods] = await Promise.all([
      Promise.all(workloadKinds.map((kind) => api.list("apps/v1", kind))),
      api.list("v1", "Pod"),
    ]);
    return new Map(
      workloads.flat().map((object) => {
        const { matchLabels } = (object.spec as { selector: { matchLabels: Record<string, string> } })
          .selector;
        const own = pods.filter(
          ({ metadata: { namespace, labels = {} } }) =>
            namespace === object.metadata.namespace &&
            Object.entries(matchLabels).every(([key, value]) => labels[key] === value),
        );
        return [named(object), { object, pods: own.map(({ metadata }) => metadata.uid ?? "").sort() }];
      }),
    );
  }

  /** What changes when a workload is restarted. */
  const generations = (workloads: ReadonlyMap<string, Running>) =>
    Object.fromEntries(
      [...workloads].map(([name, { object, pods }]) => [
        name,
        { uid: object.metadata.uid, generation: object.metadata.generation, pods },
      ]),
    );

  /** Has Flux look at the layer of the applications anew, and resolves when it has. */
  async function reconcile(): Promise<void> {
    const requestedAt = new Date().toISOString();
    await api.annotate(apps, { "reconcile.fluxcd.io/requestedAt": requestedAt });
    await eventually("Flux looks at the layer", async () => {
      const { lastHandledReconcileAt } = ((await api.get(apps))?.status ?? {}) as {
        lastHandledReconcileAt?: string;
      };
      return lastHandledReconcileAt === requestedAt && (await readyOf(apps))?.status !== "Unknown";
    });
  }

  async function readyOf(ref: ManifestRef): Promise<Condition | undefined> {
    const { conditions = [] } = ((await api.get(ref))?.status ?? {}) as { conditions?: readonly Condition[] };
    return conditions.find(({ type }) => type === "Ready");
  }

  /** What is wrong with the Secrets of the cluster: those that do not hold what their files do. */
  async function wrongSecrets(): Promise<string[]> {
    const secrets = new Map((await api.list("v1", "Secret")).map((secret) => [named(secret), secret]));
    return known.files.filter((file) => !holds(secrets.get(nameOf(file.ref)), file)).map(({ path }) => path);
  }

  describe("that changed", () => {
    const changed = ["apps/homepage.enc.yaml", "apps/nextcloud-databases.enc.yaml"];

    before(async function () {
      const command = findOptional("reloader");
      const missing =
        command === undefined
          ? "there is no program reloader on PATH"
          : (await isTaken(reloaderPort))
            ? `port ${reloaderPort}, where Reloader always listens, is taken`
            : undefined;
      if (missing !== undefined) {
        console.error(`      skipped: what reads a Secret is restarted, because ${missing}`);
        this.skip();
      }
      await startReloader(command ?? "");
    });

    /** Runs Reloader as its chart does, and waits until it knows every Secret. */
    async function startReloader(command: string): Promise<void> {
      const file = join(known.tree, "bases/controllers/reloader/helm-release.yaml");
      const { values } = (parse(await readFile(file, "utf8")) as { spec: { values: { reloader: object } } })
        .spec;
      const { enableHA, ...others } = values.reloader as { enableHA: boolean };
      // Neither of the others becomes a flag. Source: templates/deployment.yaml of the chart
      deepEqual(Object.keys(others), ["readOnlyRootFileSystem", "deployment"]);
      const reloader = group.start({
        ...{ name: "reloader", command },
        args: ["--log-level=info", `--enable-ha=${enableHA}`],
        env: {
          KUBECONFIG: rehearsal.controlPlane.kubeconfigPath,
          ...{ POD_NAME: "reloader", POD_NAMESPACE: "reloader" },
          ...{ RELOADER_NAMESPACE: "reloader", RELOADER_DEPLOYMENT_NAME: "reloader" },
        },
      });
      const secrets = (await api.list("v1", "Secret")).length;
      await reloader.ready(async () => {
        const metrics = await (await fetch(`http://127.0.0.1:${reloaderPort}/metrics`)).text();
        const [, seen = "0"] =
          /^reloader_events_received_total\{event_type="add",resource_type="secrets"\} (\d+)$/m.exec(
            metrics,
          ) ?? [];
        return Number(seen) >= secrets;
      });
    }

    it("have what reads them restarted, and nothing else", async () => {
      const old = await running();
      const names = new Set<string>();
      for (const path of changed) {
        const { ref, values } = known.file(path);
        names.add(`${ref.namespace ?? ""}/${ref.name}`);
        await known.change(path, Object.fromEntries(Object.keys(values).map((key) => [key, newValue()])));
      }
      const expected = [...old].filter(
        ([, { object }]) =>
          isReloaded(object) &&
          [...secretsOf(object)].some((name) => names.has(`${object.metadata.namespace ?? ""}/${name}`)),
      );
      deepEqual(expected.map(([name]) => name).sort(), [
        "Deployment homepage/homepage",
        "StatefulSet nextcloud/valkey",
      ]);

      const [changedAt, restartedAt] = await Promise.all([
        eventually("the values are in the cluster", async () => (await wrongSecrets()).length === 0),
        eventually("what reads the Secrets has new pods", async () => {
          const now = await running();
          return expected.every(([name, { pods }]) => {
            const current = now.get(name)?.pods ?? [];
            return current.length === pods.length && current.every((pod) => !pods.includes(pod));
          });
        }),
        up(),
      ]);

      const now = await running();
      for (const [name, { object }] of expected)
        equal(now.get(name)?.object.metadata.generation, (object.metadata.generation ?? 0) + 1, name);
      // Postgres among them, which reads one of the Secrets, and says that a restart would be of no use.
      const others = (all: ReadonlyMap<string, Running>) =>
        generations(
          new Map([...all].filter(([name]) => expected.every(([restarted]) => restarted !== name))),
        );
      deepEqual(others(now), others(old));
      console.error(`      all pods are new ${seconds(changedAt, restartedAt)} s after the values changed`);
    });

    it("have it restarted once: Flux leaves it so, and a file that is only encrypted anew changes nothing", async () => {
      const before = generations(await running());
      await reconcile();
      await up();
      deepEqual(generations(await running()), before);
      for (const path of changed) await known.change(path);
      await up();
      await reconcile();
      deepEqual(generations(await running()), before);
    });
  });

  describe("that do not open", () => {
    const reads = { done: 0, failed: new Set<string>() };
    const reading = new AbortController();
    let reader: Promise<void> | undefined;
    let old: Awaited<ReturnType<typeof state>>;
    let requested: number;

    /** What a failure must leave as it is. */
    async function state() {
      const files = new Set(known.files.map(({ ref }) => nameOf(ref)));
      const secrets = (await api.list("v1", "Secret")).filter((secret) => files.has(named(secret)));
      const { lastAppliedRevision, inventory } = (await api.get(apps))?.status as Record<string, unknown>;
      return {
        secrets: Object.fromEntries(secrets.map((secret) => [named(secret), secret.metadata])),
        workloads: generations(await running()),
        ...{ lastAppliedRevision, inventory },
      };
    }

    after(async () => {
      reading.abort();
      await reader;
    });

    it("leave the last good state in place, and the Kustomization says what it cannot decrypt", async () => {
      old = await state();
      equal(Object.keys(old.secrets).length, known.files.length);
      reader = (async () => {
        while (!reading.signal.aborted) {
          const wrong = await wrongSecrets().catch((error: unknown) => [(error as Error).message]);
          for (const path of wrong) reads.failed.add(path);
          reads.done++;
          await sleep(20);
        }
      })();

      await api.merge(sopsAge, { data: { "age.agekey": base64(`${strange}\n`) } });
      requested = Date.now();
      await reconcile();
      const { status, reason, message } = (await readyOf(apps)) ?? {};
      deepEqual([status, reason], ["False", "BuildFailed"]);
      const [, name = ""] =
        /^decryption failed for '\S+': failed to decrypt and format '(\S+)' Secret data: /.exec(
          message ?? "",
        ) ?? [];
      ok(
        known.files.some(({ path, ref }) => path.includes("/apps/") && nameOf(ref) === `Secret ${name}`),
        message,
      );
      // What FluxSecretUndecryptable looks for: bases/apps/monitoring/rules/flux.yaml
      match(message ?? "", /decrypt|sops/i);
      await reconcile();
      deepEqual(await state(), old);
    });

    it("raise an alert that names the Kustomization, its cluster and the reason", async function () {
      if (findOptional("notification-controller") === undefined) {
        console.error(
          "      skipped: no alert arrives, because there is no program notification-controller on PATH",
        );
        this.skip();
      }
      const find = () =>
        alerts.find(({ labels, arrived }) => labels.name === apps.name && arrived >= requested);
      await eventually("the alert arrives", () => Promise.resolve(find() !== undefined));
      const { labels = {}, annotations = {}, arrived = 0 } = find() ?? {};
      const { alertname, severity, cluster, kind, name, namespace, reason } = labels;
      deepEqual(
        { alertname, severity, cluster, kind, name, namespace, reason },
        {
          ...{ alertname: "FluxKustomizationBuildfailed", severity: "error", cluster: stack },
          ...{ kind: apps.kind, name: apps.name, namespace: flux, reason: "BuildFailed" },
        },
      );
      equal(annotations.summary, "Flux cannot apply what Git says");
      match(annotations.message ?? "", /^decryption failed for /);
      console.error(`      alert ${seconds(requested, arrived)} s after the layer was asked to reconcile`);
    });

    it("tell nothing of what they hold: in alerts, events, statuses, workloads and logs", async () => {
      const logs = [rehearsal.directory, group.directory].flatMap((directory) =>
        readdirSync(directory)
          .filter((name) => name.endsWith(".log"))
          .map((name) => join(directory, name)),
      );
      const told: Readonly<Record<string, string>> = {
        alerts: JSON.stringify(alerts),
        events: JSON.stringify(await api.list("v1", "Event")),
        Kustomizations: JSON.stringify(await api.list(apps.apiVersion, apps.kind)),
        workloads: JSON.stringify([...(await running())]),
        ...Object.fromEntries(logs.map((path) => [path, readFileSync(path, "utf8")])),
      };
      ok(told.events?.includes("decryption failed"));
      const hidden = [...known.secrets, strange].flatMap((text) => [text, base64(text)]);
      for (const [place, text] of Object.entries(told))
        deepEqual(
          hidden.filter((secret) => text.includes(secret)),
          [],
          place,
        );
    });

    it("open again after the next run, which changes nothing else", async () => {
      await up();
      const key = ((await api.get(sopsAge))?.data as Record<string, string> | undefined)?.["age.agekey"];
      equal(
        Buffer.from(key ?? "", "base64")
          .toString()
          .trim(),
        known.key,
      );
      equal((await readyOf(apps))?.status, "True");
      deepEqual(await state(), old);
      reading.abort();
      await reader;
      deepEqual([...reads.failed], []);
      ok(reads.done > 20, `${reads.done} reads`);
      console.error(`      ${reads.done} reads of every Secret, none failed`);
    });
  });
});

const base64 = (text: string) => Buffer.from(text).toString("base64");

/** Whether a Secret holds the values of a file, and no others. */
function holds(secret: Manifest | undefined, { values }: KnownFile): boolean {
  const data = Object.entries((secret?.data ?? {}) as Record<string, string>);
  return (
    data.length === Object.keys(values).length &&
    data.every(([key, value]) => Buffer.from(value, "base64").toString() === values[key])
  );
}

/** A server of this machine that takes alerts as Alertmanager does. */
async function startReceiver(alerts: Alert[]): Promise<Server> {
  const server = createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8").on("data", (chunk: string) => (body += chunk));
    request.on("end", () => {
      const arrived = Date.now();
      alerts.push(...(JSON.parse(body) as Omit<Alert, "arrived">[]).map((alert) => ({ ...alert, arrived })));
      response.end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server.unref();
}

function isTaken(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createTcpServer();
    server.once("error", () => {
      resolve(true);
    });
    server.listen(port, () => {
      server.close(() => {
        resolve(false);
      });
    });
  });
}
