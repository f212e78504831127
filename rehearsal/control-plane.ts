import { generateKeyPairSync, randomBytes, randomInt } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { arch } from "node:os";
import { join } from "node:path";
import { stringify } from "yaml";
import type { Manifest } from "../clients/kubernetes/client";
import { condition } from "../clients/kubernetes/condition";
import { isPortTaken } from "../system/port";
import { findOptional } from "../tools/tools";
import {
  httpProbe,
  ProcessDied,
  ProcessGroup,
  type Probe,
  type ReadyOptions,
  type SupervisedProcess,
} from "../system/process";
import { upstreamFiles } from "../tools/upstream";

/** The tools that a control plane runs, all of them pinned in `tools/go.mod`. */
export const controlPlaneTools = [
  "etcd",
  "kube-apiserver",
  "kube-controller-manager",
  "kube-scheduler",
  "kwok",
  "registry",
  "source-controller",
  "kustomize-controller",
] as const;

/** The name of a tool in {@link controlPlaneTools}. */
export type ControlPlaneTool = (typeof controlPlaneTools)[number];

/** A Flux controller that may run next to the control plane. */
export type FluxController =
  "source-controller" | "kustomize-controller" | "helm-controller" | "notification-controller";

/** Command-line flags by controller, such as `--concurrent=10`; given after those of {@link ControlPlane}, so they win. */
export type FluxFlags = Readonly<Record<FluxController, readonly string[]>>;

/** Arguments of {@link ControlPlane.start}. */
export interface ControlPlaneArgs {
  /** Absolute path of a directory for all state; made for this user only, and removed in the end. */
  readonly directory: string;
  /** Absolute path of each program. Each one is started as soon as it is there. */
  readonly tools: Readonly<Record<ControlPlaneTool, string | Promise<string>>>;
  /** Receives a line for each milestone and for each process that ends unexpectedly. @default nothing is reported */
  readonly report?: (line: string) => void;
  /** Stops the start. @default never */
  readonly signal?: AbortSignal;
  /** Whether the API server writes every patch that it receives to {@link ControlPlane.auditLog}. @default false */
  readonly audit?: boolean;
  /** URL of the proxy through which Flux reaches registries that speak plain HTTP. @default none */
  readonly httpProxy?: string;
}

/**
 * A real Kubernetes control plane as local processes on 127.0.0.1, with simulated nodes and pods (KWOK), a registry
 * and, on request, the real Flux controllers. It ends with this process, after any end of this process.
 */
export class ControlPlane {
  /** `host:port` of the registry, which speaks plain HTTP and allows deletion. */
  readonly registry: string;
  /** Absolute path of {@link ControlPlane.kubeconfig}. */
  readonly kubeconfigPath: string;
  /** Absolute path of the audit log: one JSON event a line, Secrets in plain text. */
  readonly auditLog: string;

  /**
   * Resolves when a process ends unexpectedly after its start and is not started again. The error has the last lines of
   * the process; code that waits for the control plane waits in vain.
   */
  readonly broken: Promise<Error>;

  readonly #started = Date.now();
  readonly #report: (line: string) => void;
  readonly #group: ProcessGroup;
  readonly #api: string;
  /** An agent of its own: the global agent takes a proxy of the environment (NODE_USE_ENV_PROXY). */
  readonly #agent = new Agent({ keepAlive: true });
  readonly #token = randomBytes(32).toString("hex");
  #break: (reason: string) => void = () => undefined;
  #kubeconfig = "";
  #certificate = "";
  #nodesReady: Promise<void> = Promise.resolve();
  #flux: readonly FluxProcess[] = [];

