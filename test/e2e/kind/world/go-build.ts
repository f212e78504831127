import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { run } from "../../../../tools/command";

/** A set of Go programs that are built alike. */
export interface GoBuild {
  /** Directory of the `go.mod` that pins them. */
  readonly directory: string;
  /** The last part of a package's path is the name of its program. */
  readonly packages: readonly string[];
  /** Arguments of `go build` beside those for a small static binary. @default none */
  readonly args?: readonly string[];
  /** Go variables that the linker sets. @default none */
  readonly variables?: Readonly<Record<string, string>>;
  /** @default none */
  readonly env?: Readonly<Record<string, string>>;
}

/** Builds static programs into a directory. @throws when Go is missing or too old, or a download is refused. */
export async function goBuild(build: GoBuild, output: string): Promise<void> {
  mkdirSync(output, { recursive: true });
  const variables = Object.entries(build.variables ?? {}).map(([name, value]) => `-X ${name}=${value}`);
  const flags = [
    "-gcflags=all=-dwarf=false",
    "-ldflags",
    ["-s", "-w", ...variables].join(" "),
    ...(build.args ?? []),
  ];
  await run("go", ["build", ...flags, "-o", join(output, "/"), ...build.packages], {
    cwd: build.directory,
    env: { CGO_ENABLED: "0", GOWORK: "off", ...build.env },
    timeout: hour,
  });
}

interface Download {
  readonly Dir: string;
}

/** The directory of a Go module's files, which only Go may change. */
export async function goModuleDirectory(goModDirectory: string, module: string): Promise<string> {
  const answer = await run("go", ["mod", "download", "-json", module], { cwd: goModDirectory });
  return (JSON.parse(answer) as Download).Dir;
}

/** Milliseconds. Two cores compile all of Kubernetes in less. */
const hour = 3_600_000;
