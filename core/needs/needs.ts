import { isNotOf, isOwn, ownerLabel } from "../../clients/docker/ownership";
import { isUnknown } from "../../clients/registry/oci";
import { sentence } from "../../system/sentence";
import { clusterKindOf } from "../cluster/kinds";
import { checkPort, labelled, thisHost, type Host, type Need } from "../host/host";
import { mirrorName, registryName } from "../registry/names";
import type { PlatformConfig } from "../settings/config";
import { checkPlugins } from "./plugins";

/** Node image, container images of every layer, and room to work. */
const diskBytes = 12 * 1024 ** 3;

/**
 * Checks the requirements of `pulumi up` for a stack, before the run makes anything: this machine, an existing cluster,
 * and a remote registry. The pinned tools are not checked: the program builds them.
 *
 * @returns the missing requirements; empty when the stack can be made here
 */
export async function examine(config: PlatformConfig, host: Host = thisHost): Promise<Need[]> {
  const { cluster, registry, stack, owner } = config;
  const kind = clusterKindOf(cluster);
  const local = kind.onThisMachine || registry.kind === "local";
  const docker = local ? await checkDocker(host) : [];
  // Without Docker, the other questions to Docker make no sense.
  const answers = docker.length === 0;
  const checks = [
    checkPulumi(config, host),
    ...(local && answers ? [checkDisk(host)] : []),
    ...kind.needs(cluster, host, owner, answers),
  ];
  if (registry.kind === "remote") checks.push(checkRegistry(host, registry));
  else {
    const name = registryName(stack);
    if (answers) checks.push(checkVolume(host, name, owner));
    const containers = [name, ...registry.mirrors.map((mirror) => mirrorName(name, mirror))];
    for (const [index, container] of containers.entries())
      checks.push(checkPort(host, registry.port + index, "platform:registry.port", container));
  }
  return [docker, ...(await Promise.all(checks))].flat();
}

/** Pulumi itself: its CLI, and the plugins that the stack uses. */
export async function checkPulumi(config: PlatformConfig, host: Host = thisHost): Promise<Need[]> {
  return (await Promise.all([checkCli(host), checkPlugins(config, host)])).flat();
}

async function checkCli(host: Host): Promise<Need[]> {
  // The first one may be npm's, which cannot install its CLI without the internet; `pulumiProgram` takes the next one.
  for (const program of host.programs("pulumi")) {
    const answers = await host.run(program, "version").then(
      () => true,
      () => false,
    );
    if (answers) return [];
  }
  const finding = { check: "pulumi", rehearsable: true };
  const remedy = "nstall it from https://www.pulumi.com/docs/install/.";
  if (await host.isReachable("get.pulumi.com")) {
    return [
      {
        ...finding,
        message:
          'The Pulumi CLI is not available: "pulumi version" fails, and the npm package "pulumi" could not install it.',
        remedy: `I${remedy}`,
      },
    ];
  }
  return [
    {
      ...finding,
      message:
        "The Pulumi CLI is missing, and this machine cannot download it: get.pulumi.com does not answer.",
      remedy: `Connect this machine to the internet, set HTTPS_PROXY, or i${remedy}`,
    },
  ];
}

async function checkDocker(host: Host): Promise<Need[]> {
  try {
    await host.run("docker", "info", "--format", "{{.ServerVersion}}");
    return [];
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    const fault = missing
      ? {
          message: 'Docker is missing: there is no "docker" on PATH.',
          remedy: "Install Docker Engine from https://docs.docker.com/engine/install/.",
        }
      : {
          message: 'Docker does not answer: "docker info" fails.',
          remedy: 'Start it, and let this user reach it ("docker" group).',
        };
    return [{ check: "docker", ...fault, rehearsable: true }];
  }
}

/** A remote registry: whether it answers, and accepts this user's credentials. */
async function checkRegistry(
  host: Host,
  { repository, insecure }: Extract<PlatformConfig["registry"], { kind: "remote" }>,
): Promise<Need[]> {
  const [registry = ""] = repository.split("/");
  const finding = (message: string, remedy: string) => [
    { check: "registry", message, remedy, rehearsable: true },
  ];
  try {
    await host.crane(...(insecure ? ["--insecure"] : []), "ls", repository);
    return [];
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException;
    // crane is not built yet: the program builds it, and repeats this check before it makes anything.
    if (code === "ENOENT") return [];
    // The first release makes the repository.
    if (isUnknown(error)) return [];
    if (/UNAUTHORIZED|DENIED|401 Unauthorized|403 Forbidden/.test(message)) {
      return finding(
        `The registry ${registry} refuses ${repository} to this user.`,
        `Run "docker login ${registry}" with an account that may push to it, or set platform:registry.repository.`,
      );
    }
    const reason = /(?:Error|error): (?:.*?": )?(.*)$/.exec(message)?.[1] ?? message;
    return finding(
      `The registry ${registry} does not answer for ${repository}: ${sentence(reason)}`,
      "Correct platform:registry.repository or platform:registry.insecure, or find out why this machine cannot reach the registry.",
    );
  }
}

async function checkDisk(host: Host): Promise<Need[]> {
  const root = await host.run("docker", "info", "--format", "{{.DockerRootDir}}").catch(() => "/");
  const free = await host.freeBytes(root.trim()).catch(() => host.freeBytes("/"));
  if (free >= diskBytes) return [];
  const gib = (bytes: number) => (bytes / 1024 ** 3).toFixed(1);
  return [
    {
      check: "disk",
      message: `The disk of Docker's images has ${gib(free)} GiB free: the cluster needs ${gib(diskBytes)} GiB.`,
      remedy: 'Free some, such as with "docker system prune".',
    },
  ];
}

/** Docker returns an existing volume of that name, of any owner, and Pulumi would delete it with the stack. */
async function checkVolume(host: Host, volume: string, owner: string): Promise<Need[]> {
  const format = `{{index .Labels "${ownerLabel}"}}`;
  const label = await host
    .run("docker", "volume", "inspect", "--format", format, volume)
    .catch(() => undefined);
  if (label === undefined || isOwn(labelled(label), owner)) return [];
  return [
    {
      check: "volume",
      message: `A volume "${volume}" is there and ${isNotOf(owner, "it", labelled(label))}.`,
      remedy: `Copy its data to another place, remove it with "docker volume rm ${volume}", and run again.`,
    },
  ];
}
