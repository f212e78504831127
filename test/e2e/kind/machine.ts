import { execFile } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { promisify } from "node:util";
import { LocalWorkspace, PulumiCommand, type Stack } from "@pulumi/pulumi/automation";
import { stringify } from "yaml";
import { ownerLabel } from "../../../clients/docker/ownership";
import { binDirectory } from "../../../tools/bin";
import { launcher, providePulumi, type ProvidedPulumi } from "../../../rehearsal/engine/pulumi";
import { saveSysctls } from "./world/sysctls";
import { buildWorld, type World } from "./world/world";

const execute = promisify(execFile);
const root = join(__dirname, "../../..");

/** The stack of the suite, its cluster and its directory below `clusters/`. */
export const stackName = "offline";
/** Whose everything is that the stack makes. */
export const owner = `platform/${stackName}`;
export const registryName = `platform-${stackName}-registry`;
export const nodeName = `${stackName}-control-plane`;
export const registryPort = 5070;
const mirrors = ["ghcr.io", "docker.io"] as const;

/** What the kernel must grant that many machines do not by default; the doctor asks for it. */
const inotify = { max_user_watches: 524_288, max_user_instances: 512 } as const;

/** What is missing on this machine for the suite; undefined when nothing is. */
export async function missing(): Promise<string | undefined> {
  const { KIND_DEADLINE: deadline } = process.env;
  if (deadline !== undefined && Date.now() > Number(deadline) * 1000) return "KIND_DEADLINE has passed";
  return execute("docker", ["info"]).then(
    () => undefined,
    () => "Docker does not answer",
  );
}

/** This machine with a checkout of the project, the real Pulumi CLI and an offline world to pull from. */
export class Machine {
  private constructor(
    /** Absolute path of all that the suite writes. */
    readonly directory: string,
    readonly world: World,
    /** The environment of every command. */
    readonly env: NodeJS.ProcessEnv,
    /** The stand-ins of Pulumi's plugins, by name and version. */
    readonly standIns: readonly string[],
    /** Absolute path of the directory that holds `bin/pulumi`. */
    private readonly pulumi: string,
    private readonly restore: () => void,
  ) {}

  static async prepare(report: (line: string) => void): Promise<Machine> {
    const world = await buildWorld(report);
    const directory = mkdtempSync(join(tmpdir(), "platform-kind-"));
    const path = [...world.path, binDirectory(), process.env.PATH ?? ""].join(delimiter);
    const home = join(directory, "pulumi-home");
    const pulumi = await providePulumi(home, {
      env: { ...process.env, PATH: path },
      realPlugins: true,
      report,
    });
    const standIns = [...pulumi.standIns, ...(await provideLanguageHost(pulumi))];
    const { DOCKER_HOST, HOME, GOPATH, GOCACHE, GOPROXY, SSL_CERT_FILE } = process.env;
    const env = Object.fromEntries(
      Object.entries({
        ...{ DOCKER_HOST, HOME, GOPATH, GOCACHE, GOPROXY, SSL_CERT_FILE },
        ...pulumi.env,
        KUBECONFIG: join(directory, "user.kubeconfig"),
        TMPDIR: join(directory, "tmp"),
        XDG_STATE_HOME: join(directory, "state"),
        PULUMI_BACKEND_URL: `file://${join(directory, "pulumi")}`,
        PULUMI_CONFIG_PASSPHRASE: "the passphrase of the suite",
        // As "npx platform up" sets it.
        NODE_COMPILE_CACHE: join(directory, "node"),
      }).filter(([, value]) => value !== undefined),
    );
    for (const name of ["pulumi", "tmp"]) mkdirSync(join(directory, name));
    const restoreSysctls = saveSysctls();
    const restoreInotify = raiseInotify();
    const machine = new Machine(directory, world, env, standIns, pulumi.root, () => {
      restoreSysctls();
      restoreInotify();
    });
    await machine.stage();
    return machine;
  }

  get project(): string {
    return join(this.directory, "project");
  }

  /** The file of settings, changed for one test. */
  configure(change: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {}): void {
    const v1 = this.cgroups() === 1;
    const settings: Record<string, unknown> = {
      cluster: {
        kind: "kind",
        nodeImage: this.world.nodeImage,
        cni: "kindnet",
        ...(v1 ? { kubeadmConfigPatches: ["kind: KubeletConfiguration\nfailCgroupV1: false\n"] } : {}),
      },
      registry: {
        ...{ kind: "local", port: registryPort, image: this.world.registryImage },
        ...{ mirrors, airGapped: true, retain: true },
      },
      chartMirror: this.world.charts,
      domain: "platform.localhost",
      sops: { generate: "all", identityFile: join(this.directory, "offline.agekey") },
      release: { timeoutSeconds: 240 },
    };
    for (const [key, value] of Object.entries(change)) {
      settings[key] = { ...(settings[key] as object | undefined), ...value };
    }
    const config = Object.fromEntries(
      Object.entries(settings).map(([key, value]) => [`platform:${key}`, value]),
    );
    const file = join(this.project, `Pulumi.${stackName}.yaml`);
    let salt: string | undefined;
    try {
      salt = /^encryptionsalt: .*$/m.exec(readFileSync(file, "utf8"))?.[0];
    } catch {
      // The first time there is none.
    }
    writeFileSync(file, `${salt === undefined ? "" : `${salt}\n`}${stringify({ config })}`);
  }

