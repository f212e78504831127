import { deepEqual, equal, match } from "node:assert/strict";
import { connect, createServer, type AddressInfo } from "node:net";
import { textOf } from "../../core/findings/finding";
import { thisHost, type Host, type Need } from "../../core/host/host";
import { examine } from "../../core/needs/needs";
import type { PlatformConfig } from "../../core/settings/config";
import { FakeApiServer } from "./api-server";

const gib = 1024 ** 3;
const local = {
  ...{ stack: "local", owner: "platform/local" },
  cluster: {
    ...{ kind: "kind", name: "local", workers: 0, cni: "cilium", podSecurity: "baseline", ports: [] },
    ...{ podSubnet: "10.244.0.0/16", serviceSubnet: "10.96.0.0/16" },
    ...{ mounts: [], kubeadmConfigPatches: [], kubeconfig: "output", allowReplace: false },
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
  gitops: { tree: "/gitops", cluster: "local", requireClean: false },
  sops: { generate: "empty", identityFile: "/agekey", valuesRevision: 0 },
  release: { timeoutSeconds: 900 },
  hooks: { afterReady: [] },
  ...{ protect: false, directory: "/state/local" },
} as const satisfies PlatformConfig;
const withPorts: PlatformConfig = {
  ...local,
  cluster: {
    ...local.cluster,
    ports: [
      { containerPort: 30080, hostPort: 80, protocol: "TCP" },
      { containerPort: 30443, hostPort: 443, protocol: "TCP" },
    ],
  },
};
const withMirrors: PlatformConfig = {
  ...local,
  registry: { ...local.registry, mirrors: ["ghcr.io", "registry.lan:5000"] },
};
const prod: PlatformConfig = {
  ...local,
  cluster: { kind: "existing", kubeconfigFile: "/kubeconfig", loadBalancerCidr: "10.0.0.0/24", cni: "auto" },
  registry: { kind: "remote", repository: "ghcr.io/example/platform", insecure: false },
};

const ownerOfNodes =
  'docker ps --all --filter label=io.x-k8s.kind.cluster=local --format {{.Names}}={{.Label "platform.pulumi.com/owner"}}';
const ownerOfVolume =
  'docker volume inspect --format {{index .Labels "platform.pulumi.com/owner"}} platform-local-registry';

/** The command that asks for the ports that a container was asked to publish. */
const portsOf = (container: string) =>
  `docker inspect --type container --format {{range .HostConfig.PortBindings}}{{range .}}{{.HostPort}} {{end}}{{end}} ${container}`;

/** A machine that has everything; a command that is an Error fails with it. */
function host(lacks: {
  readonly commands?: Readonly<Record<string, string | Error>>;
  readonly files?: Readonly<Record<string, string>>;
  readonly taken?: readonly number[];
  readonly free?: Readonly<Record<string, number>>;
  /** What the API server says when it is asked whether it is ready. */
  readonly apiServer?: Error;
  /** `verb resource` that the user of the kubeconfig may not. */
  readonly forbidden?: readonly string[];
  readonly crane?: Error;
  /** Plugins of Pulumi that are not installed. */
  readonly plugins?: readonly string[];
  /** Hosts that answer. @default every host */
  readonly reachable?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** The programs "pulumi" on PATH. */
  readonly programs?: readonly string[];
}): Host {
  const commands: Record<string, string | Error> = {
    "/bin/pulumi version": "v3.259.0",
    "docker info --format {{.ServerVersion}}": "29.0.0",
    "docker info --format {{.DockerRootDir}}": "/docker\n",
    [ownerOfNodes]: "",
    [ownerOfVolume]: new Error("no such volume"),
    ...Object.fromEntries(
      ["registry", "registry-ghcr.io", "registry-registry.lan-5000"].map((name) => [
        portsOf(`platform-local-${name}`),
        new Error("no such container"),
      ]),
    ),
    [portsOf("local-control-plane")]: new Error("no such container"),
    ...lacks.commands,
  };
  const files: Record<string, string> = {
    "/proc/sys/fs/inotify/max_user_watches": "524288\n",
    "/proc/sys/fs/inotify/max_user_instances": "512\n",
    "/kubeconfig": "the kubeconfig",
    ...lacks.files,
  };
  const free: Record<string, number> = { "/docker": 50 * gib, ...lacks.free };
  return {
    run: (command, ...args) => {
      const answer =
        commands[[command, ...args].join(" ")] ?? new Error(`unexpected: ${command} ${args.join(" ")}`);
      return typeof answer === "string" ? Promise.resolve(answer) : Promise.reject(answer);
    },
    read: (path) => Promise.resolve(files[path]),
    portTaken: (port) => Promise.resolve(lacks.taken?.includes(port) ?? false),
    freeBytes: (path) => {
      const bytes = free[path];
      return bytes === undefined ? Promise.reject(new Error(`ENOENT ${path}`)) : Promise.resolve(bytes);
    },
    kubernetes: (kubeconfig) => ({
      ready: () =>
        kubeconfig !== "the kubeconfig" || lacks.apiServer !== undefined
          ? Promise.reject(lacks.apiServer ?? new Error(`another kubeconfig: ${kubeconfig}`))
          : Promise.resolve(),
      allows: (verb, _group, resource) =>
        Promise.resolve(
          verb === "*"
            ? lacks.forbidden === undefined
            : lacks.forbidden?.includes(`${verb} ${resource}`) !== true,
        ),
    }),
    plugin: (name) =>
      Promise.resolve({ name, version: "1.2.3", isInstalled: lacks.plugins?.includes(name) !== true }),
    programs: (name) => lacks.programs ?? [`/bin/${name}`],
    isReachable: (name) => Promise.resolve(lacks.reachable?.includes(name) ?? true),
    env: lacks.env ?? {},
    crane: (...args) =>
      lacks.crane === undefined && args.join(" ") === "ls ghcr.io/example/platform"
        ? Promise.resolve("")
        : Promise.reject(lacks.crane ?? new Error(`unexpected: ${args.join(" ")}`)),
  };
}

/** The check, the text and `rehearsable` of each need. */
function told(needs: readonly Need[]): unknown[] {
  return needs.map((need) => [need.check, textOf(need), need.rehearsable === true]);
}

const noCommand = (name: string) =>
  Object.assign(new Error(`Unable to execute "${name}": it is not on PATH.`), { code: "ENOENT" });

describe("doctor", () => {
  it("finds nothing on a machine that has everything", async () => {
    deepEqual(await examine(local, host({})), []);
  });

  it("takes the CLI behind the one of npm, which installs none without the internet", async () => {
    const commands = { "/npm/pulumi version": new Error("fetch failed"), "/opt/pulumi version": "v3.200.0" };
    const programs = ["/npm/pulumi", "/opt/pulumi"];
    deepEqual(await examine(local, host({ commands, programs })), []);
    deepEqual(told(await examine(local, host({ commands, programs: ["/npm/pulumi"], reachable: [] }))), [
      [
        "pulumi",
        "The Pulumi CLI is missing, and this machine cannot download it: get.pulumi.com does not answer. Connect this machine to the internet, set HTTPS_PROXY, or install it from https://www.pulumi.com/docs/install/.",
        true,
      ],
    ]);
  });

  describe("of a machine without plugins", () => {
    const plugins = ["kubernetes", "docker", "random", "command"];
    const offline = { plugins, reachable: [] };
    /** The plugins that are told. */
    const missing = async (config: PlatformConfig, lacks: Parameters<typeof host>[0]) =>
      (await examine(config, host(lacks))).map(
        ({ check, message }) => `${check} ${/\((.*)\)/.exec(message)?.[1] ?? message}`,
      );

    it("says nothing where Pulumi can download them, from either source", async () => {
      for (const reachable of [["github.com"], ["get.pulumi.com"]]) {
        deepEqual(await examine(local, host({ plugins, reachable })), []);
      }
    });

    it("names them, the reason and the ways to get them where Pulumi cannot", async () => {
      const docker = { ...offline, plugins: ["docker", "random"] };
      deepEqual(told(await examine(local, host(docker))), [
        [
          "plugins",
          'Plugins of Pulumi are missing (docker 1.2.3, random 1.2.3), and this machine cannot download them: neither github.com nor get.pulumi.com answers. Connect this machine to the internet, or set HTTPS_PROXY. Without the internet, run "pulumi plugin install resource docker 1.2.3 && pulumi plugin install resource random 1.2.3" on another machine and copy its ~/.pulumi/plugins to this one.',
          true,
        ],
      ]);
    });

    for (const [what, config, names] of [
      ["a local stack", local, "kubernetes 1.2.3, docker 1.2.3, random 1.2.3"],
      [
        "a stack with nothing on this machine",
        { ...prod, sops: { ...prod.sops, generate: "none" } },
        "kubernetes 1.2.3",
      ],
      [
        "a stack with hooks",
        { ...prod, hooks: { afterReady: ["true"] } },
        "kubernetes 1.2.3, random 1.2.3, command 1.2.3",
      ],
    ] as const) {
      it(`names those that ${what} uses`, async () => {
        deepEqual(await missing(config, offline), [`plugins ${names}`]);
      });
    }

    it("asks for them where Pulumi may not download, whatever answers", async () => {
      const env = { PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: "true" };
      deepEqual(told(await examine(local, host({ plugins: ["docker"], env }))), [
        [
          "plugins",
          'Plugins of Pulumi are missing (docker 1.2.3), and PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION forbids to download them. Unset that variable, or run "pulumi plugin install resource docker 1.2.3".',
          true,
        ],
      ]);
    });

    it("leaves a mirror of the user's own to Pulumi", async () => {
      const env = { PULUMI_PLUGIN_DOWNLOAD_URL_OVERRIDES: "^github=https://mirror.lan" };
      deepEqual(await examine(local, host({ ...offline, env })), []);
    });
  });

  it("asks nothing of Docker and the kernel where cluster and registry are elsewhere", async () => {
    const bare = host({
      commands: { "docker info --format {{.ServerVersion}}": noCommand("docker") },
      files: { "/proc/sys/fs/inotify/max_user_watches": "1" },
      ...{ taken: [5050], free: { "/docker": 0, "/": 0 } },
    });
    deepEqual(await examine(prod, bare), []);
    deepEqual(
      (await examine(prod, host({ commands: { "/bin/pulumi version": noCommand("pulumi") } }))).length,
      1,
    );
  });

  for (const [what, check, lacks, rehearsable, message] of [
    [
      "the Pulumi CLI",
      "pulumi",
      { commands: { "/bin/pulumi version": noCommand("pulumi") } },
      true,
      'The Pulumi CLI is not available: "pulumi version" fails, and the npm package "pulumi" could not install it. Install it from https://www.pulumi.com/docs/install/.',
    ],
    [
      "Docker",
      "docker",
      { commands: { "docker info --format {{.ServerVersion}}": noCommand("docker") } },
      true,
      'Docker is missing: there is no "docker" on PATH. Install Docker Engine from https://docs.docker.com/engine/install/.',
    ],
    [
      "a Docker that answers",
      "docker",
      {
        commands: {
          "docker info --format {{.ServerVersion}}": new Error('"docker info" failed: permission denied'),
        },
      },
      true,
      'Docker does not answer: "docker info" fails. Start it, and let this user reach it ("docker" group).',
    ],
    [
      "watches",
      "inotify",
      { files: { "/proc/sys/fs/inotify/max_user_watches": "8192\n" } },
      false,
      'fs.inotify.max_user_watches is 8192: Cilium and the kubelet need 524288. Run "sudo sysctl fs.inotify.max_user_watches=524288".',
    ],
    [
      "watch instances",
      "inotify",
      { files: { "/proc/sys/fs/inotify/max_user_instances": "128\n" } },
      false,
      'fs.inotify.max_user_instances is 128: Cilium and the kubelet need 512. Run "sudo sysctl fs.inotify.max_user_instances=512".',
    ],
    [
      "room on Docker's disk",
      "disk",
      { free: { "/docker": 3.25 * gib } },
      false,
      'The disk of Docker\'s images has 3.3 GiB free: the cluster needs 12.0 GiB. Free some, such as with "docker system prune".',
    ],
    [
      "the registry's port",
      "port",
      { taken: [5050] },
      false,
      "Port 5050 on 127.0.0.1 is in use: platform-local-registry needs it. Stop the program that listens there, or set platform:registry.port.",
    ],
    [
      "a Kind cluster of its own",
      "kind-cluster",
      { commands: { [ownerOfNodes]: "local-control-plane=platform/local\nlocal-worker=\n" } },
      false,
      'A Kind cluster "local" is there and is not of "platform/local" (its node local-worker lacks the label platform.pulumi.com/owner). Set platform:cluster.name to another name, or delete it with "kind delete cluster --name local".',
    ],
    [
      "a volume of its own",
      "volume",
      { commands: { [ownerOfVolume]: "\n" } },
      false,
      'A volume "platform-local-registry" is there and is not of "platform/local" (it lacks the label platform.pulumi.com/owner). Copy its data to another place, remove it with "docker volume rm platform-local-registry", and run again.',
    ],
    [
      "a volume that no other stack has",
      "volume",
      { commands: { [ownerOfVolume]: "platform/dev\n" } },
      false,
      'A volume "platform-local-registry" is there and is not of "platform/local" (it has the label platform.pulumi.com/owner=platform/dev). Copy its data to another place, remove it with "docker volume rm platform-local-registry", and run again.',
    ],
  ] as const) {
    it(`finds that ${what} is missing, and how to get it`, async () => {
      deepEqual(told(await examine(local, host(lacks))), [[check, message, rehearsable]]);
    });
  }

  for (const [what, check, lacks, message] of [
    [
      "its kubeconfig",
      "cluster",
      { files: { "/kubeconfig": undefined as unknown as string } },
      "The kubeconfig /kubeconfig is missing, or this user cannot read it. Set platform:cluster.kubeconfigFile to an admin kubeconfig of the cluster.",
    ],
    [
      "a kubeconfig with a current context",
      "cluster",
      {
        apiServer: Object.assign(new Error(), {
          reason: "the kubeconfig names no current cluster. Set its current-context.",
        }),
      },
      "The cluster of kubeconfig /kubeconfig is out of reach: the kubeconfig names no current cluster. Set its current-context. Start the cluster or the VPN to it, or set platform:cluster.kubeconfigFile to an admin kubeconfig of the cluster.",
    ],
    [
      "an API server that answers",
      "cluster",
      {
        apiServer: Object.assign(new Error(), {
          reason: "the API server at https://10.0.0.1:6443 does not answer (ECONNREFUSED).",
        }),
      },
      "The cluster of kubeconfig /kubeconfig is out of reach: the API server at https://10.0.0.1:6443 does not answer (ECONNREFUSED). Start the cluster or the VPN to it, or set platform:cluster.kubeconfigFile to an admin kubeconfig of the cluster.",
    ],
    [
      "permissions",
      "cluster",
      { forbidden: ["create namespaces", "bind clusterroles"] },
      "The user of kubeconfig /kubeconfig may not create namespaces, bind clusterroles, which the first layer needs. Bind it to the ClusterRole cluster-admin, or set platform:cluster.kubeconfigFile to an admin kubeconfig of the cluster.",
    ],
    [
      "a login to its registry",
      "registry",
      {
        crane: new Error(
          '"crane ls ghcr.io/example/platform" failed: Error: reading tags for ghcr.io/example/platform: GET https://ghcr.io/token?scope=x: DENIED: requested access to the resource is denied',
        ),
      },
      'The registry ghcr.io refuses ghcr.io/example/platform to this user. Run "docker login ghcr.io" with an account that may push to it, or set platform:registry.repository.',
    ],
    [
      "a registry that answers",
      "registry",
      {
        crane: new Error(
          '"crane ls ghcr.io/example/platform" failed: Error: reading tags for ghcr.io/example/platform: Get "https://ghcr.io/v2/": dial tcp: lookup ghcr.io: no such host',
        ),
      },
      "The registry ghcr.io does not answer for ghcr.io/example/platform: dial tcp: lookup ghcr.io: no such host. Correct platform:registry.repository or platform:registry.insecure, or find out why this machine cannot reach the registry.",
    ],
  ] as const) {
    it(`finds that a stack elsewhere lacks ${what}, with one sentence and a remedy`, async () => {
      deepEqual(told(await examine(prod, host(lacks))), [[check, message, true]]);
    });
  }

  it("takes a user with all that layer 0 needs, though not with every right, and a repository that is not yet there", async () => {
    deepEqual(await examine(prod, host({ forbidden: ["delete nodes"] })), []);
    deepEqual(await examine(prod, host({ crane: new Error("failed: Error: NAME_UNKNOWN: not known") })), []);
    const insecure = { ...prod, registry: { ...prod.registry, insecure: true } } as PlatformConfig;
    const asked: string[] = [];
    const crane = (...args: string[]) => {
      asked.push(args.join(" "));
      return Promise.resolve("");
    };
    deepEqual(await examine(insecure, { ...host({}), crane }), []);
    deepEqual(asked, ["--insecure ls ghcr.io/example/platform"]);
  });

  it("asks a real API server whether it is ready, and what its user may do", async () => {
    const api = await FakeApiServer.start({});
    try {
      const answers: Record<string, string> = { "/readyz": "ok", "/version": "{}" };
      api.override = (_, path) =>
        answers[path] === undefined
          ? path.endsWith("/selfsubjectaccessreviews")
            ? { status: 201, body: JSON.stringify({ status: { allowed: false } }) }
            : undefined
          : { status: 200, body: answers[path] };
      const real = { ...host({ files: { "/kubeconfig": api.kubeconfig } }), kubernetes: thisHost.kubernetes };
      const [refused] = await examine(prod, real);
      match(
        refused?.message ?? "",
        /^The user of kubeconfig \/kubeconfig may not create namespaces, patch secrets, /,
      );
      api.override = (_, path) =>
        path === "/readyz" ? { status: 401, body: JSON.stringify({ message: "Unauthorized" }) } : undefined;
      const [unknown] = await examine(prod, real);
      match(unknown?.message ?? "", /is out of reach: Unauthorized\.$/);
      const broken = { ...real, read: () => Promise.resolve("kind: [") };
      match((await examine(prod, broken))[0]?.message ?? "", /is out of reach: the kubeconfig is not valid/);
      const empty = { ...real, read: () => Promise.resolve("apiVersion: v1\nkind: Config\n") };
      match((await examine(prod, empty))[0]?.message ?? "", /is out of reach: the kubeconfig/);
    } finally {
      api.stop();
    }
  }).timeout(60_000);

  it("finds everything at once", async () => {
    const lacks = {
      commands: {
        "/bin/pulumi version": noCommand("pulumi"),
        "docker info --format {{.ServerVersion}}": noCommand("docker"),
      },
      taken: [5050],
    };
    equal((await examine(local, host(lacks))).length, 3);
  });

  for (const [what, config, taken, container, setting] of [
    ["the registry", local, 5050, "platform-local-registry", "platform:registry.port"],
    ["a mirror", withMirrors, 5051, "platform-local-registry-ghcr.io", "platform:registry.port"],
    [
      "a mirror of a host with a port",
      withMirrors,
      5052,
      "platform-local-registry-registry.lan-5000",
      "platform:registry.port",
    ],
    ["the cluster", withPorts, 443, "local-control-plane", "platform:cluster.ports"],
  ] as const) {
    it(`finds that a port of ${what} is taken, unless its own container holds it`, async () => {
      const held = (ports: string | Error) =>
        examine(config, host({ commands: { [portsOf(container)]: ports }, taken: [taken] }));
      const message = `Port ${taken} on 127.0.0.1 is in use: ${container} needs it. Stop the program that listens there, or set ${setting}.`;
      deepEqual(told(await held(new Error("no such container"))), [["port", message, false]]);
      deepEqual(told(await held("1 \n")), [["port", message, false]]);
      deepEqual(await held(`1 ${taken} \n`), []);
    });
  }

  it("looks at no port that nothing of the stack listens on", async () => {
    deepEqual(await examine(local, host({ taken: [80, 443, 5049, 5051] })), []);
    deepEqual(await examine(withMirrors, host({ taken: [5053] })), []);
    deepEqual(await examine(withPorts, host({ taken: [30080, 30443] })), []);
  });

  it("takes a listener of TCP for no reason against a port of UDP", async () => {
    const ports = [{ containerPort: 30053, hostPort: 53, protocol: "UDP" as const }];
    const dns = { ...local, cluster: { ...local.cluster, ports } };
    deepEqual(await examine(dns, host({ taken: [53] })), []);
  });

  it("takes its own cluster and volume for no strangers, those of an earlier version among them", async () => {
    for (const owner of ["platform/local", "platform"]) {
      const own = {
        [ownerOfNodes]: `local-control-plane=${owner}\nlocal-worker=${owner}\n`,
        [ownerOfVolume]: `${owner}\n`,
      };
      deepEqual(await examine(local, host({ commands: own })), []);
    }
  });

  it("asks nothing else of a Docker that is missing", async () => {
    const asked: string[] = [];
    const bare = host({ commands: { "docker info --format {{.ServerVersion}}": noCommand("docker") } });
    const findings = await examine(withPorts, {
      ...bare,
      run: (...command) => {
        asked.push(command.join(" "));
        return bare.run(...command);
      },
    });
    deepEqual(asked.sort(), ["/bin/pulumi version", "docker info --format {{.ServerVersion}}"]);
    equal(findings.length, 1);
  });

  it("asks of a Docker with a registry alone nothing about clusters, and the other way round", async () => {
    const unasked = { [ownerOfNodes]: "x=", [ownerOfVolume]: "" };
    const registryAlone = { ...local, cluster: prod.cluster };
    deepEqual(
      (await examine(registryAlone, host({ commands: unasked }))).map(({ message }) => message.slice(0, 8)),
      ["A volume"],
    );
    const clusterAlone = { ...local, registry: prod.registry };
    deepEqual(
      (await examine(clusterAlone, host({ commands: unasked }))).map(({ message }) => message.slice(0, 6)),
      ["A Kind"],
    );
  });

  it("looks at the root's disk where Docker's is not known, and at no watches where there are none to set", async () => {
    const blind = {
      commands: { "docker info --format {{.DockerRootDir}}": new Error("no") },
      ...{ free: { "/": 50 * gib } },
    };
    deepEqual(await examine(local, host(blind)), []);
    deepEqual(await examine(local, host({ ...blind, free: { "/": gib } })).then((found) => found.length), 1);
    deepEqual(await examine(local, { ...host({}), read: () => Promise.resolve(undefined) }), []);
  });
});

/** A port below 1024 that nobody listens on. */
async function freePrivilegedPort(): Promise<number> {
  for (let port = 1023; port > 0; port--) {
    const listener = await new Promise<boolean>((resolve) => {
      const socket = connect(port, "127.0.0.1");
      socket.once("connect", () => {
        socket.destroy();
        resolve(true);
      });
      socket.once("error", () => {
        resolve(false);
      });
    });
    if (!listener) return port;
  }
  throw new Error("there is no free port below 1024");
}

/** Runs `action` without root's rights, where this process has them. */
async function asOrdinaryUser<T>(action: () => Promise<T>): Promise<T> {
  if (process.geteuid?.() !== 0) return action();
  process.seteuid?.(65534);
  try {
    return await action();
  } finally {
    process.seteuid?.(0);
  }
}

describe("this machine", () => {
  it("tells a port that is taken from one that is free", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    equal(await thisHost.portTaken(port), true);
    await new Promise((resolve) => server.close(resolve));
    equal(await thisHost.portTaken(port), false);
  });

  it("does not take a port that only root may bind, as Docker does, for one that is taken", async () => {
    const port = await freePrivilegedPort();
    equal(await asOrdinaryUser(() => thisHost.portTaken(port)), false);
  });

  it("has no file where there is none, and some room", async () => {
    equal(await thisHost.read("/no/such/file"), undefined);
    equal((await thisHost.freeBytes("/")) >= 0, true);
  });
});
