import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { temporaryDirectory } from "../unit/temporary";

/** A port of 127.0.0.1 that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/**
 * A real registry that deletes what it is told to; a new one is empty. It keeps files: the driver that keeps
 * everything in memory does not list every tag.
 */
export class RegistryProcess {
  private constructor(
    private readonly child: ChildProcess,
    /** `host:port`. */
    readonly address: string,
  ) {}

  /**
   * @param binary path of the `registry` program
   * @param users lines of an htpasswd file with bcrypt hashes. @default nobody needs a password
   */
  static async start(binary: string, port: number, users?: string): Promise<RegistryProcess> {
    const directory = temporaryDirectory();
    const config = join(directory, "config.yml");
    const address = `127.0.0.1:${port}`;
    const htpasswd = join(directory, "htpasswd");
    if (users !== undefined) writeFileSync(htpasswd, users);
    writeFileSync(
      config,
      JSON.stringify({
        ...{ version: 0.1, log: { level: "error", accesslog: { disabled: true } } },
        ...{
          storage: { filesystem: { rootdirectory: join(directory, "data") }, delete: { enabled: true } },
          http: { addr: address },
          ...(users === undefined ? {} : { auth: { htpasswd: { realm: "test", path: htpasswd } } }),
        },
      }),
    );
    const child = spawn(binary, ["serve", config], {
      ...{ stdio: "ignore", env: { ...process.env, OTEL_TRACES_EXPORTER: "none" } },
    });
    for (let attempt = 0; attempt < 200; attempt++) {
      if (await answers(address)) return new RegistryProcess(child, address);
      if (child.exitCode !== null) break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    child.kill("SIGKILL");
    throw new Error(`The registry at ${address} did not start.`);
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill("SIGKILL");
    await once(this.child, "exit");
  }
}

async function answers(address: string): Promise<boolean> {
  try {
    // 401 where it asks for a password.
    return [200, 401].includes((await fetch(`http://${address}/v2/`)).status);
  } catch {
    return false;
  }
}
