import { dynamic, type CustomResourceOptions, type Input } from "@pulumi/pulumi";

/** Arguments of a dynamic resource: its inputs, each of which may be an output. */
export type Args<Inputs> = { readonly [K in keyof Inputs]: Input<Inputs[K]> };

/** The rules of a resource, in `core/`. */
interface Lifecycle<Inputs, Outputs> {
  /** Makes or adopts the resource; `olds` is the state of an existing resource. */
  create(inputs: Inputs, olds?: Outputs): Promise<Outputs>;
  /** @default `create` */
  update?(inputs: Inputs, olds: Outputs): Promise<Outputs>;
  /** @returns undefined when the resource is gone. @default the resource is as its state says */
  read?(state: Outputs): Promise<Outputs | undefined>;
  /** @returns whether the resource changes. @default it never changes */
  diff?(olds: Outputs, news: Inputs): boolean | dynamic.DiffResult;
  /** @default the deletion changes nothing */
  delete?(state: Outputs): Promise<void>;
}

/** The parts of a provider: its clients belong to the resource, so each call makes them. */
interface Parts<Inputs, Outputs> {
  id(inputs: Inputs): string;
  lifecycle(values: Inputs | Outputs): Lifecycle<Inputs, Outputs>;
}

/** The adapter between Pulumi and a lifecycle. */
export function providerOf<Inputs extends object, Outputs extends object>(
  parts: Parts<Inputs, Outputs>,
): dynamic.ResourceProvider<Inputs, Outputs> {
  return {
    check: (_olds, news) => Promise.resolve({ inputs: news }),
    create: async (inputs) => ({ id: parts.id(inputs), outs: await parts.lifecycle(inputs).create(inputs) }),
    read: async (id, state) => {
      if (state === undefined) return {};
      const lifecycle = parts.lifecycle(state);
      const props = lifecycle.read === undefined ? state : await lifecycle.read(state);
      return props === undefined ? {} : { id, props };
    },
    diff: (_id, olds, news) => {
      const diff = parts.lifecycle(news).diff?.(olds, news) ?? false;
      return Promise.resolve(typeof diff === "boolean" ? { changes: diff } : diff);
    },
    update: async (_id, olds, news) => {
      const lifecycle = parts.lifecycle(news);
      return { outs: await (lifecycle.update?.(news, olds) ?? lifecycle.create(news, olds)) };
    },
    delete: async (_id, state) => {
      await parts.lifecycle(state).delete?.(state);
    },
  };
}

/** The names of a {@link CheckedOutResource}. */
interface Names {
  /** The name of its module in `components/dynamic`. */
  readonly file: string;
  /** Its type in Pulumi, `<module>:<Type>`. */
  readonly type: readonly [module: string, type: string];
  /** The outputs that are no inputs. */
  readonly outputs?: readonly string[];
  /** The inputs and outputs that Pulumi encrypts. */
  readonly secrets?: string[];
}

/** A dynamic resource whose provider is the export `provider` of a module of this folder. */
export abstract class CheckedOutResource<Inputs extends object> extends dynamic.Resource {
  constructor(
    { file, type, outputs = [], secrets = [] }: Names,
    name: string,
    args: Args<Inputs>,
    opts?: CustomResourceOptions,
  ) {
    const props = { ...Object.fromEntries(outputs.map((key) => [key, undefined])), ...args };
    super(checkedOut(file), name, props, { ...opts, additionalSecretOutputs: secrets }, ...type);
  }
}

/**
 * The provider as Pulumi stores it in state: only the name of its module. Pulumi's host of dynamic providers runs in the
 * project's directory, and loads the `provider` that this checkout has. So state holds no code, Pulumi has almost nothing
 * to serialise, and a provider is ordinary code.
 *
 * @param file the module's name in `components/dynamic`
 */
function checkedOut(file: string): dynamic.ResourceProvider {
  const provider = () => {
    const load = process.getBuiltinModule("node:module").createRequire(`${process.cwd()}/package.json`);
    load("ts-node/register/transpile-only");
    return (load(`./components/dynamic/${file}`) as { provider: Required<dynamic.ResourceProvider> })
      .provider;
  };
  return {
    check: (olds, news) => provider().check(olds, news),
    create: (inputs) => provider().create(inputs),
    read: (id, state) => provider().read(id, state),
    diff: (id, olds, news) => provider().diff(id, olds, news),
    update: (id, olds, news) => provider().update(id, olds, news),
    delete: (id, state) => provider().delete(id, state),
  };
}
