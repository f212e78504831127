import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { create } from "tar";

/** What an artifact says of where it comes from. Sources: the OCI image-spec's annotation keys, as Flux reads them. */
export interface Provenance {
  /** Git revision as Flux writes it, without the branch: `sha1:…`. The same commit is the same artifact everywhere. */
  readonly revision: string;
  /** URL of the Git repository. */
  readonly source: string;
  /** Time of that revision, RFC 3339. */
  readonly created: string;
}

/** Media types of a Flux artifact: https://fluxcd.io/flux/cheatsheets/oci-artifacts/ */
const configType = "application/vnd.cncf.flux.config.v1+json";
const contentType = "application/vnd.cncf.flux.content.v1.tar+gzip";

/**
 * Writes a directory's files as an OCI image layout with one Flux layer, and returns the manifest's digest.
 *
 * The same files and provenance give the same digest: names are sorted, times and owners left out.
 *
 * @param directory absolute path of the files
 * @param files paths relative to it
 * @param layout absolute path of a new directory for the layout
 * @returns `sha256:…`
 */
export async function writeLayout(
  directory: string,
  files: readonly string[],
  provenance: Provenance,
  layout: string,
): Promise<string> {
  const blobs = join(layout, "blobs", "sha256");
  await mkdir(blobs, { recursive: true });

  const write = async (mediaType: string, content: Buffer) => {
    const hash = createHash("sha256").update(content).digest("hex");
    await writeFile(join(blobs, hash), content);
    return { mediaType, digest: `sha256:${hash}`, size: content.length };
  };
  const json = (value: unknown) => Buffer.from(JSON.stringify(value));

  const archive = join(layout, "content.tar.gz");
  await create(
    {
      file: archive,
      cwd: directory,
      gzip: { level: 6 },
      portable: true,
      mtime: new Date(0),
      noDirRecurse: true,
      // The umask of whoever made the files is no part of them.
      onWriteEntry: (entry) => {
        if (entry.stat !== undefined) entry.stat.mode = 0o100644;
      },
    },
    [...files].sort(),
  );
  const layer = await write(contentType, await readFile(archive));
  const config = await write(configType, json({ created: provenance.created }));
  const manifest = await write(
    "application/vnd.oci.image.manifest.v1+json",
    json({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config,
      layers: [layer],
      annotations: {
        "org.opencontainers.image.created": provenance.created,
        "org.opencontainers.image.revision": provenance.revision,
        "org.opencontainers.image.source": provenance.source,
      },
    }),
  );
  await writeFile(join(layout, "oci-layout"), json({ imageLayoutVersion: "1.0.0" }));
  await writeFile(
    join(layout, "index.json"),
    json({ schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [manifest] }),
  );
  return manifest.digest;
}
