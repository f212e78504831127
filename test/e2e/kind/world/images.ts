import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Program } from "./docker-image";
import { writeOperatorData } from "./flux";
import type { Programs } from "./node-image";

/** The registry, as in the official image `registry:3`. */
export function registryProgram(programs: Programs): Program {
  return {
    program: programs("registry"),
    files: { "/etc/distribution/config.yml": join(__dirname, "registry/config.yml") },
    instructions: [
      "ENV OTEL_TRACES_EXPORTER=none",
      "VOLUME /var/lib/registry",
      "EXPOSE 5000",
      'CMD ["serve", "/etc/distribution/config.yml"]',
    ],
  };
}

/**
 * What the cluster pulls, by name: Flux's controllers, each of the version that the project pins, the Flux Operator,
 * and whoami.
 *
 * @param optional names of the controllers that were found on this machine
 * @param scratch a directory that is needed for as long as the programs are
 */
export async function pulledPrograms(
  programs: Programs,
  optional: readonly string[],
  scratch: string,
): Promise<Readonly<Record<string, Program>>> {
  const controllers = ["source-controller", "kustomize-controller", ...optional];
  return {
    // Users as in the official images.
    ...Object.fromEntries(
      controllers.map((name) => [name, { program: programs(name), user: "65534:65534" }]),
    ),
    "flux-operator": await operatorProgram(programs, scratch),
    whoami: { program: programs("whoami"), user: "65532:65532" },
  };
}

async function operatorProgram(programs: Programs, scratch: string): Promise<Program> {
  const data = join(scratch, "data");
  const release = join(scratch, "os-release");
  rmSync(scratch, { recursive: true, force: true });
  mkdirSync(scratch, { recursive: true });
  await writeOperatorData(data);
  // The operator only runs on the distribution of its official image.
  writeFileSync(release, 'PRETTY_NAME="Distroless"\nNAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n');
  return {
    program: programs("flux-operator"),
    entrypoint: "/flux-operator",
    user: "65532:65532",
    files: { "/data": data, "/etc/os-release": release },
  };
}