  /** The stack through Pulumi's Automation API. */
  async stack(): Promise<Stack> {
    const envVars = Object.fromEntries(
      Object.entries(this.env).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])),
    );
    const pulumiCommand = await PulumiCommand.get({ root: this.pulumi });
    return LocalWorkspace.createOrSelectStack(
      { stackName, workDir: this.project },
      { envVars, pulumiCommand },
    );
  }

  /** Runs a command of the machine and returns what it printed. @throws with all that it printed */
  async run(command: string, ...args: string[]): Promise<string> {
    const { stdout } = await execute(command, args, {
      env: this.env,
      cwd: this.project,
      maxBuffer: 256 * 1024 * 1024,
    });
    return stdout;
  }

  /** A kubeconfig of the cluster, as a file. */
  async kubectl(...args: string[]): Promise<string> {
    const file = join(this.directory, "kubeconfig");
    writeFileSync(file, await this.run("kind", "get", "kubeconfig", "--name", stackName), { mode: 0o600 });
    return this.run("kubectl", "--kubeconfig", file, ...args);
  }

  /** Puts the world's images onto the volume of the registry, where the mirrors find them. */
  async fillRegistry(): Promise<void> {
    const label = `${ownerLabel}=${owner}`;
    await this.run("docker", "volume", "create", "--label", label, registryName);
    for (const [index, host] of mirrors.entries()) {
      const name = `${registryName}-fill`;
      const port = registryPort + 20 + index;
      const storage = `REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=/var/lib/registry/${host}`;
      await this.run("docker", "rm", "--force", name).catch(() => undefined);
      await this.run(
        ...(["docker", "run", "--detach", "--name", name, "--publish", `127.0.0.1:${port}:5000`] as const),
        ...["--env", storage, "--env", "OTEL_TRACES_EXPORTER=none"],
        ...["--volume", `${registryName}:/var/lib/registry`, this.world.registryImage],
      );
      try {
        for (const [reference, tarball] of this.world.images) {
          if (!reference.startsWith(`${host}/`)) continue;
          const target = `127.0.0.1:${port}${reference.slice(host.length)}`;
          await retry(() => this.run("crane", "push", tarball, target));
        }
      } finally {
        await this.run("docker", "rm", "--force", name);
      }
    }
  }

  /** Removes the registry, its mirrors and what they held. */
  async removeRegistry(): Promise<void> {
    await this.removeContainers();
    await this.run("docker", "volume", "rm", "--force", registryName);
  }

  /** Loses cluster, registry and network; the volume stays, and with it the images of the offline world. */
  async lose(): Promise<void> {
    await this.run("kind", "delete", "cluster", "--name", stackName);
    await this.removeContainers();
    await this.run("docker", "network", "rm", `platform-${stackName}`).catch(() => undefined);
  }

  private async removeContainers(): Promise<void> {
    const filter = `name=^${registryName}`;
    const containers = await this.run("docker", "ps", "--all", "--quiet", "--filter", filter);
    for (const id of containers.split("\n").filter((line) => line !== "")) {
      await this.run("docker", "rm", "--force", id);
    }
  }

  /** Removes everything of the stack from Docker, whatever state it is in. */
  async wipe(): Promise<void> {
    await this.lose();
    await this.run("docker", "volume", "rm", "--force", registryName);
  }

  /** Puts back what the suite changed on the host, and removes its files. */
  dispose(): void {
    this.restore();
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** A checkout of the project with the suite's cluster in its tree, and a history of one commit. */
  private async stage(): Promise<void> {
    const listed = await execute("git", ["ls-files", "-co", "--exclude-standard", "-z"], { cwd: root });
    for (const file of listed.stdout.split("\0")) {
      // Git lists what was deleted and not committed, too.
      if (file === "" || file.startsWith("test/") || !existsSync(join(root, file))) continue;
      cpSync(join(root, file), join(this.project, file), { recursive: true });
    }
    cpSync(join(__dirname, "gitops"), join(this.project, "gitops"), { recursive: true });
    symlinkSync(join(root, "node_modules"), join(this.project, "node_modules"));
    writeFileSync(join(this.project, ".gitignore"), "node_modules\nPulumi.offline.yaml\n");
    this.configure();
    const identity = ["-c", "user.name=suite", "-c", "user.email=suite@example.com"];
    await this.run("git", "init", "--quiet");
    await this.run("git", "add", "--all");
    await this.run("git", ...identity, "commit", "--quiet", "--message", "The project under test");
  }

  private cgroups(): 1 | 2 {
    try {
      readFileSync("/sys/fs/cgroup/cgroup.controllers");
      return 2;
    } catch {
      return 1;
    }
  }
}

/**
 * Puts a stand-in of Pulumi's language host beside the command line of an installation, unless there is a real one.
 *
 * @returns the stand-ins
 */
async function provideLanguageHost({ root, env }: ProvidedPulumi): Promise<string[]> {
  const name = "pulumi-language-nodejs";
  const bin = join(root, "bin");
  const beside = dirname(realpathSync(join(bin, "pulumi")));
  const directories = [beside, ...(env.PATH ?? "").split(delimiter)];
  if (directories.some((directory) => existsSync(join(directory, name)))) return [];
  await writeFile(join(bin, name), launcher(join(__dirname, "language-host.ts")), { mode: 0o755 });
  return ["language host"];
}

/** Lifts the limits as far as this user may; the doctor tells what is left. */
function raiseInotify(): () => void {
  const undo = Object.entries(inotify).map(([limit, least]) => {
    const file = `/proc/sys/fs/inotify/${limit}`;
    const before = readFileSync(file, "utf8");
    if (Number(before) >= least) return () => undefined;
    try {
      writeFileSync(file, String(least));
    } catch {
      return () => undefined;
    }
    return () => {
      writeFileSync(file, before);
    };
  });
  return () => {
    for (const put of undo) put();
  };
}

async function retry<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt === 20) throw error;
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }
}
