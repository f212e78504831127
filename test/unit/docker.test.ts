import { deepEqual, equal, match, notEqual, rejects } from "node:assert/strict";
import type { ContainerSpec, Docker, FoundContainer, FoundNetwork } from "../../clients/docker/client";
import { ContainerLifecycle } from "../../core/docker/container";
import { GarbageLifecycle } from "../../core/docker/garbage";
import { NetworkLifecycle } from "../../core/docker/network";
import { isOwn, type Labels } from "../../clients/docker/ownership";
import { FakeClock } from "./clock";

const owner = "platform/local";
const own = { "platform.pulumi.com/owner": owner };
/** The label of what an earlier version of this project made. */
const former = { "platform.pulumi.com/owner": "platform" };
const fingerprintLabel = "platform.pulumi.com/fingerprint";

/** As much of a Docker Engine as the lifecycles see. */
class FakeDocker implements Docker {
  readonly containers = new Map<string, FoundContainer>();
  readonly networks = new Map<string, FoundNetwork>();
  /** What was changed, in order. */
  readonly log: string[] = [];
  /** What `run`, `start` and `unpause` fail with. */
  failure: string | undefined;
  /** A network that is gone as soon as it is made. */
  forgetful = false;
  subnet: string | undefined = "172.18.0.0/16";
  /** Somebody makes a container of the name, with these labels, each time before `run` does. */
  rival: Labels;
  /** Looks at an address until a container that runs answers there. */
  looksUntilAnswer = 0;
  words = "";
  /** How many blobs are garbage, or what a look for them fails with. */
  blobs: number | Error = 0;
  collectionFailure: string | undefined;

  container(name: string): Promise<FoundContainer | undefined> {
    return Promise.resolve(this.containers.get(name));
  }

  /** Whether something answers at an address. */
  answers(address: string): Promise<boolean> {
    match(address, /^127\.0\.0\.1:505[01]$/);
    const running = [...this.containers.values()].some(({ status }) => status === "running");
    return Promise.resolve(running && this.looksUntilAnswer-- <= 0);
  }

  garbage(name: string): Promise<number> {
    equal(this.containers.get(name)?.status, "running");
    return this.blobs instanceof Error ? Promise.reject(this.blobs) : Promise.resolve(this.blobs);
  }

  collectGarbage(name: string): Promise<void> {
    this.log.push(`collect the garbage of ${name}, which is ${this.containers.get(name)?.status ?? "gone"}`);
    return this.collectionFailure === undefined
      ? Promise.resolve()
      : Promise.reject(new Error(this.collectionFailure));
  }

  stop(name: string): Promise<void> {
    this.log.push(`stop ${name}`);
    this.become(name, "exited");
    return Promise.resolve();
  }

  logs(): Promise<string> {
    return Promise.resolve(this.words);
  }

  run({ name }: ContainerSpec, labels: Readonly<Record<string, string>>): Promise<void> {
    this.log.push(`run ${name}`);
    if (this.rival !== undefined) this.containers.set(name, { labels: this.rival, status: "exited" });
    if (this.containers.has(name)) {
      return Promise.reject(
        new Error(`Conflict. The container name "/${name}" is already in use by container "abc".`),
      );
    }
    // As Docker does: a container that does not start is there nevertheless.
    this.containers.set(name, { labels, status: this.failure === undefined ? "running" : "created" });
    return this.failure === undefined ? Promise.resolve() : Promise.reject(new Error(this.failure));
  }

  start(name: string): Promise<void> {
    return this.resume("start", name);
  }

  unpause(name: string): Promise<void> {
    return this.resume("unpause", name);
  }

  removeContainer(name: string): Promise<void> {
    this.log.push(`remove ${name}`);
    this.containers.delete(name);
    return Promise.resolve();
  }

  network(name: string): Promise<FoundNetwork | undefined> {
    return Promise.resolve(this.networks.get(name));
  }

  createNetwork(name: string, of: string): Promise<void> {
    this.log.push(`create network ${name}`);
    const labels = { "platform.pulumi.com/owner": of };
    if (!this.forgetful) this.networks.set(name, { labels, subnet: this.subnet });
    return Promise.resolve();
  }

  removeNetwork(name: string): Promise<void> {
    this.log.push(`remove network ${name}`);
    this.networks.delete(name);
    return Promise.resolve();
  }

  /** Somebody stopped or paused a container. */
  become(name: string, status: string): void {
    this.containers.set(name, { labels: this.containers.get(name)?.labels, status });
  }

