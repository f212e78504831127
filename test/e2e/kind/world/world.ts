import { readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { cacheDirectory } from "../../../../system/cache";
import { withLock } from "../../../../system/lock";
import { ensureTools, findOptional, pinnedVersion, type ToolName } from "../../../../tools/tools";
import { ensureDebian } from "./debian";
import { buildProgramImage, copy, fingerprint, hasImage, moveImage } from "./docker-image";
import { dockerPath } from "./docker-path";
import { imageReferences, writeOperatorChart } from "./flux";
import { goBuild } from "./go-build";
import { pulledPrograms, registryProgram } from "./images";
import { buildNodeImage, type Programs } from "./node-image";
import { once } from "./once";
import { buildOperator, worldPrograms } from "./programs";

/** What a cluster would pull from the internet, built from package registries. */
export interface World {
  /** Image of a Kind node, in the Docker Engine. */
  readonly nodeImage: string;
  /** Image of the registry, with the official image's configuration and volume, in the Docker Engine. */
  readonly registryImage: string;
  /** Images that the cluster pulls: reference as manifests have it → path of a tarball for `crane push`. */
  readonly images: ReadonlyMap<string, string>;
  /** Directory of unpacked charts by name, as `platform:chartMirror` takes it. */
  readonly charts: string;
  /** Directories to put first on PATH: kubectl, and the wrapper of Docker where it is needed. */
  readonly path: readonly string[];
}

const toolsDirectory = join(__dirname, "../../../../tools");

const day = 86_400_000;

/** Tools of the project that run inside the cluster. */
const tools = [
  ...["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"],
  ...["registry", "source-controller", "kustomize-controller"],
] as const satisfies readonly ToolName[];

/**
 * Builds the world, in the user's cache and in the Docker Engine. What is there of the same recipe is used as it is;
 * the first time takes some ten minutes of two cores, once the tools are built.
 *
 * @param report receives a line whenever there is progress to tell
 * @throws Error when Docker, Go or debootstrap is missing, or a download is refused; debootstrap wants to be root
 */
export async function buildWorld(report: (line: string) => void): Promise<World> {
  const directory = join(cacheDirectory(), "world");
  const onWait = (pid: number) => {
    report(`waiting for process ${pid}, which is building the world`);
  };
  return withLock(directory, () => build(directory, report), { onWait });
}

async function build(directory: string, report: (line: string) => void): Promise<World> {
  const toolPaths = await ensureTools([...tools, "kind", "kustomize"], { report });
  const optional = optionalControllers(report);
  const references = await imageReferences();
  const recipe = fingerprint(
    ...recipeFiles().map((path) => readFileSync(path, "utf8")),
    ...Object.values(optional).map((path) => `${path} ${statSync(path).mtimeMs}`),
    JSON.stringify(references),
    process.arch,
  );
  const here = join(directory, recipe);
  const kubernetes = pinnedVersion("kube-apiserver");
  const nodeImage = `platform.test/node:${kubernetes}`;
  const registryImage = `platform.test/registry:${pinnedVersion("registry").slice(1)}`;

  const built = join(here, "programs");
  const known: Readonly<Record<string, string>> = { ...toolPaths, ...optional };
  const programs = async (): Promise<Programs> => {
    await ensureDebian(report);
    await once(built, async (draft) => {
      report(`building Kubernetes ${kubernetes} and what else a cluster runs`);
      for (const set of worldPrograms(kubernetes)) await goBuild(set, draft);
      await buildOperator(draft);
    });
    return (name) => known[name] ?? join(built, name);
  };

  if (!(await hasImage(nodeImage, recipe))) {
    const path = await programs();
    report(`building image ${nodeImage}`);
    await buildNodeImage(nodeImage, path, join(here, "node"), recipe);
  }
  if (!(await hasImage(registryImage, recipe))) {
    const path = await programs();
    report(`building image ${registryImage}`);
    await buildProgramImage([registryImage], registryProgram(path), recipe);
  }
  const charts = await once(join(here, "charts"), (draft) =>
    writeOperatorChart(join(draft, "flux-operator")),
  );
  const images = await once(join(here, "images"), async (draft) => {
    const path = await programs();
    const scratch = join(here, "operator");
    const pulled = await pulledPrograms(path, Object.keys(optional), scratch);
    for (const [name, program] of Object.entries(pulled)) {
      const reference = references[name];
      if (reference === undefined) throw new Error(`No manifest names an image of ${name}.`);
      report(`building image ${reference}`);
      // The user may have the real one.
      const draftReference = `platform.test/${name}`;
      await buildProgramImage([draftReference], program, recipe);
      await moveImage([draftReference], join(draft, `${encodeURIComponent(reference)}.tar`));
    }
    rmSync(scratch, { recursive: true });
  });

  const kubectl = await once(join(here, "bin"), async (draft) => {
    copy((await programs())("kubectl"), join(draft, "kubectl"));
  });

  // Go's cache has what is needed to make them again; a world of today may be in use by another checkout.
  rmSync(built, { recursive: true, force: true });
  for (const other of readdirSync(directory).map((name) => join(directory, name)))
    if (/\/[0-9a-f]{12}$/.test(other) && other !== here && statSync(other).mtimeMs < Date.now() - day)
      rmSync(other, { recursive: true });

  const reference = (file: string) => decodeURIComponent(file.replace(/\.tar$/, ""));
  return {
    nodeImage,
    registryImage,
    images: new Map(readdirSync(images).map((file) => [reference(file), join(images, file)])),
    charts,
    path: [...(await dockerPath(join(here, "path"))), kubectl],
  };
}

/** Path by name of the controllers that no Go module offers, where there are any. */
function optionalControllers(report: (line: string) => void): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of ["helm-controller", "notification-controller"] as const) {
    const path = findOptional(name);
    if (path === undefined) report(`${name} is not on PATH: the world has no image of it`);
    else found[name] = path;
  }
  return found;
}

/** All files that decide what is built. */
function recipeFiles(): string[] {
  const own = readdirSync(__dirname, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  const pins = [".", "cli", "upstream"].flatMap((set) =>
    ["go.mod", "go.sum"].map((file) => join(toolsDirectory, set, file)),
  );
  return [...own.sort(), ...pins];
}

async function main(): Promise<void> {
  const world = await buildWorld((line) => {
    console.error(line);
  });
  console.log(JSON.stringify({ ...world, images: Object.fromEntries(world.images) }, null, 2));
}

if (require.main === module)
  main().catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  });
