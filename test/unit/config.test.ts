import { deepEqual, equal, throws } from "node:assert/strict";
import {
  ageKeyOf,
  asPulumiConfig,
  parseConfig,
  readStackConfig,
  readStackFile,
} from "../../core/settings/config";
import { homedir } from "node:os";
import { join } from "node:path";
import { rejects } from "node:assert";

const context = {
  ...{ name: "platform", project: "/project" },
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
      ...{ stack: "local", owner: "platform/local" },
      cluster: {
        ...{ kind: "kind", name: "local", workers: 0, cni: "cilium", podSecurity: "baseline" },
        ...{ podSubnet: "10.244.0.0/16", serviceSubnet: "10.96.0.0/16" },
        ...{ ports: [], mounts: [], kubeadmConfigPatches: [], kubeconfig: "output", allowReplace: false },
      },
      registry: {
        kind: "local",
        port: 5050,
        image: "registry:3",
        mirrors: [],
        airGapped: false,
        keep: 20,
        retain: false,
      },
      domain: "platform.localhost",
      gitops: { tree: "/project/gitops", cluster: "local", requireClean: false },
      sops: {
        generate: "none",
        identityFile: "/home/me/.config/platform/age/local.agekey",
        valuesRevision: 0,
      },
      release: { timeoutSeconds: 900 },
      hooks: { afterReady: [] },
      protect: false,
      directory: "/home/me/state/platform/local",
    });
  });

  it("leaves what the stack leaves on this machine in the user's own state where no other place is named", () => {
    const { directory } = parseConfig("local", asPulumiConfig(local), { ...context, env: {} });
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
        'Reading the config of stack "local" failed: "platform:sops.ageKey" is no text and no secret. Set it to an age identity, with "npx platform secrets init".',
    });
  });

  it("reads where the definitions for a rehearsal are", () => {
    deepEqual(parse({ "platform:rehearsal": { definitions: "crds" } }).rehearsal, {
      definitions: "/project/crds",
    });
    throws(() => parse({ "platform:rehearsal": { definition: "crds" } }), {
      message:
        'Reading the config of stack "local" failed: there is no setting "platform:rehearsal.definition". Did you mean "platform:rehearsal.definitions"?',
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
      "a key that is like no other",
      { "platform:colour": "x" },
      /there is no setting "platform:colour"\. Here are .*"platform:domain"/,
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
      "an unknown network of an existing cluster",
      {
        "platform:cluster": {
          kind: "existing",
          kubeconfigFile: "x",
          loadBalancerCidr: "10.0.0.0/24",
          cni: "kindnet",
        },
      },
      /"platform:cluster\.cni" is "kindnet"\. Set it to "auto"(,| or) "cilium" or "existing"/,
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
    ["containerPort", "hostPort", "protocol", "listenAddress"]
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
    [
      cluster({ podSubnet: 10 }),
      '"platform:cluster.podSubnet" is 10. Set it to a subnet such as "10.244.0.0/16".',
    ],
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
    [cluster({ ports: [443] }), '"platform:cluster.ports[0]" is 443. Set it to a map.'],
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
      '"platform:cluster.ports[0].listenAddress" is 127. Set it to an IP address.',
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
      '"platform:cluster.mounts[0].containerPath" is "a". Set it to an absolute path below "/".',
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
      '"platform:cluster.kubeadmConfigPatches[0]" is {"kind":"InitConfiguration"}. Set it to a YAML text that holds a map.',
    ],
    [
      registry({ mirrors: "ghcr.io" }),
      '"platform:registry.mirrors" is "ghcr.io". Set it to a list of texts.',
    ],
    [registry({ mirrors: [""] }), '"platform:registry.mirrors[0]" is "". Set it to a text.'],
    [
      registry({ mirrors: ["ghcr.io", "https://quay.io"] }),
      '"platform:registry.mirrors[1]" is "https://quay.io". Set it to the host of a registry, such as "ghcr.io".',
    ],
    [
      registry({ mirrors: ["ghcr.io/example"] }),
      '"platform:registry.mirrors[0]" is "ghcr.io/example". Set it to the host of a registry, such as "ghcr.io".',
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
      '"platform:sops.recipients[0]" is "age1short". Set it to a recipient such as "age-keygen -y" prints it: "age1…".',
    ],
    [
      { "platform:sops": { recipients: [recipient("q"), recipient("q")] } },
      `"platform:sops.recipients" is ["${recipient("q")}","${recipient("q")}"]. Set it to each recipient once.`,
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
      '"platform:chartMirror" is not set. Set it to a directory or registry that holds the charts of the seeds: "platform:registry.airGapped" is true.',
    ],
    [
      { "platform:registry": { kind: "remote", repository: "ghcr.io/x", keep: 3 } },
      'there is no setting "platform:registry.keep". Here are "platform:registry.kind", "platform:registry.repository", "platform:registry.insecure", "platform:registry.pullUsername", "platform:registry.pullPassword".',
    ],
    ...[
      "not a domain!",
      "Example.com",
      "*.example.com",
      "example..com",
      "-a.com",
      "https://example.com",
      "10.0.0.1",
      "example.com.",
      `${"a".repeat(64)}.com`,
      `${"a.".repeat(95)}com`,
    ].map(
      (domain) =>
        [
          { "platform:domain": domain },
          `"platform:domain" is "${domain}". Set it to a DNS name in lower case, such as "example.com".`,
        ] as const,
    ),
    ...["10.0.0/33 oops", "10.0.0.0", "10.0.0.0/16/8", "10.0.0.0/0", "10.0.0.0/33", "10.0.0.1-10.0.0.9"].map(
      (loadBalancerCidr) =>
        [
          { "platform:cluster": { kind: "existing", kubeconfigFile: "x", loadBalancerCidr } },
          `"platform:cluster.loadBalancerCidr" is "${loadBalancerCidr}". Set it to a subnet such as "10.20.0.0/24".`,
        ] as const,
    ),
    ...[
      "https://ghcr.io/x:latest",
      "oci://ghcr.io/x",
      "ghcr.io/x:latest",
      "ghcr.io",
      "ghcr.io/",
      "ghcr.io/X",
      "GHCR.io/x",
      "example/platform",
      "ghcr.io:99999/x",
      "ghcr.io/x/../y",
      `ghcr.io/x@sha256:${"0".repeat(64)}`,
    ].map(
      (repository) =>
        [
          { "platform:registry": { kind: "remote", repository } },
          `"platform:registry.repository" is "${repository}". Set it to a host and a path, such as "ghcr.io/example/platform", without scheme and tag.`,
        ] as const,
    ),
    ...["..", ".", "../prod", "a/b", "a b"].map(
      (directory) =>
        [
          { "platform:gitops": { cluster: directory } },
          `"platform:gitops.cluster" is "${directory}". Set it to the name of a directory below "clusters".`,
        ] as const,
    ),
    ...[
      "https://charts.example.com",
      "oci://",
      "oci://x y",
      "oci://registry.lan/charts:1",
      "s3://bucket",
    ].map(
      (chartMirror) =>
        [
          { "platform:chartMirror": chartMirror },
          `"platform:chartMirror" is "${chartMirror}". Set it to a directory, or a prefix such as "oci://registry.example.com/charts".`,
        ] as const,
    ),
    ...["Mine", "a_b", "-a", "a-", "a".repeat(51)].map(
      (name) =>
        [
          cluster({ name }),
          `"platform:cluster.name" is "${name}". Set it to up to 50 of a-z, 0-9, "-" and ".", with a letter or digit at both ends.`,
        ] as const,
    ),
    [
      cluster({ nodeImage: "kindest/node:" }),
      '"platform:cluster.nodeImage" is "kindest/node:". Set it to an image such as "kindest/node:v1.37.0".',
    ],
    [
      registry({ image: "docker.io/Registry:3" }),
      '"platform:registry.image" is "docker.io/Registry:3". Set it to an image such as "registry:3".',
    ],
    [
      registry({ mirrors: ["-"] }),
      '"platform:registry.mirrors[0]" is "-". Set it to the host of a registry, such as "ghcr.io".',
    ],
    [
      cluster({ podSubnet: "10.96.0.0/14" }),
      '"platform:cluster.podSubnet" is "10.96.0.0/14". Set it to a subnet apart from "platform:cluster.serviceSubnet" (10.96.0.0/16).',
    ],
    [
      cluster({ serviceSubnet: "10.244.8.0/24" }),
      '"platform:cluster.serviceSubnet" is "10.244.8.0/24". Set it to a subnet apart from "platform:cluster.podSubnet" (10.244.0.0/16).',
    ],
    [
      cluster({ podSubnet: "10.1.0.0/16", serviceSubnet: "10.1.0.0/16" }),
      '"platform:cluster.podSubnet" is "10.1.0.0/16". Set it to a subnet apart from "platform:cluster.serviceSubnet" (10.1.0.0/16).',
    ],
    [
      cluster({ podSubnet: "10.1.0.0/24", workers: 2 }),
      '"platform:cluster.podSubnet" is "10.1.0.0/24". Set it to a subnet from /8 to /22: each of the 3 nodes takes a /24.',
    ],
    [
      cluster({ serviceSubnet: "172.16.0.0/30" }),
      '"platform:cluster.serviceSubnet" is "172.16.0.0/30". Set it to a subnet from /12 to /29, which the API server takes.',
    ],
    [
      cluster({ ports: [{ containerPort: 1, hostPort: 1, listenAddress: "localhost" }] }),
      '"platform:cluster.ports[0].listenAddress" is "localhost". Set it to an IP address.',
    ],
    [
      cluster({
        ports: [
          { containerPort: 1, hostPort: 80 },
          { containerPort: 2, hostPort: 80, listenAddress: "0.0.0.0" },
        ],
      }),
      '"platform:cluster.ports[1].hostPort" is 80. Set it to another port: "platform:cluster.ports[0].hostPort" takes this one.',
    ],
    [
      cluster({ ports: [{ containerPort: 1, hostPort: 5050 }] }),
      '"platform:cluster.ports[0].hostPort" is 5050. Set it to another port: "platform:registry.port" takes this one.',
    ],
    [
      {
        ...cluster({ ports: [{ containerPort: 1, hostPort: 5051 }] }),
        ...registry({ mirrors: ["ghcr.io"] }),
      },
      '"platform:cluster.ports[0].hostPort" is 5051. Set it to another port: "platform:registry.mirrors (ghcr.io)" takes this one.',
    ],
    [
      cluster({
        mounts: [
          { hostPath: "/a", containerPath: "/x" },
          { hostPath: "/b", containerPath: "/x/" },
        ],
      }),
      '"platform:cluster.mounts[1].containerPath" is "/x/". Set it to a path that no other mount has.',
    ],
    [
      cluster({ mounts: [{ hostPath: "/a", containerPath: "/" }] }),
      '"platform:cluster.mounts[0].containerPath" is "/". Set it to an absolute path below "/".',
    ],
    ...["kind: [", "x"].map(
      (patch) =>
        [
          cluster({ kubeadmConfigPatches: ["kind: InitConfiguration", patch] }),
          `"platform:cluster.kubeadmConfigPatches[1]" is "${patch}". Set it to a YAML text that holds a map.`,
        ] as const,
    ),
    [{ "platform:protect": "always" }, '"platform:protect" is "always". Set it to true or false.'],
  ] as const) {
    it(`refuses ${JSON.stringify(settings)}, and says what it takes`, () => {
      throws(() => parse(settings), {
        message: `Reading the config of stack "local" failed: ${message}`,
      });
    });
  }

  /** What a stack's settings are refused with, one sentence a line. */
  const faults = (settings: Record<string, unknown>) => {
    try {
      parseConfig("local", asPulumiConfig(settings), context);
      return [];
    } catch (error) {
      return (error as Error).message
        .split("\n")
        .map((line) => line.replace('Reading the config of stack "local" failed: ', ""));
    }
  };

  it("names a misspelt key and the one that it means, and not that the latter is missing", () => {
    for (const [wrong, meant] of [
      ["platform:domian", "platform:domain"],
      ["platform:Domain", "platform:domain"],
      ["platfrom:domain", "platform:domain"],
    ] as const) {
      const { "platform:domain": domain, ...others } = local;
      deepEqual(faults({ ...others, [wrong]: domain }), [
        `there is no setting "${wrong}". Did you mean "${meant}"?`,
      ]);
    }
    deepEqual(faults({ ...local, "platform:registry": { kidn: "local", port: 1 } }), [
      'there is no setting "platform:registry.kidn". Did you mean "platform:registry.kind"?',
    ]);
    deepEqual(faults({ ...local, "platform:cluster": { kind: "kind", prots: [] } }), [
      'there is no setting "platform:cluster.prots". Did you mean "platform:cluster.ports"?',
    ]);
  });

  it("tells everything that is wrong at once, the unknown keys first", () => {
    deepEqual(
      faults({
        "platform:cluster": { kind: "existing", loadBalancerCidr: "oops" },
        "platform:registry": { kind: "remote", repository: "https://ghcr.io/x:latest", insceure: true },
        "platform:release": { timeoutSeconds: 5 },
        "platform:domian": "example.com",
      }),
      [
        'there is no setting "platform:domian". Did you mean "platform:domain"?',
        'there is no setting "platform:registry.insceure". Did you mean "platform:registry.insecure"?',
        '"platform:cluster.kubeconfigFile" is not set. Set it to a text.',
        '"platform:cluster.loadBalancerCidr" is "oops". Set it to a subnet such as "10.20.0.0/24".',
        '"platform:registry.repository" is "https://ghcr.io/x:latest". Set it to a host and a path, such as "ghcr.io/example/platform", without scheme and tag.',
        '"platform:release.timeoutSeconds" is 5. Set it to a whole number from 10 to 7200.',
      ],
    );
  });

  it("tells what does not go together beside what is wrong by itself", () => {
    deepEqual(
      faults({
        ...local,
        ...cluster({ workers: -1, podSubnet: "10.96.0.0/16", mounts: [{ containerPath: "/a" }], port: 1 }),
        ...registry({ airGapped: true, keep: "all" }),
      }),
      [
        'there is no setting "platform:cluster.port". Did you mean "platform:cluster.ports"?',
        '"platform:cluster.workers" is -1. Set it to a whole number from 0 to 20.',
        '"platform:cluster.mounts[0].hostPath" is not set. Set it to a text.',
        '"platform:registry.keep" is "all". Set it to a whole number from 1 to 10000.',
        '"platform:cluster.podSubnet" is "10.96.0.0/16". Set it to a subnet apart from "platform:cluster.serviceSubnet" (10.96.0.0/16).',
        '"platform:chartMirror" is not set. Set it to a directory or registry that holds the charts of the seeds: "platform:registry.airGapped" is true.',
      ],
    );
    deepEqual(faults({ ...local, ...registry({ airGapped: true }), "platform:chartMirror": "s3://x" }), [
      '"platform:chartMirror" is "s3://x". Set it to a directory, or a prefix such as "oci://registry.example.com/charts".',
    ]);
  });

  it("takes a key without a value for one that is not set", () => {
    deepEqual(
      parse({ ...cluster({ name: null, kubernetesVersion: null }), "platform:release": null }),
      parse({}),
    );
    deepEqual(faults({ ...local, ...cluster({ prots: null }), "platform:colour": null }), [
      'there is no setting "platform:colour". Here are "platform:cluster", "platform:registry", "platform:domain", "platform:gitops", "platform:sops", "platform:release", "platform:hooks", "platform:protect", "platform:rehearsal", "platform:chartMirror".',
      'there is no setting "platform:cluster.prots". Did you mean "platform:cluster.ports"?',
    ]);
    deepEqual(faults({ ...local, "platform:domain": null, "platform:cluster": null }), [
      '"platform:cluster.kind" is not set. Set it to "kind" or "existing".',
      '"platform:domain" is not set. Set it to a text.',
    ]);
  });

  it("takes what is unusual and right", () => {
    for (const settings of [
      { "platform:domain": "lan" },
      { "platform:domain": "xn--bcher-kva.example" },
      { "platform:cluster": { kind: "existing", kubeconfigFile: "x", loadBalancerCidr: "fd00::/112" } },
      { "platform:registry": { kind: "remote", repository: "registry.lan:5000/a/b__c/d-e.f" } },
      { "platform:registry": { kind: "remote", repository: "127.0.0.1:5000/platform" } },
      { "platform:chartMirror": "oci://127.0.0.1:5000/" },
      registry({ image: `registry.lan:5000/registry:3@sha256:${"0".repeat(64)}` }),
      cluster({ podSubnet: "10.1.0.0/24", serviceSubnet: "10.2.0.0/29" }),
      cluster({
        ports: [
          { containerPort: 1, hostPort: 53, protocol: "UDP" },
          { containerPort: 1, hostPort: 53 },
          { containerPort: 1, hostPort: 53, listenAddress: "127.0.0.2" },
          { containerPort: 1, hostPort: 5050, listenAddress: "::1" },
        ],
      }),
    ]) {
      deepEqual(faults({ ...local, ...settings }), [], JSON.stringify(settings));
    }
  });

  it("refuses an unknown stack, naming those there are", async () => {
    await rejects(
      readStackFile("staging", join(__dirname, "..", "..")),
      /no Pulumi\.staging\.yaml\. Stacks here are .*local/,
    );
  });
});
