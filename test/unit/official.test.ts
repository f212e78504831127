import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type RequestListener, type Server } from "node:http";
import { createServer as createSecureServer } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "tar";
import { downloadOfficial, isOffered, type DownloadOptions, type Publisher } from "../../tools/official";
import { ensureTools } from "../../tools/tools";
import { fakeGo, fakeTools, temporaryDirectory } from "./temporary";

const sha256 = (content: string | Buffer) => createHash("sha256").update(content).digest("hex");
const program = "#!/bin/sh\necho official\n";
const arch = process.arch === "arm64" ? "arm64" : "amd64";
const server = `/v1.2.3/bin/linux/${arch}/kube-apiserver`;

describe("official programs", function () {
  this.timeout(20_000);
  const servers: Server[] = [];
  let directory: string;

  beforeEach(() => {
    directory = temporaryDirectory();
  });

  afterEach(() => {
    for (const each of servers.splice(0)) {
      each.closeAllConnections();
      each.close();
    }
  });

  /** @returns the origin of a server on this machine */
  async function serve(answer: RequestListener, secure?: { key: string; cert: string }): Promise<string> {
    const each = secure ? createSecureServer(secure, answer) : createServer(answer);
    servers.push(each);
    await once(each.listen(0, "127.0.0.1"), "listening");
    return `${secure ? "https" : "http"}://127.0.0.1:${(each.address() as AddressInfo).port}`;
  }

  /** Downloads one program; the reason why it is not there, if it is not. */
  async function get(
    origin: string,
    {
      publisher = "kubernetes",
      name = "kube-apiserver",
      ...options
    }: Partial<DownloadOptions> & {
      publisher?: Publisher;
      name?: string;
    } = {},
  ): Promise<string | undefined> {
    const begun = await downloadOfficial(publisher, [{ name, version: "v1.2.3" }], directory, {
      ...{ env: {}, origins: { kubernetes: origin, etcd: origin } },
      ...{ patience: { answer: 300, data: 300 }, ...options },
    });
    const reason = typeof begun === "string" ? begun : await begun[0];
    if (reason !== undefined) deepEqual(readdirSync(directory), [], "something is left");
    return reason;
  }

  /** Answers with the checksum of the program, and as told with the program. */
  const offer =
    (answer: RequestListener, sum = `${sha256(program)}\n`): RequestListener =>
    (request, response) => {
      if (request.url === `${server}.sha256`) response.end(sum);
      else answer(request, response);
    };

  it("are offered for Linux on two processors", () => {
    const systems = [
      ["linux", "x64"],
      ["linux", "arm64"],
      ["linux", "riscv64"],
      ["darwin", "arm64"],
    ] as const;
    deepEqual(
      systems.map(([platform, processor]) => isOffered(platform, processor)),
      [true, true, false, false],
    );
  });

  it("come from the address of their version, and can be run", async () => {
    const asked: (string | undefined)[] = [];
    const origin = await serve((request, response) => {
      asked.push(request.url);
      offer((_, answer) => answer.end(program))(request, response);
    });
    equal(await get(origin), undefined);
    deepEqual(asked, [`${server}.sha256`, server]);
    equal(execFileSync(join(directory, "kube-apiserver"), { encoding: "utf8" }), "official\n");
    deepEqual(readdirSync(directory), ["kube-apiserver"]);
  });

  it("come out of etcd's archive, whose checksum is in a list", async () => {
    const release = `etcd-v1.2.3-linux-${arch}`;
    const source = temporaryDirectory();
    mkdirSync(join(source, release, "Documentation"), { recursive: true });
    writeFileSync(join(source, release, "etcd"), program);
    writeFileSync(join(source, release, "Documentation", "etcd"), "no program");
    const archive = join(source, "archive");
    await create({ gzip: true, file: archive, cwd: source }, [release]);
    const sums = `${sha256("other")}  etcd-v1.2.3-darwin-arm64.zip\n${sha256(readFileSync(archive))}  ${release}.tar.gz\n`;
    const origin = await serve((request, response) => {
      if (request.url === "/v1.2.3/SHA256SUMS") response.end(sums);
      else if (request.url === `/v1.2.3/${release}.tar.gz`) response.end(readFileSync(archive));
      else response.writeHead(404).end();
    });
    equal(await get(origin, { publisher: "etcd", name: "etcd" }), undefined);
    equal(execFileSync(join(directory, "etcd"), { encoding: "utf8" }), "official\n");
    deepEqual(readdirSync(directory), ["etcd"]);
  });

  it("are taken from a slow publisher", async () => {
    const origin = await serve(
      offer((_, response) => {
        void (async () => {
          for (const letter of program) {
            response.write(letter);
            await sleep(40);
          }
          response.end();
        })();
      }),
    );
    let bytes = 0;
    equal(await get(origin, { received: (count) => (bytes += count) }), undefined);
    equal(bytes, program.length);
  });

  const refused: readonly (readonly [string, RequestListener, RegExp])[] = [
    ["is not there", offer((_, response) => response.writeHead(404).end()), /answered with status 404$/],
    [
      "is another one",
      offer((_, response) => response.end("other")),
      /has another checksum than its publisher says$/,
    ],
    [
      "is cut off",
      offer((_, response) => {
        response.writeHead(200, { "content-length": program.length });
        response.write(program.slice(0, 5), () => response.destroy());
      }),
      /^127\.0\.0\.1:\d+: aborted$/,
    ],
    ["stops in the middle", offer((_, response) => response.write("#!")), /did not answer in time$/],
    ["never starts", offer(() => undefined), /did not answer in time$/],
    ["has no checksum", (_, response) => response.writeHead(404).end(), /\.sha256 answered with status 404$/],
    [
      "has a page instead of a checksum",
      offer(() => undefined, "<html>login</html>"),
      /\.sha256 has no checksum of kube-apiserver$/,
    ],
    [
      "is behind a redirect to plain HTTP",
      offer((_, response) => response.writeHead(302, { location: "http://127.0.0.1:1/" }).end()),
      /leads to http:\/\/127\.0\.0\.1:1, which is not encrypted$/,
    ],
  ];
  for (const [name, answer, reason] of refused)
    it(`are refused when one ${name}, and nothing is left`, async () => {
      match((await get(await serve(answer))) ?? "", reason);
    });

  it("cost one short wait when their publisher does not answer", async () => {
    let asked = 0;
    const origin = await serve(() => asked++);
    const programs = ["kube-apiserver", "kube-scheduler"].map((name) => ({ name, version: "v1.2.3" }));
    const begun = await downloadOfficial("kubernetes", programs, directory, {
      ...{ env: {}, origins: { kubernetes: origin, etcd: origin }, patience: { answer: 100, data: 60_000 } },
    });
    match(typeof begun === "string" ? begun : "", /^127\.0\.0\.1:\d+ did not answer in time$/);
    equal(asked, 1);
  });

  it("end with the caller", async () => {
    const ended = new AbortController();
    const origin = await serve(
      offer(() => {
        ended.abort(new Error("enough"));
      }),
    );
    const patience = { answer: 60_000, data: 60_000 };
    await rejects(get(origin, { patience, signal: ended.signal }), /^Error: enough$/);
    deepEqual(readdirSync(directory), []);
  });

  it("are asked for through the user's proxy, except where NO_PROXY says otherwise", async () => {
    const asked: (string | undefined)[] = [];
    const proxy = await serve(() => undefined);
    servers.at(-1)?.on("connect", (request, socket) => {
      asked.push(request.url);
      socket.end("HTTP/1.1 502 Bad Gateway\r\n\r\n");
    });
    const origin = "https://publisher.invalid/release";
    match((await get(origin, { env: { HTTPS_PROXY: proxy } })) ?? "", /^publisher\.invalid: /);
    deepEqual(asked, ["publisher.invalid:443"]);
    await get(origin, { env: { HTTPS_PROXY: proxy, NO_PROXY: "publisher.invalid" } });
    equal(asked.length, 1);
  });

  it("are taken from where an encrypted redirect leads, with a trusted certificate only", async function () {
    let certificate: { key: string; cert: string };
    try {
      const [key, cert] = [join(directory, "key"), join(directory, "cert")];
      const subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"];
      const files = ["-keyout", key, "-out", cert];
      const kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
      execFileSync("openssl", ["req", ...kind, ...files, ...subject], { stdio: "ignore" });
      certificate = { key: readFileSync(key, "utf8"), cert: readFileSync(cert, "utf8") };
    } catch {
      console.error("      skipped: openssl is not on PATH");
      this.skip();
    }
    directory = temporaryDirectory();
    const store = await serve((_, response) => response.end(program), certificate);
    const moved = offer((_, response) => response.writeHead(302, { location: `${store}/file` }).end());
    const origin = await serve(moved, certificate);
    match((await get(origin)) ?? "", /self-signed certificate/);
    equal(await get(origin, { ca: certificate.cert }), undefined);
  });

  it("are tools at once; those that fail are built, and one line says why", async () => {
    const env = fakeTools({ go: fakeGo("built\\n") });
    const origin = await serve((request, response) => {
      const [, name = "", sums] = /(kube-[a-z-]+?)(\.sha256)?$/.exec(request.url ?? "") ?? [];
      if (sums !== undefined) response.end(sha256(name));
      else response.end(name === "kube-scheduler" ? "broken" : name);
    });
    const lines: string[] = [];
    const { "kube-apiserver": api, "kube-scheduler": scheduler } = await ensureTools(
      ["kube-apiserver", "kube-scheduler"],
      {
        env,
        publishers: { origins: { kubernetes: origin, etcd: origin } },
        report: (line) => lines.push(line),
      },
    );
    equal(readFileSync(api, "utf8"), "kube-apiserver");
    equal(readFileSync(scheduler, "utf8"), "built\n");
    const [said = "", ...more] = lines.filter((line) => line.includes("downloaded"));
    match(
      said,
      /^built here, not downloaded: kube-scheduler \(\S+ has another checksum than its publisher says\)$/,
    );
    deepEqual(more, []);
    equal(existsSync(join(env.XDG_CACHE_HOME, "platform/tools/building")), false);
  });
});
