import { deepEqual, equal, throws } from "node:assert/strict";
import { ageKeyOf, asPulumiConfig, parseConfig, readStackConfig, readStackFile } from "../../config";
import { homedir } from "node:os";
import { join } from "node:path";
import { rejects } from "node:assert";

const context = {
  project: "/project",
  env: { XDG_CONFIG_HOME: "/home/me/.config", XDG_STATE_HOME: "/home/me/state" },
};
const local = {
  "platform:cluster": { kind: "kind" },
  "platform:registry": { kind: "local" },
  "platform:domain": "platform.localhost",
};
const parse = (settings: Record<string, unknown>) =>
  parseConfig("local", asPulumiConfig({ ...local, ...settings }), context);

/** The form of a recipient; nobody has its key. */
const recipient = (letter: string) => `age1${letter.repeat(58)}`;

describe("config", () => {
  it("fills in what a stack does not say", () => {
    deepEqual(parse({}), {
      stack: "local",
      cluster: {
        ...{ kind: "kind", name: "local", workers: 0, cni: "cilium", podSecurity: "baseline" },
        ...{ ports: [], mounts: [], kubeadmConfigPatches: [], kubeconfig: "output", allowReplace: false },
      },
      registry: { kind: "local", port: 5050, mirrors: [], airGapped: false, keep: 20, retain: false },
      domain: "platform.localhost",
      gitops: { tree: "/project/gitops", cluster: "local", requireClean: false },
      sops: { generate: "none", identityFile: "/home/me/.config/platform/age/local.agekey" },
      release: { timeoutSeconds: 900 },
      protect: false,
      directory: "/home/me/state/platform/local",
    });
  });

  it("leaves what the stack leaves on this machine in the user's own state where no other place is named", () => {
    const { directory } = parseConfig("local", asPulumiConfig(local), { project: "/project", env: {} });
    equal(directory, join(homedir(), ".local", "state", "platform", "local"));
  });

  it("lets one run replace the cluster without a setting", () => {
    const env = { ...context.env, PLATFORM_ALLOW_REPLACE: "true" };
    const { cluster } = parseConfig("local", asPulumiConfig(local), { ...context, env });
    equal(cluster.kind === "kind" && cluster.allowReplace, true);
  });

  it("reads every setting of a cluster that is made", () => {
    const { cluster } = parse({
      "platform:cluster": {
        ...{ kind: "kind", name: "mine", workers: 2, nodeImage: "kindest/node:v1.36.3" },
        ...{ podSubnet: "10.1.0.0/16", serviceSubnet: "10.2.0.0/16", cni: "kindnet" },
        ...{ podSecurity: "restricted", kubeconfig: "merge", allowReplace: true },
        ports: [
          { containerPort: 30080, hostPort: 80 },
          { containerPort: 30053, hostPort: 53, protocol: "UDP", listenAddress: "0.0.0.0" },
        ],
        mounts: [
          { hostPath: "data", containerPath: "/data" },
          { hostPath: "/srv", containerPath: "/srv", readOnly: true },
          { hostPath: "~/x", containerPath: "/x" },
        ],
        kubeadmConfigPatches: ["kind: InitConfiguration\n"],
      },
    });
    deepEqual(cluster, {
      ...{ kind: "kind", name: "mine", workers: 2, nodeImage: "kindest/node:v1.36.3" },
      ...{ podSubnet: "10.1.0.0/16", serviceSubnet: "10.2.0.0/16", cni: "kindnet" },
      ...{ podSecurity: "restricted", kubeconfig: "merge", allowReplace: true },
      ports: [
        { containerPort: 30080, hostPort: 80, protocol: "TCP" },
        { containerPort: 30053, hostPort: 53, protocol: "UDP", listenAddress: "0.0.0.0" },
      ],
      mounts: [
        { hostPath: "/project/data", containerPath: "/data", readOnly: false },
        { hostPath: "/srv", containerPath: "/srv", readOnly: true },
        { hostPath: join(homedir(), "x"), containerPath: "/x", readOnly: false },
      ],
      kubeadmConfigPatches: ["kind: InitConfiguration\n"],
    });
  });

  for (const version of ["1.36.3", "v1.36.3"]) {
    it(`takes version "${version}" of Kubernetes for the node image of that name`, () => {
      const { cluster } = parse({ "platform:cluster": { kind: "kind", kubernetesVersion: version } });
      equal(cluster.kind === "kind" && cluster.nodeImage, "kindest/node:v1.36.3");
    });
  }

  it("reads every setting of a registry on this machine", () => {
    const registry = {
      ...{ kind: "local", port: 65533, mirrors: ["docker.io", "registry.lan:5000"], airGapped: true },
      ...{ keep: 1, retain: true, image: "registry:3.0.0" },
    };
    deepEqual(parse({ "platform:registry": registry, "platform:chartMirror": "/charts" }).registry, registry);
  });

  it("reads every setting of a stack's secrets", () => {
    const sops = {
      ...{ generate: "none", identityFile: "/keys/a.agekey", ageKeyCommand: ["pass", "show", "a b"] },
      ...{
        recipients: [recipient("q"), recipient("p")],
        recoveryRecipient: recipient("z"),
        valuesRevision: 3,
      },
    };
    deepEqual(parse({ "platform:sops": sops }).sops, sops);
    deepEqual(parse({ "platform:sops": { ageKeyCommand: "pass show  platform/dev" } }).sops.ageKeyCommand, [
      "pass",
      "show",
      "platform/dev",
    ]);
  });

  it("keeps the identity of a config secret out of the settings, sealed or not", () => {
    const key = "AGE-SECRET-KEY-1X";
    for (const ageKey of [key, { secure: "v1:abc" }]) {
      equal(JSON.stringify(parse({ "platform:sops": { ageKey } })).includes("ageKey"), false);
    }
    equal(ageKeyOf(asPulumiConfig({ "platform:sops": { ageKey: key } })), key);
    equal(ageKeyOf(asPulumiConfig({ "platform:sops": { ageKey: { secure: "v1:abc" } } })), undefined);
    equal(ageKeyOf({}), undefined);
    throws(() => parse({ "platform:sops": { ageKey: [key] } }), {
      message:
        'Reading the config of stack "local" failed: "platform:sops.ageKey" is no text and no secret. Set it to an age identity, with "npm run secrets -- init".',
    });
  });

  it("protects a stack that says so", () => {
    equal(parse({ "platform:protect": true }).protect, true);
  });

  it("takes charts out of a directory or a registry for those of an air-gapped stack", () => {
    const airGapped = { "platform:registry": { kind: "local", airGapped: true } };
    const mirror = (chartMirror: string) =>
      parse({ ...airGapped, "platform:chartMirror": chartMirror }).chartMirror;
    equal(mirror("charts"), "/project/charts");
    equal(mirror("oci://registry.lan/charts"), "oci://registry.lan/charts");
  });

  it("reads every stack of the project", async () => {
    const project = join(__dirname, "..", "..");
    for (const [stack, kind] of [
      ["local", "kind"],
      ["dev", "existing"],
      ["prod", "existing"],
    ] as const) {
      equal((await readStackConfig(stack, project, {})).cluster.kind, kind);
    }
  });

  it("leaves the settings of other packages alone", () => {
    equal(parse({ "aws:region": "eu" }).stack, "local");
  });

  for (const [name, settings, message] of [
    [
      "an unknown key",
      { "platform:domian": "x" },
      /there is no setting "platform:domian"\. Here are .*"platform:domain"/,
    ],
    [
      "an unknown nested key",
      { "platform:registry": { kind: "local", prot: 1 } },
      /no setting "platform:registry\.prot"/,
    ],
    [
      "a text for a number",
      { "platform:registry": { kind: "local", port: "high" } },
      /"platform:registry\.port" is "high"\. Set it to a whole number from 1 to 65535/,
    ],
    ["a number out of range", { "platform:registry": { kind: "local", port: 70000 } }, /is 70000/],
    [
      "an unknown kind of cluster",
      { "platform:cluster": { kind: "cloud" } },
      /"platform:cluster\.kind" is "cloud"\. Set it to "kind" or "existing"/,
    ],
    [
      "a list for a map",
      { "platform:cluster": ["kind"] },
      /"platform:cluster" is \["kind"\]\. Set it to a map/,
    ],
    [
      "a missing key",
      { "platform:cluster": { kind: "existing" } },
      /"platform:cluster\.kubeconfigFile" is not set/,
    ],
    [
      "a setting of another kind of cluster",
      { "platform:cluster": { kind: "kind", kubeconfigFile: "x" } },
      /no setting "platform:cluster\.kubeconfigFile"/,
    ],
  ] as const) {
    it(`refuses ${name}, naming it`, () => {
      throws(() => parse(settings), message);
    });
  }

  const cluster = (settings: object) => ({ "platform:cluster": { kind: "kind", ...settings } });
  const registry = (settings: object) => ({ "platform:registry": { kind: "local", ...settings } });
  const portKeys = (index: number) =>
    ["listenAddress", "containerPort", "hostPort", "protocol"]
      .map((key) => `"platform:cluster.ports[${index}].${key}"`)
      .join(", ");
  const port = "a whole number from 1 to 65535";

  for (const [settings, message] of [
    [
      cluster({ podSubnet: "10.1.0.0" }),
      '"platform:cluster.podSubnet" is "10.1.0.0". Set it to a subnet such as "10.244.0.0/16".',
    ],
    [
      cluster({ serviceSubnet: "fd00::/108" }),
      '"platform:cluster.serviceSubnet" is "fd00::/108". Set it to a subnet such as "10.244.0.0/16".',
    ],
    [
      cluster({ podSubnet: "10.300.0.0/16" }),
      '"platform:cluster.podSubnet" is "10.300.0.0/16". Set it to a subnet such as "10.244.0.0/16".',
    ],
    [
      cluster({ podSubnet: "10.1.0.0/33" }),
      '"platform:cluster.podSubnet" is "10.1.0.0/33". Set it to a subnet such as "10.244.0.0/16".',
    ],
    [cluster({ podSubnet: 10 }), '"platform:cluster.podSubnet" is 10. Set it to a text.'],
    [cluster({ cni: "calico" }), '"platform:cluster.cni" is "calico". Set it to "cilium" or "kindnet".'],
    [
      cluster({ podSecurity: "strict" }),
      '"platform:cluster.podSecurity" is "strict". Set it to "privileged" or "baseline" or "restricted".',
    ],
    [
      cluster({ kubeconfig: "file" }),
      '"platform:cluster.kubeconfig" is "file". Set it to "output" or "merge".',
    ],
    [
      cluster({ kubernetesVersion: "latest" }),
      '"platform:cluster.kubernetesVersion" is "latest". Set it to a version such as "1.37.0".',
    ],
    [
      cluster({ kubernetesVersion: "1.37" }),
      '"platform:cluster.kubernetesVersion" is "1.37". Set it to a version such as "1.37.0".',
    ],
    [cluster({ kubernetesVersion: 1.37 }), '"platform:cluster.kubernetesVersion" is 1.37. Set it to a text.'],
    [
      cluster({ kubernetesVersion: "1.37.0", nodeImage: "kindest/node:v1.36.3" }),
      '"platform:cluster.kubernetesVersion" is "1.37.0". Set it to nothing, or remove "platform:cluster.nodeImage".',
    ],
    [cluster({ ports: { a: 1 } }), '"platform:cluster.ports" is {"a":1}. Set it to a list of maps.'],
    [cluster({ ports: [443] }), '"platform:cluster.ports" is [443]. Set it to a list of maps.'],
    [
      cluster({ ports: [{ hostPort: 443 }] }),
      `"platform:cluster.ports[0].containerPort" is not set. Set it to ${port}.`,
    ],
    [
      cluster({ ports: [{ containerPort: 443 }] }),
      `"platform:cluster.ports[0].hostPort" is not set. Set it to ${port}.`,
    ],
    [
      cluster({ ports: [{ containerPort: 443, hostPort: 0 }] }),
      `"platform:cluster.ports[0].hostPort" is 0. Set it to ${port}.`,
    ],
    [
      cluster({ ports: [{ containerPort: 65536, hostPort: 1 }] }),
      `"platform:cluster.ports[0].containerPort" is 65536. Set it to ${port}.`,
    ],
    [
      cluster({ ports: [{ containerPort: 1, hostPort: 1, protocol: "SCTP" }] }),
      '"platform:cluster.ports[0].protocol" is "SCTP". Set it to "TCP" or "UDP".',
    ],
    [
      cluster({ ports: [{ containerPort: 1, hostPort: 1, listenAddress: 127 }] }),
      '"platform:cluster.ports[0].listenAddress" is 127. Set it to a text.',
    ],
    [
      cluster({
        ports: [
          { containerPort: 1, hostPort: 1 },
          { containerPort: 2, hostPort: 2, hostIP: "::" },
        ],
      }),
      `there is no setting "platform:cluster.ports[1].hostIP". Here are ${portKeys(1)}.`,
    ],
    [cluster({ mounts: "/data" }), '"platform:cluster.mounts" is "/data". Set it to a list of maps.'],
    [
      cluster({ mounts: [{ containerPath: "/a" }] }),
      '"platform:cluster.mounts[0].hostPath" is not set. Set it to a text.',
    ],
    [
      cluster({ mounts: [{ hostPath: "/a" }] }),
      '"platform:cluster.mounts[0].containerPath" is not set. Set it to a text.',
    ],
    [
      cluster({ mounts: [{ hostPath: "/a", containerPath: "a" }] }),
      '"platform:cluster.mounts[0].containerPath" is "a". Set it to an absolute path.',
    ],
    [
      cluster({ mounts: [{ hostPath: "/a", containerPath: "/a", readOnly: "yes" }] }),
      '"platform:cluster.mounts[0].readOnly" is "yes". Set it to true or false.',
    ],
    [
      cluster({ mounts: [{ hostPath: "/a", containerPath: "/a", mode: "rw" }] }),
      'there is no setting "platform:cluster.mounts[0].mode". Here are "platform:cluster.mounts[0].hostPath", "platform:cluster.mounts[0].containerPath", "platform:cluster.mounts[0].readOnly".',
    ],
    [
      cluster({ kubeadmConfigPatches: [{ kind: "InitConfiguration" }] }),
      '"platform:cluster.kubeadmConfigPatches" is [{"kind":"InitConfiguration"}]. Set it to a list of texts.',
    ],
    [
      registry({ mirrors: "ghcr.io" }),
      '"platform:registry.mirrors" is "ghcr.io". Set it to a list of texts.',
    ],
    [registry({ mirrors: [""] }), '"platform:registry.mirrors" is [""]. Set it to a list of texts.'],
    [
      registry({ mirrors: ["ghcr.io", "https://quay.io"] }),
      '"platform:registry.mirrors" is "https://quay.io". Set it to hosts of registries, such as "ghcr.io".',
    ],
    [
      registry({ mirrors: ["ghcr.io/example"] }),
      '"platform:registry.mirrors" is "ghcr.io/example". Set it to hosts of registries, such as "ghcr.io".',
    ],
    [
      registry({ mirrors: ["ghcr.io", "quay.io", "ghcr.io"] }),
      '"platform:registry.mirrors" is ["ghcr.io","quay.io","ghcr.io"]. Set it to each host once.',
    ],
    [
      registry({ port: 65534, mirrors: ["a.io", "b.io"] }),
      '"platform:registry.port" is 65534. Set it to a whole number from 1 to 65533.',
    ],
    [registry({ keep: 0 }), '"platform:registry.keep" is 0. Set it to a whole number from 1 to 10000.'],
    [registry({ keep: 1.5 }), '"platform:registry.keep" is 1.5. Set it to a whole number from 1 to 10000.'],
    [
      { "platform:sops": { recipients: ["age1short"] } },
      '"platform:sops.recipients" is ["age1short"]. Set it to recipients, each once, such as "age-keygen -y" prints them: "age1…".',
    ],
    [
      { "platform:sops": { recipients: [recipient("q"), recipient("q")] } },
      `"platform:sops.recipients" is ["${recipient("q")}","${recipient("q")}"]. Set it to recipients, each once, such as "age-keygen -y" prints them: "age1…".`,
    ],
    [
      { "platform:sops": { recipients: [recipient("q")], recoveryRecipient: recipient("q") } },
      `"platform:sops.recoveryRecipient" is "${recipient("q")}". Set it to the "age1…" of a key that is not among the recipients.`,
    ],
    [
      { "platform:sops": { valuesRevision: -1 } },
      '"platform:sops.valuesRevision" is -1. Set it to a whole number from 0 to 1000000.',
    ],
    [
      { "platform:sops": { ageKeyCommand: { pass: 1 } } },
      '"platform:sops.ageKeyCommand" is {"pass":1}. Set it to a list of texts.',
    ],
    [registry({ retain: "yes" }), '"platform:registry.retain" is "yes". Set it to true or false.'],
    [registry({ airGapped: 1 }), '"platform:registry.airGapped" is 1. Set it to true or false.'],
    [
      registry({ airGapped: true }),
      '"platform:registry.airGapped" is true, but the charts of the seeds come from elsewhere. Set "platform:chartMirror" to a directory or registry that holds them.',
    ],
    [
      { "platform:registry": { kind: "remote", repository: "ghcr.io/x", keep: 3 } },
      'there is no setting "platform:registry.keep". Here are "platform:registry.kind", "platform:registry.repository", "platform:registry.insecure".',
    ],
    [{ "platform:protect": "always" }, '"platform:protect" is "always". Set it to true or false.'],
  ] as const) {
    it(`refuses ${JSON.stringify(settings)}, and says what it takes`, () => {
      throws(() => parse(settings), {
        message: `Reading the config of stack "local" failed: ${message}`,
      });
    });
  }

  it("refuses an unknown stack, naming those there are", async () => {
    await rejects(
      readStackFile("staging", join(__dirname, "..", "..")),
      /no Pulumi\.staging\.yaml\. Stacks here are .*local/,
    );
  });
});
