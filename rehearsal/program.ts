import { randomBytes } from "node:crypto";
import { runtime } from "@pulumi/pulumi";
import type { ClusterStandIn } from "../core/cluster/cluster-kind";
import { clusterKinds } from "../core/cluster/kinds";
import program from "../index";
import type { LayerResult } from "../core/release/wait";
import { LiveMocks, type StackState, type StandIn } from "./live-mocks";

/** The parent's request for a run of the program. */
export interface ProgramRequest {
  readonly stack: string;
  /** Every setting, `namespace:key` → text. */
  readonly config: Readonly<Record<string, string>>;
  /** The state of the stack after the last run. It holds secrets, and stays in memory. */
  readonly state: StackState;
  /** The control plane that stands in for a cluster. */
  readonly kubeconfig: string;
  /** `host:port` of the registry that stands in for the registry's container. */
  readonly registry: string;
}

/** The messages of a run to its parent: progress, and a result at the end. */
export type ProgramMessage =
  { readonly kind: "progress"; readonly line: string } | (ProgramResult & { readonly state: StackState });

/** The result of a run. */
type ProgramResult =
  | {
      readonly kind: "done";
      readonly digest: string;
      readonly ready: boolean;
      readonly layers: readonly LayerResult[];
      readonly simulated: readonly string[];
    }
  /** Nothing is simulated if the program refused before its first resource. */
  | { readonly kind: "failed"; readonly message: string; readonly simulated?: readonly string[] };

/** Stand-ins of resources that need Docker, or that only the user's own cloud has. */
function standIns(request: ProgramRequest): StandIn[] {
  return [
    ...clusterKinds
      .flatMap<ClusterStandIn>(({ standIns }) => standIns)
      .map((standIn) => ({ ...standIn, outputs: () => standIn.outputs(request) })),
    {
      type: "pulumi-nodejs:dynamic/docker:Network",
      describe: ({ name }) => `network ${String(name)}`,
      outputs: () => ({ subnet: "127.96.0.0/16" }),
    },
    {
      type: "pulumi-nodejs:dynamic/docker:Container",
      describe: ({ name }) => `container ${String(name)} (a registry process)`,
      outputs: () => ({ hostAddress: request.registry, networkAddress: request.registry }),
    },
    {
      type: "pulumi-nodejs:dynamic/docker:Garbage",
      describe: ({ container }) => `garbage collection of ${String(container)}`,
      outputs: () => ({}),
    },
    {
      type: "docker:index/remoteImage:RemoteImage",
      describe: ({ name }) => `image ${String(name)}`,
      outputs: () => ({ imageId: "stand-in" }),
    },
    {
      type: "command:local:Command",
      describe: ({ create }) => `hook "${String(create)}"`,
      outputs: () => ({ stdout: "", stderr: "" }),
    },
    {
      type: "docker:index/volume:Volume",
      describe: ({ name }) => `volume ${String(name)}`,
      outputs: () => ({}),
    },
  ];
}

/** `@pulumi/random` runs without its plugin: a password is random characters, kept in the stack's state. */
const password: StandIn = {
  type: "random:index/randomPassword:RandomPassword",
  describe: () => undefined,
  outputs: ({ length }) => ({
    result: randomBytes(Number(length)).toString("hex").slice(0, Number(length)),
  }),
};

function send(message: ProgramMessage): void {
  process.send?.(message);
}

/** Runs the project's own program, `index.ts`, once, and changes `state` as Pulumi changes its own state. */
async function run(request: ProgramRequest, state: StackState): Promise<ProgramResult> {
  const mocks = new LiveMocks(state, [...standIns(request), password], (line) => {
    send({ kind: "progress", line });
  });
  runtime.setAllConfig({ ...request.config });
  await runtime.setMocks(mocks, "platform", request.stack, false);
  try {
    const examineNothing = () => {
      mocks.simulated.push("checks of this machine");
      return Promise.resolve([]);
    };
    const outputs = (await runtime.runInPulumiStack(() => program(examineNothing))) as Partial<
      Record<string, unknown>
    >;
    await runtime.disconnect();
    if (mocks.failure !== undefined) throw mocks.failure;
    return {
      kind: "done",
      digest: outputs.digest as string,
      ready: outputs.ready as boolean,
      layers: outputs.layers as LayerResult[],
      simulated: mocks.simulated,
    };
  } catch (error) {
    const { message } = mocks.failure ?? (error as Error);
    return { kind: "failed", message, simulated: mocks.started ? mocks.simulated : undefined };
  }
}

// Without the parent, the result has no reader, and the parent's directory is being removed.
process.once("disconnect", () => process.kill(-process.pid, "SIGKILL"));

process.once("message", (request: ProgramRequest) => {
  // Pulumi rejects every output of a failed resource; only the first failure is reported.
  process.on("unhandledRejection", () => undefined);
  const state = { ...request.state };
  void run(request, state).then((result) => {
    const message: ProgramMessage = { ...result, state };
    process.send?.(message, () => process.exit(result.kind === "done" ? 0 : 1));
  });
});
