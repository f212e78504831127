import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { OciRegistry } from "../../clients/registry/oci";
import { isEncrypted } from "../../clients/sops/secret-file";
import { packTree } from "../tree/build";
import type { Provenance } from "../tree/source";

/** The inputs of an artifact. */
export interface ArtifactInputs extends Provenance {
  /** Absolute path of the gitops tree. */
  readonly tree: string;
  /** The cluster whose part of the tree is checked; the artifact holds the whole tree. */
  readonly cluster: string;
  /** Files that replace files of the tree: path relative to it → content. */
  readonly files: Readonly<Record<string, string>>;
  /** Repository as this machine reaches it: `host[:port]/path`. */
  readonly repository: string;
  /** The registry speaks plain HTTP. */
  readonly insecure: boolean;
  /** The Git commit whose files are released. @default the files on the disk */
  readonly commit?: string;
  /** `Tree.content` of the tree: with it, a change of the files is a change of the resource. */
  readonly content: string;
}

/** A pushed artifact. */
export interface ArtifactOutputs extends ArtifactInputs {
  /** `sha256:…` of its manifest. */
  readonly digest: string;
}

/** Pushes the gitops tree, which the program rendered and checked, as an OCI artifact by its digest, without a tag. */
export class ArtifactLifecycle {
  constructor(private readonly registry: OciRegistry) {}

  async create(inputs: ArtifactInputs): Promise<ArtifactOutputs> {
    for (const [path, encrypted] of Object.entries(inputs.files)) {
      if (!isEncrypted(encrypted)) {
        throw new Error(`Releasing ${path} was refused: its generated values are not encrypted.`);
      }
    }
    const { tree, content, files, revision, source, created, commit } = inputs;
    const directory = await mkdtemp(join(tmpdir(), "platform-artifact-"));
    try {
      const layout = join(directory, "layout");
      const digest = await packTree(commit === undefined ? tree : { tree, commit }, layout, {
        ...{ content, files, revision, source, created },
      });
      if (digest === undefined) {
        throw new Error(
          `Releasing ${tree} was refused: the tree changed during the run. Run again when no file of the tree changes any more.`,
        );
      }
      await this.registry.push(layout, inputs.repository, digest);
      return { ...inputs, digest };
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }

  /** @returns undefined when the registry does not hold the artifact any more, or does not answer */
  async read(state: ArtifactOutputs): Promise<ArtifactOutputs | undefined> {
    const found = await this.registry.digest(state.repository, state.digest).catch(() => undefined);
    return found === undefined ? undefined : state;
  }

  /** Whether a new artifact is due. The tree's path and the commit's time do not count. */
  diff(olds: ArtifactInputs, news: ArtifactInputs): boolean {
    const identity = (inputs: ArtifactInputs) =>
      JSON.stringify([
        inputs.content,
        inputs.cluster,
        Object.entries(inputs.files).sort(([a], [b]) => (a < b ? -1 : 1)),
        inputs.repository,
        inputs.revision,
        inputs.source,
      ]);
    return identity(olds) !== identity(news);
  }
}
