import { join } from "node:path";

/** Absolute path of the directory that holds Pulumi.yaml. */
export const project = join(__dirname, "..", "..");

/** The directory of the call: a command runs in the project's directory, and paths of the user are relative to this. */
export const callDirectory = process.env.INIT_CWD ?? process.cwd();
