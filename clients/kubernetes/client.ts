import { request, type RequestOptions } from "node:https";
import type * as ClientLibrary from "@kubernetes/client-node";
import { sentence } from "../../system/sentence";

/** Any Kubernetes object, as the API server receives and returns it. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly generation?: number;
    readonly uid?: string;
    /** A new value for each change. */
    readonly resourceVersion?: string;
    readonly deletionTimestamp?: string;
    /** The manager of each field, as of the last change. */
    readonly managedFields?: readonly ManagedFields[];
  };
  readonly [field: string]: unknown;
}

/** The fields that one manager set by one kind of operation. */
export interface ManagedFields {
  readonly manager?: string;
  readonly operation?: string;
  /** A tree of field names; a leaf is `{}`. */
  readonly fieldsV1?: FieldTree;
}

/** Names of fields, as `managedFields` nest them. */
export interface FieldTree {
  readonly [field: string]: FieldTree;
}

/** The name of one object. */
export interface ManifestRef {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly namespace?: string;
}

/** The calls of the lifecycles to a Kubernetes API server. */
export interface KubernetesApi {
  /** Server-side apply of one object; `fieldManager` takes over fields of other managers. */
  apply(object: Manifest, fieldManager: string): Promise<void>;
  /** The object; undefined when the object, or its kind, does not exist. */
  get(ref: ManifestRef): Promise<Manifest | undefined>;
  /** All objects of a kind; empty when the kind does not exist. */
  list(apiVersion: string, kind: string, namespace?: string): Promise<Manifest[]>;
  /** Sets annotations; does nothing when the object does not exist. */
  annotate(ref: ManifestRef, annotations: Readonly<Record<string, string>>): Promise<void>;
  /** Merges into an object (RFC 7386); does nothing when the object does not exist. */
  merge(ref: ManifestRef, patch: object): Promise<void>;
  /** Deletes an object; does nothing when the object does not exist. */
  delete(ref: ManifestRef): Promise<void>;
}

/**
 * Why a request failed, as `code` of the error: the server does not answer, the kubeconfig is not usable, the server
 * does not know the credentials (401) or does not allow it (403), or it refused the request itself.
 */
export type FailureCode = "unreachable" | "kubeconfig" | "unauthorized" | "forbidden" | "refused";

/** An error as every method of `KubernetesApi` throws it. */
export interface KubernetesFailure extends Error {
  readonly code: FailureCode;
  /** The message without the operation that failed. */
  readonly reason: string;
}

function failure(code: FailureCode, operation: string, reason: string, cause?: unknown): KubernetesFailure {
  return Object.assign(new Error(`${operation} ${reason}`, { cause }), { code, reason });
}

/**
 * Throws the error of a failed `read`, unless this project makes the cluster: then the resource is gone with its
 * cluster, and the next run makes both again. A cluster of another owner may answer again.
 *
 * @param ownCluster a state from before this input has no value; then the state keeps the resource
 */
export function throwUnlessOwn(ownCluster: boolean | undefined, error: unknown): void {
  if (ownCluster === true) return;
  const { code, message } = error as Partial<KubernetesFailure>;
  const remedy =
    code === "unauthorized" || code === "kubeconfig"
      ? 'Where platform:cluster.kubeconfigFile is newer than the last run, run once with "--refresh=false".'
      : code === "forbidden"
        ? "Give the user of the kubeconfig this permission and run again."
        : 'Bring the cluster back and run again; if it is gone for good, "pulumi stack rm --force --preserve-config" forgets it.';
  throw new Error(`${sentence(message ?? String(error))} ${remedy}`, { cause: error });
}

/** `Kind namespace/name`, as errors name an object. */
export function nameOf(ref: ManifestRef): string {
  return `${ref.kind} ${ref.namespace === undefined ? "" : `${ref.namespace}/`}${ref.name}`;
}

/** The reference of an object. */
export function refOf(object: Manifest): ManifestRef {
  const { name, namespace } = object.metadata;
  return {
    apiVersion: object.apiVersion,
    kind: object.kind,
    name,
    ...(namespace === undefined ? {} : { namespace }),
  };
}

/** The way in which an API server serves a kind. */
interface Resource {
  readonly kind: string;
  readonly name: string;
  readonly namespaced: boolean;
}

interface Response {
  readonly status: number;
  readonly body: string;
}

/** Answers of a server that is starting, busy or restarting: the same request may succeed a moment later. */
const passing = [429, 500, 502, 503, 504];
const attempts = 6;

