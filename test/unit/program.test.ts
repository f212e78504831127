import { deepEqual, rejects } from "node:assert/strict";
import { chmodSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { delimiter, dirname, join } from "node:path";
import { installPulumi, pulumiProgram } from "../../commands/cli/program";
import { temporaryDirectory, withEnvironment, writeFiles } from "./temporary";

const npm = join(__dirname, "..", "..", "node_modules", ".bin");

/** A program below a directory of its own. */
function program(path: string): string {
  const directory = temporaryDirectory();
  writeFiles(directory, { [path]: "#!/bin/sh\n" });
  chmodSync(join(directory, path), 0o755);
  return join(directory, path);
}

describe("the Pulumi CLI of a run", () => {
  const { fetch } = globalThis;
  beforeEach(() => {
    globalThis.fetch = () => Promise.reject(new Error("no internet"));
  });
  afterEach(() => {
    globalThis.fetch = fetch;
  });
  const paths = (...directories: readonly string[]) => directories.join(delimiter);
  const home = { PULUMI_HOME: temporaryDirectory(), PULUMI_VERSION: "1.2.3" };

  it("is the first one on PATH", async () => {
    const own = program("pulumi");
    const PATH = paths(dirname(own), npm);
    deepEqual(await pulumiProgram({ PATH }), { file: own, path: PATH, isPinned: false });
  });

  it("is the one that npm's package installed", async () => {
    const installed = program("versions/1.2.3/bin/pulumi");
    const PATH = paths(npm, dirname(program("pulumi")));
    await withEnvironment({ ...home, PULUMI_HOME: join(dirname(installed), "../../..") }, async () => {
      const path = paths(dirname(installed), PATH);
      deepEqual(await pulumiProgram({ PATH }), { file: installed, path, isPinned: true });
    });
  });

  it("is the next one on PATH where npm's package can install none", async () => {
    const own = program("pulumi");
    const PATH = paths(npm, dirname(own));
    await withEnvironment(home, async () => {
      const path = paths(dirname(own), PATH);
      deepEqual(await pulumiProgram({ PATH }), { file: own, path, isPinned: false });
      await rejects(pulumiProgram({ PATH: npm }), {
        message:
          'Running Pulumi failed: the npm package "pulumi" could not install its CLI (no internet). Install it from https://www.pulumi.com/docs/install/.',
      });
    });
  });

  for (const [what, status, asked] of [
    ["is installed through the proxy before the first check", 200, 2],
    ["is not installed where the proxy does not let it", 403, 1],
  ] as const) {
    it(what, async () => {
      const hosts: string[] = [];
      const proxy = createServer().on("connect", ({ url }, socket) => {
        hosts.push(url ?? "");
        socket.end(`HTTP/1.1 ${status} x\r\n\r\n`);
      });
      await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
      const { port } = proxy.address() as AddressInfo;
      const env = { ...home, HTTPS_PROXY: `http://127.0.0.1:${port}`, PATH: npm };
      try {
        await withEnvironment(home, () => installPulumi(env));
        await withEnvironment(home, () => installPulumi({ ...env, PATH: dirname(program("pulumi")) }));
      } finally {
        proxy.close();
      }
      deepEqual(hosts, Array<string>(asked).fill("get.pulumi.com:443"));
    });
  }
});
