import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** A `go.mod` of this folder or below it, with its `go.sum`: the only place that pins a version. */
export interface GoModule {
  /** Absolute path of the directory that holds both files. */
  readonly directory: string;
  /** The Go version that it requires, such as `1.26.0`. */
  readonly go: string;
  /** Version by module path, such as `v1.36.3` by `k8s.io/kubernetes`. */
  readonly versions: ReadonlyMap<string, string>;
  /** Checksum (`h1:…`) by `<module path> <version>`. */
  readonly sums: ReadonlyMap<string, string>;
  /** Hash of both files, 64 hex digits. */
  readonly pins: string;
  /** Hash of both files and of the source of the programs below the directory, 64 hex digits. */
  readonly hash: string;
}

/** Reads `go.mod` and `go.sum` of a directory. @throws when the directory has no `go.mod`. */
export function readGoModule(directory: string): GoModule {
  const mod = readFileSync(join(directory, "go.mod"), "utf8");
  const sum = readFileSync(join(directory, "go.sum"), "utf8");
  return {
    directory,
    go: /^go (\S+)/m.exec(mod)?.[1] ?? "1.26",
    versions: parseVersions(mod).set(/^module (\S+)/m.exec(mod)?.[1] ?? "", ownVersion),
    sums: parseSums(sum),
    pins: sha256([mod, sum]),
    hash: sha256([mod, sum, ...sourcesIn(directory)]),
  };
}

/** The version of a program whose source is in this folder: the hash of the source. */
export const ownVersion = "v0.0.0";

/** The Go files below a directory, without tests and other modules, and the files that they embed. */
function sourcesIn(directory: string): string[] {
  const entries = readdirSync(directory, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  return entries.flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return existsSync(join(path, "go.mod")) ? [] : sourcesIn(path);
    return /(?<!_test)\.go$|\.toml$/.test(entry.name) ? [readFileSync(path, "utf8")] : [];
  });
}

function sha256(parts: readonly string[]): string {
  return createHash("sha256").update(parts.join("")).digest("hex");
}

/** The version of the module that a package belongs to: the module with the longest matching path. */
export function versionOf(module: GoModule, packagePath: string): string | undefined {
  for (let path = packagePath; path !== ""; path = path.slice(0, Math.max(0, path.lastIndexOf("/")))) {
    const version = module.versions.get(path);
    if (version !== undefined) return version;
  }
  return undefined;
}

function parseVersions(mod: string): Map<string, string> {
  const requirements = mod.matchAll(/^(?:require |\t)(\S+) (v\d\S*)/gm);
  return new Map([...requirements].map(([, path = "", version = ""]) => [path, version]));
}

function parseSums(sum: string): Map<string, string> {
  return new Map([...sum.matchAll(/^(\S+ \S+) (\S+)$/gm)].map(([, key = "", hash = ""]) => [key, hash]));
}