/**
 * The API server behind a kubeconfig.
 *
 * Objects go over the wire as they are: the client library, which knows kubeconfigs and their credentials, drops
 * fields that its own model of a kind lacks (such as `x-kubernetes-preserve-unknown-fields` of a CRD).
 *
 * The library is loaded inside a method: most runs of a command need no cluster.
 */
export class KubernetesClient implements KubernetesApi {
  private config: ClientLibrary.KubeConfig | undefined;
  private readonly served: Record<string, readonly Resource[]> = {};

  /** @param namespace of objects that name none. @default "default" */
  constructor(
    private readonly kubeconfig: string,
    private readonly namespace = "default",
  ) {}

  async apply(object: Manifest, fieldManager: string): Promise<void> {
    await this.serverSideApply(object, `fieldManager=${fieldManager}&force=true`, "Applying");
  }

  /**
   * Lets the API server check an object as if it applied it: schema, unknown fields, admission. Changes nothing.
   *
   * @throws Error with the API server's message
   */
  async validate(object: Manifest): Promise<void> {
    const query = "fieldManager=validation&force=true&dryRun=All&fieldValidation=Strict";
    await this.serverSideApply(object, query, "Validating");
  }

  /** Waits some 3 s for an API server that calls itself ready. @throws Error when there is none, or it refuses the user */
  async ready(): Promise<void> {
    const operation = "Asking the API server failed:";
    this.refuse(await this.send("GET", "/readyz", operation), operation);
    this.refuse(await this.send("GET", "/version", operation), operation);
  }

  /** Whether the kubeconfig's user may do something, as the API server's authorizers say. */
  async allows(verb: string, group: string, resource: string, namespace?: string): Promise<boolean> {
    const operation = `Asking for the permission to ${verb} ${resource} failed:`;
    const apiVersion = "authorization.k8s.io/v1";
    const review = {
      ...{ apiVersion, kind: "SelfSubjectAccessReview" },
      spec: { resourceAttributes: { verb, group, resource, namespace } },
    };
    const path = `/apis/${apiVersion}/selfsubjectaccessreviews`;
    const answer = this.refuse(
      await this.send("POST", path, operation, review, "application/json"),
      operation,
    );
    return (JSON.parse(answer) as { status?: { allowed?: boolean } }).status?.allowed === true;
  }

  private async serverSideApply(object: Manifest, query: string, verb: string): Promise<void> {
    const ref = refOf(object);
    const operation = `${verb} ${nameOf(ref)} failed:`;
    const path = await this.path(ref, operation);
    if (path === undefined) {
      const reason = `the API server does not serve ${ref.apiVersion} ${ref.kind}.`;
      throw failure("refused", operation, reason);
    }
    const type = "application/apply-patch+yaml";
    this.refuse(await this.send("PATCH", `${path}?${query}`, operation, object, type), operation);
  }

  async get(ref: ManifestRef): Promise<Manifest | undefined> {
    const operation = `Reading ${nameOf(ref)} failed:`;
    const body = await this.request("GET", ref, operation);
    return body === undefined ? undefined : (JSON.parse(body) as Manifest);
  }

  async list(apiVersion: string, kind: string, namespace?: string): Promise<Manifest[]> {
    const operation = `Listing ${kind} failed:`;
    const ref = { apiVersion, kind, name: "", namespace: namespace ?? "" };
    const body = (await this.request("GET", ref, operation)) ?? '{ "items": [] }';
    const { items } = JSON.parse(body) as { items: readonly Manifest[] };
    // The items of a list of a built-in kind have no kind of their own.
    return items.map((item) => ({ ...item, apiVersion, kind }));
  }

  async annotate(ref: ManifestRef, annotations: Readonly<Record<string, string>>): Promise<void> {
    await this.merge(ref, { metadata: { annotations } });
  }

  async merge(ref: ManifestRef, patch: object): Promise<void> {
    await this.patch(ref, "", patch);
  }

  /** Merges into an object's status; does nothing when the object does not exist. */
  async mergeStatus(ref: ManifestRef, status: Readonly<Record<string, unknown>>): Promise<void> {
    await this.patch(ref, "/status", { status });
  }

  async delete(ref: ManifestRef): Promise<void> {
    await this.request("DELETE", ref, `Deleting ${nameOf(ref)} failed:`);
  }

  private async patch(ref: ManifestRef, subresource: string, patch: object): Promise<void> {
    const type = "application/merge-patch+json";
    await this.request("PATCH", ref, `Changing ${nameOf(ref)} failed:`, { subresource, body: patch, type });
  }

