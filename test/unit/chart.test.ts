import { deepEqual, equal, rejects, throws } from "node:assert/strict";
import { chartOf, Helm, type Chart } from "../../clients/helm/chart";
import type { Manifest } from "../../clients/kubernetes/client";
import { fakeTools, withEnvironment } from "./temporary";

const release = (spec: object): Manifest => ({
  ...{ apiVersion: "helm.toolkit.fluxcd.io/v2", kind: "HelmRelease" },
  metadata: { name: "web", namespace: "apps" },
  spec: { chartRef: { kind: "OCIRepository", name: "web" }, ...spec },
});
const source = (namespace: string, ref: object | undefined): Manifest => ({
  ...{ apiVersion: "source.toolkit.fluxcd.io/v1", kind: "OCIRepository" },
  metadata: { name: "web", namespace },
  spec: { url: `oci://ghcr.io/${namespace}/web`, ref },
});
const tagged = source("apps", { tag: "1.2.3" });
const sourceRef = { kind: "HelmRepository", name: "web" };
const inRepository = { chartRef: undefined, chart: { spec: { chart: "web", version: "1.2.3", sourceRef } } };
const repository: Manifest = {
  ...{ apiVersion: "source.toolkit.fluxcd.io/v1", kind: "HelmRepository" },
  metadata: { name: "web", namespace: "apps" },
  spec: { url: "https://charts.example.com" },
};

describe("chartOf", () => {
  it("finds the chart in the release's own namespace", () => {
    deepEqual(chartOf(release({ values: { a: 1 } }), [source("other", { tag: "9" }), tagged]), {
      ...{
        release: "web",
        namespace: "apps",
        repository: "oci://ghcr.io/apps",
        name: "web",
        version: "1.2.3",
        values: { a: 1 },
      },
    });
  });

  it("finds the chart of a repository that is no registry", () => {
    const { repository: url, name, version } = chartOf(release(inRepository), [tagged, repository]);
    deepEqual([url, name, version], ["https://charts.example.com", "web", "1.2.3"]);
  });

  it("finds the chart in the namespace that the reference names", () => {
    const chartRef = { kind: "OCIRepository", name: "web", namespace: "other" };
    equal(chartOf(release({ chartRef }), [tagged, source("other", { tag: "9" })]).version, "9");
  });

  it("names the release as Flux does", () => {
    const { release: prefixed, namespace } = chartOf(release({ targetNamespace: "prod" }), [tagged]);
    deepEqual([prefixed, namespace], ["prod-web", "prod"]);
    equal(chartOf(release({ targetNamespace: "prod", releaseName: "site" }), [tagged]).release, "site");
  });

  it("refuses values from elsewhere, which only the cluster knows", () => {
    throws(() => chartOf(release({ valuesFrom: [{ kind: "ConfigMap", name: "v" }] }), [tagged]), {
      message:
        'Reading the chart of HelmRelease apps/web failed: it uses "valuesFrom". Put the values into "values".',
    });
  });

  for (const [what, spec, manifests] of [
    ["that is not in the tree", {}, []],
    ["of another namespace", {}, [source("other", { tag: "1" })]],
    ["without a tag", {}, [source("apps", { semver: ">=1" })]],
    ["without a reference", {}, [source("apps", undefined)]],
    ["of another kind", { chartRef: { kind: "HelmChart", name: "web" } }, [tagged]],
    ["that it does not name", { chartRef: undefined }, [tagged]],
    [
      "of charts without a version",
      { chartRef: undefined, chart: { spec: { chart: "web", sourceRef } } },
      [repository],
    ],
    ["of charts that is not in the tree", inRepository, [tagged]],
  ] as const) {
    it(`refuses a source ${what}`, () => {
      throws(() => chartOf(release(spec), manifests), {
        message:
          'Reading the chart of HelmRelease apps/web failed: it names no OCIRepository with "ref.tag" by "chartRef", and no HelmRepository with a version by "chart.spec". Add one to its layer.',
      });
    });
  }
});

