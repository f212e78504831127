import { runtime } from "@pulumi/pulumi";

/** A resource as a component registered it. */
export interface Recorded {
  readonly type: string;
  readonly name: string;
  /** Without Pulumi's marks of secrets. */
  readonly inputs: Readonly<Record<string, unknown>>;
  /** The inputs that are marked as secret, or hold something that is. */
  readonly secrets: readonly string[];
  /** Names of the resources it waits for: those of `dependsOn`, those whose outputs are inputs, and its provider. */
  readonly dependencies: readonly string[];
  readonly ignoreChanges: readonly string[];
  readonly secretOutputs: readonly string[];
  /** `pulumi destroy` refuses it. */
  readonly protect: boolean;
  /** Deleting it takes it out of state alone. */
  readonly retainOnDelete: boolean;
  /** Properties whose change replaces the resource. */
  readonly replaceOnChanges: readonly string[];
  /** The old one is deleted before another one is made. */
  readonly deleteBeforeReplace: boolean;
  /** Name of the resource whose deletion deletes this one too; empty for none. */
  readonly deletedWith: string;
}

/** Outputs of a resource by its type, from its inputs; `{}` where nothing is said. */
export type FakeOutputs = Readonly<
  Record<string, (inputs: Readonly<Record<string, unknown>>) => Readonly<Record<string, unknown>>>
>;

type Inputs = Readonly<Record<string, unknown>>;

/** What the recorder reads of Pulumi's request. */
interface RegisterRequest {
  getType(): string;
  getName(): string;
  getObject(): never;
  getDependenciesList(): string[];
  getProvider(): string;
  getIgnorechangesList(): string[];
  getAdditionalsecretoutputsList(): string[];
  getProtect(): boolean | undefined;
  getRetainondelete(): boolean | undefined;
  getReplaceonchangesList(): string[];
  getDeletebeforereplace(): boolean;
  getDeletedwith(): string;
}

/**
 * Runs a program against Pulumi's mocks and returns every resource that it registered, sorted by name.
 *
 * @param program imports its components itself: they must not be loaded before the mocks are set
 */
export async function record(
  program: () => Promise<unknown>,
  outputs: FakeOutputs = {},
): Promise<Recorded[]> {
  const recorded: Recorded[] = [];
  await runtime.setMocks(
    {
      newResource: (args) => {
        const inputs = plain(args.inputs as Inputs);
        const id = args.custom === true ? `${args.name}-id` : "";
        return { id, state: { ...inputs, ...outputs[args.type]?.(inputs) } };
      },
      call: ({ token }) => {
        throw new Error(`${token} was called: a component does not call functions`);
      },
    },
    "platform",
    "test",
    false,
  );
  // Mocks are not told of options; the request that they are made from is.
  const monitor = runtime.getMonitor() as unknown as {
    registerResource(request: RegisterRequest, ...rest: unknown[]): unknown;
  };
  const register = monitor.registerResource.bind(monitor);
  monitor.registerResource = (request, ...rest) => {
    const inputs = runtime.deserializeProperties(request.getObject(), true) as Record<string, unknown>;
    recorded.push({
      type: request.getType(),
      name: request.getName(),
      inputs: plain(inputs),
      secrets: Object.keys(inputs).filter((key) => holdsSecret(inputs[key])),
      dependencies: [
        ...request.getDependenciesList().map((urn) => urn.split("::").at(-1) ?? ""),
        // A reference to a provider is its URN and its id.
        ...[request.getProvider()]
          .filter((reference) => reference !== "")
          .map((reference) => reference.split("::").at(-2) ?? ""),
      ],
      ignoreChanges: request.getIgnorechangesList(),
      secretOutputs: request.getAdditionalsecretoutputsList(),
      protect: request.getProtect() ?? false,
      retainOnDelete: request.getRetainondelete() ?? false,
      replaceOnChanges: request.getReplaceonchangesList(),
      deleteBeforeReplace: request.getDeletebeforereplace(),
      deletedWith: request.getDeletedwith().split("::").at(-1) ?? "",
    });
    return register(request, ...rest);
  };
  await runtime.runInPulumiStack(program);
  await runtime.disconnect();
  return recorded
    .filter(({ type }) => type !== "pulumi:pulumi:Stack")
    .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

function holdsSecret(value: unknown): boolean {
  if (runtime.isRpcSecret(value)) return true;
  return typeof value === "object" && value !== null && Object.values(value).some(holdsSecret);
}

function plain<T>(value: T): T {
  const bare: unknown = runtime.isRpcSecret(value) ? runtime.unwrapRpcSecret(value) : value;
  if (Array.isArray(bare)) return bare.map(plain) as T;
  if (typeof bare !== "object" || bare === null) return bare as T;
  return Object.fromEntries(Object.entries(bare).map(([key, child]) => [key, plain(child)])) as T;
}