  /** The body of the answer about an object; undefined when the object, or its kind, does not exist. */
  private async request(
    method: string,
    ref: ManifestRef,
    operation: string,
    { subresource = "", body, type }: { subresource?: string; body?: object; type?: string } = {},
  ): Promise<string | undefined> {
    const path = await this.path(ref, operation);
    if (path === undefined) return undefined;
    const response = await this.send(method, path + subresource, operation, body, type);
    return response.status === 404 ? undefined : this.refuse(response, operation);
  }

  /**
   * The path of an object, or of a list if the name is empty; undefined when the API server does not serve the kind.
   */
  private async path(ref: ManifestRef, operation: string): Promise<string | undefined> {
    const { apiVersion, kind, name } = ref;
    const prefix = `/${apiVersion.includes("/") ? "apis" : "api"}/${apiVersion}`;
    const find = () => this.served[apiVersion]?.find((candidate) => candidate.kind === kind);
    if (find() === undefined) {
      const response = await this.send("GET", prefix, operation);
      if (response.status === 404) return undefined;
      const { resources } = JSON.parse(this.refuse(response, operation)) as { resources: Resource[] };
      this.served[apiVersion] = resources.filter((resource) => !resource.name.includes("/"));
    }
    const resource = find();
    if (resource === undefined) return undefined;
    const namespace = ref.namespace ?? this.namespace;
    const scope = resource.namespaced && namespace !== "" ? `/namespaces/${namespace}` : "";
    return `${prefix}${scope}/${resource.name}${name === "" ? "" : `/${encodeURIComponent(name)}`}`;
  }

  /** The body of a successful response. */
  private refuse(response: Response, operation: string): string {
    if (response.status < 300) return response.body;
    let message = response.body;
    try {
      message = (JSON.parse(response.body) as { message?: string }).message ?? message;
    } catch {
      // The answer of a proxy, not of the API server: the proxy's text says best what happened.
    }
    const { status } = response;
    const codes: Readonly<Record<number, FailureCode>> = { 401: "unauthorized", 403: "forbidden" };
    const code = codes[status] ?? (passing.includes(status) ? "unreachable" : "refused");
    throw failure(code, operation, sentence(message.trim() || `HTTP ${status}`));
  }

  /** Sends one request, and repeats it for some 3 s in all while the server says that it is starting or busy. */
  private async send(
    method: string,
    path: string,
    operation: string,
    body?: object,
    contentType?: string,
  ): Promise<Response> {
    const { server, options } = await this.connection(operation);
    const headers = {
      ...(options.headers as Record<string, string> | undefined),
      ...{ Accept: "application/json", ...(contentType && { "Content-Type": contentType }) },
    };
    for (let attempt = 1; ; attempt++) {
      try {
        const response = await this.exchange(
          new URL(server.replace(/\/$/, "") + path),
          { ...options, method, headers },
          body,
        );
        if (!passing.includes(response.status) || attempt === attempts) return response;
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException;
        if (code !== "ECONNRESET" || attempt === attempts) {
          const reason = `the API server at ${server} does not answer (${code ?? message}).`;
          throw failure("unreachable", operation, reason, error);
        }
      }
      await new Promise((resolve) => setTimeout(resolve, attempt * 200));
    }
  }

  private exchange(url: URL, options: RequestOptions, body?: object): Promise<Response> {
    return new Promise((resolve, reject) => {
      const sent = request(url, { timeout: 30_000, ...options }, (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.once("error", reject);
        response.once("end", () => {
          resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString() });
        });
      });
      sent.once("timeout", () => sent.destroy(new Error("no answer within 30 s")));
      sent.once("error", reject);
      sent.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  private async connection(operation: string): Promise<{ server: string; options: RequestOptions }> {
    if (this.config === undefined) {
      // eslint-disable-next-line @typescript-eslint/no-require-imports -- see the class comment
      const library = require("@kubernetes/client-node") as typeof ClientLibrary;
      const config = new library.KubeConfig();
      try {
        config.loadFromString(this.kubeconfig);
      } catch (error) {
        const { message } = error as Error;
        throw failure("kubeconfig", operation, `the kubeconfig is not valid: ${message}.`, error);
      }
      this.config = config;
    }
    const server = this.config.getCurrentCluster()?.server;
    if (server === undefined) {
      const reason = "the kubeconfig names no current cluster. Set its current-context.";
      throw failure("kubeconfig", operation, reason);
    }
    const options: RequestOptions = {};
    await this.config.applyToHTTPSOptions(options);
    // The library's agent closes a connection after each request.
    Object.assign(options.agent ?? {}, { keepAlive: true });
    return { server, options };
  }
}