  private constructor(
    private readonly args: ControlPlaneArgs,
    private readonly ports: Ports<"api" | "registry">,
  ) {
    this.#report = args.report ?? (() => undefined);
    this.broken = new Promise((resolve) => {
      this.#break = (reason) => {
        resolve(new Error(`Rehearsing failed: ${reason}`));
      };
    });
    this.#group = new ProcessGroup(args.directory);
    this.#api = `https://127.0.0.1:${ports.api}`;
    this.registry = `127.0.0.1:${ports.registry}`;
    this.kubeconfigPath = this.#path("kubeconfig");
    this.auditLog = this.#path("audit.log");
  }

  /**
   * Starts everything but Flux and waits until the API server and the registry answer; `ready` waits for the rest.
   * @throws when a process ends or is not ready in time, with its last lines; nothing is left behind then.
   */
  static async start(args: ControlPlaneArgs): Promise<ControlPlane> {
    return retryOnTakenPort(async () => {
      const ports = await freePorts("api", "registry");
      args.signal?.throwIfAborted();
      const controlPlane = new ControlPlane(args, ports);
      // The end of the processes ends every wait for them.
      const stop = () => void controlPlane.#group.stop(0);
      args.signal?.addEventListener("abort", stop);
      try {
        await controlPlane.#unlessBroken(controlPlane.#start());
        args.signal?.throwIfAborted();
        return controlPlane;
      } catch (error) {
        await controlPlane.stop();
        throw error;
      } finally {
        args.signal?.removeEventListener("abort", stop);
      }
    });
  }

  /** Resolves when the API server is ready, namespace `default` included, and every node is Ready. @throws when that takes too long */
  async ready(): Promise<void> {
    await this.#unlessBroken(this.#nodesReady);
  }

  /** A kubeconfig of a user in `system:masters`, as YAML text. It holds a token: keep it secret. */
  get kubeconfig(): string {
    return this.#kubeconfig;
  }

  /**
   * Starts the Flux controllers and waits until they are ready: source and kustomize always, helm and notification if
   * they are available. Flux's CRDs must be in the cluster.
   * @returns the names of the controllers that run.
   */
  async startFlux(flags: FluxFlags): Promise<FluxController[]> {
    await this.#stopFlux();
    return retryOnTakenPort(async () => {
      this.#flux = await this.#planFlux(flags);
      try {
        await this.#launchFlux();
      } catch (error) {
        await this.#stopFlux();
        throw error;
      }
      return this.#flux.map(({ name }) => name);
    });
  }

  /** Ends every process and removes the directory. */
  async stop(): Promise<void> {
    // All state is temporary, so an orderly end brings no advantage.
    await this.#group.stop(0);
  }

  async #start(): Promise<void> {
    this.#write("tokens.csv", `${this.#token},rehearsal,rehearsal,"system:masters"\n`);
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    this.#write("service-account.key", privateKey.export({ type: "sec1", format: "pem" }) as string);

    const registry = this.#startRegistry();
    // A failure is told below, when the API server answers.
    registry.catch(() => undefined);
    await Promise.all([this.#startEtcd(), this.#writeStages()]);
    const apiServer = await this.#startApiServer();
    await this.#ready(apiServer, () => this.#readCertificate());
    this.#writeKubeconfig();
    // These processes wait for the API server by themselves; it answers them before it says that it is ready.
    await apiServer.ready(() => this.#answers("/livez/ping"));
    this.#milestone("API server answers");
    this.#nodesReady = this.#awaitNodes(apiServer);
    // Every caller that waits for it gets the failure; until then it is no unhandled rejection.
    this.#nodesReady.catch(() => undefined);
    await registry;
  }

  async #startRegistry(): Promise<void> {
    const args = ["serve", this.#writeRegistryConfig()];
    const registry = this.#run("registry", await this.args.tools.registry, args, {
      OTEL_TRACES_EXPORTER: "none",
    });
    await this.#ready(registry, httpProbe({ url: `http://${this.registry}/v2/` }));
  }

  async #unlessBroken<T>(work: Promise<T>): Promise<T> {
    const broken = this.broken.then((error) => {
      throw error;
    });
    return Promise.race([work, broken]);
  }

  async #awaitNodes(apiServer: SupervisedProcess): Promise<void> {
    await Promise.all([
      apiServer
        // The API server calls itself ready a moment before it has made its own namespaces.
        .ready(async () => (await this.#answers("/readyz")) && this.#answers("/api/v1/namespaces/default"))
        .then(() => {
          this.#milestone("API server ready");
        }),
      this.#startControllers(),
      this.#startKwok().then(() => this.#makeNodes(apiServer)),
    ]);
    this.#milestone("nodes ready");
  }

  /**
   * Etcd listens on sockets in the directory, which only this user can read: etcd checks no identity, and holds the
   * Secrets of a stack that is rehearsed with its identity.
   */
  async #startEtcd(): Promise<void> {
    const client = etcdServer;
    const peer = "unix://etcd-peer-socket";
    const etcd = this.#run("etcd", await this.args.tools.etcd, [
      `--data-dir=${this.#path("etcd")}`,
      `--listen-client-urls=${client}`,
      `--advertise-client-urls=${client}`,
      `--listen-peer-urls=${peer}`,
      `--initial-advertise-peer-urls=${peer}`,
      `--initial-cluster=default=${peer}`,
      "--unsafe-no-fsync", // the data does not outlive the machine
      "--heartbeat-interval=10", // milliseconds; it has no peers, so a short election only saves a second at start
      "--election-timeout=100",
      "--log-level=error",
    ]);
    const probe = httpProbe({ url: "http://localhost/readyz", socketPath: this.#path("etcd-socket") });
    await this.#ready(etcd, probe, { interval: 10 });
    this.#milestone("etcd ready");
  }

  async #startApiServer(): Promise<SupervisedProcess> {
    return this.#run("kube-apiserver", await this.args.tools["kube-apiserver"], [
      "--bind-address=127.0.0.1",
      "--advertise-address=127.0.0.1",
      `--secure-port=${this.ports.api}`,
      `--cert-dir=${this.#path("certificates")}`,
      `--etcd-servers=${etcdServer}`,
      `--token-auth-file=${this.#path("tokens.csv")}`,
      "--authorization-mode=RBAC",
      "--service-account-issuer=https://kubernetes.default.svc",
      `--service-account-key-file=${this.#path("service-account.key")}`,
      `--service-account-signing-key-file=${this.#path("service-account.key")}`,
      `--service-cluster-ip-range=${serviceCidr}`,
      "--endpoint-reconciler-type=none",
      "--allow-privileged=true",
      "--profiling=false",
      "--shutdown-delay-duration=0s",
      ...(this.args.audit === true ? this.#auditFlags() : []),
    ]);
  }

  #auditFlags(): string[] {
    const policy = {
      ...{ apiVersion: "audit.k8s.io/v1", kind: "Policy", omitStages: ["RequestReceived"] },
      rules: [{ level: "Request", verbs: ["patch"] }, { level: "None" }],
    };
    return [
      `--audit-policy-file=${this.#write("audit-policy.yaml", stringify(policy))}`,
      `--audit-log-path=${this.auditLog}`,
    ];
  }

  async #startControllers(): Promise<void> {
    const { tools } = this.args;
    const common = [
      `--kubeconfig=${this.kubeconfigPath}`,
      "--leader-elect=false",
      "--secure-port=0",
      "--profiling=false",
      "--kube-api-qps=500",
      "--kube-api-burst=1000",
    ];
    this.#keep("kube-controller-manager", await tools["kube-controller-manager"], [
      ...common,
      `--service-account-private-key-file=${this.#path("service-account.key")}`,
      `--root-ca-file=${this.#path("certificates/apiserver.crt")}`,
      "--node-monitor-grace-period=24h", // KWOK's heartbeat is slow
      `--controllers=${["*", ...idleControllers.map((name) => `-${name}`)].join(",")}`,
    ]);
    this.#keep("kube-scheduler", await tools["kube-scheduler"], common);
  }

  async #startKwok(): Promise<void> {
    this.#keep("kwok", await this.args.tools.kwok, [
      `--kubeconfig=${this.kubeconfigPath}`,
      `--config=${this.#path("kwok.yaml")}`,
      "--manage-all-nodes",
      `--cidr=${podCidr}`,
      "--node-ip=127.0.0.1",
      "--node-lease-duration-seconds=0",
    ]);
  }

  /** The stages of KWOK's own `fast` set, with its plain heartbeat: two heartbeats would compete. */
  async #writeStages(): Promise<void> {
    const wanted =
      /^kustomize\/stage\/(node\/fast\/node-|node\/heartbeat\/node-|pod\/fast\/pod-)[a-z-]+\.yaml$/;
    const stages = await upstreamFiles("sigs.k8s.io/kwok", "fast-stages", (path) => wanted.test(path));
    this.#write("kwok.yaml", [...stages.values()].map((stage) => stage.toString("utf8")).join("\n---\n"));
  }

  #writeRegistryConfig(): string {
    return this.#write(
      "registry.yaml",
      stringify({
        version: "0.1",
        log: { level: "error", accesslog: { disabled: true } },
        storage: {
          filesystem: { rootdirectory: this.#path("registry") },
          delete: { enabled: true },
          maintenance: { uploadpurging: { enabled: false } },
        },
        http: { addr: this.registry },
      }),
    );
  }

  #readCertificate(): Promise<boolean> {
    this.#certificate = readFileSync(this.#path("certificates/apiserver.crt"), "utf8");
    return Promise.resolve(this.#certificate.trimEnd().endsWith("-----END CERTIFICATE-----"));
  }

  #writeKubeconfig(): void {
    const cluster = {
      server: this.#api,
      "certificate-authority-data": Buffer.from(this.#certificate).toString("base64"),
    };
    this.#kubeconfig = stringify({
      apiVersion: "v1",
      kind: "Config",
      clusters: [{ name: "rehearsal", cluster }],
      users: [{ name: "rehearsal", user: { token: this.#token } }],
      contexts: [{ name: "rehearsal", context: { cluster: "rehearsal", user: "rehearsal" } }],
      "current-context": "rehearsal",
    });
    this.#write("kubeconfig", this.#kubeconfig);
  }

  async #makeNodes(apiServer: SupervisedProcess): Promise<void> {
    await Promise.all(
      ["node-1", "node-2"].map(async (name, index) => {
        await apiServer.ready(async () =>
          [201, 409].includes(await this.#call("POST", "/api/v1/nodes", node(name, index))),
        );
        await apiServer.ready(async () => {
          const made = await this.#get<Manifest>(`/api/v1/nodes/${name}`);
          return condition(made, "Ready")?.status === "True";
        });
      }),
    );
  }

  async #planFlux(flags: FluxFlags): Promise<FluxProcess[]> {
    const { tools } = this.args;
    const storage = this.#path("source");
    mkdirSync(storage, { recursive: true, mode: 0o700 });
    const ports = await freePorts(...fluxControllers, "storage", "events", "receiver");
    const commands: Readonly<Record<FluxController, string | undefined>> = {
      "source-controller": await tools["source-controller"],
      "kustomize-controller": await tools["kustomize-controller"],
      "helm-controller": findOptional("helm-controller"),
      "notification-controller": findOptional("notification-controller"),
    };
    const events = commands["notification-controller"] ? `http://127.0.0.1:${ports.events}/` : "";
    const own: FluxFlags = {
      "source-controller": [
        `--events-addr=${events}`,
        `--storage-path=${storage}`,
        `--storage-addr=127.0.0.1:${ports.storage}`,
        `--storage-adv-addr=127.0.0.1:${ports.storage}`,
      ],
      "kustomize-controller": [`--events-addr=${events}`],
      "helm-controller": [`--events-addr=${events}`],
      "notification-controller": [
        `--events-addr=127.0.0.1:${ports.events}`,
        `--receiverAddr=127.0.0.1:${ports.receiver}`,
      ],
    };
    return fluxControllers.flatMap((name): FluxProcess[] => {
      const command = commands[name];
      const health = `127.0.0.1:${ports[name]}`;
      const common = [`--health-addr=${health}`, "--metrics-addr=0", "--watch-all-namespaces=true"];
      return command === undefined
        ? []
        : [{ name, command, health, args: [...common, ...own[name], ...flags[name]] }];
    });
  }

  async #launchFlux(): Promise<void> {
    const env = {
      KUBECONFIG: this.kubeconfigPath,
      RUNTIME_NAMESPACE: "flux-system",
      TUF_ROOT: this.#path("tuf"),
      ...(this.args.httpProxy === undefined ? {} : { HTTP_PROXY: this.args.httpProxy }),
    };
    await Promise.all(
      this.#flux.map(async ({ name, command, args, health }) => {
        await this.#ready(this.#run(name, command, args, env), httpProbe({ url: `http://${health}/readyz` }));
      }),
    );
    this.#milestone(`${this.#flux.map(({ name }) => name).join(", ")} ready`);
  }

  async #stopFlux(): Promise<void> {
    const names: readonly string[] = this.#flux.map(({ name }) => name);
    const running = this.#group.processes.filter(({ name }) => names.includes(name));
    await Promise.all(running.map((supervised) => supervised.stop()));
  }

  #run(
    name: string,
    command: string,
    args: readonly string[],
    env: Readonly<Record<string, string>> = {},
  ): SupervisedProcess {
    const supervised = this.#group.start({ name, command, args, env });
    supervised.onUnexpectedEnd(this.#report);
    return supervised;
  }

  /**
   * Runs a program without state that gives up if the API server takes long to start. It is started again when it ends.
   */
  #keep(name: string, command: string, args: readonly string[]): void {
    this.#group.keep({ name, command, args }, restarts, (sentence, again) => {
      if (again) this.#report(`${sentence} It is started again.`);
      else this.#break(`${sentence} It ended ${restarts + 1} times.`);
    });
  }

  /** Waits until a program is ready; if the program ends unexpectedly later, the control plane is broken. */
  async #ready(supervised: SupervisedProcess, probe: Probe, options?: ReadyOptions): Promise<void> {
    await supervised.ready(probe, options);
    supervised.onUnexpectedEnd((sentence) => {
      this.#break(sentence);
    });
  }

  async #answers(path: string): Promise<boolean> {
    return (await this.#call("GET", path)) === 200;
  }

  async #call(method: string, path: string, body?: unknown): Promise<number> {
    return (await this.#request(method, path, body)).status;
  }

  async #get<T>(path: string): Promise<T> {
    return JSON.parse((await this.#request("GET", path)).text) as T;
  }

  /** Sends one request with plain Node, because this code runs before a client library is loaded. */
  #request(method: string, path: string, body?: unknown): Promise<{ status: number; text: string }> {
    const headers = { authorization: `Bearer ${this.#token}`, "content-type": "application/json" };
    return new Promise((resolve, reject) => {
      const call = request(
        `${this.#api}${path}`,
        { method, headers, ca: this.#certificate, timeout: 5_000, agent: this.#agent },
        (response) => {
          let text = "";
          response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
          response.on("end", () => {
            resolve({ status: response.statusCode ?? 0, text });
          });
        },
      );
      call.on("timeout", () => call.destroy(new Error(`${method} ${path}: no answer within 5 s`)));
      call.on("error", reject);
      call.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  #write(name: string, content: string): string {
    writeFileSync(this.#path(name), content, { mode: 0o600 });
    return this.#path(name);
  }

  #path(name: string): string {
    return join(this.args.directory, name);
  }

  #milestone(what: string): void {
    this.#report(`${what} after ${((Date.now() - this.#started) / 1000).toFixed(1)} s`);
  }
}

interface FluxProcess {
  readonly name: FluxController;
  readonly command: string;
  readonly args: readonly string[];
  /** `host:port` of the controller's probes. */
  readonly health: string;
}

const fluxControllers = [
  "source-controller",
  "kustomize-controller",
  "helm-controller",
  "notification-controller",
] as const;

/** A socket in the directory in which every process runs: a whole path may be too long for a socket. */
const etcdServer = "unix://etcd-socket";

// Addresses on this machine, so that a local process can answer for a webhook's ClusterIP.
const serviceCidr = "127.96.0.0/16";
/** The number of restarts of a program that gives up: the controller-manager waits 10 s for an API server. */
const restarts = 10;
const podCidr = "10.244.0.0/16";

/** Controllers of kube-controller-manager for kubelets, clouds, disks and metrics, which do not exist here. */
const idleControllers = [
  "bootstrap-signer-controller",
  "token-cleaner-controller",
  "certificatesigningrequest-approving-controller",
  "certificatesigningrequest-cleaner-controller",
  "certificatesigningrequest-signing-controller",
  "cloud-node-lifecycle-controller",
  "horizontal-pod-autoscaler-controller",
  "node-ipam-controller",
  "node-route-controller",
  "persistentvolume-attach-detach-controller",
  "persistentvolume-expander-controller",
  "service-lb-controller",
  "storage-version-migrator-controller",
];

/**
 * A node for KWOK to keep alive, of the size of a usual server. The first node has the control plane's role, untainted.
 */
function node(name: string, index: number): object {
  const size = { cpu: "8", memory: "32Gi", pods: "110", "ephemeral-storage": "100Gi" };
  return {
    apiVersion: "v1",
    kind: "Node",
    metadata: {
      name,
      annotations: { "kwok.x-k8s.io/node": "fake" },
      labels: {
        type: "kwok",
        "kubernetes.io/arch": arch() === "arm64" ? "arm64" : "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        [`node-role.kubernetes.io/${index === 0 ? "control-plane" : "worker"}`]: "",
      },
    },
    status: { capacity: size, allocatable: size },
  };
}

type Ports<Name extends string> = Readonly<Record<Name, number>>;

/**
 * Free ports of 127.0.0.1, below those that systems give to outgoing connections (from 32768 on Linux, 49152 on macOS),
 * so that no connection takes a port before a process does.
 */
async function freePorts<Name extends string>(...names: readonly Name[]): Promise<Ports<Name>> {
  const ports = new Set<number>();
  while (ports.size < names.length) {
    const port = randomInt(20_000, 30_000);
    if (!(await isPortTaken(port))) ports.add(port);
  }
  const chosen = [...ports];
  return Object.fromEntries(names.map((name, index) => [name, chosen[index]])) as Ports<Name>;
}

/** Tries again with other ports, when a process found a port in use that was free a moment before. */
async function retryOnTakenPort<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt === 3 || !(error instanceof ProcessDied && error.log.includes("address already in use")))
        throw error;
    }
  }
}
