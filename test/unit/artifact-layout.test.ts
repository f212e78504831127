import { deepEqual, equal, notEqual } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, readdirSync, readFileSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { writeLayout, type Provenance } from "../../components/artifact/layout";
import { temporaryDirectory, writeFiles } from "./temporary";

const source: Provenance = {
  ...{ revision: "sha1:abc", source: "https://example.com/platform", created: "2026-01-01T00:00:00Z" },
};
const content = { "a.yaml": "a: 1\n", "b/c.yaml": "c: 1\n", "b.yaml": "b: 1\n" };

function directoryOf(files: Readonly<Record<string, string>>): string {
  const directory = temporaryDirectory();
  writeFiles(directory, files);
  return directory;
}

const layout = (
  directory: string,
  files = Object.keys(content),
  provenance = source,
  into = temporaryDirectory(),
) => writeLayout(directory, files, provenance, into);

describe("layout of an artifact", () => {
  it("has the same digest for the same files, whatever their times, place and order", async () => {
    const first = directoryOf(content);
    const second = directoryOf(content);
    for (const path of Object.keys(content)) utimesSync(join(second, path), 1_000_000_000, 1_000_000_000);
    const digest = await layout(first);
    equal(await layout(second, Object.keys(content).reverse()), digest);
    equal(await layout(first), digest);
  });

  it("has the same digest whoever may read the files of a checkout", async () => {
    const first = directoryOf(content);
    const second = directoryOf(content);
    for (const path of Object.keys(content)) {
      chmodSync(join(first, path), 0o644);
      chmodSync(join(second, path), 0o600);
    }
    equal(await layout(second), await layout(first));
  });

  for (const [what, files, provenance] of [
    ["the content of a file", { ...content, "a.yaml": "a: 2\n" }, source],
    ["the name of a file", { "b.yaml": "b: 1\n", "b/c.yaml": "c: 1\n", "d.yaml": "a: 1\n" }, source],
    ["one file more", { ...content, "d.yaml": "" }, source],
    ["the revision", content, { ...source, revision: "sha1:abd" }],
    ["the source", content, { ...source, source: "https://example.com/other" }],
  ] as const) {
    it(`has another digest for ${what}`, async () => {
      notEqual(
        await layout(directoryOf(files), Object.keys(files), provenance),
        await layout(directoryOf(content)),
      );
    });
  }

  it("is an OCI layout whose only layer is what Flux reads", async () => {
    const into = temporaryDirectory();
    const digest = await layout(directoryOf(content), Object.keys(content), source, into);
    const blob = (name: string) => readFileSync(join(into, "blobs", "sha256", name.replace("sha256:", "")));
    const index = JSON.parse(readFileSync(join(into, "index.json"), "utf8")) as {
      manifests: { digest: string }[];
    };
    deepEqual(
      index.manifests.map((manifest) => manifest.digest),
      [digest],
    );
    const manifest = JSON.parse(blob(digest).toString()) as {
      config: { mediaType: string };
      layers: { mediaType: string; digest: string; size: number }[];
      annotations: Record<string, string>;
    };
    equal(manifest.config.mediaType, "application/vnd.cncf.flux.config.v1+json");
    equal(manifest.layers.length, 1);
    equal(manifest.layers[0]?.mediaType, "application/vnd.cncf.flux.content.v1.tar+gzip");
    deepEqual(manifest.annotations, {
      "org.opencontainers.image.created": source.created,
      "org.opencontainers.image.revision": source.revision,
      "org.opencontainers.image.source": source.source,
    });
    for (const name of readdirSync(join(into, "blobs", "sha256"))) {
      equal(createHash("sha256").update(blob(name)).digest("hex"), name);
    }
    const layer = join(into, "blobs", "sha256", manifest.layers[0].digest.replace("sha256:", ""));
    const unpacked = temporaryDirectory();
    execFileSync("tar", ["-xzf", layer, "-C", unpacked]);
    for (const [path, text] of Object.entries(content))
      equal(readFileSync(join(unpacked, path), "utf8"), text);
    equal(execFileSync("tar", ["-tzf", layer], { encoding: "utf8" }), "a.yaml\nb.yaml\nb/c.yaml\n");
  });
});
