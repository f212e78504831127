import { deepEqual, equal } from "node:assert/strict";
import { createServer, type AddressInfo } from "node:net";
import { examine, thisHost, type Host } from "../../commands/doctor";
import type { PlatformConfig } from "../../config";

const gib = 1024 ** 3;
const local: PlatformConfig = {
  stack: "local",
  cluster: { kind: "kind", name: "local", workers: 0 },
  registry: { kind: "local", port: 5050 },
  domain: "platform.localhost",
  gitops: { tree: "/gitops", cluster: "local", requireClean: false },
  sops: { generate: "empty", identityFile: "/agekey" },
  release: { timeoutSeconds: 900 },
};
const prod: PlatformConfig = {
  ...local,
  cluster: { kind: "existing", kubeconfigFile: "/kubeconfig", loadBalancerCidr: "10.0.0.0/24" },
  registry: { kind: "remote", repository: "ghcr.io/example/platform", insecure: false },
};

/** A machine that has everything; a command that is an Error fails with it. */
function host(lacks: {
  readonly commands?: Readonly<Record<string, string | Error>>;
  readonly files?: Readonly<Record<string, string>>;
  readonly taken?: readonly number[];
  readonly free?: Readonly<Record<string, number>>;
}): Host {
  const commands: Record<string, string | Error> = {
    "pulumi version": "v3.259.0",
    "docker info --format {{.ServerVersion}}": "29.0.0",
    "docker info --format {{.DockerRootDir}}": "/docker\n",
    "docker port platform-local-registry": new Error("no such container"),
    ...lacks.commands,
  };
  const files: Record<string, string> = {
    "/proc/sys/fs/inotify/max_user_watches": "524288\n",
    "/proc/sys/fs/inotify/max_user_instances": "512\n",
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
  };
}

const noCommand = (name: string) => new Error(`Unable to execute "${name}": it is not on PATH.`);

describe("doctor", () => {
  it("finds nothing on a machine that has everything", async () => {
    deepEqual(await examine(local, host({})), []);
  });

  it("asks for nothing but Pulumi where cluster and registry are elsewhere", async () => {
    const bare = host({
      commands: { "docker info --format {{.ServerVersion}}": noCommand("docker") },
      files: { "/proc/sys/fs/inotify/max_user_watches": "1" },
      ...{ taken: [5050], free: { "/docker": 0, "/": 0 } },
    });
    deepEqual(await examine(prod, bare), []);
    deepEqual((await examine(prod, host({ commands: { "pulumi version": noCommand("pulumi") } }))).length, 1);
  });

  for (const [what, lacks, rehearsable, message] of [
    [
      "the Pulumi CLI",
      { commands: { "pulumi version": noCommand("pulumi") } },
      true,
      'The Pulumi CLI cannot be had: "pulumi version" fails, and the npm package "pulumi" could not install it. Install it from https://www.pulumi.com/docs/install/.',
    ],
    [
      "Docker",
      { commands: { "docker info --format {{.ServerVersion}}": noCommand("docker") } },
      true,
      'Docker is missing: there is no "docker" on PATH. Install Docker Engine from https://docs.docker.com/engine/install/.',
    ],
    [
      "a Docker that answers",
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
      { files: { "/proc/sys/fs/inotify/max_user_watches": "8192\n" } },
      false,
      'fs.inotify.max_user_watches is 8192: Cilium and the kubelet need 524288. Run "sudo sysctl fs.inotify.max_user_watches=524288".',
    ],
    [
      "watch instances",
      { files: { "/proc/sys/fs/inotify/max_user_instances": "128\n" } },
      false,
      'fs.inotify.max_user_instances is 128: Cilium and the kubelet need 512. Run "sudo sysctl fs.inotify.max_user_instances=512".',
    ],
    [
      "room on Docker's disk",
      { free: { "/docker": 3.25 * gib } },
      false,
      'The disk of Docker\'s images has 3.3 GiB free: the cluster needs 12.0 GiB. Free some, such as with "docker system prune".',
    ],
    [
      "the registry's port",
      { taken: [5050] },
      false,
      'Port 5050 on 127.0.0.1 is taken: the registry of stack "local" needs it. Stop what listens there, or set platform:registry.port.',
    ],
  ] as const) {
    it(`finds that ${what} is missing, and how to get it`, async () => {
      deepEqual(await examine(local, host(lacks)), [{ message, rehearsable }]);
    });
  }

  it("finds everything at once", async () => {
    const lacks = {
      commands: {
        "pulumi version": noCommand("pulumi"),
        "docker info --format {{.ServerVersion}}": noCommand("docker"),
      },
      taken: [5050],
    };
    equal((await examine(local, host(lacks))).length, 3);
  });

  it("takes the registry's own container for no stranger", async () => {
    const own = {
      commands: { "docker port platform-local-registry": "5000/tcp -> 127.0.0.1:5050" },
      taken: [5050],
    };
    deepEqual(await examine(local, host(own)), []);
    const other = {
      commands: { "docker port platform-local-registry": "5000/tcp -> 127.0.0.1:5051" },
      taken: [5050],
    };
    equal((await examine(local, host(other))).length, 1);
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

describe("this machine", () => {
  it("tells a port that is taken from one that is free", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    equal(await thisHost.portTaken(port), true);
    await new Promise((resolve) => server.close(resolve));
    equal(await thisHost.portTaken(port), false);
  });

  it("has no file where there is none, and some room", async () => {
    equal(await thisHost.read("/no/such/file"), undefined);
    equal((await thisHost.freeBytes("/")) >= 0, true);
  });
});
