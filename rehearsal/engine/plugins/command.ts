import { execFile } from "node:child_process";
import { serve, type Resource } from "./stand-in";

interface CommandInputs {
  /** The shell command. */
  readonly create: string;
  /** Variables in addition to those of the plugin. @default none */
  readonly environment?: Readonly<Record<string, string>>;
  /** Another value of it runs the command again. @default none */
  readonly triggers?: readonly unknown[];
}

/** Runs its command when it is made and when an input changes. There is nothing to read or delete. */
const command: Resource = {
  inputs: { create: "update", environment: "update", triggers: "replace" },
  create: async (inputs: CommandInputs) => ({
    id: "command",
    outs: { ...inputs, ...(await shell(inputs)) },
  }),
};

/** @throws Error with what the command wrote */
function shell({ create, environment }: CommandInputs): Promise<{ stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, ...environment };
    execFile(
      "/bin/sh",
      ["-c", create],
      { env, cwd: process.env.PLATFORM_RUN_DIRECTORY },
      (error, stdout, stderr) => {
        if (error === null) resolve({ stdout: stdout.trimEnd(), stderr: stderr.trimEnd() });
        else reject(new Error(`${error.message.trim()}: ${stderr.trim()}`));
      },
    );
  });
}

void serve("command", { "command:local:Command": command });
