import { existsSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { killGroup, spawnInGroup } from "../system/process";
import { goEnvironment } from "./command";
import type { GoModule } from "./go-module";
import type { ToolProgress } from "./progress";

/** A program that Go builds. */
export interface GoProgram {
  /** Its Go package. */
  readonly package: string;
  /** Flags of the linker. */
  readonly linkerFlags: readonly string[];
}

/** Programs of one go.mod that Go builds in one run: it compiles each package once, and links while it compiles. */
export interface GoBuild<Program extends GoProgram> {
  readonly module: GoModule;
  readonly tags: readonly string[];
  /** In the order of need: Go compiles for the first program first. */
  readonly programs: readonly Program[];
}

/** Options of {@link goBuild}. */
export interface GoBuildOptions<Program extends GoProgram> {
  /** Absolute path of a directory of the caller, on the file system where the programs will be. */
  readonly scratch: string;
  readonly env: NodeJS.ProcessEnv;
  readonly progress: (progress: ToolProgress) => void;
  /** Takes each program as soon as it is complete, with its absolute path. */
  readonly built: (program: Program, path: string) => void;
  /** Ends the build. */
  readonly signal?: AbortSignal;
}

/** A build that failed: what Go wrote, as a whole. */
export class GoBuildError extends Error {
  override readonly name = "GoBuildError";

  constructor(readonly output: string) {
    super(output);
  }
}

/**
 * Builds programs. Everything that Go compiled stays in its own cache: after a failure, a signal or a kill, the next
 * build continues there.
 *
 * @throws GoBuildError when Go is missing or fails; the reason of `signal` after an abort
 */
export async function goBuild<Program extends GoProgram>(
  build: GoBuild<Program>,
  options: GoBuildOptions<Program>,
): Promise<void> {
  const { scratch, built, signal } = options;
  const parts = await packagesToCompile(build, options);
  const meter = new Meter(parts, build.programs.length, options.progress);
  const missing = new Set(build.programs);
  const take = () => {
    for (const program of missing) {
      // Go moves a linked program here from its own directory on the same file system: it is there as a whole.
      const path = join(scratch, programName(program.package));
      if (!existsSync(path)) continue;
      missing.delete(program);
      meter.linked();
      built(program, path);
    }
  };
  const watch = setInterval(take, 200);
  try {
    const linking = build.programs.map(
      (program) => `-ldflags=${program.package}=${program.linkerFlags.join(" ")}`,
    );
    const args = ["build", "-v", ...flagsOf(build), ...linking, "-o", join(scratch, "/")];
    await runGo(build, [...args, ...build.programs.map((program) => program.package)], options, (line) => {
      meter.started(line);
    });
    take();
  } finally {
    clearInterval(watch);
  }
  signal?.throwIfAborted();
  const [lost] = missing;
  if (lost !== undefined) throw new GoBuildError(`go build made no program of ${lost.package}`);
}

/** The name under which `go build` writes a program. Source: `DefaultExecName` in cmd/go/internal/load/pkg.go */
export function programName(packagePath: string): string {
  const parts = packagePath.split("/");
  const last = parts.at(-1) ?? "";
  return /^v\d+$/.test(last) ? (parts.at(-2) ?? last) : last;
}

/** Without debug information, which the linker would remove, the compiler needs a fifth less time (measured, Go 1.26). */
const compilerFlags = "-gcflags=all=-dwarf=false";

function flagsOf({ tags }: GoBuild<GoProgram>): string[] {
  return [compilerFlags, ...(tags.length > 0 ? ["-tags", tags.join(",")] : [])];
}

/** The size of each package that Go has not compiled yet, in bytes of source, by its path. */
async function packagesToCompile<Program extends GoProgram>(
  build: GoBuild<Program>,
  options: GoBuildOptions<Program>,
): Promise<Map<string, number>> {
  const template = '{{if .Stale}}{{.ImportPath}}\t{{.Dir}}\t{{join .GoFiles "\t"}}{{end}}';
  const args = ["list", "-deps", "-f", template, ...flagsOf(build)];
  let modules = 0;
  // With thousands of packages, this takes seconds.
  const timer = setTimeout(() => {
    options.progress({ step: "sources", done: 0 });
  }, patience);
  const listed = runGo(
    build,
    [...args, ...build.programs.map((program) => program.package)],
    options,
    (line) => {
      if (line.startsWith("go: downloading ")) options.progress({ step: "modules", done: ++modules });
    },
  ).finally(() => {
    clearTimeout(timer);
  });
  const lines = (await listed).split("\n").filter((line) => line !== "");
  return new Map(
    lines.map((line) => {
      const [path = "", directory = "", ...files] = line.split("\t");
      const sizes = files.map((file) => statSync(join(directory, file), { throwIfNoEntry: false })?.size);
      return [path, sizes.reduce<number>((sum, size = 0) => sum + size, 0)];
    }),
  );
}

/** Milliseconds without a word. */
const patience = 1_000;

/** Seconds until a first estimate of the rest. */
const leastSeconds = 10;

/** The work of linking a program, as bytes of source that Go compiles in the same time (measured). */
const linkBytes = 1_000_000;

/** Tells the progress of a build from the packages that Go starts to compile. */
class Meter {
  readonly #begin = Date.now();
  readonly #underWay: string[] = [];
  readonly #whole: number;
  #packages = 0;
  #bytes = 0;

  constructor(
    private readonly sizes: ReadonlyMap<string, number>,
    programs: number,
    private readonly progress: (progress: ToolProgress) => void,
  ) {
    this.#whole = [...sizes.values()].reduce((sum, size) => sum + size, 0) + programs * linkBytes;
    this.#tell();
  }

  /** Go names a package when it starts to compile it, and compiles one on each core. */
  started(path: string): void {
    if (!this.sizes.has(path)) return;
    this.#underWay.push(path);
    if (this.#underWay.length <= availableParallelism()) return;
    this.#bytes += this.sizes.get(this.#underWay.shift() ?? "") ?? 0;
    this.#packages++;
    this.#tell();
  }

  linked(): void {
    this.#bytes += linkBytes;
    this.#tell();
  }

  #tell(): void {
    if (this.sizes.size === 0) return; // everything is compiled; the rest takes seconds
    const elapsed = (Date.now() - this.#begin) / 1000;
    const left = (elapsed * (this.#whole - this.#bytes)) / this.#bytes;
    this.progress({
      ...{ step: "packages", done: this.#packages, total: this.sizes.size },
      secondsLeft: elapsed < leastSeconds ? undefined : left,
    });
  }
}

/** Runs Go in the directory of a module; nothing of it outlives this process. @returns its standard output */
function runGo<Program extends GoProgram>(
  { module }: GoBuild<Program>,
  args: readonly string[],
  { scratch, env, signal }: GoBuildOptions<Program>,
  line: (line: string) => void,
): Promise<string> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const go = spawnInGroup("go", args, {
      ...{ cwd: module.directory, output: "pipe" },
      // The compiler is short-lived: less garbage collection takes a twentieth of its time away (measured, Go 1.26).
      env: { GOGC: "400", ...goEnvironment(env), CGO_ENABLED: "0", GOTMPDIR: scratch },
    });
    let [output, errors, rest] = ["", "", ""];
    go.stdout?.setEncoding("utf8").on("data", (chunk: string) => (output += chunk));
    go.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const each of lines) {
        line(each);
        // Of the names of packages, only the last ones matter for the reason of a failure.
        errors = `${errors}${each}\n`.slice(-20_000);
      }
    });
    const end = () => {
      if (go.pid !== undefined) killGroup(go.pid);
    };
    signal?.addEventListener("abort", end, { once: true });
    process.prependListener("exit", end);
    go.once("error", (error) => {
      reject(new GoBuildError(error.message));
    });
    go.once("exit", () => {
      process.off("exit", end);
      go.stdio[3]?.destroy();
    });
    go.once("close", (code, ended) => {
      signal?.removeEventListener("abort", end);
      if (signal?.aborted === true) reject(signal.reason as Error);
      else if (code === 0) resolve(output);
      else
        reject(new GoBuildError(`${errors}${rest}` || `go was ended by ${ended ?? `code ${String(code)}`}`));
    });
  });
}