  private resume(operation: string, name: string): Promise<void> {
    this.log.push(`${operation} ${name}`);
    if (this.failure !== undefined) {
      const error = new Error(this.failure);
      this.failure = undefined;
      return Promise.reject(error);
    }
    this.become(name, "running");
    return Promise.resolve();
  }
}

const spec: ContainerSpec = {
  name: "registry",
  owner,
  image: "sha256:image",
  network: "platform-local",
  port: { container: 5000, host: 5050 },
  volume: { name: "registry", path: "/var/lib/registry" },
  env: { A: "1", B: "2" },
};
const outputs = { ...spec, hostAddress: "127.0.0.1:5050", networkAddress: "registry:5000", running: true };

function containers() {
  const docker = new FakeDocker();
  const clock = new FakeClock();
  const lifecycle = new ContainerLifecycle(docker, (address) => docker.answers(address), clock);
  return { docker, clock, lifecycle };
}

/** A machine on which a container of `spec` runs. */
async function running() {
  const made = containers();
  await made.lifecycle.create(spec);
  made.docker.log.length = 0;
  return made;
}

/** The fingerprint that a container of a spec is labelled with. */
async function fingerprint(of: ContainerSpec): Promise<string | undefined> {
  const { docker, lifecycle } = containers();
  await lifecycle.create(of);
  return docker.containers.get(of.name)?.labels?.[fingerprintLabel];
}

/** Specs that differ from `spec` in one thing that only another container can have. */
const others: Readonly<Record<string, ContainerSpec>> = {
  image: { ...spec, image: "sha256:other" },
  network: { ...spec, network: "platform-other" },
  "port of the container": { ...spec, port: { ...spec.port, container: 5001 } },
  "port of the machine": { ...spec, port: { ...spec.port, host: 5051 } },
  volume: { ...spec, volume: { ...spec.volume, name: "other" } },
  "path of the volume": { ...spec, volume: { ...spec.volume, path: "/data" } },
  "value of a variable": { ...spec, env: { ...spec.env, B: "3" } },
  variable: { ...spec, env: { ...spec.env, C: "3" } },
};

