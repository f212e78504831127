import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** A `go.mod` of this folder, with its `go.sum`: the only place that pins a version. */
export interface GoModule {
  /** Absolute path of the directory that holds both files. */
  readonly directory: string;
  /** The Go version that it requires, such as `1.26.0`. */
  readonly go: string;
  /** Version by module path, such as `v1.36.3` by `k8s.io/kubernetes`. */
  readonly versions: ReadonlyMap<string, string>;
  /** Checksum (`h1:…`) by `<module path> <version>`. */
  readonly sums: ReadonlyMap<string, string>;
  /** Hash of both files and of the source files next to them, 64 hex digits. */
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
    hash: createHash("sha256")
      .update([mod, sum, ...programOf(directory)].join(""))
      .digest("hex"),
  };
}

/** The version of a program whose source is in this folder: the hash of the source. */
const ownVersion = "v0.0.0";

/** The Go files of a directory, without tests, and the files that they embed. */
function programOf(directory: string): string[] {
  const names = readdirSync(directory).filter((name) => /(?<!_test)\.go$|\.toml$/.test(name));
  return names.sort().map((name) => readFileSync(join(directory, name), "utf8"));
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
