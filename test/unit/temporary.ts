import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";

const directories: string[] = [];

/** Makes a directory that is gone when mocha ends. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "platform-test-"));
  directories.push(directory);
  return directory;
}

after("remove temporary directories", function () {
  // Hundreds of repositories, on a disk that others keep busy.
  this.timeout(300_000);
  for (const directory of directories) rmSync(directory, { recursive: true, force: true });
});

/** Writes files, path below `directory` → content, with the directories above them. */
export function writeFiles(directory: string, files: Readonly<Record<string, string>>): void {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), content);
  }
}

/**
 * Variables with which `run` finds these shell scripts instead of the tools of their names.
 *
 * @param scripts name → script, without its first line
 */
export function fakeTools(scripts: Readonly<Record<string, string>>): {
  PATH: string;
  XDG_CACHE_HOME: string;
} {
  const directory = temporaryDirectory();
  for (const [name, script] of Object.entries(scripts)) {
    writeFileSync(join(directory, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(directory, name), 0o755);
  }
  // The pinned tools come before PATH; in an empty cache there are none.
  return {
    PATH: [directory, process.env.PATH ?? ""].join(delimiter),
    XDG_CACHE_HOME: join(directory, "cache"),
  };
}

/**
 * The script of a Go that has nothing to compile, and builds programs of this text.
 *
 * @param before commands of the shell that come before each build
 */
export function fakeGo(text: string, before = ""): string {
  return `[ "$1" = build ] || exit 0
${before}
while [ "$1" != -o ]; do shift; done
output=$2; shift 2
for package; do
  name=\${package##*/}
  case $name in v[0-9]*) package=\${package%/*}; name=\${package##*/};; esac
  printf '${text}' > "$output$name"
  /bin/chmod +x "$output$name"
done`;
}

/** Runs `action` with variables in the process's environment, and takes them back. */
export async function withEnvironment<T>(
  variables: Readonly<Record<string, string>>,
  action: () => Promise<T>,
): Promise<T> {
  const before = { ...process.env };
  Object.assign(process.env, variables);
  try {
    return await action();
  } finally {
    for (const name of Object.keys(variables)) {
      if (before[name] === undefined) Reflect.deleteProperty(process.env, name);
      else process.env[name] = before[name];
    }
  }
}
