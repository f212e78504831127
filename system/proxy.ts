/**
 * An environment whose proxies are not asked for this machine itself. Go's programs leave loopback out on their own;
 * Node (`NODE_USE_ENV_PROXY`) and gRPC, over which Pulumi's engine talks to the program, do not.
 */
export function directLoopback<Env extends Readonly<Record<string, string | undefined>>>(env: Env): Env {
  const names = ["http_proxy", "https_proxy", "all_proxy", "grpc_proxy"];
  if (!Object.keys(env).some((name) => names.includes(name.toLowerCase()))) return env;
  const known = (env.NO_PROXY ?? env.no_proxy ?? "").split(",").filter((host) => host !== "");
  const direct = [...new Set([...known, "localhost", "127.0.0.1", "::1"])].join(",");
  return { ...env, NO_PROXY: direct, no_proxy: direct };
}