describe("container", () => {
  it("is run, with the owner's label and its fingerprint", async () => {
    const { docker, lifecycle } = containers();
    deepEqual(await lifecycle.create(spec), outputs);
    deepEqual(docker.log, ["run registry"]);
    deepEqual(docker.containers.get("registry"), {
      labels: { ...own, [fingerprintLabel]: await fingerprint(spec) },
      status: "running",
    });
  });

  it("has a fingerprint of its own for each spec, whatever the order of its variables", async () => {
    equal(await fingerprint({ ...spec, env: { B: "2", A: "1" } }), await fingerprint(spec));
    for (const [what, other] of Object.entries(others)) {
      notEqual(await fingerprint(other), await fingerprint(spec), what);
    }
  });

  for (const [status, log] of [
    ["running", []],
    ["exited", ["start registry"]],
    ["created", ["start registry"]],
    ["paused", ["unpause registry"]],
  ] as const) {
    it(`is adopted when it is of the same spec and ${status}`, async () => {
      const { docker, lifecycle } = await running();
      docker.become("registry", status);
      deepEqual(await lifecycle.create(spec), outputs);
      deepEqual(docker.log, log);
      equal(docker.containers.get("registry")?.status, "running");
    });
  }

  for (const [what, other] of Object.entries(others)) {
    it(`is made again for another ${what}`, async () => {
      const { docker, lifecycle } = await running();
      await lifecycle.create(other);
      deepEqual(docker.log, ["remove registry", "run registry"]);
      equal(docker.containers.get("registry")?.labels?.[fingerprintLabel], await fingerprint(other));
    });
  }

  for (const [status, operation] of [
    ["exited", "start"],
    ["paused", "unpause"],
  ] as const) {
    it(`is made again when it is ${status} and does not run again`, async () => {
      const { docker, lifecycle } = await running();
      docker.become("registry", status);
      docker.failure = "network platform-local not found";
      deepEqual(await lifecycle.create(spec), outputs);
      deepEqual(docker.log, [`${operation} registry`, "remove registry", "run registry"]);
      equal(docker.containers.get("registry")?.status, "running");
    });
  }

  for (const [who, labels, why] of [
    ["nobody's", null, "it lacks the label platform.pulumi.com/owner"],
    ["a stranger's", {}, "it lacks the label platform.pulumi.com/owner"],
    [
      "another stack's",
      { "platform.pulumi.com/owner": "platform/dev" },
      "it has the label platform.pulumi.com/owner=platform/dev",
    ],
    [
      "another project's",
      { "platform.pulumi.com/owner": "other/local" },
      "it has the label platform.pulumi.com/owner=other/local",
    ],
  ] as const) {
    it(`is neither adopted nor deleted when it is ${who}`, async () => {
      const { docker, lifecycle } = containers();
      docker.containers.set("registry", { labels, status: "running" });
      for (const [operation, refused] of [
        ["Adopting", lifecycle.create(spec)],
        ["Deleting", lifecycle.delete(spec)],
      ] as const) {
        await rejects(refused, {
          message: `${operation} container "registry" failed: it exists and is not of "platform/local" (${why}). Remove it with "docker rm registry" and run again.`,
        });
      }
      equal(await lifecycle.read(outputs), undefined);
      deepEqual(docker.log, []);
    });
  }

  it("of an earlier version, whose label names no stack, is made again with one that does", async () => {
    const { docker, lifecycle } = await running();
    const labels = { ...docker.containers.get("registry")?.labels, ...former };
    docker.containers.set("registry", { labels, status: "running" });
    const olds = { ...outputs, owner: undefined } as unknown as typeof outputs;
    deepEqual(await lifecycle.read(olds), olds);
    equal(lifecycle.diff(olds, spec).changes, true);
    deepEqual(await lifecycle.create(spec), outputs);
    deepEqual(docker.log, ["remove registry", "run registry"]);
    equal(docker.containers.get("registry")?.labels?.["platform.pulumi.com/owner"], owner);
    equal(lifecycle.diff(outputs, spec).changes, false);
  });

  it("of an earlier version is deleted with that version's state", async () => {
    const { docker, lifecycle } = containers();
    docker.containers.set("registry", { labels: former, status: "running" });
    await lifecycle.delete({ ...outputs, owner: undefined } as unknown as typeof outputs);
    deepEqual(docker.log, ["remove registry"]);
  });

  for (const [taker, failure] of [
    ["container", '"docker run --detach" failed: Bind for 127.0.0.1:5050 failed: port is already allocated'],
    ["process", '"docker run --detach" failed: listen tcp4 127.0.0.1:5050: bind: address already in use'],
  ] as const) {
    it(`says that its port is taken by a ${taker}, and leaves no container behind`, async () => {
      const { docker, lifecycle } = containers();
      docker.failure = failure;
      await rejects(lifecycle.create(spec), (error: Error) => {
        equal(
          error.message,
          'Starting container "registry" failed: port 5050 on 127.0.0.1 is taken. Stop what listens there, or set platform:registry.port.',
        );
        equal((error.cause as Error).message, failure);
        return true;
      });
      deepEqual(docker.log, ["run registry", "remove registry"]);
      equal(docker.containers.size, 0);
    });
  }

  it("says what Docker said when it does not start, in whole sentences", async () => {
    const { docker, lifecycle } = containers();
    docker.failure = '"docker run --detach" failed: no space left on device\n';
    await rejects(lifecycle.create(spec), {
      message:
        'Starting container "registry" failed: "docker run --detach" failed: no space left on device. Fix the cause and run again.',
    });
    equal(docker.containers.size, 0);
  });

  it("is made only once it answers", async () => {
    const { docker, clock, lifecycle } = containers();
    docker.looksUntilAnswer = 10;
    deepEqual(await lifecycle.create(spec), outputs);
    equal(clock.time, 2_000);
  });

  for (const [what, words, said] of [
    [
      "last output",
      "loading config\nfatal: lookup ghcr.io: no such host\n",
      "Its last output: loading config fatal: lookup ghcr.io: no such host.",
    ],
    ["silence", "", "It wrote nothing."],
  ] as const) {
    it(`that never answers fails with its ${what} after a minute, and is not left behind`, async () => {
      const { docker, clock, lifecycle } = containers();
      docker.looksUntilAnswer = Infinity;
      docker.words = words;
      await rejects(lifecycle.create(spec), {
        message: `Starting container "registry" failed: it did not answer at 127.0.0.1:5050 within 60 s. ${said} Fix the cause and run again.`,
      });
      equal(clock.time, 60_000);
      deepEqual(docker.log, ["run registry", "remove registry"]);
      equal(docker.containers.size, 0);
    });
  }

  it("is looked at again when another run made it meanwhile", async () => {
    const { docker, lifecycle } = containers();
    const { docker: other, lifecycle: otherRun } = containers();
    await otherRun.create(spec);
    docker.rival = other.containers.get("registry")?.labels;
    deepEqual(await lifecycle.create(spec), outputs);
    deepEqual(docker.log, ["run registry", "start registry"]);
  });

  it("is given up when another takes its name again and again, and that one is left alone", async () => {
    const { docker, lifecycle } = containers();
    docker.rival = own;
    await rejects(lifecycle.create(spec), {
      message:
        'Starting container "registry" failed: again and again another container takes its name. Stop what makes it and run again.',
    });
    equal(docker.log.filter((line) => line === "run registry").length, 3);
    equal(docker.containers.size, 1);
  });

  it("is there whether it runs or not: what does not run is put right in place", async () => {
    const { docker, lifecycle } = await running();
    deepEqual(await lifecycle.read(outputs), outputs);
    for (const status of ["exited", "paused", "created", "restarting", "dead"]) {
      docker.become("registry", status);
      deepEqual(await lifecycle.read(outputs), { ...outputs, running: false }, status);
    }
    deepEqual(docker.log, []);
    equal(lifecycle.diff({ ...outputs, running: false }, spec).changes, true);
    docker.become("registry", "exited");
    deepEqual(await lifecycle.create(spec), outputs);
    deepEqual(docker.log, ["start registry"]);
  });

  it("does not run when it does not answer, or is of another spec than the state", async () => {
    const { docker, lifecycle } = await running();
    docker.looksUntilAnswer = 1;
    equal((await lifecycle.read(outputs))?.running, false);
    equal((await lifecycle.read(outputs))?.running, true);
    equal((await lifecycle.read({ ...outputs, image: "sha256:other" }))?.running, false);
  });

  it("is gone when it is removed or somebody else's", async () => {
    const { docker, lifecycle } = await running();
    docker.containers.set("registry", { labels: {}, status: "running" });
    equal(await lifecycle.read(outputs), undefined);
    docker.containers.clear();
    equal(await lifecycle.read(outputs), undefined);
  });

  it("of an earlier version's state is the same", () => {
    const { lifecycle } = containers();
    const { running: seen, ...state } = outputs;
    equal(seen, true);
    equal(lifecycle.diff(state, spec).changes, false);
  });

  it("changes with its name and with what its fingerprint is made of, and with nothing else", () => {
    const { lifecycle } = containers();
    equal(lifecycle.diff(outputs, spec).changes, false);
    equal(lifecycle.diff(outputs, { ...spec, env: { B: "2", A: "1" } }).changes, false);
    equal(lifecycle.diff(outputs, { ...spec, name: "other" }).changes, true);
    for (const [what, other] of Object.entries(others))
      equal(lifecycle.diff(outputs, other).changes, true, what);
  });

  it("is deleted, stopped or not, and a second time without complaint", async () => {
    const { docker, lifecycle } = await running();
    docker.become("registry", "exited");
    await lifecycle.delete((await lifecycle.read(outputs)) ?? { ...outputs, name: "forgotten" });
    await lifecycle.delete(outputs);
    deepEqual(docker.log, ["remove registry"]);
  });
});

