import { deepEqual, equal } from "node:assert/strict";
import { chmodSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { isInstalled, pluginOf } from "../../core/host/plugins";
import { isReachable } from "../../system/reach";
import { temporaryDirectory, writeFiles } from "./temporary";

describe("plugins of Pulumi", () => {
  const plugin = { name: "docker", version: "5.0.0" };
  const inHome = "plugins/resource-docker-v5.0.0/pulumi-resource-docker";

  /** Whether the plugin is installed on a machine with these programs, below PULUMI_HOME or on PATH at `bin`. */
  function looked(programs: readonly string[], env: NodeJS.ProcessEnv = {}, mode = 0o755): Promise<boolean> {
    const home = temporaryDirectory();
    writeFiles(home, Object.fromEntries(programs.map((program) => [program, ""])));
    for (const program of programs) chmodSync(join(home, program), mode);
    return isInstalled(plugin, { PULUMI_HOME: home, PATH: `/nowhere:${home}/bin`, ...env });
  }

  it("are in the versions of the installed SDKs", async () => {
    for (const name of ["kubernetes", "docker", "random", "command"]) {
      // eslint-disable-next-line @typescript-eslint/no-require-imports -- the dependency as Pulumi's host reads it
      const { dependencies } = require("../../package.json") as { dependencies: Record<string, string> };
      deepEqual(await pluginOf(name), { name, version: dependencies[`@pulumi/${name}`] });
    }
  });

  for (const [what, programs, found] of [
    ["on PATH", ["bin/pulumi-resource-docker"], true],
    ["in PULUMI_HOME", [inHome], true],
    ["nowhere", [], false],
    ["of another version", ["plugins/resource-docker-v5.0.1/pulumi-resource-docker"], false],
    ["whose download was cut off", [inHome, "plugins/resource-docker-v5.0.0.partial"], false],
  ] as const) {
    it(`${found ? "finds" : "does not find"} one that is ${what}`, async () => {
      equal(await looked(programs), found);
    });
  }

  it("does not take a file that cannot run for one", async () => {
    deepEqual(
      await Promise.all([looked([inHome], {}, 0o644), looked(["bin/pulumi-resource-docker"], {}, 0o644)]),
      [false, false],
    );
  });

  it("leaves PATH out where Pulumi does", async () => {
    const ignoring = { PULUMI_IGNORE_AMBIENT_PLUGINS: "true" };
    equal(await looked(["bin/pulumi-resource-docker"], ignoring), false);
    equal(await looked([inHome], ignoring), true);
  });
});

describe("isReachable", () => {
  /** Asks for a host through a proxy that answers with this status; with none, it does not answer. */
  async function through(
    status: number | undefined,
    { scheme = "http", login = "", noProxy = "", host = "github.com" } = {},
  ): Promise<{ reachable: boolean; asked: string[] }> {
    const asked: string[] = [];
    const sockets: Duplex[] = [];
    const proxy = createServer().on("connect", (request, socket) => {
      asked.push([request.method, request.url, request.headers["proxy-authorization"]].join(" ").trim());
      sockets.push(socket);
      if (status !== undefined) socket.end(`HTTP/1.1 ${status} x\r\n\r\n`);
    });
    await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
    const { port } = proxy.address() as AddressInfo;
    try {
      const env = { HTTPS_PROXY: `${scheme}://${login}127.0.0.1:${port}`, NO_PROXY: noProxy };
      return { reachable: await isReachable(host, env, 500), asked };
    } finally {
      for (const socket of sockets) socket.destroy();
      proxy.close();
    }
  }

  for (const [status, reachable] of [
    [200, true],
    [403, false],
    [undefined, false],
  ] as const) {
    it(`is ${reachable} through a proxy that answers ${status ?? "nothing"}`, async () => {
      deepEqual(await through(status), { reachable, asked: ["CONNECT github.com:443"] });
    });
  }

  it("gives a proxy its login", async () => {
    const { asked } = await through(200, { login: "me:p%40ss@" });
    deepEqual(asked, [`CONNECT github.com:443 Basic ${Buffer.from("me:p@ss").toString("base64")}`]);
  });

  it("takes a proxy of another protocol at its word", async () => {
    deepEqual(await through(403, { scheme: "socks5" }), { reachable: true, asked: [] });
    equal(await isReachable("github.com", { HTTPS_PROXY: "socks5://127.0.0.1:1" }), false);
  });

  for (const noProxy of ["*", "127.0.0.1", "other, .0.0.1"]) {
    it(`asks no proxy where NO_PROXY is "${noProxy}"`, async () => {
      // Nothing listens on port 443.
      deepEqual(await through(200, { noProxy, host: "127.0.0.1" }), { reachable: false, asked: [] });
    });
  }
});
