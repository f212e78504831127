import { deepEqual, equal } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { lastAddresses } from "../../core/cluster/kind/addresses";
import { apiServerFiles, defaultNodeImage, kindConfig } from "../../core/cluster/kind/config";
import { readGoModule } from "../../tools/go-module";

describe("load-balancer addresses of a Docker network", () => {
  for (const [subnet, last] of [
    ["172.18.0.0/16", "172.18.255.0/24"],
    ["10.0.0.0/8", "10.255.255.0/24"],
    ["192.168.64.0/20", "192.168.79.0/24"],
    ["10.1.0.0/22", "10.1.3.0/24"],
    ["10.1.0.0/23", "10.1.1.128/25"],
    ["192.168.1.0/24", "192.168.1.192/26"],
    ["192.168.1.128/25", "192.168.1.224/27"],
    ["192.168.1.16/28", "192.168.1.28/30"],
  ] as const) {
    it(`of ${subnet} are ${last}`, () => {
      equal(lastAddresses(subnet), last);
    });
  }
});

interface KindNodeConfig {
  readonly role: string;
  readonly extraMounts: readonly object[];
  readonly extraPortMappings?: readonly object[];
}

interface KindConfig {
  readonly networking: object;
  readonly kubeadmConfigPatches: readonly string[];
  readonly nodes: readonly KindNodeConfig[];
}

const configOf = (args: Parameters<typeof kindConfig>[0]) => parse(kindConfig(args)) as KindConfig;
const directory = "/state/local";
const apiServerMounts = [{ hostPath: "/state/local/audit", containerPath: "/var/log/kubernetes" }];

describe("kindConfig", () => {
  it("is one control plane without CNI and kube-proxy, both of which Cilium is", () => {
    const { kubeadmConfigPatches, ...config } = configOf({ directory });
    deepEqual(config, {
      kind: "Cluster",
      apiVersion: "kind.x-k8s.io/v1alpha4",
      networking: {
        ...{ disableDefaultCNI: true, kubeProxyMode: "none" },
        ...{ podSubnet: "10.244.0.0/16", serviceSubnet: "10.96.0.0/16" },
      },
      nodes: [{ role: "control-plane", extraMounts: apiServerMounts, extraPortMappings: [] }],
    });
    equal(kubeadmConfigPatches.length, 2);
    equal(kindConfig({ directory, cni: "cilium" }), kindConfig({ directory }));
  });

  it("leaves CNI and kube-proxy to Kind when it is told to", () => {
    deepEqual(configOf({ directory, cni: "kindnet" }).networking, {
      ...{ podSubnet: "10.244.0.0/16", serviceSubnet: "10.96.0.0/16" },
    });
  });

  it("takes the subnets of the network", () => {
    deepEqual(
      configOf({ directory, cni: "kindnet", podSubnet: "10.1.0.0/16", serviceSubnet: "10.2.0.0/16" })
        .networking,
      { podSubnet: "10.1.0.0/16", serviceSubnet: "10.2.0.0/16" },
    );
  });

  it("leads ports of 127.0.0.1 to the control plane, unless it is told another address", () => {
    const { nodes } = configOf({
      ...{ directory, workers: 1 },
      ports: [
        { containerPort: 30080, hostPort: 80 },
        { containerPort: 30053, hostPort: 53, protocol: "UDP", listenAddress: "0.0.0.0" },
      ],
    });
    deepEqual(nodes[0]?.extraPortMappings, [
      { listenAddress: "127.0.0.1", protocol: "TCP", containerPort: 30080, hostPort: 80 },
      { listenAddress: "0.0.0.0", protocol: "UDP", containerPort: 30053, hostPort: 53 },
    ]);
    equal(nodes[1]?.extraPortMappings, undefined);
  });

  it("puts directories of this machine into every node, and those of the API server into its own", () => {
    const mounts = [{ hostPath: "/data", containerPath: "/mnt/data", readOnly: true }];
    deepEqual(
      configOf({ directory, workers: 2, mounts }).nodes.map(({ role, extraMounts }) => [role, extraMounts]),
      [
        ["control-plane", [...apiServerMounts, ...mounts]],
        ["worker", mounts],
        ["worker", mounts],
      ],
    );
  });

  it("tells both versions of kubeadm's configuration where policy, log and admission are", () => {
    const flags = {
      "admission-control-config-file": "/etc/kubernetes/platform/admission.yaml",
      "audit-policy-file": "/etc/kubernetes/platform/audit-policy.yaml",
      "audit-log-path": "/var/log/kubernetes/audit.log",
      "audit-log-maxage": "30",
      "audit-log-maxbackup": "5",
      "audit-log-maxsize": "50",
    };
    const extraVolumes = [
      {
        ...{ name: "platform", hostPath: "/etc/kubernetes/platform", mountPath: "/etc/kubernetes/platform" },
        ...{ readOnly: true, pathType: "Directory" },
      },
      {
        ...{ name: "audit", hostPath: "/var/log/kubernetes", mountPath: "/var/log/kubernetes" },
        pathType: "DirectoryOrCreate",
      },
    ];
    deepEqual(
      configOf({ directory }).kubeadmConfigPatches.map((patch) => parse(patch) as unknown),
      [
        {
          ...{ apiVersion: "kubeadm.k8s.io/v1beta3", kind: "ClusterConfiguration" },
          apiServer: { extraArgs: flags, extraVolumes },
        },
        {
          ...{ apiVersion: "kubeadm.k8s.io/v1beta4", kind: "ClusterConfiguration" },
          apiServer: {
            extraArgs: Object.entries(flags).map(([name, value]) => ({ name, value })),
            extraVolumes,
          },
        },
      ],
    );
  });

  it("adds the patches of the stack after its own", () => {
    const patches = ["kind: InitConfiguration\n", "kind: JoinConfiguration\n"];
    const own = configOf({ directory }).kubeadmConfigPatches;
    deepEqual(configOf({ directory, kubeadmConfigPatches: patches }).kubeadmConfigPatches, [
      ...own,
      ...patches,
    ]);
  });
});

