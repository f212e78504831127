import { deepEqual, doesNotThrow, equal, rejects, throws } from "node:assert/strict";
import {
  throwUnlessOwn,
  KubernetesClient,
  nameOf,
  refOf,
  type Manifest,
} from "../../clients/kubernetes/client";
import { FakeApiServer, kubeconfigOf } from "./api-server";

const node = { apiVersion: "v1", kind: "Node", name: "a" };
const status = (message: string) => JSON.stringify({ kind: "Status", message });

describe("references", () => {
  it("name an object by kind, namespace and name", () => {
    equal(
      nameOf({ apiVersion: "v1", kind: "Secret", namespace: "flux-system", name: "sops-age" }),
      "Secret flux-system/sops-age",
    );
    equal(nameOf(node), "Node a");
  });

  it("leave out the namespace of what has none", () => {
    const object = { apiVersion: "v1", kind: "Node", metadata: { name: "a", labels: { x: "y" } } };
    deepEqual(refOf(object), node);
  });
});

describe("KubernetesClient", () => {
  let server: FakeApiServer;
  let client: KubernetesClient;

  beforeEach(async () => {
    server = await FakeApiServer.start({
      v1: { Node: ["nodes", false], ConfigMap: ["configmaps", true] },
      "apps/v1": { Deployment: ["deployments", true] },
    });
    client = new KubernetesClient(server.kubeconfig);
  });

  afterEach(() => {
    server.stop();
  });

  it("applies an object as it is, takes over its fields, and reads it back", async () => {
    const object: Manifest = {
      ...{ apiVersion: "v1", kind: "ConfigMap", "x-unknown-field": { kept: true } },
      metadata: { name: "a", namespace: "b" },
    };
    await client.apply(object, "test");
    deepEqual(server.requests, [
      "GET /api/v1",
      "PATCH /api/v1/namespaces/b/configmaps/a?fieldManager=test&force=true",
    ]);
    deepEqual(await client.get(refOf(object)), { ...object, status: {} });
  });

  it("puts what names no namespace into its own, and what has none nowhere", async () => {
    const own = new KubernetesClient(server.kubeconfig, "kube-system");
    await own.apply({ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "a" } }, "test");
    await own.apply({ apiVersion: "v1", kind: "Node", metadata: { name: "n" } }, "test");
    deepEqual([...server.objects.keys()], ["/api/v1/namespaces/kube-system/configmaps/a", "/api/v1/nodes/n"]);
  });

  it("lists a kind in one namespace or in all, each object with its kind", async () => {
    server.objects.set("/apis/apps/v1/namespaces/b/deployments/a", { metadata: { name: "a" } });
    const object = { apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "a" } };
    deepEqual(await client.list("apps/v1", "Deployment", "b"), [object]);
    deepEqual(await client.list("apps/v1", "Deployment", "c"), []);
    deepEqual(await client.list("apps/v1", "Deployment"), [object]);
  });

  it("annotates what is there and leaves what is not", async () => {
    server.objects.set("/api/v1/nodes/a", { metadata: { name: "a", annotations: { x: "1" } } });
    await client.annotate(node, { y: "2" });
    deepEqual(server.objects.get("/api/v1/nodes/a"), {
      metadata: { name: "a", annotations: { x: "1", y: "2" } },
    });
    await client.annotate({ ...node, name: "gone" }, { y: "2" });
    equal(server.objects.size, 1);
  });

  it("merges into what is there, takes out what is null, and leaves what is not there", async () => {
    server.objects.set("/api/v1/nodes/a", {
      metadata: { name: "a", finalizers: ["f"] },
      spec: { unschedulable: false, taints: [] },
    });
    await client.merge(node, { metadata: { finalizers: null }, spec: { unschedulable: true } });
    deepEqual(server.objects.get("/api/v1/nodes/a"), {
      metadata: { name: "a" },
      spec: { unschedulable: true, taints: [] },
    });
    await client.merge({ ...node, name: "gone" }, { spec: {} });
    await client.merge({ apiVersion: "x.io/v1", kind: "X", name: "x" }, { spec: {} });
    equal(server.objects.size, 1);
  });

  it("deletes what is there, and leaves what is not", async () => {
    server.objects.set("/api/v1/nodes/a", { metadata: { name: "a" } });
    await client.delete(node);
    deepEqual([...server.objects.keys()], []);
    await client.delete(node);
    await client.delete({ apiVersion: "x.io/v1", kind: "X", name: "x" });
  });

  it("answers with nothing for an object or a kind that is not there", async () => {
    equal(await client.get({ ...node, name: "gone" }), undefined);
    equal(await client.get({ apiVersion: "x.io/v1", kind: "X", name: "x" }), undefined);
    deepEqual(await client.list("x.io/v1", "X"), []);
  });

  it("refuses to apply a kind that is not served", async () => {
    await rejects(client.apply({ apiVersion: "x.io/v1", kind: "X", metadata: { name: "x" } }, "test"), {
      message: "Applying X x failed: the API server does not serve x.io/v1 X.",
    });
  });

  it("says what the API server said, and nothing else", async () => {
    server.override = (method) =>
      method === "PATCH" ? { status: 422, body: status('Node "a" is invalid: spec') } : undefined;
    await rejects(client.apply({ apiVersion: "v1", kind: "Node", metadata: { name: "a" } }, "test"), {
      message: 'Applying Node a failed: Node "a" is invalid: spec.',
    });
  });

  it("says what a proxy said, or the status where it said nothing", async () => {
    server.override = () => ({ status: 403, body: "go away\n" });
    await rejects(client.get(node), { message: "Reading Node a failed: go away." });
    server.override = () => ({ status: 403, body: "" });
    await rejects(client.get(node), { message: "Reading Node a failed: HTTP 403." });
  });

  it("asks again while the server is starting", async () => {
    server.objects.set("/api/v1/nodes/a", { metadata: { name: "a" } });
    server.override = () => (server.requests.length === 1 ? { status: 503, body: "starting" } : undefined);
    deepEqual(await client.get(node), { metadata: { name: "a" } });
    deepEqual(server.requests, ["GET /api/v1", "GET /api/v1", "GET /api/v1/nodes/a"]);
  });

  it("keeps the path of a server behind a proxy", async () => {
    const { server: url } = (JSON.parse(server.kubeconfig) as { clusters: [{ cluster: { server: string } }] })
      .clusters[0].cluster;
    const behind = new KubernetesClient(server.kubeconfig.replace(url, `${url}/k8s/clusters/c`));
    await behind.get(node).catch(() => undefined);
    deepEqual(server.requests, ["GET /k8s/clusters/c/api/v1"]);
  });

  it("says in one sentence that a server does not answer, without credentials", async () => {
    // Nothing listens on port 1 of 127.0.0.1.
    const lost = new KubernetesClient(kubeconfigOf("https://127.0.0.1:1"));
    await rejects(lost.get(node), {
      message: "Reading Node a failed: the API server at https://127.0.0.1:1 does not answer (ECONNREFUSED).",
    });
    await rejects(lost.list("v1", "Node"), { message: /^Listing Node failed: the API server at / });
    await rejects(lost.annotate(node, {}), { message: /^Changing Node a failed: the API server at / });
  });

  it("says by a code why a request failed", async () => {
    const code = (sent: Promise<unknown>) =>
      sent.then(String, (error: unknown) => (error as { code?: string }).code);
    for (const [status, expected] of [
      [401, "unauthorized"],
      [403, "forbidden"],
      [422, "refused"],
      [504, "unreachable"],
    ] as const) {
      server.override = () => ({ status, body: "no" });
      equal(await code(client.get(node)), expected);
    }
    equal(await code(new KubernetesClient(kubeconfigOf("https://127.0.0.1:1")).get(node)), "unreachable");
    equal(await code(new KubernetesClient("{}").get(node)), "kubeconfig");
    equal(await code(new KubernetesClient("a: b: c").get(node)), "kubeconfig");
    server.override = () => undefined;
    const unknown = { apiVersion: "x.io/v1", kind: "X", metadata: { name: "x" } };
    equal(await code(client.apply(unknown, "test")), "refused");
  });

  it("says what is wrong with a kubeconfig", async () => {
    await rejects(new KubernetesClient("{}").get(node), {
      message: "Reading Node a failed: the kubeconfig names no current cluster. Set its current-context.",
    });
    await rejects(new KubernetesClient("a: b: c").get(node), {
      message: /^Reading Node a failed: the kubeconfig is not valid: /,
    });
  });
});

describe("throwUnlessOwn", () => {
  const failure = (code: string) => Object.assign(new Error("Reading Node a failed: it says no."), { code });

  it("takes what is in a cluster of this project for gone with it", () => {
    doesNotThrow(() => {
      throwUnlessOwn(true, failure("unreachable"));
    });
  });

  for (const [code, remedy] of [
    [
      "unreachable",
      'Bring the cluster back and run again; if it is gone for good, "pulumi stack rm --force --preserve-config" forgets it.',
    ],
    [
      "unauthorized",
      'Where platform:cluster.kubeconfigFile is newer than the last run, run once with "--refresh=false".',
    ],
    [
      "kubeconfig",
      'Where platform:cluster.kubeconfigFile is newer than the last run, run once with "--refresh=false".',
    ],
    ["forbidden", "Give the user of the kubeconfig this permission and run again."],
  ] as const) {
    it(`takes nothing for gone in another cluster, nor where nobody knows whose it is: ${code}`, () => {
      for (const ownCluster of [false, undefined]) {
        throws(
          () => {
            throwUnlessOwn(ownCluster, failure(code));
          },
          { message: `Reading Node a failed: it says no. ${remedy}` },
        );
      }
    });
  }
});
