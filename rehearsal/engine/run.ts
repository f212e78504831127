import { LocalWorkspace, type EngineEvent, type PulumiFn, type Stack } from "@pulumi/pulumi/automation";
import { examine } from "../../core/needs/needs";
import { thisHost } from "../../core/host/host";
import type { PlatformConfig } from "../../core/settings/config";
import program from "../../index";

/** The commands of Pulumi that a rehearsal runs. */
export type Command = "up" | "preview" | "refresh" | "destroy";

/** The parent's request for a run of Pulumi. */
export interface RunRequest {
  readonly command: Command;
  readonly stack: string;
  /** Absolute path of the directory with Pulumi.yaml and the settings of the stack. */
  readonly workDirectory: string;
  /** Absolute path of a module that exports another program. @default the project's own */
  readonly program?: string;
  /** Whether the output has colours. */
  readonly colour: boolean;
}

/** The messages of a run to its parent; the last one is `done` or `failed`. */
export type RunMessage =
  | { readonly kind: "output"; readonly text: string }
  | { readonly kind: "event"; readonly event: EngineEvent }
  | { readonly kind: "done"; readonly outputs: Readonly<Record<string, unknown>> }
  | { readonly kind: "failed"; readonly message: string };

/** The checks of `npx platform doctor`, without the limits of this machine's kernel, disk and ports. */
function examineMachine(config: PlatformConfig) {
  return examine(config, {
    ...thisHost,
    read: () => Promise.resolve(undefined),
    portTaken: () => Promise.resolve(false),
    freeBytes: () => Promise.resolve(Number.POSITIVE_INFINITY),
  });
}

function programOf({ program: other }: RunRequest): PulumiFn {
  if (other === undefined) return () => program(examineMachine);
  // eslint-disable-next-line @typescript-eslint/no-require-imports -- as Pulumi loads a program
  return async () => (require(other) as PulumiFn)();
}

/** @returns the outputs of the stack, as far as the command gives them */
async function runCommand(stack: Stack, { command, colour }: RunRequest): Promise<Record<string, unknown>> {
  const options = {
    color: colour ? ("always" as const) : ("never" as const),
    onOutput: (text: string) => {
      send({ kind: "output", text });
    },
    onEvent: (event: EngineEvent) => {
      send({ kind: "event", event });
    },
  };
  if (command !== "up") {
    await stack[command](options);
    return {};
  }
  const { outputs } = await stack.up(options);
  return Object.fromEntries(
    Object.entries(outputs)
      .filter(([, { secret }]) => !secret)
      .map(([name, { value }]) => [name, value as unknown]),
  );
}

function send(message: RunMessage): void {
  process.send?.(message);
}

async function main(request: RunRequest): Promise<RunMessage> {
  const { stack: stackName, workDirectory: workDir } = request;
  try {
    const stack = await LocalWorkspace.createOrSelectStack(
      { stackName, projectName: "platform", program: programOf(request) },
      { workDir },
    );
    return { kind: "done", outputs: await runCommand(stack, request) };
  } catch (error) {
    return { kind: "failed", message: (error as Error).message };
  }
}

// Without the parent, the result has no reader, and the parent's directory is being removed.
process.once("disconnect", () => process.kill(-process.pid, "SIGKILL"));

process.once("message", (request: RunRequest) => {
  void main(request).then((message) => {
    process.send?.(message, () => process.exit(message.kind === "done" ? 0 : 1));
  });
});
