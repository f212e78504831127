import { readFileSync } from "node:fs";
import { join } from "node:path";
import { SopsCli } from "../../clients/sops/client";
import { rotate } from "../../core/secrets/rotation";
import { SecretStore } from "../../core/secrets/store";

/** What a rotation that is to be killed is told by its parent. */
export interface RotateRequest {
  readonly stack: string;
  /** Absolute path of the project. */
  readonly project: string;
  /** The steps that others of its kind were killed at. */
  readonly survived: readonly string[];
}

/** What it tells: a step that is done or begun, or that the stack is to be released. */
export type RotateMessage =
  | { readonly kind: "step"; readonly step: string }
  | { readonly kind: "release" }
  | { readonly kind: "ended"; readonly error?: string };

/** The steps of a rotation by name; which half of it they belong to is read from the settings. */
function stepOf(line: string, settings: string): string {
  const recipients = readFileSync(settings, "utf8").match(/^\s*- age1/gm)?.length ?? 0;
  return `${recipients} recipients, ${line.replace(/age1\w+|clusters\S+/g, "…")}`;
}

const send = (message: RotateMessage) =>
  new Promise<void>((resolve) => {
    process.send?.(message, undefined, undefined, () => {
      resolve();
    });
  });

process.once("message", ({ stack, project, survived }: RotateRequest) => {
  const settings = join(project, `Pulumi.${stack}.yaml`);
  /**
   * Dies of SIGKILL where none of its kind did: nothing is tidied up. What is there after a release is what is there
   * when it dies during one, which its parent brings to an end.
   */
  const step = (line: string) => {
    const name = stepOf(line, settings);
    process.send?.({ kind: "step", step: name } satisfies RotateMessage);
    if (!survived.includes(name) && !/rotated:|released:|continuing:/.test(name))
      process.kill(process.pid, "SIGKILL");
  };
  const store = new SecretStore({ stack, project, sops: new SopsCli(), env: {} });
  const released = () =>
    new Promise<void>((resolve, reject) => {
      process.once("message", ({ error }: { error?: string }) => {
        if (error === undefined) resolve();
        else reject(new Error(error));
      });
    });
  void rotate(store, {
    values: true,
    tell: step,
    release: async () => {
      await send({ kind: "release" });
      step("releasing");
      await released();
    },
  }).then(
    () => send({ kind: "ended" }).then(() => process.exit(0)),
    (error: unknown) => send({ kind: "ended", error: (error as Error).message }).then(() => process.exit(1)),
  );
});
