import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { cpus, release as kernel, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import { ArtifactLifecycle, type ArtifactInputs } from "../core/release/artifact";
import { errorOf } from "../core/findings/finding";
import { inspectTree } from "../core/tree/tree";
import { SystemClock } from "../system/clock";
import { run } from "../tools/command";
import { GateLifecycle, type GateInputs, type GateOutputs } from "../core/release/gate";
import { KubernetesClient } from "../clients/kubernetes/client";
import { Crane } from "../clients/registry/oci";
import { Rehearsal } from "../rehearsal/rehearsal";
import { rootSourcesOnly } from "../rehearsal/simulated-controllers";

/**
 * Measures the rehearsal from nothing, and releases among 300 objects, against Flux with its default client limits
 * and, where the `flux` program is on PATH, against `flux push artifact` with `flux reconcile`.
 */
const project = join(__dirname, "..");
const objects = 300;
const bootstraps = 3;
const releases = 5;

function row(name: string, values: readonly number[], unit: string): void {
  const sorted = [...values].sort((a, b) => a - b);
  const figure = (value: number | undefined) => (value ?? NaN).toFixed(unit === "s" ? 2 : 0).padStart(8);
  const median = sorted[Math.floor(sorted.length / 2)];
  process.stdout.write(
    `${name.padEnd(52)}${figure(sorted[0])}${figure(median)}${figure(sorted.at(-1))}  ${unit}  (${values.length} runs)\n`,
  );
}

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const start = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - start) / 1e9;
}

/** Memory of this process and of all below it, in MiB: each page shared among processes counts once. */
async function memory(): Promise<number> {
  const table = await run("ps", ["-eo", "pid=,ppid="]);
  const children = new Map<number, number[]>();
  for (const line of table.trim().split("\n")) {
    const [pid = 0, parent = 0] = line.trim().split(/\s+/).map(Number);
    children.set(parent, [...(children.get(parent) ?? []), pid]);
  }
  const below = (pid: number): number[] => [pid, ...(children.get(pid) ?? []).flatMap(below)];
  const shares = await Promise.all(
    below(process.pid).map(async (pid) => {
      const rollup = await readFile(`/proc/${pid}/smaps_rollup`, "utf8").catch(() => "");
      return Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1] ?? 0);
    }),
  );
  return shares.reduce((sum, share) => sum + share, 0) / 1024;
}

/** The most memory while some work is done. */
async function peakMemory(work: () => Promise<unknown>): Promise<number> {
  let peak = 0;
  let going = true as boolean;
  const watch = (async () => {
    while (going) {
      peak = Math.max(peak, await memory());
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  })();
  await work();
  going = false;
  await watch;
  return peak;
}

/** A copy of the tree with ConfigMaps, one a file, that bring it to 300 objects. */
async function largeTree(directory: string, own: number): Promise<string> {
  const tree = join(directory, "gitops");
  await cp(join(project, "gitops"), tree, { recursive: true });
  const base = join(tree, "bases", "apps", "bench");
  await mkdir(base);
  const names = Array.from({ length: objects - own }, (_, index) => `bench-${index}`);
  await Promise.all(names.map((name) => writeConfigMap(tree, name, "0")));
  await writeFile(
    join(base, "kustomization.yaml"),
    stringify({ resources: names.map((name) => `${name}.yaml`) }),
  );
  const layer = join(tree, "distributions", "kind", "apps", "kustomization.yaml");
  const content = parse(await readFile(layer, "utf8")) as { resources: string[] };
  await writeFile(
    layer,
    stringify({ ...content, resources: [...content.resources, "../../../bases/apps/bench"] }),
  );
  return tree;
}

async function writeConfigMap(tree: string, name: string, value: string): Promise<void> {
  const object = {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name, namespace: "whoami" },
    data: { value },
  };
  await writeFile(join(tree, "bases", "apps", "bench", `${name}.yaml`), stringify(object));
}

async function bootstrap(): Promise<{ seconds: number; memory: number; objects: number }> {
  let rehearsal: Rehearsal | undefined;
  let count = 0;
  let elapsed = 0;
  const peak = await peakMemory(async () => {
    elapsed = await seconds(async () => {
      rehearsal = await Rehearsal.start({ stack: "local", project, report: () => undefined });
      count = (await rehearsal.up()).objects;
    });
  });
  await rehearsal?.stop();
  return { seconds: elapsed, memory: peak, objects: count };
}

