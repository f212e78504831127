import { createHash } from "node:crypto";
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { run } from "../../../../tools/command";

/** The image that others take files from; see `debian.ts`. */
export const debianImage = "platform.test/debian:12";

/** One static program on an otherwise empty file system. */
export interface Program {
  /** Path of the program on this machine. */
  readonly program: string;
  /** Path of the program in the image. @default /usr/local/bin/ and its file name */
  readonly entrypoint?: string;
  /** `uid:gid`. @default root */
  readonly user?: string;
  /** Files beside it: path in the image → path on this machine. @default none */
  readonly files?: Readonly<Record<string, string>>;
  /** More instructions of the Dockerfile. @default none */
  readonly instructions?: readonly string[];
}

/** Label of an image that says what it was made of. */
export const recipeLabel = "platform.test/recipe";

/** Whether the Docker Engine has the image, made of this recipe. */
export async function hasImage(reference: string, recipe: string): Promise<boolean> {
  const format = `{{index .Config.Labels "${recipeLabel}"}}`;
  try {
    return (await run("docker", ["image", "inspect", reference, "--format", format])).trim() === recipe;
  } catch (error) {
    if (/No such image/i.test((error as Error).message)) return false;
    throw error;
  }
}

/** Builds an image from a directory with a Dockerfile, and leaves none of its stages or predecessors behind. */
export async function buildImage(
  references: readonly string[],
  context: string,
  recipe: string,
): Promise<void> {
  const tags = references.flatMap((reference) => ["--tag", reference]);
  const label = `${recipeLabel}=${recipe}`;
  await run("docker", ["build", "--quiet", "--label", label, ...tags, context], { timeout: 900_000 });
  // The stages inherit the label from the Debian image.
  await run("docker", ["image", "prune", "--force", "--filter", `label=${recipeLabel}`]);
}

/** Builds an image `FROM scratch` with a program, CA certificates, and the files that it asks for. */
export async function buildProgramImage(
  references: readonly string[],
  { program, user, files = {}, instructions = [], ...image }: Program,
  recipe: string,
): Promise<void> {
  const context = mkdtempSync(join(tmpdir(), "image-"));
  const entrypoint = image.entrypoint ?? join("/usr/local/bin", basename(program));
  const certificates = "/etc/ssl/certs/ca-certificates.crt";
  try {
    for (const [target, source] of Object.entries({ ...files, [entrypoint]: program }))
      copy(source, join(context, "root", target));
    chmodSync(join(context, "root", entrypoint), 0o755);
    writeFileSync(
      join(context, "Dockerfile"),
      [
        "FROM scratch",
        `COPY --from=${debianImage} ${certificates} ${certificates}`,
        "COPY root/ /",
        `ENV PATH=${dirname(entrypoint)}`,
        ...(user === undefined ? [] : [`USER ${user}`]),
        `ENTRYPOINT ["${entrypoint}"]`,
        ...instructions,
        "",
      ].join("\n"),
    );
    await buildImage(references, context, recipe);
  } finally {
    rmSync(context, { recursive: true, force: true });
  }
}

/** Moves an image out of the Docker Engine into a tarball, which `crane push` and `ctr images import` read. */
export async function moveImage(references: readonly string[], tarball: string): Promise<void> {
  mkdirSync(dirname(tarball), { recursive: true });
  await run("docker", ["save", "--output", tarball, ...references], { timeout: 300_000 });
  await run("docker", ["rmi", ...references]);
}

/** Copies a file or a directory; links are copied as what they point at. */
export function copy(source: string, target: string): void {
  cpSync(source, target, { recursive: true, dereference: true });
}

/** A short hash of texts. */
export function fingerprint(...parts: readonly string[]): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 12);
}
