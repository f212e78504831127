import { request } from "node:http";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * Whether a program that uses the proxies of its environment reaches port 443 of a host. A proxy that does not speak
 * plain HTTP is only asked for a connection.
 *
 * @param host name of the host
 * @param deadline milliseconds
 */
export async function isReachable(host: string, env: NodeJS.ProcessEnv, deadline = 2_500): Promise<boolean> {
  const proxy = proxyOf(host, env);
  const tried =
    proxy?.protocol === "http:" ? throughProxy(host, proxy) : directly(proxy?.hostname ?? host, proxy);
  return Promise.race([tried, sleep(deadline, false, { ref: false })]);
}

function directly(host: string, proxy: URL | undefined): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(Number(proxy?.port || 443), host)
      .once("connect", () => {
        socket.destroy();
        resolve(true);
      })
      .once("error", () => {
        resolve(false);
      })
      .unref();
  });
}

function throughProxy(host: string, proxy: URL): Promise<boolean> {
  const login = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
  return new Promise((resolve) => {
    request({
      ...{
        host: proxy.hostname,
        port: proxy.port || 80,
        method: "CONNECT",
        path: `${host}:443`,
        agent: false,
      },
      headers: {
        host: `${host}:443`,
        ...(login === ":" ? {} : { "proxy-authorization": `Basic ${Buffer.from(login).toString("base64")}` }),
      },
    })
      .once("connect", ({ statusCode }, socket) => {
        socket.destroy();
        resolve(statusCode === 200);
      })
      .once("socket", (socket) => socket.unref())
      .once("error", () => {
        resolve(false);
      })
      .end();
  });
}

/** The proxy for a host, as Go's programs choose it. Source: golang.org/x/net/http/httpproxy */
function proxyOf(host: string, env: NodeJS.ProcessEnv): URL | undefined {
  const value = env.HTTPS_PROXY || env.https_proxy || "";
  if (value === "") return undefined;
  const direct = (env.NO_PROXY || env.no_proxy || "")
    .split(",")
    .map((entry) => entry.trim().replace(/^\./, ""));
  if (direct.some((entry) => entry === "*" || (entry !== "" && `.${host}`.endsWith(`.${entry}`))))
    return undefined;
  const url = value.includes("://") ? value : `http://${value}`;
  return URL.canParse(url) ? new URL(url) : undefined;
}
