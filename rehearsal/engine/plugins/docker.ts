import { execFile } from "node:child_process";
import type { CreateResult } from "@pulumi/pulumi/provider";
import { serve, type Resource } from "./stand-in";

interface ImageInputs {
  /** With its tag or digest, such as `registry:3`. */
  readonly name: string;
  /** Whether it stays in the engine when the resource is deleted. @default false */
  readonly keepLocally?: boolean;
}

interface VolumeInputs {
  readonly name: string;
  /** A set. @default none */
  readonly labels?: readonly { readonly label: string; readonly value: string }[];
}

/** What is used of `docker image inspect`. */
interface Image {
  readonly Id: string;
  readonly RepoDigests: readonly string[] | null;
}

/** What is used of `docker volume inspect`. */
interface Volume {
  readonly Name: string;
  readonly Driver: string;
  readonly Mountpoint: string;
  readonly Labels: Readonly<Record<string, string>> | null;
}

/** A pull may be of hundreds of megabytes. Milliseconds. */
const deadline = 600_000;

/**
 * Runs the docker command, of the engine that the environment or Docker's own configuration names.
 * @throws Error with the last line that the command wrote.
 */
function docker(...args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile("docker", args, { timeout: deadline }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else if (error.killed === true)
        reject(new Error(`docker ${args.join(" ")}: no answer in ${deadline / 1_000} s`));
      else reject(new Error(stderr.trim().split("\n").at(-1) || error.message));
    });
  });
}

/** What the engine has under this name; undefined when it has nothing. */
async function inspect<T>(what: "image" | "volume", name: string): Promise<T | undefined> {
  try {
    return (JSON.parse(await docker(what, "inspect", name)) as T[])[0];
  } catch (error) {
    // "No such image: x" and "get x: no such volume". An engine that does not answer is not an engine without it.
    if (/no such (image|volume)/i.test((error as Error).message)) return undefined;
    throw error;
  }
}

const image: Resource = {
  inputs: { name: "replace", keepLocally: "update" },
  create: async (inputs: ImageInputs) => {
    const present = await readImage(inputs);
    if (present !== undefined) return present;
    await docker("pull", "--quiet", inputs.name);
    const pulled = await readImage(inputs);
    if (pulled === undefined)
      throw new Error(`Image "${inputs.name}" is gone, though it was pulled just now.`);
    return pulled;
  },
  read: readImage,
  delete: async (state: ImageInputs) => {
    if (state.keepLocally === true || (await readImage(state)) === undefined) return;
    await docker("rmi", state.name);
  },
};

async function readImage(state: ImageInputs): Promise<CreateResult | undefined> {
  const found = await inspect<Image>("image", state.name);
  if (found === undefined) return undefined;
  // The id is the real plugin's.
  const repoDigest = found.RepoDigests?.[0] ?? "";
  return { id: found.Id + state.name, outs: { ...state, imageId: found.Id, repoDigest } };
}

const volume: Resource = {
  inputs: { name: "replace", labels: "replace" },
  create: async ({ name, labels = [] }: VolumeInputs) => {
    // One that is there already stays as it is, labels included: the next diff sees them.
    await docker(
      "volume",
      "create",
      ...labels.flatMap(({ label, value }) => ["--label", `${label}=${value}`]),
      name,
    );
    const made = await readVolume({ name });
    if (made === undefined) throw new Error(`Volume "${name}" is gone, though it was made just now.`);
    return made;
  },
  read: readVolume,
  delete: async ({ name }: VolumeInputs) => {
    // With --force, absence is no error; a volume in use still is.
    await docker("volume", "rm", "--force", name);
  },
};

async function readVolume({ name }: VolumeInputs): Promise<CreateResult | undefined> {
  const found = await inspect<Volume>("volume", name);
  if (found === undefined) return undefined;
  const labels = Object.entries(found.Labels ?? {}).map(([label, value]) => ({ label, value }));
  return {
    id: found.Name,
    outs: {
      name: found.Name,
      driver: found.Driver,
      mountpoint: found.Mountpoint,
      ...(labels.length === 0 ? {} : { labels }),
    },
  };
}

void serve("docker", {
  "docker:index/remoteImage:RemoteImage": image,
  "docker:index/volume:Volume": volume,
});
