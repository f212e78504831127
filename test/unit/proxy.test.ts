import { deepEqual, equal } from "node:assert/strict";
import { execFile } from "node:child_process";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { directLoopback } from "../../system/proxy";
import { FakeApiServer } from "./api-server";

const project = join(__dirname, "..", "..");
/** A proxy where nobody listens: whoever asks it fails. */
const nowhere = "http://127.0.0.1:9";
const proxies = {
  ...{ NODE_USE_ENV_PROXY: "1", HTTP_PROXY: nowhere, HTTPS_PROXY: nowhere, NO_PROXY: "" },
  ...{ http_proxy: nowhere, https_proxy: nowhere, no_proxy: "" },
};

describe("a proxy of the environment", function () {
  this.timeout(60_000);

  /** Runs a script in a Node that reads the proxies when it starts; its output. */
  async function node(script: string, env: Readonly<Record<string, string>>): Promise<string> {
    const args = ["-r", "ts-node/register/transpile-only", "-e", script];
    const { stdout } = await promisify(execFile)(process.execPath, args, {
      cwd: project,
      env: { ...process.env, ...env },
    });
    return stdout.trim();
  }

  const served = async (): Promise<Server> => {
    const server = createServer((_, response) => response.end());
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return server;
  };

  it("does not touch loopback where a program of ours asks it", async () => {
    const server = await served();
    const api = await FakeApiServer.start({ v1: { ConfigMap: ["configmaps", true] } });
    try {
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
      const script = `
        const { httpProbe } = require("./system/process.ts");
        const { KubernetesClient } = require("./clients/kubernetes/client.ts");
        (async () => {
          console.log(await httpProbe({ url: ${JSON.stringify(url)} })());
          const api = new KubernetesClient(process.env.TEST_KUBECONFIG);
          console.log((await api.list("v1", "ConfigMap")).length);
        })().catch(({ message }) => console.log(message));`;
      equal(await node(script, { ...proxies, TEST_KUBECONFIG: api.kubeconfig }), "true\n0");
    } finally {
      server.close();
      api.stop();
    }
  });

  it("does not touch loopback in a child process", async () => {
    const server = await served();
    try {
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
      const script = `require("node:http").get(${JSON.stringify(url)}, ({ statusCode }) => console.log(statusCode)).on("error", ({ message }) => console.log(message));`;
      equal(await node(script, proxies), "connect ECONNREFUSED 127.0.0.1:9", "the proxy is asked otherwise");
      equal(await node(script, directLoopback(proxies)), "200");
    } finally {
      server.close();
    }
  });

  it("leaves an environment without proxies alone, and keeps the hosts that are direct already", () => {
    deepEqual(directLoopback({ PATH: "/bin" }), { PATH: "/bin" });
    deepEqual(directLoopback({ https_proxy: "http://proxy", no_proxy: ".lan,localhost" }), {
      https_proxy: "http://proxy",
      NO_PROXY: ".lan,localhost,127.0.0.1,::1",
      no_proxy: ".lan,localhost,127.0.0.1,::1",
    });
  });
});
