import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { availableParallelism, cpus, loadavg, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { errorOf } from "../core/findings/finding";
import { inspectTree } from "../core/tree/tree";
import { run } from "../tools/command";
import { ensureTools } from "../tools/tools";

/**
 * Measures how long a tree of 100 Flux Kustomizations with 3,000 objects takes to be listed, built and checked, against
 * one `kustomize build` for each Kustomization, which lists, substitutes and checks nothing.
 */
const layers = 100;
const objectsOfLayer = 30;
const rounds = 5;

function object(layer: number, index: number): string {
  if (index % 2 === 1) {
    return `apiVersion: v1
kind: ConfigMap
metadata: {name: c${index}, namespace: ns${layer}}
data: {host: "h.\${domain}", cluster: "\${cluster}"}
`;
  }
  return `apiVersion: apps/v1
kind: Deployment
metadata: {name: d${index}, namespace: ns${layer}}
spec:
  selector: {matchLabels: {app: d${index}}}
  template:
    metadata: {labels: {app: d${index}}}
    spec:
      containers:
        - name: c
          image: registry.example/a:1.${index}
          ports: [{containerPort: 80}]
          resources: {requests: {cpu: 10m, memory: 16Mi}}
`;
}

async function makeTree(tree: string): Promise<void> {
  const write = async (path: string, text: string) => {
    await mkdir(dirname(join(tree, path)), { recursive: true });
    await writeFile(join(tree, path), text);
  };
  const kustomizations: string[] = [];
  for (let layer = 0; layer < layers; layer++) {
    const names = Array.from({ length: objectsOfLayer }, (_, index) => `o${index}.yaml`);
    await Promise.all(names.map((name, index) => write(`apps/${layer}/${name}`, object(layer, index))));
    await write(`apps/${layer}/kustomization.yaml`, JSON.stringify({ resources: names }));
    kustomizations.push(
      JSON.stringify({
        apiVersion: "kustomize.toolkit.fluxcd.io/v1",
        kind: "Kustomization",
        metadata: { name: `layer-${layer}`, namespace: "flux-system" },
        spec: {
          path: `./apps/${layer}`,
          sourceRef: { kind: "OCIRepository", name: "flux-system" },
          postBuild: {
            substituteFrom: ["platform-variables", "platform-runtime"].map((name) => ({
              ...{ kind: "ConfigMap", name },
            })),
          },
        },
      }),
    );
  }
  await write("clusters/x/kustomization.yaml", '{"resources": ["layers.yaml", "variables.yaml"]}');
  await write("clusters/x/layers.yaml", kustomizations.join("\n---\n"));
  await write(
    "clusters/x/variables.yaml",
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: platform-variables, namespace: flux-system}\ndata: {cluster: x}\n",
  );
}

async function measure(name: string, work: () => Promise<unknown>): Promise<void> {
  const seconds: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const start = process.hrtime.bigint();
    await work();
    seconds.push(Number(process.hrtime.bigint() - start) / 1e9);
  }
  seconds.sort((a, b) => a - b);
  const figures = [seconds[0], seconds[Math.floor(rounds / 2)], seconds.at(-1)];
  const columns = figures.map((value) => (value ?? NaN).toFixed(2).padStart(8)).join("");
  process.stdout.write(`${name.padEnd(52)}${columns}  s  (${rounds} runs)\n`);
}

async function main(): Promise<void> {
  await ensureTools(["platform-tree", "kustomize"], { report: console.error });
  const tree = await mkdtemp(join(tmpdir(), "platform-bench-"));
  try {
    await makeTree(tree);
    const load = loadavg()[0]?.toFixed(1) ?? "?";
    process.stdout.write(
      `${cpus()[0]?.model ?? "unknown processor"}, ${availableParallelism()} cores, load ${load}; Node ${process.version}\n`,
    );
    process.stdout.write(`${"".padEnd(52)}     min  median     max\n`);
    await measure(`list, build and check ${layers * objectsOfLayer} objects`, async () => {
      const { findings } = await inspectTree(tree, "x");
      if (findings.length > 0) throw errorOf(findings);
    });
    await measure(`"kustomize build" of ${layers} directories`, async () => {
      const waiting = Array.from({ length: layers }, (_, layer) => join(tree, "apps", String(layer)));
      const work = async () => {
        for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
          await run("kustomize", ["build", next]);
        }
      };
      await Promise.all(Array.from({ length: availableParallelism() }, work));
    });
  } finally {
    await rm(tree, { recursive: true, force: true });
  }
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