describe("apiServerFiles", () => {
  const files = (podSecurity?: "privileged" | "baseline" | "restricted") =>
    Object.fromEntries(
      Object.entries(apiServerFiles(podSecurity === undefined ? {} : { podSecurity })).map(([path, text]) => [
        path,
        parse(text) as unknown,
      ]),
    );

  it("are where the API server finds them", () => {
    deepEqual(Object.keys(files()).sort(), [
      "/etc/kubernetes/platform/admission.yaml",
      "/etc/kubernetes/platform/audit-policy.yaml",
    ]);
  });

  it("keep who changed what, and never what a Secret or anything else holds", () => {
    const policy = files()["/etc/kubernetes/platform/audit-policy.yaml"] as {
      rules: { level: string; verbs?: string[]; resources?: { group: string; resources?: string[] }[] }[];
    };
    deepEqual(policy, {
      apiVersion: "audit.k8s.io/v1",
      kind: "Policy",
      omitStages: ["RequestReceived"],
      rules: [
        { level: "None", verbs: ["get", "list", "watch"] },
        { level: "None", resources: [{ group: "coordination.k8s.io", resources: ["leases"] }] },
        { level: "None", resources: [{ group: "", resources: ["events"] }] },
        { level: "None", resources: [{ group: "events.k8s.io" }] },
        { level: "Metadata" },
      ],
    });
    // Level Request or RequestResponse would write the values of Secrets into the log.
    deepEqual([...new Set(policy.rules.map(({ level }) => level))].sort(), ["Metadata", "None"]);
  });

  for (const [podSecurity, level] of [
    [undefined, "baseline"],
    ["privileged", "privileged"],
    ["restricted", "restricted"],
  ] as const) {
    it(`enforce level "${level}" of Pod Security for "${podSecurity ?? "no setting"}", but not where the node's own pods are`, () => {
      deepEqual(files(podSecurity)["/etc/kubernetes/platform/admission.yaml"], {
        apiVersion: "apiserver.config.k8s.io/v1",
        kind: "AdmissionConfiguration",
        plugins: [
          {
            name: "PodSecurity",
            configuration: {
              apiVersion: "pod-security.admission.config.k8s.io/v1",
              kind: "PodSecurityConfiguration",
              defaults: {
                ...{ enforce: level, "enforce-version": "latest", warn: level, "warn-version": "latest" },
              },
              exemptions: { namespaces: ["kube-system", "local-path-storage"] },
            },
          },
        ],
      });
    });
  }
});

describe("defaultNodeImage", () => {
  it("is the one of the pinned Kind", function () {
    this.timeout(120_000);
    const { directory: cwd, versions } = readGoModule(join(__dirname, "..", "..", "tools", "cli"));
    const module = `sigs.k8s.io/kind@${versions.get("sigs.k8s.io/kind") ?? ""}`;
    const answer = execFileSync("go", ["mod", "download", "-json", module], { cwd, encoding: "utf8" });
    const { Dir } = JSON.parse(answer) as { Dir: string };
    const source = readFileSync(join(Dir, "pkg", "apis", "config", "defaults", "image.go"), "utf8");
    equal(defaultNodeImage, /^const Image = "(.+)"$/m.exec(source)?.[1]);
  });
});
