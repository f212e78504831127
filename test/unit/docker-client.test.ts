import { deepEqual, equal, rejects } from "node:assert/strict";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTcpServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { KindCli } from "../../clients/kind/client";
import { answers, docker, DockerCli, type ContainerSpec } from "../../clients/docker/client";
import { fakeTools, temporaryDirectory, withEnvironment } from "./temporary";

/** What `docker` and `kind` were called with: one line a call, each argument in brackets. */
interface Called<T> {
  readonly value: T;
  readonly calls: readonly string[];
  /** What they were handed on standard input, one after the other. */
  readonly input: string;
}

/** Runs `action` against a `docker` and a `kind` that are these scripts, `$log` in them being a directory. */
async function against<T>(
  scripts: { readonly docker?: string; readonly kind?: string },
  action: () => Promise<T>,
): Promise<Called<T>> {
  const log = temporaryDirectory();
  const tool = (name: string, script = "") =>
    `log=${log}; { printf ${name}; printf '[%s]' "$@"; echo; } >> $log/calls; ${script}`;
  const tools = fakeTools({ docker: tool("docker", scripts.docker), kind: tool("kind", scripts.kind) });
  const read = (file: string) => (existsSync(join(log, file)) ? readFileSync(join(log, file), "utf8") : "");
  const value = await withEnvironment(tools, action);
  return { value, calls: read("calls").trimEnd().split("\n"), input: read("input") };
}

const says = (value: unknown) => `echo '${JSON.stringify(value)}'`;
const fails = (message: string) => `echo '${message}' >&2; exit 1`;

const prune = (network: string) =>
  `docker[image][prune][--all][--force][--filter][label=platform.pulumi.com/network=${network}]`;

const spec: ContainerSpec = {
  name: "registry",
  owner: "platform/local",
  image: "sha256:image",
  network: "platform-local",
  port: { container: 5000, host: 5050 },
  volume: { name: "data", path: "/var/lib/registry" },
  env: { A: "1 2", B: "" },
};

/** What the Docker CLI writes when its engine cannot be reached, by its version. */
const silences = {
  "of a stopped engine":
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
  "of a stopped engine, as Docker 29 says it":
    "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if the daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory",
  "of a host that is not known":
    'error during connect: Get "http://engine:2375/v1.50/containers/x/json": dial tcp: lookup engine: no such host',
  "of a socket that this user may not open":
    "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
};

describe("docker", () => {
  for (const [what, silence] of Object.entries(silences)) {
    it(`says in one sentence that the engine does not answer, ${what}`, async () => {
      await against({ docker: fails(silence) }, () =>
        rejects(docker("ps", "--all", "--quiet"), {
          message: `Asking Docker for "ps --all" failed: the engine does not answer (${silence.replace(/[.?]+$/, "")}). Start it, let this user reach it, and run again.`,
        }),
      );
    });

    it(`finds nothing gone because of a silence ${what}`, async () => {
      await against({ docker: fails(silence) }, async () => {
        const cli = new DockerCli();
        await rejects(cli.container("x"), /the engine does not answer/);
        await rejects(cli.network("x"), /the engine does not answer/);
        await rejects(new KindCli().nodes("x"), /the engine does not answer/);
        await rejects(new KindCli().readFiles("x", "/y"), /the engine does not answer/);
      });
    });
  }

  it("says what Docker said of anything else", async () => {
    await against({ docker: fails("Error response from daemon: no") }, () =>
      rejects(docker("start", "x"), { message: '"docker start x" failed: Error response from daemon: no' }),
    );
  });

  it("says that it is missing", async () => {
    await withEnvironment({ ...fakeTools({}), PATH: temporaryDirectory() }, () =>
      rejects(new DockerCli().container("x"), {
        message: 'Unable to execute "docker": it is not on PATH. Install it.',
      }),
    );
  });
});

