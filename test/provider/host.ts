import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { credentials, type ServiceError } from "@grpc/grpc-js";
import { ResourceProviderClient } from "@pulumi/pulumi/proto/provider_grpc_pb";
import * as proto from "@pulumi/pulumi/proto/provider_pb";
import { Struct } from "google-protobuf/google/protobuf/struct_pb";

/** Properties of a resource, as they cross the wire. */
export type Properties = Readonly<Record<string, unknown>>;

const project = join(__dirname, "..", "..");

/** Pulumi's own host of dynamic providers, in a process of its own: what runs a provider out of state. */
export class ProviderHost {
  private constructor(
    private readonly process: ChildProcess,
    private readonly client: ResourceProviderClient,
  ) {}

  /** @param env variables of the host, such as PATH, beside this process's own */
  static async start(env: Readonly<Record<string, string | undefined>> = {}): Promise<ProviderHost> {
    const script = require.resolve("@pulumi/pulumi/cmd/dynamic-provider/index.js");
    const child = spawn(process.execPath, [script, "127.0.0.1:1"], {
      ...{ cwd: project, env: { ...process.env, ...env } },
      // What a provider throws is in the answer; the host writes it here as well.
      stdio: ["ignore", "pipe", "ignore"],
    });
    const port = await new Promise<string>((resolve, reject) => {
      createInterface(child.stdout).once("line", resolve);
      child.once("error", reject).once("exit", (code) => {
        reject(new Error(`Pulumi's provider host ended with code ${code ?? "none"}`));
      });
    });
    const client = new ResourceProviderClient(`127.0.0.1:${port}`, credentials.createInsecure());
    return new ProviderHost(child, client);
  }

  stop(): void {
    this.client.close();
    this.process.kill();
  }

  /** The failures that `check` found, `property: reason`. */
  async check(olds: Properties, news: Properties): Promise<string[]> {
    const request = new proto.CheckRequest();
    request.setOlds(struct(olds));
    request.setNews(struct(news));
    const response = await call<proto.CheckResponse>((done) => this.client.check(request, done));
    return response.getFailuresList().map((failure) => `${failure.getProperty()}: ${failure.getReason()}`);
  }

  async diff(
    id: string,
    olds: Properties,
    news: Properties,
  ): Promise<{
    changes: boolean;
    replaces: string[];
    /** Of a replacement whose old resource goes first. */
    deleteBeforeReplace?: true;
  }> {
    const request = new proto.DiffRequest();
    request.setId(id);
    request.setOlds(struct(olds));
    request.setNews(struct(news));
    const response = await call<proto.DiffResponse>((done) => this.client.diff(request, done));
    const replaces = response.getReplacesList();
    return {
      changes: response.getChanges() === proto.DiffResponse.DiffChanges.DIFF_SOME,
      replaces,
      ...(replaces.length > 0 && response.getDeletebeforereplace() ? { deleteBeforeReplace: true } : {}),
    };
  }

  async create(news: Properties): Promise<{ id: string; state: Properties }> {
    const request = new proto.CreateRequest();
    request.setProperties(struct(news));
    const response = await call<proto.CreateResponse>((done) => this.client.create(request, done));
    return { id: response.getId(), state: properties(response.getProperties()) };
  }

  /** @returns undefined when the resource is gone */
  async read(id: string, state: Properties): Promise<Properties | undefined> {
    const request = new proto.ReadRequest();
    request.setId(id);
    request.setProperties(struct(state));
    const response = await call<proto.ReadResponse>((done) => this.client.read(request, done));
    return response.getId() === "" ? undefined : properties(response.getProperties());
  }

  async update(id: string, olds: Properties, news: Properties): Promise<Properties> {
    const request = new proto.UpdateRequest();
    request.setId(id);
    request.setOlds(struct(olds));
    request.setNews(struct(news));
    const response = await call<proto.UpdateResponse>((done) => this.client.update(request, done));
    return properties(response.getProperties());
  }

  async delete(id: string, state: Properties): Promise<void> {
    const request = new proto.DeleteRequest();
    request.setId(id);
    request.setProperties(struct(state));
    await call((done) => this.client.delete(request, done));
  }
}

/** One call; what the provider threw is the error's whole message. */
function call<T>(start: (done: (error: ServiceError | null, response: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, response) => {
      if (error === null) resolve(response);
      else reject(new Error(error.details, { cause: error }));
    });
  });
}

function struct(values: Properties): Struct {
  // Undefined values do not cross the wire.
  return Struct.fromJavaScript(JSON.parse(JSON.stringify(values)) as never);
}

function properties(values: Struct | undefined): Properties {
  return values?.toJavaScript() ?? {};
}