describe("garbage of a registry", () => {
  const inputs = { container: "registry", owner, address: "127.0.0.1:5050", after: "sha256:1" };

  async function registry() {
    const { docker, clock } = await running();
    const lifecycle = new GarbageLifecycle(docker, (address) => docker.answers(address), clock);
    return { docker, clock, lifecycle };
  }

  it("is collected while the registry is stopped, which then answers again", async () => {
    const { docker, clock, lifecycle } = await registry();
    docker.blobs = 3;
    docker.looksUntilAnswer = 5;
    deepEqual(await lifecycle.create(inputs), inputs);
    deepEqual(docker.log, [
      "stop registry",
      "collect the garbage of registry, which is exited",
      "start registry",
    ]);
    equal(clock.time, 1_000);
  });

  it("that is not there, or of a registry that is not ours or does not run, stops nothing", async () => {
    const { docker, lifecycle } = await registry();
    await lifecycle.create(inputs);
    docker.blobs = 3;
    docker.become("registry", "exited");
    await lifecycle.create(inputs);
    docker.containers.set("registry", { labels: {}, status: "running" });
    await lifecycle.create(inputs);
    docker.containers.clear();
    await lifecycle.create(inputs);
    deepEqual(docker.log, []);
  });

  it("fails no release: the registry runs again, and the next release tries again", async () => {
    const { docker, lifecycle } = await registry();
    docker.blobs = new Error("registry: not found");
    await lifecycle.create(inputs);
    deepEqual(docker.log, []);
    docker.blobs = 3;
    docker.collectionFailure = "no space left on device";
    await lifecycle.create(inputs);
    match(docker.log.join(), /(^|,)start registry$/);
    equal(docker.containers.get("registry")?.status, "running");
  });

  it("leaves no registry down unsaid", async () => {
    const { docker, lifecycle } = await registry();
    docker.blobs = 3;
    docker.looksUntilAnswer = Infinity;
    await rejects(lifecycle.create(inputs), {
      message:
        'Starting container "registry" after its garbage was collected failed: it did not answer at 127.0.0.1:5050 within 60 s. Look at "docker logs registry" and run again.',
    });
  });

  it("is looked for after each release", async () => {
    const { lifecycle } = await registry();
    equal(lifecycle.diff(inputs, inputs), false);
    equal(lifecycle.diff(inputs, { ...inputs, after: "sha256:2" }), true);
    equal(lifecycle.diff(inputs, { ...inputs, container: "other" }), true);
  });
});

