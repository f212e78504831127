import { join } from "node:path";

/** Absolute path of the directory that holds Pulumi.yaml. */
export const project = join(__dirname, "..", "..");
