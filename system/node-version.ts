import { readFileSync } from "node:fs";
import { join } from "node:path";

/**
 * Refuses a Node on which the dependencies do not run. npm scripts bring their own Node (`node_modules/.bin` comes
 * first on their PATH). A plain `pulumi up` takes the Node of the system, and would fail inside a library.
 *
 * @param version of Node, such as "22.19.0"
 * @throws Error when the version is older than `engines` of package.json allows
 */
export function refuseOldNode(version: string): void {
  const least = leastNode();
  if (version.localeCompare(least, "en", { numeric: true }) >= 0) return;
  throw new Error(
    `Running the program failed: Pulumi started it with Node ${version}, and its libraries need Node ${least} or newer. Run "npx platform up", which brings its own Node, or install a newer one.`,
  );
}

/** The oldest version of Node that package.json takes. */
export function leastNode(): string {
  const { engines } = JSON.parse(readFileSync(join(__dirname, "..", "package.json"), "utf8")) as {
    engines: { node: string };
  };
  return engines.node.replace(/^>=/, "");
}
