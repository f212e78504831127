import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { list } from "tar";
import { run } from "../../tools/command";

/** The storage of artifacts: the calls of the lifecycles to an OCI registry. */
export interface OciRegistry {
  /** Pushes the image of an OCI layout directory to `repository` by its digest, without a tag. */
  push(layout: string, repository: string, digest: string): Promise<void>;
  /** Points `tag` of `repository` at a digest that it holds. */
  tag(repository: string, digest: string, tag: string): Promise<void>;
  /** The digest (`sha256:…`) behind a tag or digest, or undefined when the registry does not hold it. */
  digest(repository: string, reference: string): Promise<string | undefined>;
  /** Every tag of a repository; empty when the repository does not exist. */
  tags(repository: string): Promise<string[]>;
  /** Removes a manifest, and the tags that point at it. */
  delete(repository: string, digest: string): Promise<void>;
}

/** Reads artifacts back. */
export interface ArtifactReader extends OciRegistry {
  /** Files of an artifact that Flux reads: path → text. The result leaves out paths that the artifact does not have. */
  files(
    repository: string,
    digest: string,
    paths: readonly string[],
  ): Promise<Readonly<Record<string, string>>>;
}

/**
 * An OCI registry through `crane`, which reads Docker's own credentials and speaks plain HTTP to loopback
 * addresses; any other registry without TLS needs `insecure`.
 */
export class Crane implements ArtifactReader {
  constructor(private readonly insecure: boolean) {}

  async push(layout: string, repository: string, digest: string): Promise<void> {
    await this.crane(`Pushing ${digest} to ${repository}`, "push", layout, `${repository}@${digest}`);
  }

  async tag(repository: string, digest: string, tag: string): Promise<void> {
    await this.crane(`Tagging ${repository}@${digest} as "${tag}"`, "tag", `${repository}@${digest}`, tag);
  }

  async digest(repository: string, reference: string): Promise<string | undefined> {
    const separator = reference.startsWith("sha256:") ? "@" : ":";
    try {
      const name = repository + separator + reference;
      return (await this.crane(`Looking up ${name}`, "digest", name)).trim();
    } catch (error) {
      if (isUnknown(error)) return undefined;
      throw error;
    }
  }

  async files(
    repository: string,
    digest: string,
    paths: readonly string[],
  ): Promise<Readonly<Record<string, string>>> {
    const layout = await mkdtemp(join(tmpdir(), "platform-pull-"));
    try {
      const name = `${repository}@${digest}`;
      await this.crane(`Pulling ${name}`, "pull", "--format=oci", name, layout);
      const blob = (of: string) => join(layout, "blobs", ...of.split(":"));
      const manifest = JSON.parse(await readFile(blob(digest), "utf8")) as {
        layers: readonly { digest: string }[];
      };
      const files: Record<string, string> = {};
      for (const layer of manifest.layers) {
        const reading: Promise<void>[] = [];
        await list({
          file: blob(layer.digest),
          onReadEntry: (entry) => {
            const path = entry.path.replace(/^\.\//, "");
            if (!paths.includes(path)) return;
            reading.push(
              entry.concat().then((content) => {
                files[path] = content.toString();
              }),
            );
          },
        });
        await Promise.all(reading);
      }
      return files;
    } finally {
      await rm(layout, { recursive: true, force: true });
    }
  }

  async tags(repository: string): Promise<string[]> {
    try {
      const text = await this.crane(`Listing ${repository}`, "ls", repository);
      return text.split("\n").filter((tag) => tag !== "");
    } catch (error) {
      if (isUnknown(error)) return [];
      throw error;
    }
  }

  async delete(repository: string, digest: string): Promise<void> {
    await this.crane(`Deleting ${repository}@${digest}`, "delete", `${repository}@${digest}`);
  }

  private async crane(operation: string, ...args: string[]): Promise<string> {
    try {
      return await run("crane", this.insecure ? ["--insecure", ...args] : args);
    } catch (error) {
      const { message } = error as Error;
      // A full registry keeps a part of a blob; when crane sends the blob again, the registry reports a wrong range.
      const full = /no space left on device/.test(message)
        ? "the registry has no space left"
        : /RANGE_INVALID/.test(message)
          ? "the registry kept only a part of a blob, as a registry without space does"
          : undefined;
      throw new Error(
        full === undefined
          ? `${operation} failed: ${message}`
          : `${operation} failed: ${full}. Free space on the disk that holds its volume, such as with "docker system prune", and run again.`,
        { cause: error },
      );
    }
  }
}

/** Whether a registry said that it does not hold the requested object. */
export function isUnknown(error: unknown): boolean {
  return /404 Not Found|MANIFEST_UNKNOWN|NAME_UNKNOWN/.test((error as Error).message);
}
