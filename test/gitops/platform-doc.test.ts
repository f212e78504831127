import { deepEqual, ok } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { renderCluster } from "../../core/tree/render";
import { chartOf } from "../../clients/helm/chart";
import { ensureTools } from "../../tools/tools";

const project = join(__dirname, "..", "..");

describe("docs/platform.md", function () {
  this.timeout(600_000);

  before(() => ensureTools(["platform-tree"], { report: console.error }));

  it("names every chart and image that we pin ourselves, with its version", async () => {
    const page = readFileSync(join(project, "docs", "platform.md"), "utf8").replace(/\s+/g, " ");
    const pinned = new Set<string>();
    for (const cluster of ["local", "dev", "prod"]) {
      const { layers } = await renderCluster(join(project, "gitops"), cluster);
      for (const { manifests } of layers) {
        for (const release of manifests.filter(({ kind }) => kind === "HelmRelease")) {
          const { name, version } = chartOf(release, manifests);
          pinned.add(`\`${name}\` ${version}`);
        }
        for (const { spec } of manifests.filter(({ kind }) => /^(Deployment|StatefulSet)$/.test(kind))) {
          const { template } = spec as { template: { spec: { containers: readonly { image: string }[] } } };
          for (const { image } of template.spec.containers)
            pinned.add(image.slice(image.lastIndexOf(":") + 1));
        }
      }
    }
    ok(pinned.size > 10);
    deepEqual(
      [...pinned].filter((words) => !page.includes(words)),
      [],
    );
  });
});
