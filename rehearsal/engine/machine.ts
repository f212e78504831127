import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { cpSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer, request as httpRequest, type Server as ProxyServer } from "node:http";
import { createServer as createSocket, type Server } from "node:net";
import { basename, join } from "node:path";
import { parse, stringify } from "yaml";
import { isPortTaken } from "../../system/port";
import { quoted } from "../../system/programs";
import { httpProbe, ProcessGroup, type SupervisedProcess } from "../../system/process";

/** A cluster that `kind create cluster` of a {@link SimulatedMachine} makes. */
export interface MachineCluster {
  readonly kubeconfig: string;
  stop(): Promise<void>;
}

/** The parts of a {@link SimulatedMachine}. */
export interface MachineOptions {
  /** Absolute path of a directory for everything; the caller removes it. */
  readonly directory: string;
  /** Absolute path of the program of a registry. */
  readonly registry: string;
  /**
   * Makes a cluster.
   *
   * @param directory absolute, of this cluster alone
   * @param proxy URL of an HTTP proxy that knows the names of the machine's containers
   * @param signal aborted when the caller of Kind is killed
   */
  readonly makeCluster: (directory: string, proxy: string, signal: AbortSignal) => Promise<MachineCluster>;
}

type Labels = Record<string, string>;

/** What Docker knows of a container, and what stands in for the container's insides. */
interface Container {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly labels: Labels;
  /** Absolute path of the directory that stands in for the container's files. */
  readonly root: string;
  /** Port of 127.0.0.1, for a registry. */
  readonly port?: number;
  readonly network?: string;
  readonly env: Readonly<Record<string, string>>;
  /** Absolute path of the registry's configuration, for a registry. */
  readonly config?: string;
  status: "created" | "running" | "exited";
  startedAt: string;
  process?: SupervisedProcess;
}

interface Image {
  readonly id: string;
  readonly labels: Labels;
  /** Absolute path of its files. @default none */
  readonly root?: string;
}

/** A call of a program. */
interface Call {
  readonly program: string;
  readonly args: readonly string[];
  /** Its standard input. */
  readonly input: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

interface Answer {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The network of the API server's Services: load balancers take addresses from it. */
const subnet = "127.96.0.0/16";
const kindLabel = "io.x-k8s.kind.cluster";

/**
 * A machine on which the programs `docker` and `kind` do what this project asks of them, without containers: a registry
 * is a process, a node is a directory, a cluster is a control plane of processes on 127.0.0.1. The machine answers only
 * the calls that the project makes, and refuses any other call by name. Like an engine, it outlives the caller.
 */
export class SimulatedMachine {
  readonly #containers = new Map<string, Container>();
  readonly #networks = new Map<string, Labels>();
  readonly #volumes = new Map<string, { readonly labels: Labels; readonly root: string }>();
  readonly #images = new Map<string, Image>();
  readonly #clusters = new Map<string, MachineCluster>();
  readonly #processes: ProcessGroup;
  readonly #calls: Server;
  readonly #names: ProxyServer;