describe("DockerCli", () => {
  const cli = new DockerCli();

  it("finds a container with its labels and status", async () => {
    const found = [{ Config: { Labels: { a: "b" } }, State: { Status: "paused" } }];
    const { value, calls } = await against({ docker: says(found) }, () => cli.container("x"));
    deepEqual(value, { labels: { a: "b" }, status: "paused" });
    deepEqual(calls, ["docker[inspect][--type][container][x]"]);
  });

  it("finds no container and no network where there is none", async () => {
    const gone = async (message: string, action: () => Promise<unknown>) =>
      (await against({ docker: `echo '[]'; ${fails(message)}` }, action)).value;
    equal(await gone("Error: No such container: x", () => cli.container("x")), undefined);
    equal(
      await gone("Error response from daemon: No such container: x", () => cli.container("x")),
      undefined,
    );
    equal(await gone("Error response from daemon: network x not found", () => cli.network("x")), undefined);
    equal(await gone("Error: No such network: x", () => cli.network("x")), undefined);
  });

  it("does not take any other failure for one", async () => {
    await against({ docker: fails("Error response from daemon: the disk is full") }, () =>
      rejects(cli.container("x"), {
        message: '"docker inspect --type" failed: Error response from daemon: the disk is full',
      }),
    );
  });

  it("finds a network with its labels and its IPv4 subnet", async () => {
    const network = (config: unknown) => says([{ Labels: { a: "b" }, IPAM: { Config: config } }]);
    const both = network([{ Subnet: "fc00:1::/64" }, { Subnet: "172.18.0.0/16" }]);
    const { value, calls } = await against({ docker: both }, () => cli.network("x"));
    deepEqual(value, { labels: { a: "b" }, subnet: "172.18.0.0/16" });
    deepEqual(calls, ["docker[inspect][--type][network][x]"]);
    for (const config of [null, [], [{ Subnet: "fc00:1::/64" }]]) {
      const none = await against({ docker: network(config) }, () => cli.network("x"));
      deepEqual(none.value, { labels: { a: "b" }, subnet: undefined });
    }
  });

  it("runs a container in the background, published on 127.0.0.1 only", async () => {
    const { calls } = await against({}, () => cli.run(spec, { l: "1", m: "2" }));
    deepEqual(calls, [
      "docker[run][--detach][--restart][unless-stopped][--name][registry][--network][platform-local][--volume][data:/var/lib/registry][--publish][127.0.0.1:5050:5000][--label][l=1][--label][m=2][--env][A=1 2][--env][B=][sha256:image]",
    ]);
  });

  describe("of a registry", () => {
    const found = [
      {
        Image: "sha256:image",
        Config: { Entrypoint: ["/entrypoint.sh"], Cmd: ["/etc/distribution/config.yml"] },
      },
    ];
    const inspected = (said: string) => `case "$1" in inspect) ${says(found)} ;; *) ${said} ;; esac`;

    it("counts the garbage in the container, with the program and the configuration of its image", async () => {
      const said = 'echo "2 blobs marked, 7 blobs and 0 manifests eligible for deletion"';
      const { value, calls } = await against({ docker: inspected(said) }, () => cli.garbage("x"));
      equal(value, 7);
      equal(
        calls[1],
        "docker[exec][x][/entrypoint.sh][garbage-collect][--delete-untagged=false][--dry-run][/etc/distribution/config.yml]",
      );
      await against({ docker: inspected("echo nothing") }, () =>
        rejects(cli.garbage("x"), { message: '"registry garbage-collect" of x counts no blobs.' }),
      );
    });

    it("collects the garbage beside the container, on its volumes and without a network", async () => {
      const { calls } = await against({ docker: inspected("") }, () => cli.collectGarbage("x"));
      equal(
        calls[1],
        "docker[run][--rm][--network][none][--volumes-from][x][sha256:image][garbage-collect][--delete-untagged=false][/etc/distribution/config.yml]",
      );
    });
  });

  it("reads what a container wrote last, on whichever stream", async () => {
    const { value, calls } = await against({ docker: "echo out; echo err >&2" }, () => cli.logs("x"));
    equal(value, "out\nerr\n");
    deepEqual(calls, ["docker[logs][--tail][5][x]"]);
  });

  for (const [what, action, call] of [
    ["stops a container", () => cli.stop("x"), "docker[stop][x]"],
    ["starts a container", () => cli.start("x"), "docker[start][x]"],
    ["unpauses a container", () => cli.unpause("x"), "docker[unpause][x]"],
    ["removes a container, its named volumes not", () => cli.removeContainer("x"), "docker[rm][--force][x]"],
    [
      "makes a network that carries the owner's label",
      () => cli.createNetwork("x", "platform/local"),
      "docker[network][create][--label][platform.pulumi.com/owner=platform/local][x]",
    ],
  ] as const) {
    it(what, async () => {
      deepEqual((await against({}, action)).calls, [call]);
    });
  }

  for (const [what, script] of [
    ["with the images of its nodes", ""],
    [
      "although its images cannot be",
      `case "$1" in image) ${fails("a prune operation is already running")} ;; esac`,
    ],
  ] as const) {
    it(`removes a network, ${what}`, async () => {
      const { calls } = await against({ docker: script }, () => cli.removeNetwork("x"));
      deepEqual(calls, [prune("x"), "docker[network][rm][x]"]);
    });
  }
});