describe("Helm", () => {
  const chart: Chart = {
    ...{ release: "web", namespace: "apps", repository: "oci://ghcr.io/apps", name: "web" },
    version: "1.2.3",
    values: { password: "hunter2", replicas: 2 },
  };
  // Shows what it was given as an object; the empty document before it is what charts often render.
  const helm = fakeTools({
    helm: 'echo "---"; echo "---"; echo "kind: Seen"; echo "arguments: >-"; echo "  $*"; echo "values:"; sed "s/^/  /"',
  });
  const seen = async (mirror: string | undefined, of: Chart = chart) => {
    const objects = await withEnvironment(helm, () => new Helm(mirror).template(of));
    equal(objects.length, 1);
    return objects[0] as unknown as { arguments: string; values: unknown };
  };

  for (const [what, mirror, reference] of [
    ["the chart's own address", undefined, "oci://ghcr.io/apps/web --version 1.2.3"],
    [
      "a mirror of registries",
      "oci://mirror:5000/charts",
      "oci://mirror:5000/charts/ghcr.io/apps/web --version 1.2.3",
    ],
    ["a mirror with a slash at its end", "oci://mirror/", "oci://mirror/ghcr.io/apps/web --version 1.2.3"],
    ["a directory of unpacked charts", "/charts", "/charts/web"],
  ] as const) {
    it(`renders from ${what}, with values on standard input`, async () => {
      deepEqual(await seen(mirror), {
        kind: "Seen",
        arguments: `template web ${reference} --namespace apps --include-crds --no-hooks --values -`,
        values: { password: "hunter2", replicas: 2 },
      });
    });
  }

  for (const [what, mirror, says, message] of [
    [
      "its own address",
      undefined,
      'failed to perform "FetchReference" on source: Get "https://ghcr.io/v2/": dial tcp: no such host',
      'Fetching chart web 1.2.3 from oci://ghcr.io/apps/web failed: failed to perform "FetchReference" on source: Get "https://ghcr.io/v2/": dial tcp: no such host. Let this machine reach that address, also through HTTPS_PROXY, or set platform:chartMirror to a registry or a directory that has the chart.',
    ],
    [
      "a mirror",
      "/charts",
      'path "/charts/web" not found',
      'Fetching chart web 1.2.3 from /charts/web failed: path "/charts/web" not found. Put the chart there, or correct platform:chartMirror.',
    ],
    [
      "a template that does not render, as Helm says it",
      "/charts",
      "execution error at (web/templates/a.yaml:1:2): set replicas",
      '"helm template web" failed: Error: execution error at (web/templates/a.yaml:1:2): set replicas',
    ],
  ] as const) {
    it(`names the remedy for ${what}`, async () => {
      const failing = fakeTools({ helm: `cat > /dev/null; echo 'Error: ${says}' >&2; exit 1` });
      await rejects(
        withEnvironment(failing, () => new Helm(mirror).template(chart)),
        { message },
      );
    });
  }

  it("names the address of a repository that is no registry", async () => {
    const failing = fakeTools({ helm: "cat > /dev/null; echo 'Error: x cannot be reached' >&2; exit 1" });
    const repository = "https://charts.example.com";
    await rejects(
      withEnvironment(failing, () => new Helm(undefined).template({ ...chart, repository })),
      {
        message:
          /^Fetching chart web 1\.2\.3 from https:\/\/charts\.example\.com failed: x cannot be reached\. /,
      },
    );
  });

  for (const [what, mirror, reference] of [
    ["its own address", undefined, "web --repo https://charts.example.com/stable --version 1.2.3"],
    ["a mirror", "oci://mirror", "oci://mirror/charts.example.com/stable/web --version 1.2.3"],
  ] as const) {
    it(`renders a chart of a repository that is no registry from ${what}`, async () => {
      const { arguments: given } = await seen(mirror, {
        ...chart,
        repository: "https://charts.example.com/stable",
      });
      equal(given, `template web ${reference} --namespace apps --include-crds --no-hooks --values -`);
    });
  }
});
