import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import type { URN } from "@pulumi/pulumi";
import { main, type CreateResult } from "@pulumi/pulumi/provider";

/** What changing an input asks for. */
export type OnChange = "replace" | "update";

/** A type of resource as its stand-in serves it: the inputs it knows, and what is done with them. */
export interface Resource {
  /** Inputs that this type has here; any other is refused. */
  readonly inputs: Readonly<Record<string, OnChange>>;
  /** Makes it, or adopts what is already there; the outputs hold what is really there. */
  create(inputs: unknown): Promise<CreateResult>;
  /** What is there now; undefined when it is gone. @default what is in state */
  read?(state: unknown): Promise<CreateResult | undefined>;
  /** Removes it; absence is no error. @default nothing to remove */
  delete?(state: unknown): Promise<void>;
}

type Properties = Readonly<Record<string, unknown>>;

/**
 * Serves a resource plugin over Pulumi's protocol until the engine is gone.
 *
 * The server of `@pulumi/pulumi/provider` accepts secrets and has no preview of its own: the engine does not call
 * `create` in a preview, and takes outputs as unknown.
 *
 * @param name the plugin's, such as `docker`; its version is that of the SDK, which the engine asks for
 * @param resources type token, such as `docker:index/volume:Volume` → the resource
 */
export async function serve(name: string, resources: Readonly<Record<string, Resource>>): Promise<void> {
  const manifest = readFileSync(require.resolve(`@pulumi/${name}/package.json`), "utf8");
  const of = (urn: URN): Resource => {
    const type = urn.split("::")[2]?.split("$").at(-1) ?? "";
    const resource = resources[type];
    if (resource !== undefined) return resource;
    throw new Error(`Type "${type}" is not in this stand-in. Install the real plugin.`);
  };
  // The engine holds the other end of this pipe. When it is killed, nobody else ends this process.
  process.stdin.resume().once("end", () => process.exit());
  await main(
    {
      version: (JSON.parse(manifest) as { version: string }).version,
      check: (urn, _olds, news: Properties) => {
        const { inputs } = of(urn);
        const failures = Object.keys(news)
          .filter((property) => inputs[property] === undefined)
          .map((property) => ({ property, reason: "is not in this stand-in. Install the real plugin" }));
        return Promise.resolve({ inputs: news, failures });
      },
      diff: (_id, urn, olds: Properties, news: Properties) => {
        const { inputs } = of(urn);
        const changed = Object.keys(inputs).filter((key) => !same(olds[key], news[key]));
        return Promise.resolve({
          changes: changed.length > 0,
          replaces: changed.filter((key) => inputs[key] === "replace"),
          // Two things cannot have one name: the first has to go before the second is made.
          deleteBeforeReplace: news.name !== undefined && olds.name === news.name,
        });
      },
      create: (urn, inputs: Properties) => of(urn).create(inputs),
      read: async (id, urn, state: Properties) => {
        const resource = of(urn);
        if (resource.read === undefined) return { id, props: state };
        const found = await resource.read(state);
        // The server takes the absence of properties for an error, and an empty id for absence.
        return found === undefined
          ? { id: "", props: {} }
          : { id: found.id, props: found.outs as Properties };
      },
      update: (_id, urn, _olds, news: Properties) => of(urn).create(news),
      delete: async (_id, urn, state: Properties) => {
        await of(urn).delete?.(state);
      },
    },
    process.argv.slice(2),
  );
}

/** Lists are sets, as labels are. */
function same(old: unknown, now: unknown): boolean {
  return isDeepStrictEqual(comparable(old), comparable(now));
}

function comparable(value: unknown): unknown {
  return Array.isArray(value) ? new Set<unknown>(value) : value;
}