describe("answers", () => {
  it("is any answer of a server, none of a closed port, and never a proxy's", async () => {
    const server = createServer((request, response) => {
      response.writeHead(request.url === "/" ? 503 : 404).end();
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    const proxies = {
      NODE_USE_ENV_PROXY: "1",
      HTTP_PROXY: "http://127.0.0.1:1",
      http_proxy: "http://127.0.0.1:1",
    };
    equal(await withEnvironment(proxies, () => answers(address)), true);
    server.close();
    await once(server, "close");
    equal(await answers(address), false);
  });

  it("is none where a connection is taken and closed, as Docker does for a container without a server", async () => {
    const server = createTcpServer((socket) => socket.destroy()).listen(0, "127.0.0.1");
    await once(server, "listening");
    equal(await answers(`127.0.0.1:${(server.address() as AddressInfo).port}`), false);
    server.close();
  });
});

describe("KindCli", () => {
  const cli = new KindCli();
  const node = { name: "n", labels: {}, startedAt: "2026-01-01T00:00:00Z" };

  it("finds the nodes of a cluster, those that do not run included", async () => {
    const nodes = [
      {
        ...{ Name: "/local-control-plane", Config: { Labels: { a: "b" } } },
        State: { Status: "running", StartedAt: "2026-01-01T00:00:00.123456789Z" },
      },
      {
        ...{ Name: "/local-worker", Config: { Labels: null } },
        State: { Status: "created", StartedAt: "0001-01-01T00:00:00Z" },
      },
    ];
    const script = `case "$1" in ps) printf 'id1\\nid2\\n' ;; inspect) ${says(nodes)} ;; esac`;
    const { value, calls } = await against({ docker: script }, () => cli.nodes("local"));
    deepEqual(value, [
      {
        ...{ name: "local-control-plane", labels: { a: "b" } },
        ...{ status: "running", startedAt: "2026-01-01T00:00:00.123456789Z" },
      },
      { name: "local-worker", labels: null, status: "created", startedAt: "0001-01-01T00:00:00Z" },
    ]);
    deepEqual(calls, [
      "docker[ps][--all][--no-trunc][--quiet][--filter][label=io.x-k8s.kind.cluster=local]",
      "docker[inspect][--type][container][id1][id2]",
    ]);
  });

  it("finds no nodes of a cluster that is not there", async () => {
    const { value, calls } = await against({}, () => cli.nodes("local"));
    deepEqual(value, []);
    equal(calls.length, 1);
  });

  const nodes = { image: "kindest/node:v1", owner: "platform/local", network: "platform-a" };

  for (const [pull, policy] of [
    [true, "missing"],
    [false, "never"],
  ] as const) {
    it(`labels an image that it pulls ${pull ? "when it is missing" : "never"}, and puts files into it`, async () => {
      const script =
        'case "$1" in cp) (cd "$2/.." && find . -type f -printf "%m %p " -exec cat {} +) >> $log/input ;; esac';
      const { calls, input } = await against({ docker: script }, () =>
        cli.makeImage({ ...nodes, pull }, "platform-node-a:12", {
          "/etc/kubernetes/platform/a.yaml": "a\n",
          "/kind/platform/unfinished": "u\n",
        }),
      );
      deepEqual(
        calls.map((call) => call.replace(/\[[^\]]*\/platform-node-\w+\//, "[SCRATCH/")),
        [
          prune("platform-a"),
          "docker[rm][--force][platform-node-a-12-label]",
          `docker[create][--name][platform-node-a-12-label][--label][platform.pulumi.com/owner=platform/local][--pull][${policy}][kindest/node:v1]`,
          "docker[cp][SCRATCH/etc/kubernetes/platform][platform-node-a-12-label:/etc/kubernetes]",
          "docker[cp][SCRATCH/kind/platform][platform-node-a-12-label:/kind]",
          "docker[commit][--change][LABEL platform.pulumi.com/owner=platform/local platform.pulumi.com/network=platform-a][platform-node-a-12-label][platform-node-a:12]",
          "docker[rm][--force][--volumes][platform-node-a-12-label]",
        ],
      );
      equal(input, "644 ./platform/a.yaml a\n644 ./platform/unfinished u\n");
    });
  }

  for (const failing of ["cp", "commit"]) {
    it(`leaves no scratch container behind when an image cannot be made because of docker ${failing}`, async () => {
      const script = `case "$1" in ${failing}) ${fails("no space left on device")} ;; esac`;
      const { calls } = await against({ docker: script }, () =>
        rejects(cli.makeImage({ ...nodes, pull: true }, "t:1", { "/a/b": "" }), /no space left on device/),
      );
      equal(calls.at(-1), "docker[rm][--force][--volumes][t-1-label]");
    });
  }

  it("makes a cluster in a network, and leaves the user's own kubeconfig alone", async () => {
    const script = 'cat > $log/input; echo "network $KIND_EXPERIMENTAL_DOCKER_NETWORK" >> $log/input';
    const { calls, input } = await against({ kind: script }, () =>
      cli.create("local", "platform-local", "the config\n"),
    );
    deepEqual(calls, ["kind[create][cluster][--name][local][--config][-][--kubeconfig][/dev/null]"]);
    equal(input, "the config\nnetwork platform-local\n");
  });

  it("reads a kubeconfig", async () => {
    const { value, calls } = await against({ kind: "echo the kubeconfig" }, () => cli.kubeconfig("local"));
    equal(value, "the kubeconfig\n");
    deepEqual(calls, ["kind[get][kubeconfig][--name][local]"]);
  });

  for (const [what, action, call] of [
    [
      "adds a cluster to the user's own kubeconfig",
      () => cli.mergeKubeconfig("local"),
      "kind[export][kubeconfig][--name][local]",
    ],
    [
      "deletes a cluster, and its entry in the user's own kubeconfig",
      () => cli.delete("local"),
      "kind[delete][cluster][--name][local]",
    ],
    ["removes the images of a network", () => cli.removeImages("x"), prune("x")],
    ["unpauses a node", () => cli.revive({ ...node, status: "paused" }), "docker[unpause][n]"],
    ["starts a node", () => cli.revive({ ...node, status: "exited" }), "docker[start][n]"],
  ] as const) {
    it(what, async () => {
      deepEqual((await against({}, action)).calls, [call]);
    });
  }

  it("reads the files of a directory of a node, stopped or not, and knows one that is not there", async () => {
    const script = 'mkdir "$3" && printf one > "$3/a" && printf two > "$3/b"';
    const { value, calls } = await against({ docker: script }, () => cli.readFiles("n", "/a/b"));
    deepEqual(value, { a: "one", b: "two" });
    deepEqual(
      calls.map((call) => call.replace(/\[[^\]]*\/platform-node-\w+\//, "[SCRATCH/")),
      ["docker[cp][n:/a/b][SCRATCH/copy]"],
    );
    for (const words of [
      "Error response from daemon: Could not find the file /a/b in container n",
      "Error: No such container:path: n:/a/b",
    ]) {
      deepEqual((await against({ docker: fails(words) }, () => cli.readFiles("n", "/a/b"))).value, {});
    }
    await against({ docker: fails("Error response from daemon: the disk is full") }, () =>
      rejects(cli.readFiles("n", "/a/b"), /the disk is full/),
    );
  });

  it("writes a file of a node so that a kill leaves the old content or the new one", async () => {
    const directory = temporaryDirectory();
    const path = join(directory, "marks", "file");
    await against({ docker: 'sh -c "$6" sh "$8"' }, () => cli.writeFile("n", path, "one\n"));
    equal(readFileSync(path, "utf8"), "one\n");
    // The disk is full as soon as the file is there.
    const full = `sh -c "$(printf %s "$6" | sed 's/cat >/false >/')" sh "$8"`;
    await against({ docker: full }, () => rejects(cli.writeFile("n", path, "two\n")));
    equal(readFileSync(path, "utf8"), "one\n");
  });

  it("removes a file of a node", async () => {
    const { calls } = await against({}, () => cli.removeFile("n", "/a/b"));
    deepEqual(calls, ["docker[exec][n][rm][-f][/a/b]"]);
  });

  it("writes files in place of all that a directory of a node holds, their content on standard input", async () => {
    const { calls, input } = await against({ docker: "cat >> $log/input" }, () =>
      cli.replaceFiles("n", "/etc/certs", { "ghcr.io/hosts.toml": "toml 1\n", "a b/hosts.toml": "toml 2\n" }),
    );
    const write = 'mkdir -p "$(dirname "$1")" && cat > "$1.new" && mv "$1.new" "$1"';
    deepEqual(calls, [
      'docker[exec][n][sh][-c][rm -rf "$1" && mkdir -p "$1"][sh][/etc/certs.new]',
      `docker[exec][--interactive][n][sh][-c][${write}][sh][/etc/certs.new/ghcr.io/hosts.toml]`,
      `docker[exec][--interactive][n][sh][-c][${write}][sh][/etc/certs.new/a b/hosts.toml]`,
      'docker[exec][n][sh][-c][rm -rf "$2" && mv "$1" "$2"][sh][/etc/certs.new][/etc/certs]',
    ]);
    equal(input, "toml 1\ntoml 2\n");
  });
});
