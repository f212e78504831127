import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parse } from "yaml";
import { applyInOrder } from "../clients/kubernetes/apply";
import { SystemClock } from "../system/clock";
import { run } from "../tools/command";
import { KubernetesClient, type Manifest } from "../clients/kubernetes/client";
import { upstreamChart } from "../tools/upstream";

/**
 * Charts that a real helm-controller installs: a Go module carries the whole chart, and the chart needs no webhook,
 * which nodes without containers cannot serve.
 */
const realCharts = ["cilium"] as const;

/** The label of chart sources and HelmReleases that stay simulated next to a real helm-controller. */
export const simulatedLabel = "platform.pulumi.com/simulated";

/** A source or release that a Kustomization brought: the root source of Flux is never redirected. */
const broughtByFlux =
  "has(object.metadata.labels) && 'kustomize.toolkit.fluxcd.io/name' in object.metadata.labels";

/** CEL: whether an OCIRepository or a HelmRelease is about one of the real charts. */
const isReal =
  `${JSON.stringify(realCharts)}.exists(chart, object.kind == 'OCIRepository' ` +
  "? object.spec.url.endsWith('/' + chart) : object.spec.?chartRef.name.orValue('') == chart)";

/**
 * Puts the real charts into the rehearsal's registry, and makes the API server send their sources there. Admission does
 * this, so neither the tree nor its digest changes, and Flux sees no drift.
 *
 * @param directory scratch directory, absolute
 * @param registry `host:port`
 */
export async function serveRealCharts(
  kubeconfig: string,
  directory: string,
  registry: string,
): Promise<void> {
  await Promise.all(
    realCharts.map(async (name) => {
      const { directory: chart } = await upstreamChart(name);
      const { version } = parse(await readFile(join(chart, "Chart.yaml"), "utf8")) as { version: string };
      await run("helm", ["package", chart, "--destination", directory]);
      const archive = join(directory, `${name}-${version}.tgz`);
      await run("helm", ["push", archive, `oci://${registry}/charts`, "--plain-http"]);
    }),
  );
  const redirect =
    `[JSONPatch{op: 'replace', path: '/spec/url', value: 'oci://${registry}/charts/' + object.metadata.name}, ` +
    "JSONPatch{op: 'add', path: '/spec/insecure', value: true}]";
  const label = `Object{metadata: Object.metadata{labels: {'${simulatedLabel}': 'true'}}}`;
  await applyInOrder(
    new KubernetesClient(kubeconfig),
    new SystemClock(),
    [
      ...policy("redirect", ["ocirepositories"], isReal, {
        patchType: "JSONPatch",
        jsonPatch: { expression: redirect },
      }),
      ...policy("simulate", ["ocirepositories", "helmrepositories", "helmreleases"], `!(${isReal})`, {
        patchType: "ApplyConfiguration",
        applyConfiguration: { expression: label },
      }),
    ],
    "rehearsal",
  );
}

function policy(name: string, resources: readonly string[], condition: string, mutation: object): Manifest[] {
  const apiVersion = "admissionregistration.k8s.io/v1";
  const metadata = { name: `rehearsal-${name}` };
  const apiGroups = ["source.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io"];
  return [
    {
      ...{ apiVersion, kind: "MutatingAdmissionPolicy", metadata },
      spec: {
        matchConstraints: {
          resourceRules: [{ apiGroups, apiVersions: ["*"], operations: ["CREATE", "UPDATE"], resources }],
        },
        matchConditions: [
          { name: "brought-by-flux", expression: broughtByFlux },
          { name: "is-meant", expression: condition },
        ],
        failurePolicy: "Fail",
        reinvocationPolicy: "Never",
        mutations: [mutation],
      },
    },
    {
      ...{ apiVersion, kind: "MutatingAdmissionPolicyBinding", metadata },
      spec: { policyName: metadata.name },
    },
  ];
}