describe("Docker network", () => {
  function networks() {
    const docker = new FakeDocker();
    return { docker, lifecycle: new NetworkLifecycle(docker) };
  }
  const network = { name: "platform-local", owner, subnet: "172.18.0.0/16" };

  it("is made, and says its subnet", async () => {
    const { docker, lifecycle } = networks();
    deepEqual(await lifecycle.create({ name: "platform-local", owner }), network);
    deepEqual(docker.log, ["create network platform-local"]);
  });

  it("is adopted when it is this project's", async () => {
    const { docker, lifecycle } = networks();
    docker.networks.set("platform-local", { labels: own, subnet: "172.30.0.0/16" });
    deepEqual(await lifecycle.create(network), { ...network, subnet: "172.30.0.0/16" });
    deepEqual(docker.log, []);
  });

  it("is neither adopted nor deleted when it is somebody else's", async () => {
    const { docker, lifecycle } = networks();
    docker.networks.set("platform-local", { labels: null, subnet: "172.18.0.0/16" });
    for (const [operation, refused] of [
      ["Adopting", lifecycle.create(network)],
      ["Deleting", lifecycle.delete(network)],
    ] as const) {
      await rejects(refused, {
        message: `${operation} Docker network "platform-local" failed: it exists and is not of "platform/local" (it lacks the label platform.pulumi.com/owner). Remove it with "docker network rm platform-local" and run again.`,
      });
    }
    deepEqual(docker.log, []);
  });

  it("is refused without an IPv4 subnet, which load balancers take their addresses from", async () => {
    const { docker, lifecycle } = networks();
    docker.subnet = undefined;
    await rejects(lifecycle.create(network), {
      message:
        'Reading Docker network "platform-local" failed: it has no IPv4 subnet. Remove it with "docker network rm platform-local" and run again.',
    });
  });

  it("says that it was removed while it was made", async () => {
    const { docker, lifecycle } = networks();
    docker.forgetful = true;
    await rejects(lifecycle.create(network), {
      message:
        'Creating Docker network "platform-local" failed: it was removed at once. Run again when nothing else does so.',
    });
  });

  it("is read with the subnet it has now, and is gone when it is", async () => {
    const { docker, lifecycle } = networks();
    equal(await lifecycle.read(network), undefined);
    docker.networks.set("platform-local", { labels: own, subnet: "172.30.0.0/16" });
    deepEqual(await lifecycle.read(network), { ...network, subnet: "172.30.0.0/16" });
  });

  it("is deleted, and a second time without complaint", async () => {
    const { docker, lifecycle } = networks();
    await lifecycle.create(network);
    await lifecycle.delete(network);
    await lifecycle.delete(network);
    deepEqual(docker.log, ["create network platform-local", "remove network platform-local"]);
  });
});

describe("owner's label", () => {
  it("tells what is this stack's, also where Docker writes null for no labels", () => {
    equal(isOwn(own, owner), true);
    equal(isOwn(former, owner), true);
    equal(isOwn(former, undefined), true);
    const strangers: Labels[] = [{ "platform.pulumi.com/owner": "platform/dev" }, {}, null, undefined];
    for (const labels of strangers) {
      equal(isOwn(labels, owner), false);
      equal(isOwn(labels, undefined), false);
    }
  });
});
