import type { dynamic, Input } from "@pulumi/pulumi";

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
  /** Whether the resource changes. */
  diff?(olds: Outputs, news: Inputs): boolean | object;
  /** @default the deletion changes nothing */
  delete?(state: Outputs): Promise<void>;
}

/** The parts of a provider. They are functions, because Pulumi serialises the provider: each call makes its clients. */
interface Parts<Inputs, Outputs> {
  id(inputs: Inputs): string;
  lifecycle(values: Inputs | Outputs): Lifecycle<Inputs, Outputs>;
}

/** The adapter between Pulumi and a lifecycle. */
export function providerOf<Inputs extends object, Outputs extends object>(
  parts: Parts<Inputs, Outputs>,
): dynamic.ResourceProvider<Inputs, Outputs> {
  return {
    create: async (inputs) => ({ id: parts.id(inputs), outs: await parts.lifecycle(inputs).create(inputs) }),
    read: async (id, state) => {
      if (state === undefined) return {};
      const lifecycle = parts.lifecycle(state);
      const props = lifecycle.read === undefined ? state : await lifecycle.read(state);
      return props === undefined ? {} : { id, props };
    },
    diff: (_id, olds, news) =>
      Promise.resolve({ changes: parts.lifecycle(news).diff?.(olds, news) === true }),
    update: async (_id, olds, news) => {
      const lifecycle = parts.lifecycle(news);
      return { outs: await (lifecycle.update?.(news, olds) ?? lifecycle.create(news, olds)) };
    },
    delete: async (_id, state) => {
      await parts.lifecycle(state).delete?.(state);
    },
  };
}
