import { deepEqual } from "node:assert/strict";
import { registryHosts } from "../../core/registry/hosts";

/** containerd's `hosts.toml` of a registry that is reached at another address. */
const toml = (server: string, host: string) =>
  `server = "${server}"\n\n[host."${host}"]\n  capabilities = ["pull", "resolve"]\n`;

const containerName = "platform-local-registry";
const own = toml("http://platform-local-registry:5000", "http://platform-local-registry:5000");
const mirrors = ["docker.io", "ghcr.io", "registry.lan:5000"];

describe("registryHosts", () => {
  it("reaches the stack's own registry over plain HTTP", () => {
    deepEqual(registryHosts({ containerName }), { "platform-local-registry:5000": own });
  });

  it("asks a mirror before its upstream, which for docker.io has another name", () => {
    deepEqual(registryHosts({ containerName, mirrors }), {
      "platform-local-registry:5000": own,
      "docker.io": toml("https://registry-1.docker.io", "http://platform-local-registry-docker.io:5000"),
      "ghcr.io": toml("https://ghcr.io", "http://platform-local-registry-ghcr.io:5000"),
      "registry.lan:5000": toml(
        "https://registry.lan:5000",
        "http://platform-local-registry-registry.lan-5000:5000",
      ),
    });
  });

  it("asks mirrors instead of their upstreams when it is air-gapped, and for any other registry its own", () => {
    const mirror = (name: string) => toml(`http://${name}:5000`, `http://${name}:5000`);
    deepEqual(registryHosts({ containerName, mirrors, airGapped: true }), {
      "platform-local-registry:5000": own,
      "docker.io": mirror("platform-local-registry-docker.io"),
      "ghcr.io": mirror("platform-local-registry-ghcr.io"),
      "registry.lan:5000": mirror("platform-local-registry-registry.lan-5000"),
      _default: own,
    });
  });
});