async function main(): Promise<void> {
  const { model } = cpus()[0] ?? { model: "unknown" };
  process.stdout.write(
    `${model}, ${cpus().length} cores, ${(totalmem() / 1024 ** 3).toFixed(0)} GiB, Linux ${kernel()}, Node ${process.version}\n`,
  );
  process.stdout.write(
    `${"".padEnd(52)}${["min", "median", "max"].map((name) => name.padStart(8)).join("")}\n`,
  );

  const boots: Awaited<ReturnType<typeof bootstrap>>[] = [];
  for (let index = 0; index < bootstraps; index++) boots.push(await bootstrap());
  row(
    "local from nothing to every layer Ready",
    boots.map((boot) => boot.seconds),
    "s",
  );
  row(
    "  peak memory of all processes",
    boots.map((boot) => boot.memory),
    "MiB",
  );

  const directory = await mkdtemp(join(tmpdir(), "platform-bench-"));
  const rehearsal = await Rehearsal.start({ stack: "local", project, report: () => undefined });
  try {
    const tree = await largeTree(directory, boots[0]?.objects ?? 0);
    const first = await rehearsal.up({ "platform:gitops": { tree } });
    await measureReleases(rehearsal, tree, first.objects);
  } finally {
    await rehearsal.stop();
    await rm(directory, { recursive: true, force: true });
  }
}

async function measureReleases(rehearsal: Rehearsal, tree: string, count: number): Promise<void> {
  const { kubeconfig, registry } = rehearsal.controlPlane;
  const artifactState =
    rehearsal.state["pulumi-nodejs:dynamic/release:Artifact::platform-release-artifact"]?.state;
  const artifact = new ArtifactLifecycle(new Crane(false));
  const gate = new GateLifecycle(new KubernetesClient(kubeconfig), new Crane(false), new SystemClock());
  const inputs = { ...(artifactState as unknown as ArtifactInputs), tree };
  const gateInputs = (digest: string): GateInputs => ({
    ...{ kubeconfig, repository: `${registry}/platform`, insecure: false, channel: "local", digest },
    ownCluster: true,
    namespaceUid: "",
    variables: {},
    timeoutSeconds: 300,
    keep: 0,
  });

  let last: GateOutputs | undefined;
  let version = 0;
  /** What `pulumi up` does for a changed tree: check, push by digest, gate. */
  const release = async () => {
    const { content, findings } = await inspectTree(tree, "local");
    if (findings.length > 0) throw errorOf(findings);
    const { digest } = await artifact.create({ ...inputs, content });
    last = await gate.create(gateInputs(digest));
  };
  const changed = async () => {
    await writeConfigMap(tree, "bench-7", String(++version));
    return seconds(release);
  };
  /** What `pulumi up` does for a tree that did not change: check, and look whether every layer is Ready. */
  const unchanged = async () => {
    const { content } = await inspectTree(tree, "local");
    const seen = last && (await gate.read(last));
    const due = artifact.diff(inputs, { ...inputs, content }) && seen === undefined;
    if (due || seen === undefined || gate.diff(seen, gateInputs(seen.digest)))
      throw new Error("a release is due");
  };
  const repeat = async (times: number, measure: () => Promise<number>) => {
    const values: number[] = [];
    for (let index = 0; index < times; index++) values.push(await measure());
    return values;
  };

  await changed();
  row(`release, 1 file of ${count} objects changed`, await repeat(releases, changed), "s");
  row("release, nothing changed", await repeat(releases, () => seconds(unchanged)), "s");

  const fluxCli = await run("flux", ["--version"]).catch(() => undefined);
  if (fluxCli === undefined) {
    process.stdout.write(
      "  flux push artifact + flux reconcile: not compared, there is no flux program on PATH\n",
    );
  } else {
    row(
      `  ${fluxCli.trim()}: push, tag, reconcile`,
      await repeat(releases, () => viaFlux(rehearsal, tree, ++version)),
      "s",
    );
  }

  const defaults = [] as const;
  await rehearsal.controlPlane.startFlux({
    "source-controller": [rootSourcesOnly],
    "kustomize-controller": defaults,
    "helm-controller": defaults,
    "notification-controller": defaults,
  });
  await changed();
  row("  the same with Flux's default client limits", await repeat(3, changed), "s");
}

/** The same change by the `flux` program: what its documentation shows for OCI artifacts. */
async function viaFlux(rehearsal: Rehearsal, tree: string, version: number): Promise<number> {
  const { kubeconfigPath, registry } = rehearsal.controlPlane;
  await writeConfigMap(tree, "bench-7", String(version));
  const flux = (...args: string[]) =>
    run("flux", [...args, `--kubeconfig=${kubeconfigPath}`], { timeout: 600_000 });
  return seconds(async () => {
    await flux(
      ...["push", "artifact", `oci://${registry}/platform:local`, `--path=${tree}`, "--source=bench"],
      `--revision=bench@sha1:${version}`,
    );
    await flux("reconcile", "kustomization", "flux-system", "--with-source");
    for (const name of ["controllers", "certs", "apps"]) await flux("reconcile", "kustomization", name);
  });
}

main().catch((error: unknown) => {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
});
