import { execFile, type ChildProcess } from "node:child_process";
import { existsSync, fstatSync } from "node:fs";
import { basename, delimiter } from "node:path";
import { noCore } from "../system/terminal";
import { binDirectory, sharedBinDirectory } from "./bin";

/** Options of a command. */
export interface RunOptions {
  /** Text for standard input: the way for secrets, which must never be arguments. */
  readonly input?: string;
  /** Working directory. @default the process's own */
  readonly cwd?: string;
  /** Variables in addition to the user's variables that the tool gets (`environmentOf`). @default none */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Deadline in milliseconds. @default 120 000 */
  readonly timeout?: number;
}

/** The user's variables that every tool gets; `*` stands for any ending. */
const everyTool = [
  ...["PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "LC_*", "TZ", "XDG_*"],
  ...["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"],
  ...["http_proxy", "https_proxy", "no_proxy", "all_proxy"],
  ...["SSL_CERT_FILE", "SSL_CERT_DIR"],
];

/**
 * The login to registries: Docker's settings, and the variables with which its credential helpers ask a cloud or a
 * keyring.
 */
const login = [
  ...["DOCKER_*", "REGISTRY_AUTH_FILE", "AWS_*", "AZURE_*", "CLOUDSDK_*", "GOOGLE_*"],
  ...["DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "GNUPGHOME", "GPG_TTY", "PASSWORD_STORE_*"],
];

/**
 * The user's variables that a tool gets in addition. The others would change its work: `SOPS_KMS_ARN` encrypts for
 * other recipients, `GIT_DIR` names another repository, `HELM_NAMESPACE` and `GOFLAGS` are meant for other work.
 */
const byTool: Readonly<Record<string, readonly string[]>> = {
  crane: login,
  "platform-tree": login,
  docker: [...login, "SSH_AUTH_SOCK"],
  // Kind reads and writes the user's own kubeconfig, on request.
  kind: [...login, "SSH_AUTH_SOCK", "KUBECONFIG"],
  // The author of a commit, and its signature. SUDO_UID tells Git whose repositories root may read.
  git: [
    ...["GIT_AUTHOR_*", "GIT_COMMITTER_*", "EMAIL"],
    ...["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"],
    ...["GNUPGHOME", "GPG_TTY", "SSH_AUTH_SOCK", "SUDO_UID"],
  ],
  // The source and the store of modules. GOFLAGS, GOOS and GOARCH are for the user's own builds.
  go: [
    ...[
      "GOPROXY",
      "GONOPROXY",
      "GOPRIVATE",
      "GOSUMDB",
      "GONOSUMDB",
      "GOINSECURE",
      "GOVCS",
      "GOAUTH",
      "NETRC",
    ],
    ...["GOROOT", "GOPATH", "GOENV", "GOMODCACHE", "GOCACHE"],
    ...["GOTOOLCHAIN", "GOMAXPROCS", "GOGC", "GOMEMLIMIT"],
    ...["SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_CONFIG_GLOBAL"],
  ],
  // The login of `helm registry login`, which private charts need.
  helm: [...login, "HELM_REGISTRY_CONFIG", "HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_REPOSITORY_*"],
  // Its plugins may need anything.
  pulumi: ["*"],
};

/** The part of an environment that a tool gets. A tool that is not listed gets the variables of every tool. */
export function environmentOf(tool: string, env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const wanted = [...everyTool, ...(byTool[tool] ?? [])];
  const isWanted = (name: string) =>
    wanted.some((pattern) =>
      pattern.endsWith("*") ? name.startsWith(pattern.slice(0, -1)) : name === pattern,
    );
  return Object.fromEntries(Object.entries(env).filter(([name]) => isWanted(name)));
}

/**
 * The part of an environment that Go gets: the source of modules, such as a company's `GOPROXY`, and their store. Flags
 * are for the user's own builds, also flags that `go env -w` keeps in a file.
 */
export function goEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { ...environmentOf("go", env), GOFLAGS: "-mod=readonly", GOWORK: "off" };
}

/** PATH with the pinned tools first; before them, the programs of PLATFORM_STAND_INS, a directory of a rehearsal. */
export function toolPath(env: NodeJS.ProcessEnv): string {
  const { PATH = "", PLATFORM_STAND_INS: standIns } = env;
  const first = standIns === undefined ? [] : [standIns];
  return [...first, binDirectory(env), sharedBinDirectory(env), PATH].join(delimiter);
}

/**
 * Runs an official tool and returns its standard output. The tool gets only the variables that it needs.
 *
 * The pinned tools that `tools/` builds come first on PATH. The arguments are an array: no shell reads them.
 *
 * @throws Error with one sentence: the command, the reason of the failure, and the remedy if it is missing. Its `cause`
 *   is the whole standard error of the command; its `code` is ENOENT if the command is missing.
 */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  endWithEngine();
  return new Promise((resolve, reject) => {
    const child = execFile(
      command,
      [...args],
      {
        cwd: options.cwd,
        env: {
          ...environmentOf(basename(command), process.env),
          ...{ ...noCore, ...options.env, PATH: toolPath(process.env) },
        },
        timeout: options.timeout ?? 120_000,
        maxBuffer: 256 * 1024 * 1024,
      },
      (error, stdout, stderr) => {
        running.delete(child);
        if (error === null) {
          resolve(stdout);
          return;
        }
        const subject = [basename(command), ...args.slice(0, 2)].join(" ");
        if (options.cwd !== undefined && !existsSync(options.cwd)) {
          reject(new Error(`"${subject}" failed: its working directory ${options.cwd} does not exist.`));
        } else if ((error as NodeJS.ErrnoException).code === "ENOENT") {
          const remedy = ["docker", "git"].includes(command)
            ? "Install it."
            : 'Run "npm run tools", or install it.';
          const message = `Unable to execute "${command}": it is not on PATH. ${remedy}`;
          reject(Object.assign(new Error(message), { code: "ENOENT" }));
        } else if (error.killed === true) {
          reject(new Error(`"${subject}" was stopped: it took longer than its deadline.`, { cause: stderr }));
        } else {
          const said = (stderr.trim() || stdout.trim() || error.message).split("\n").slice(-6).join(" ");
          reject(new Error(`"${subject}" failed: ${said}`, { cause: stderr }));
        }
      },
    );
    running.add(child);
    // A tool that exits before it has read its input closes the pipe; its exit code has the reason.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(options.input ?? "");
  });
}

/** The commands that run now. */
const running = new Set<ChildProcess>();
let watchesEngine = false;

/**
 * Ends this process and its commands as soon as Pulumi's engine is gone: otherwise a provider of a killed engine would
 * continue, and undo the work of the next run. The engine holds the other end of a provider's standard input.
 */
function endWithEngine(): void {
  if (watchesEngine) return;
  watchesEngine = true;
  if (!(process.argv[1] ?? "").includes("dynamic-provider") || !fstatSync(0).isFIFO()) return;
  process.stdin.resume().once("end", () => {
    for (const child of running) child.kill("SIGKILL");
    process.exit(1);
  });
}