  private constructor(private readonly options: MachineOptions) {
    this.#processes = new ProcessGroup(join(options.directory, "processes"));
    this.#calls = createSocket({ allowHalfOpen: true }, (connection) => {
      const gone = new AbortController();
      connection.once("error", () => {
        gone.abort();
      });
      connection.once("close", () => {
        gone.abort();
      });
      // Reading it as an iterable would close both directions at its end.
      let call = "";
      connection.setEncoding("utf8").on("data", (chunk: string) => (call += chunk));
      connection.once("end", () => {
        void this.#answer(JSON.parse(call) as Call, gone.signal).then((answer) =>
          connection.end(JSON.stringify(answer)),
        );
      });
    });
    this.#names = createServer((request, response) => {
      const { hostname, pathname, search } = new URL(request.url ?? "/", "http://unknown");
      const port = this.#containers.get(hostname)?.port;
      const upstream = httpRequest(
        {
          host: "127.0.0.1",
          port,
          path: pathname + search,
          method: request.method,
          headers: request.headers,
        },
        (answer) => {
          response.writeHead(answer.statusCode ?? 502, answer.headers);
          answer.pipe(response);
        },
      );
      upstream.once("error", (error) => response.writeHead(502).end(error.message));
      if (port === undefined) upstream.destroy(new Error(`no container is named ${hostname}`));
      else request.pipe(upstream);
    });
  }

  /** Starts the machine; it holds nothing yet. */
  static async start(options: MachineOptions): Promise<SimulatedMachine> {
    const machine = new SimulatedMachine(options);
    mkdirSync(machine.path, { recursive: true });
    await listen(machine.#calls, machine.#socket);
    await listen(machine.#names, 0);
    const client = join(__dirname, "client.mts");
    for (const program of ["docker", "kind"]) {
      const words = [
        process.execPath,
        "--disable-warning=ExperimentalWarning",
        client,
        machine.#socket,
        program,
      ];
      const script = `#!/bin/sh\nexec ${words.map(quoted).join(" ")} "$@"\n`;
      writeFileSync(join(machine.path, program), script, { mode: 0o755 });
    }
    return machine;
  }

  /** The directory of the programs `docker` and `kind`, for PATH. */
  get path(): string {
    return join(this.options.directory, "bin");
  }

  get #socket(): string {
    return join(this.options.directory, "socket");
  }

  /** Runs `docker` or `kind` as a person on the machine does. @throws Error with what the program wrote */
  async run(program: "docker" | "kind", ...args: string[]): Promise<string> {
    const call = { program, args, input: "", env: {} };
    const { code, stdout, stderr } = await this.#answer(call, new AbortController().signal);
    if (code !== 0) throw new Error(stderr.trim());
    return stdout;
  }

  /** Everything that the machine holds: `kind name`, sorted. */
  holdings(): string[] {
    const of = (kind: string, names: Iterable<string>) => [...names].map((name) => `${kind} ${name}`);
    return [
      ...of("container", this.#containers.keys()),
      ...of("network", this.#networks.keys()),
      ...of("volume", this.#volumes.keys()),
      ...of("cluster", this.#clusters.keys()),
    ].sort();
  }

  /** The kubeconfig of a cluster; undefined when there is none. */
  kubeconfig(cluster: string): string | undefined {
    return this.#clusters.get(cluster)?.kubeconfig;
  }

  /** Ends every process. */
  async stop(): Promise<void> {
    this.#calls.close();
    this.#names.close();
    this.#names.closeAllConnections();
    await Promise.all([...this.#clusters.values()].map((cluster) => cluster.stop()));
    await this.#processes.stop(0);
  }

  async #answer(call: Call, gone: AbortSignal): Promise<Answer> {
    try {
      const stdout = await (call.program === "kind" ? this.#kind(call, gone) : this.#docker(call));
      return { code: 0, stdout, stderr: "" };
    } catch (error) {
      return { code: 1, stdout: "", stderr: `${(error as Error).message}\n` };
    }
  }

  /** Kind's own calls. */
  async #kind({ args, input, env }: Call, gone: AbortSignal): Promise<string> {
    const [verb, what, ...rest] = args;
    const { options } = split(rest, ["name", "config", "kubeconfig"]);
    const name = options.get("name")?.at(-1) ?? "kind";
    switch (`${verb} ${what}`) {
      case "create cluster":
        await this.#createCluster(name, input, env.KIND_EXPERIMENTAL_DOCKER_NETWORK ?? "kind", gone);
        return "";
      case "get kubeconfig":
        return this.#clusterOf(name).kubeconfig;
      case "export kubeconfig":
        this.#clusterOf(name);
        return "";
      case "delete cluster": {
        await this.#clusters.get(name)?.stop();
        this.#clusters.delete(name);
        for (const container of this.#containers.values())
          if (container.labels[kindLabel] === name) await this.#remove(container);
        return "";
      }
      default:
        throw unsimulated("kind", args);
    }
  }

  #clusterOf(name: string): MachineCluster {
    const cluster = this.#clusters.get(name);
    if (cluster !== undefined) return cluster;
    throw new Error(`ERROR: could not locate any control plane nodes for cluster named '${name}'.`);
  }

  async #createCluster(name: string, config: string, network: string, gone: AbortSignal): Promise<void> {
    const taken = [...this.#containers.values()].some(({ labels }) => labels[kindLabel] === name);
    if (taken)
      throw new Error(
        `ERROR: failed to create cluster: node(s) already exist for a cluster with the name "${name}"`,
      );
    const { nodes } = parse(config) as { nodes: readonly { role: string; image: string }[] };
    const count = new Map<string, number>();
    for (const { role, image } of nodes) {
      const number = (count.get(role) ?? 0) + 1;
      count.set(role, number);
      const node = `${name}-${role}${number === 1 ? "" : String(number)}`;
      const container = this.#create(node, image, { labels: { [kindLabel]: name }, network });
      container.status = "running";
    }
    const directory = this.#scratch("cluster");
    const { port } = this.#names.address() as { port: number };
    const cluster = await this.options.makeCluster(directory, `http://127.0.0.1:${port}`, gone);
    // A killed Kind leaves nodes without a cluster.
    if (gone.aborted) await cluster.stop();
    else this.#clusters.set(name, cluster);
  }

  /** Docker's calls. */
  async #docker({ args, input }: Call): Promise<string> {
    const [first = "", second = ""] = args;
    const [verb, rest] = ["network", "volume", "image"].includes(first)
      ? [`${first} ${second}`, args.slice(2)]
      : [first, args.slice(1)];
    const { options, positional } = split(rest, optionsWithValue, flags);
    const one = (name: string) => options.get(name)?.at(-1);
    const [name = ""] = positional;
    switch (verb) {
      case "info":
        return `${one("format") === "{{.DockerRootDir}}" ? this.options.directory : "0.0.0-rehearsal"}\n`;
      case "ps":
        return this.#ps(options);
      case "inspect":
        return this.#inspect(one("type") ?? "", positional, one("format"));
      case "create": {
        if (this.#images.get(name) === undefined && one("pull") !== "never")
          this.#images.set(name, { id: identifier(), labels: {} });
        this.#imageOf(name);
        this.#create(one("name") ?? "", name, { labels: pairs(options.get("label")) });
        return "";
      }
      case "run":
        return options.has("rm")
          ? this.#runBeside(one("volumes-from") ?? "", positional)
          : this.#run(options, name);
      case "start":
        await this.#start(this.#container(name));
        return "";
      case "stop":
        await this.#halt(this.#container(name));
        return "";
      case "rm":
        // With --force, a missing container is no error.
        for (const each of positional) {
          const found = this.#find(each);
          if (found !== undefined) await this.#remove(found);
        }
        return "";
      case "logs":
        return "";
      case "exec":
        return this.#exec(this.#container(name), positional.slice(1), input);
      case "cp":
        this.#copy(name, positional[1] ?? "");
        return "";
      case "commit": {
        const [, tag = ""] = positional;
        const container = this.#container(name);
        const root = this.#scratch("image");
        cpSync(container.root, root, { recursive: true });
        const labels = pairs(
          one("change")
            ?.replace(/^LABEL /, "")
            .split(" "),
        );
        this.#images.set(tag, { id: identifier(), labels: { ...container.labels, ...labels }, root });
        return "";
      }
      case "network create":
        if (this.#networks.has(name))
          throw new Error(`Error response from daemon: network with name ${name} already exists`);
        this.#networks.set(name, pairs(options.get("label")));
        return "";
      case "network rm":
        if (!this.#networks.delete(name))
          throw new Error(`Error response from daemon: network ${name} not found`);
        return "";
      case "volume create":
        if (!this.#volumes.has(name))
          this.#volumes.set(name, { labels: pairs(options.get("label")), root: this.#scratch("volume") });
        return `${name}\n`;
      case "volume rm": {
        const volume = this.#volumes.get(name);
        if (volume !== undefined) rmSync(volume.root, { recursive: true, force: true });
        this.#volumes.delete(name);
        return "";
      }
      case "volume inspect": {
        const { labels, root } = this.#volumeOf(name);
        const label = /index \.Labels "([^"]+)"/.exec(one("format") ?? "")?.[1];
        if (label !== undefined) return `${labels[label] ?? ""}\n`;
        return JSON.stringify([{ Name: name, Driver: "local", Mountpoint: root, Labels: labels }]);
      }
      case "image inspect": {
        const { id } = this.#imageOf(name);
        return JSON.stringify([{ Id: id, RepoDigests: [`${name.split(":")[0] ?? ""}@${id}`] }]);
      }
      case "image prune": {
        const label = pairs(options.get("filter")?.map((filter) => filter.replace(/^label=/, "")));
        const used = new Set([...this.#containers.values()].map(({ image }) => image));
        for (const [tag, { labels, root }] of this.#images) {
          if (used.has(tag) || !Object.entries(label).every(([key, value]) => labels[key] === value))
            continue;
          if (root !== undefined) rmSync(root, { recursive: true, force: true });
          this.#images.delete(tag);
        }
        return "";
      }
      case "pull":
        this.#images.set(name, { id: identifier(), labels: {} });
        return "";
      case "rmi":
        this.#images.delete(name);
        return "";
      default:
        throw unsimulated("docker", args);
    }
  }

  #ps(options: ReadonlyMap<string, readonly string[]>): string {
    const wanted = (options.get("filter") ?? []).map((filter) => {
      const [what = "", key = "", value] = filter.split("=");
      return ({ name, labels }: Container) =>
        what === "label"
          ? value === undefined
            ? key in labels
            : labels[key] === value
          : new RegExp(key).test(name);
    });
    const found = [...this.#containers.values()].filter((container) => wanted.every((is) => is(container)));
    const label = /\{\{\.Label "([^"]+)"\}\}/.exec(options.get("format")?.at(-1) ?? "")?.[1];
    const line = ({ id, name, labels }: Container) =>
      options.has("quiet") ? id : label === undefined ? name : `${name}=${labels[label] ?? ""}`;
    return found.map((container) => `${line(container)}\n`).join("");
  }

  #inspect(type: string, names: readonly string[], format: string | undefined): string {
    if (type === "network") {
      return JSON.stringify(
        names.map((name) => {
          const labels = this.#networks.get(name);
          if (labels === undefined) throw new Error(`Error response from daemon: network ${name} not found`);
          return { Name: name, Labels: labels, IPAM: { Config: [{ Subnet: subnet }] } };
        }),
      );
    }
    const found = names.map((name) => this.#container(name));
    if (format?.includes("PortBindings") === true)
      return `${found.map(({ port }) => port ?? "").join(" ")}\n`;
    return JSON.stringify(
      found.map(({ id, name, image, labels, config, status, startedAt }) => ({
        ...{ Id: id, Name: `/${name}`, Image: image },
        Config: {
          Labels: labels,
          Entrypoint: [this.options.registry],
          Cmd: config === undefined ? null : ["serve", config],
        },
        State: { Status: status, StartedAt: startedAt },
      })),
    );
  }

  /** `docker run --detach` of a registry. */
  async #run(options: ReadonlyMap<string, readonly string[]>, image: string): Promise<string> {
    const one = (name: string) => options.get(name)?.at(-1) ?? "";
    const name = one("name");
    const [volume = "", path = ""] = one("volume").split(":");
    const port = Number(one("publish").split(":")[1]);
    if (!this.#networks.has(one("network")))
      throw new Error(`Error response from daemon: network ${one("network")} not found`);
    if (await isPortTaken(port))
      throw new Error(
        `Error response from daemon: Bind for 127.0.0.1:${port} failed: port is already allocated`,
      );
    const { root } = this.#volumes.get(volume) ?? { root: this.#scratch("volume") };
    if (!this.#volumes.has(volume)) this.#volumes.set(volume, { labels: {}, root });
    const config = join(this.#scratch("registry"), "config.yml");
    const storage = {
      filesystem: { rootdirectory: root },
      maintenance: { uploadpurging: { enabled: false } },
    };
    const log = { level: "error", accesslog: { disabled: true } };
    writeFileSync(config, stringify({ version: "0.1", log, storage, http: { addr: `127.0.0.1:${port}` } }));
    const env = Object.entries(pairs(options.get("env"))).map(([key, value]) => [
      key,
      value.replace(path, root),
    ]);
    const container = this.#create(name, image, {
      ...{ labels: pairs(options.get("label")), network: one("network"), port, config },
      env: Object.fromEntries(env) as Record<string, string>,
    });
    await this.#start(container);
    return `${container.id}\n`;
  }

  /** `docker run --rm --volumes-from` of the registry's own program. */
  #runBeside(container: string, [, ...args]: readonly string[]): Promise<string> {
    return execute(this.options.registry, args, {
      env: { ...process.env, ...this.#container(container).env },
    });
  }

  #create(
    name: string,
    image: string,
    rest: Pick<Container, "labels"> & Partial<Pick<Container, "network" | "port" | "config" | "env">>,
  ): Container {
    if (this.#containers.has(name))
      throw new Error(
        `Error response from daemon: Conflict. The container name "/${name}" is already in use by container "${this.#container(name).id}".`,
      );
    const root = this.#scratch("container");
    const from = this.#images.get(image);
    if (from?.root !== undefined) cpSync(from.root, root, { recursive: true });
    const container: Container = {
      ...{ env: {}, ...rest, id: identifier(), name, image, root },
      labels: { ...from?.labels, ...rest.labels },
      ...{ status: "created", startedAt: new Date().toISOString() },
    };
    this.#containers.set(name, container);
    return container;
  }

  async #start(container: Container): Promise<void> {
    container.status = "running";
    container.startedAt = new Date().toISOString();
    const { name, port, config, env } = container;
    if (config === undefined) return;
    const args = ["serve", config];
    container.process = this.#processes.start({ name, command: this.options.registry, args, env });
    await container.process.ready(httpProbe({ url: `http://127.0.0.1:${port ?? 0}/v2/` }));
  }

  async #halt(container: Container): Promise<void> {
    await container.process?.stop();
    container.status = "exited";
  }

  async #remove(container: Container): Promise<void> {
    await this.#halt(container);
    this.#containers.delete(container.name);
    rmSync(container.root, { recursive: true, force: true });
  }

  /** `docker exec`: in a node, the paths among the arguments are paths of the node. */
  #exec(
    { root, config, env }: Container,
    [program = "", ...args]: readonly string[],
    input: string,
  ): Promise<string> {
    const inside = (word: string) => (config === undefined && word.startsWith("/") ? join(root, word) : word);
    return execute(program, args.map(inside), { env: { ...process.env, ...env } }, input);
  }

  /** `docker cp` into a container or out of it. */
  #copy(from: string, to: string): void {
    const [, source, path = ""] = /^([^/:]+):(.*)$/.exec(from) ?? [];
    if (source !== undefined) {
      const inside = join(this.#container(source).root, path);
      if (!existsSync(inside))
        throw new Error(`Error response from daemon: Could not find the file ${path} in container ${source}`);
      cpSync(inside, to, { recursive: true });
      return;
    }
    const [, target = "", directory = ""] = /^([^/:]+):(.*)$/.exec(to) ?? [];
    cpSync(from, join(this.#container(target).root, directory, basename(from)), { recursive: true });
  }

  #find(nameOrId: string): Container | undefined {
    return this.#containers.get(nameOrId) ?? [...this.#containers.values()].find(({ id }) => id === nameOrId);
  }

  #container(nameOrId: string): Container {
    const found = this.#find(nameOrId);
    if (found === undefined) throw new Error(`Error response from daemon: No such container: ${nameOrId}`);
    return found;
  }

  #volumeOf(name: string): { readonly labels: Labels; readonly root: string } {
    const found = this.#volumes.get(name);
    if (found === undefined) throw new Error(`Error response from daemon: get ${name}: no such volume`);
    return found;
  }

  #imageOf(name: string): Image {
    const found = this.#images.get(name) ?? [...this.#images.values()].find(({ id }) => id === name);
    if (found === undefined) throw new Error(`Error response from daemon: No such image: ${name}`);
    return found;
  }

  /** A new directory of the machine. */
  #scratch(kind: string): string {
    const path = join(this.options.directory, `${kind}-${randomBytes(4).toString("hex")}`);
    mkdirSync(path, { recursive: true });
    return path;
  }
}

const optionsWithValue = [
  ...["change", "env", "filter", "format", "label", "name", "network", "publish", "pull", "restart", "tail"],
  ...["type", "volume", "volumes-from"],
];
const flags = ["all", "detach", "force", "interactive", "no-trunc", "quiet", "rm", "volumes"];

/**
 * The options before the first argument, and the arguments.
 *
 * @throws Error for an option that no call of this project has
 */
function split(
  args: readonly string[],
  withValue: readonly string[],
  alone: readonly string[] = [],
): { options: Map<string, string[]>; positional: string[] } {
  const options = new Map<string, string[]>();
  for (let at = 0; at < args.length; at++) {
    const [, name, value] = /^--([^=]+)(?:=(.*))?$/s.exec(args[at] ?? "") ?? [];
    if (name === undefined) return { options, positional: args.slice(at) };
    if (alone.includes(name)) options.set(name, []);
    else if (withValue.includes(name))
      options.set(name, [...(options.get(name) ?? []), value ?? args[++at] ?? ""]);
    else throw unsimulated(`--${name} of`, args);
  }
  return { options, positional: [] };
}

function unsimulated(program: string, args: readonly string[]): Error {
  return new Error(
    `A rehearsal does not know "${program} ${args.join(" ")}". Teach it to rehearsal/engine/machine.ts.`,
  );
}

/** `key=value` by key. */
function pairs(texts: readonly string[] = []): Labels {
  return Object.fromEntries(
    texts.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]),
  );
}

function identifier(): string {
  return randomBytes(32).toString("hex");
}

function execute(
  program: string,
  args: readonly string[],
  options: { readonly env: NodeJS.ProcessEnv },
  input = "",
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(program, [...args], options, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else reject(new Error(stderr.trim() || error.message));
    });
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(input);
  });
}

function listen(server: Server, at: string | number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    if (typeof at === "number") server.listen(at, "127.0.0.1", resolve);
    else server.listen(at, resolve);
  });
}
