import { deepEqual, equal, match } from "node:assert/strict";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { dockerConfig, dockerLogin, refusalOf } from "../../clients/registry/login";
import { ensureTools } from "../../tools/tools";
import { temporaryDirectory } from "../unit/temporary";
import { freePort, RegistryProcess } from "./registry";

/** User "reader" with the password "correct". */
const users = "reader:$2b$04$VM4brHuLWALWdFgiBfxj2eez8KXe38a1SbXrFnLJyU8F7ttZ6AUAa\n";
const reader = { username: "reader", password: "correct" };

describe("the login to a registry", () => {
  let registry: RegistryProcess;
  let config: string | undefined;

  before(async function () {
    this.timeout(600_000);
    const tools = await ensureTools(["crane", "registry"], { report: () => undefined });
    registry = await RegistryProcess.start(tools.registry, await freePort(), users);
  });
  after(() => registry.stop());

  beforeEach(() => {
    config = process.env.DOCKER_CONFIG;
    const directory = join(temporaryDirectory(), "docker");
    mkdirSync(directory);
    process.env.DOCKER_CONFIG = directory;
  });
  afterEach(() => {
    if (config === undefined) delete process.env.DOCKER_CONFIG;
    else process.env.DOCKER_CONFIG = config;
  });

  it("is Docker's own, and none where Docker has none", async () => {
    equal(await dockerLogin(registry.address), undefined);
    const file = join(process.env.DOCKER_CONFIG ?? "", "config.json");
    writeFileSync(file, dockerConfig(registry.address, reader));
    deepEqual(await dockerLogin(registry.address), reader);
    writeFileSync(file, "{ not JSON");
    const failure = await dockerLogin(registry.address).catch((error: unknown) => (error as Error).message);
    match(failure as string, /^Reading Docker's login to 127\.0\.0\.1:\d+ failed: .* Run "docker login 127/s);
  });

  it("may pull, or the registry's refusal is told with the remedy, before anything is made", async () => {
    const repository = `${registry.address}/platform`;
    equal(await refusalOf(repository, reader, false), undefined);
    match(
      String(await refusalOf(repository, { ...reader, password: "wrong" }, false)),
      /^Pulling from 127\.0\.0\.1:\d+\/platform as "reader" failed: .*UNAUTHORIZED.* Set platform:registry\.pullUsername/s,
    );
    match(
      String(await refusalOf("127.0.0.1:1/platform", reader, false)),
      /connection refused.* Check platform:registry\.repository/s,
    );
  });

  it("leaves no password behind on the disk", async () => {
    await refusalOf(`${registry.address}/platform`, reader, false);
    deepEqual(
      readdirSync(tmpdir()).filter((name) => name.startsWith("platform-login-")),
      [],
    );
  });
});

describe("the pull secret of a registry", () => {
  it("holds a login as Docker writes it", () => {
    deepEqual(JSON.parse(dockerConfig("ghcr.io", reader)), {
      auths: { "ghcr.io": { ...reader, auth: Buffer.from("reader:correct").toString("base64") } },
    });
    deepEqual(Object.keys((JSON.parse(dockerConfig("docker.io", reader)) as { auths: object }).auths), [
      "https://index.docker.io/v1/",
    ]);
    deepEqual(JSON.parse(dockerConfig("example.com", { username: "<token>", password: "t" })), {
      auths: { "example.com": { identitytoken: "t" } },
    });
    deepEqual(JSON.parse(dockerConfig("example.com", undefined)), { auths: {} });
  });
});
