import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { KubernetesObject, V1Deployment } from "@kubernetes/client-node";
import { parse, parseAllDocuments, stringify } from "yaml";
import { run } from "../../../../tools/command";
import { fluxDistribution, upstreamFiles } from "../../../../tools/upstream";
import { readGoModule } from "../../../../tools/go-module";

const projectDirectory = join(__dirname, "../../../..");

/** The Go module of the Flux Operator. */
export const operatorModule = "github.com/controlplaneio-fluxcd/flux-operator";

/** The Flux that the FluxInstance of `gitops/` asks for. */
interface Distribution {
  /** Such as `2.9.5`. */
  readonly version: string;
  /** Such as `ghcr.io/fluxcd`. */
  readonly registry: string;
}

/** Images that the cluster pulls: name → reference, as the manifests of Flux, its operator and `gitops/` have it. */
export async function imageReferences(): Promise<Readonly<Record<string, string>>> {
  const { version, registry } = readDistribution();
  const controllers = (await fluxDistribution(version)).filter(isDeployment).map(nameAndImage);
  const whoami = readYaml("gitops/bases/apps/whoami/deployment.yaml") as V1Deployment;
  const images = [
    // The operator puts the registry before it.
    ...controllers.map(([name, image]) => [name, image.replace(/^fluxcd\//, `${registry}/`)]),
    ...(await operatorManifests()).filter(isDeployment).map(nameAndImage),
    ...[nameAndImage(whoami)].map(([name, image]) => [name, `docker.io/${image}`]),
  ];
  return Object.fromEntries(images) as Record<string, string>;
}

/** The operator's version in `tools/upstream/go.mod`, such as `v0.59.0`. */
export function operatorVersion(): string {
  const version = readGoModule(join(projectDirectory, "tools/upstream")).versions.get(operatorModule);
  if (version === undefined)
    throw new Error(`tools/upstream/go.mod requires no ${operatorModule}. Add it there.`);
  return version;
}

/**
 * Writes what the operator expects in `/data`: the manifests of the Flux version. The digests of images stay out:
 * they are those of the official images.
 */
export async function writeOperatorData(directory: string): Promise<void> {
  const { version } = readDistribution();
  const roots = [`config/data/flux/v${version}/`, "config/data/flux-images/VERSION"];
  const files = await upstreamFiles(operatorModule, `data-${version}`, (path) =>
    roots.some((root) => path.startsWith(root)),
  );
  for (const [path, content] of files) write(join(directory, path.replace("config/data/", "")), content);
}

/** Writes a Helm chart of the operator's own manifests, without values: the official chart is only on ghcr.io. */
export async function writeOperatorChart(directory: string): Promise<void> {
  const version = operatorVersion();
  const chart = { apiVersion: "v2", name: "flux-operator", version: version.slice(1), appVersion: version };
  write(join(directory, "Chart.yaml"), stringify(chart));
  write(join(directory, "values.yaml"), "{}\n");
  for (const object of await operatorManifests()) {
    const file = `${object.kind ?? ""}-${object.metadata?.name ?? ""}.yaml`.toLowerCase();
    const text = stringify(object);
    if (object.kind === "CustomResourceDefinition") write(join(directory, "crds", file), text);
    else if (object.kind !== "Namespace")
      write(
        join(directory, "templates", file),
        text.replaceAll("namespace: flux-system", "namespace: {{ .Release.Namespace }}"),
      );
  }
}

/** What `kustomize build` makes of the operator's manifests, with CRDs and namespace. */
async function operatorManifests(): Promise<KubernetesObject[]> {
  const files = await upstreamFiles(operatorModule, "manifests", (path) =>
    /^config\/(crd|manager|default)\//.test(path),
  );
  const directory = mkdtempSync(join(tmpdir(), "flux-operator-"));
  try {
    for (const [path, content] of files) write(join(directory, path), content);
    const built = await run("kustomize", ["build", join(directory, "config/default")]);
    return parseAllDocuments(built).map((document) => document.toJS() as KubernetesObject);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function readDistribution(): Distribution {
  const instance = readYaml("gitops/bases/controllers/flux/flux-instance.yaml");
  return (instance as { spec: { distribution: Distribution } }).spec.distribution;
}

function readYaml(path: string): unknown {
  return parse(readFileSync(join(projectDirectory, path), "utf8"));
}

function isDeployment(object: KubernetesObject): object is V1Deployment {
  return object.kind === "Deployment";
}

function nameAndImage({ metadata, spec }: V1Deployment): [name: string, image: string] {
  const name = metadata?.name;
  const image = spec?.template.spec?.containers[0]?.image;
  if (name === undefined || image === undefined)
    throw new Error(`Deployment ${name ?? "without a name"} has no container with an image.`);
  return [name, image];
}

function write(path: string, content: string | Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}
