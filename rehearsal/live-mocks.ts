import Module from "node:module";
import { join } from "node:path";
import type { dynamic } from "@pulumi/pulumi";
import { runtime } from "@pulumi/pulumi";
import { KubernetesClient, type Manifest } from "../clients/kubernetes/client";

/** A resource in the state of the last run. */
export interface ResourceState {
  readonly id: string;
  readonly state: Readonly<Record<string, unknown>>;
}

/** Every resource of a stack, by type and name: the content of Pulumi's own state. */
export type StackState = Record<string, ResourceState>;

/** The stand-in of a resource that cannot be made here. */
export interface StandIn {
  /** The resource's type token. */
  readonly type: string;
  /** The name for a person, "Kind cluster local"; undefined for a resource that nobody misses. */
  describe(inputs: Readonly<Record<string, unknown>>): string | undefined;
  /** The outputs of the resource; its id is "stand-in". */
  outputs(inputs: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>>;
}

/**
 * Live Pulumi mocks: dynamic resources run the provider that Pulumi would store in state, Kubernetes resources are
 * applied, and every other resource has a stand-in, by name.
 *
 * A second run with the same `state` goes through `read`, `diff` and `update`, as `pulumi up` with `refresh`.
 */
export class LiveMocks implements runtime.Mocks {
  /** The resources with stand-ins. */
  readonly simulated: string[] = [];
  /** Whether the program reached its first resource. */
  started = false;
  /** The first resource that failed, and why. */
  failure: Error | undefined;
  private readonly kubeconfigs = new Map<string, string>();

  constructor(
    private readonly state: StackState,
    private readonly standIns: readonly StandIn[],
    private readonly report: (line: string) => void,
  ) {}

  async newResource(args: runtime.MockResourceArgs): Promise<{ id: string; state: Record<string, unknown> }> {
    const inputs = unwrap(args.inputs) as Record<string, unknown>;
    if (args.custom !== true) return { id: "", state: inputs };
    const key = `${args.type}::${args.name}`;
    this.started = true;
    try {
      const { id, state } = await this.make(key, args, inputs);
      this.state[key] = { id, state };
      return { id, state };
    } catch (error) {
      this.failure ??= error as Error;
      throw error;
    }
  }

  call(args: runtime.MockCallArgs): Promise<Record<string, unknown>> {
    return Promise.reject(new Error(`Calling ${args.token} is not part of a rehearsal.`));
  }

  private async make(
    key: string,
    args: runtime.MockResourceArgs,
    inputs: Record<string, unknown>,
  ): Promise<{ id: string; state: Record<string, unknown> }> {
    const standIn = this.standIns.find(({ type }) => type === args.type);
    if (standIn !== undefined) {
      this.simulated.push(...[standIn.describe(inputs)].filter((name) => name !== undefined));
      const kept = this.state[key];
      const keepers = (of: Readonly<Record<string, unknown>>) => JSON.stringify(of.keepers ?? {});
      // As in `@pulumi/random`, new keepers make a new value.
      const same = kept !== undefined && keepers(kept.state) === keepers(inputs);
      const { id, state } = same ? kept : { id: "stand-in", state: standIn.outputs(inputs) };
      return { id, state: { ...inputs, ...state } };
    }
    if (args.type.startsWith("pulumi-nodejs:dynamic")) return this.dynamic(key, args.name, inputs);
    if (args.type === "pulumi:providers:kubernetes") {
      this.kubeconfigs.set(args.name, inputs.kubeconfig as string);
      return { id: args.name, state: inputs };
    }
    if (args.type.startsWith("pulumi:providers:")) return { id: args.name, state: inputs };
    if (args.type.startsWith("kubernetes:")) return this.apply(args, inputs);
    throw new Error(
      `Rehearsing ${args.type} "${args.name}" failed: there is no stand-in for it. Add one to rehearsal/.`,
    );
  }

  /** Runs the provider as Pulumi does: check, read, diff, and create, update or replace. */
  private async dynamic(
    key: string,
    name: string,
    news: Record<string, unknown>,
  ): Promise<{ id: string; state: Record<string, unknown> }> {
    const code = news.__provider as string;
    const provider = deserialise(code);
    const keep = (id: string, outs: object = {}) => ({ id, state: { ...outs, __provider: code } });
    const old = this.state[key];
    const { inputs = news, failures = [] } = await provider.check(old?.state ?? {}, news);
    if (failures.length > 0) throw new Error(failures.map(({ reason }) => reason).join("\n"));

    // The provider in state and the provider of the inputs load the same module.
    const { id, props = {} } = old === undefined ? {} : await provider.read(old.id, old.state);
    const create = async (word: string) => {
      this.report(`${word} ${name}`);
      const created = await provider.create(inputs);
      return keep(created.id, created.outs);
    };
    if (id === undefined) return create(old === undefined ? "create" : "restore");
    const { changes, replaces = [] } = await provider.diff(id, props, inputs);
    if (replaces.length > 0) return create("replace");
    if (changes !== true) return keep(id, props);
    this.report(`update ${name}`);
    return keep(id, (await provider.update(id, props, inputs)).outs);
  }

  private async apply(
    args: runtime.MockResourceArgs,
    inputs: Record<string, unknown>,
  ): Promise<{ id: string; state: Record<string, unknown> }> {
    // A provider reference is `urn::id`; the id is the provider's name here.
    const provider = args.provider?.split("::").at(-1) ?? "";
    const kubeconfig = this.kubeconfigs.get(provider);
    if (kubeconfig === undefined) {
      throw new Error(
        `Applying ${args.name} failed: the resource has no Kubernetes provider. Pass a provider in its options.`,
      );
    }
    const object = inputs as unknown as Manifest;
    const fieldManager = object.metadata.annotations?.["pulumi.com/patchFieldManager"] ?? "pulumi";
    await new KubernetesClient(kubeconfig).apply(object, fieldManager);
    const { namespace, name } = object.metadata;
    return { id: namespace === undefined ? name : `${namespace}/${name}`, state: inputs };
  }
}

/** Removes Pulumi's marks of secrets from a value, at any depth. */
function unwrap(value: unknown): unknown {
  const plain: unknown = runtime.isRpcSecret(value) ? runtime.unwrapRpcSecret(value) : value;
  if (Array.isArray(plain)) return plain.map(unwrap);
  if (typeof plain === "object" && plain !== null) {
    return Object.fromEntries(Object.entries(plain).map(([key, child]) => [key, unwrap(child)]));
  }
  return plain;
}

/** The provider that `code` of the state loads, as in Pulumi's dynamic-provider host. */
function deserialise(code: string): Required<dynamic.ResourceProvider<object, object>> {
  const filename = join(__dirname, "..", "provider.js");
  const loaded = new Module(filename) as Module & { _compile(code: string, filename: string): void };
  loaded.paths = [join(__dirname, "..", "node_modules")];
  loaded._compile(code, filename);
  return (loaded.exports as { handler(): Required<dynamic.ResourceProvider<object, object>> }).handler();
}
