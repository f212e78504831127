import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { chmod, rename, rm } from "node:fs/promises";
import { get as httpGet, type IncomingMessage, type RequestOptions } from "node:http";
import { Agent, get as httpsGet } from "node:https";
import { dirname, join } from "node:path";
import { Transform } from "node:stream";
import { text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { extract } from "tar";

/** The publishers of programs that a rehearsal runs. */
export type Publisher = "kubernetes" | "etcd";

/** The address of each publisher's releases, without a slash at the end. */
export type Origins = Readonly<Record<Publisher, string>>;

/** Source: https://kubernetes.io/releases/download and https://github.com/etcd-io/etcd/releases */
export const officialOrigins: Origins = {
  kubernetes: "https://dl.k8s.io/release",
  etcd: "https://github.com/etcd-io/etcd/releases/download",
};

/** A program that a publisher offers. */
export interface OfficialProgram {
  readonly name: string;
  /** Such as `v1.36.3`. */
  readonly version: string;
}

/** Options of {@link downloadOfficial}. */
export interface DownloadOptions {
  /** Gives the proxy: `HTTPS_PROXY`, `NO_PROXY`. */
  readonly env: NodeJS.ProcessEnv;
  /** @default {@link officialOrigins} */
  readonly origins?: Origins;
  /** Certificates of authorities to trust instead of Node's own. @default none */
  readonly ca?: string;
  /** Milliseconds for the first answer of a publisher, and without any data later. @default 2,000 and 10,000 */
  readonly patience?: { readonly answer: number; readonly data: number };
  /** Takes the number of bytes of each piece that arrives. */
  readonly received?: (bytes: number) => void;
  /** Ends the downloads. */
  readonly signal?: AbortSignal;
}

/** The names of processors in releases. */
const processors: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64" };

/** Whether publishers offer their programs for a system: Kubernetes releases its servers for Linux alone. */
export function isOffered(platform: string = process.platform, arch: string = process.arch): boolean {
  return platform === "linux" && arch in processors;
}

/**
 * Downloads official programs of one publisher, and compares them with the checksums that the publisher gives beside
 * them. The first checksum tells within 2 s whether the publisher can be reached at all.
 *
 * @param directory absolute; an intact program is there under its name in the end, and nothing of any other
 * @returns why the publisher cannot be reached, or for each program nothing or the reason why it is not there:
 *   "dl.k8s.io did not answer in time"
 */
export async function downloadOfficial(
  publisher: Publisher,
  programs: readonly OfficialProgram[],
  directory: string,
  options: DownloadOptions,
): Promise<string | readonly Promise<string | undefined>[]> {
  const client = new Client(options);
  const unlessFailed = (work: Promise<unknown>) =>
    work.then(
      () => undefined,
      (error: unknown) => {
        options.signal?.throwIfAborted();
        return (error as Error).message;
      },
    );
  const addresses = programs.map((program) =>
    addressOf(publisher, program, options.origins ?? officialOrigins),
  );
  const first = client.text(addresses[0]?.sums ?? "");
  const unreachable = await unlessFailed(first);
  if (unreachable !== undefined) {
    client.close();
    return unreachable;
  }
  const downloads = addresses.map((address, index) => {
    const sums = index === 0 ? first : client.text(address.sums);
    const path = join(directory, programs[index]?.name ?? "");
    return unlessFailed(sums.then((published) => fetchProgram(client, address, published, path)));
  });
  void Promise.allSettled(downloads).then(() => {
    client.close();
  });
  return downloads;
}

interface Address {
  readonly url: string;
  /** The file of checksums. */
  readonly sums: string;
  /** The path of the program in the archive; without it, the file is the program. */
  readonly member?: string;
}

function addressOf(publisher: Publisher, { name, version }: OfficialProgram, origins: Origins): Address {
  const arch = processors[process.arch] ?? process.arch;
  if (publisher === "kubernetes") {
    const url = `${origins.kubernetes}/${version}/bin/linux/${arch}/${name}`;
    return { url, sums: `${url}.sha256` };
  }
  const release = `etcd-${version}-linux-${arch}`;
  const place = `${origins.etcd}/${version}`;
  return { url: `${place}/${release}.tar.gz`, sums: `${place}/SHA256SUMS`, member: `${release}/${name}` };
}

/** The checksum of a file: the only one of `<file>.sha256`, or the one of its line in `SHA256SUMS`. */
function checksumIn(published: string, { url, sums }: Address): string {
  const file = url.split("/").at(-1) ?? "";
  const lines = published.trim().split("\n");
  const line =
    lines.find((each) => each.trim().split(/\s+/)[1]?.replace(/^\*/, "") === file) ?? lines.join("");
  const [sum = ""] = line.trim().split(/\s+/);
  if (!/^[0-9a-f]{64}$/.test(sum)) throw new Error(`${sums} has no checksum of ${file}`);
  return sum;
}

async function fetchProgram(
  client: Client,
  address: Address,
  published: string,
  path: string,
): Promise<void> {
  const { url, member } = address;
  const expected = checksumIn(published, address);
  const draft = `${path}.download`;
  try {
    await client.file(url, draft);
    const hash = createHash("sha256");
    await pipeline(createReadStream(draft), hash);
    if (hash.digest("hex") !== expected)
      throw new Error(`${url} has another checksum than its publisher says`);
    if (member === undefined) await rename(draft, path);
    else await extract({ file: draft, cwd: dirname(path), strip: 1, filter: (entry) => entry === member });
    await chmod(path, 0o755);
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await rm(draft, { force: true });
  }
}

/** Reads over HTTPS, through the user's proxy; every error is a short reason. */
class Client {
  readonly #agent: Agent;
  readonly #options: DownloadOptions;
  readonly #patience: { readonly answer: number; readonly data: number };
  #answered = false;

  constructor(options: DownloadOptions) {
    this.#options = options;
    this.#patience = options.patience ?? { answer: 2_000, data: 10_000 };
    // An older Node than 22.21 knows no `proxyEnv`, and connects directly.
    this.#agent = new Agent({ ca: options.ca, proxyEnv: options.env } as object);
  }

  close(): void {
    this.#agent.destroy();
  }

  async text(url: string): Promise<string> {
    const limit = AbortSignal.timeout(this.#answered ? this.#patience.data : this.#patience.answer);
    const published = await this.#read(url, limit, (response) => text(response));
    this.#answered = true;
    return published;
  }

  async file(url: string, path: string): Promise<void> {
    // Every piece of data gives the rest some more time.
    const limit = new AbortController();
    const timer = setTimeout(() => {
      limit.abort(new DOMException("", "TimeoutError"));
    }, this.#patience.data);
    const alive = new Transform({
      transform: (chunk: Buffer, _encoding, next) => {
        timer.refresh();
        this.#options.received?.(chunk.length);
        next(null, chunk);
      },
    });
    try {
      await this.#read(url, limit.signal, (response) => pipeline(response, alive, createWriteStream(path)));
    } finally {
      clearTimeout(timer);
    }
  }

  async #read<T>(
    url: string,
    limit: AbortSignal,
    take: (response: IncomingMessage) => Promise<T>,
  ): Promise<T> {
    const { signal } = this.#options;
    const any = signal === undefined ? limit : AbortSignal.any([signal, limit]);
    let address = new URL(url);
    try {
      for (let redirects = 0; redirects <= 5; redirects++) {
        const response = await this.#get(address, any);
        const { statusCode = 0, headers } = response;
        if (statusCode === 200) return await take(response);
        response.resume();
        if (statusCode < 300 || statusCode > 399 || headers.location === undefined)
          throw new Error(`${address.href} answered with status ${statusCode}`);
        address = new URL(headers.location, address);
        if (address.protocol !== "https:")
          throw new Error(`${url} leads to ${address.origin}, which is not encrypted`);
      }
      throw new Error(`${url} leads from one address to the next without end`);
    } catch (error) {
      const { message, code } = error as NodeJS.ErrnoException;
      if (limit.aborted) throw new Error(`${address.host} did not answer in time`, { cause: error });
      if (code === "ENOTFOUND" || code === "EAI_AGAIN")
        throw new Error(`${address.host} is not found`, { cause: error });
      throw code === undefined ? error : new Error(`${address.host}: ${message || code}`, { cause: error });
    }
  }

  #get(address: URL, signal: AbortSignal): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const encrypted = address.protocol === "https:";
      const options: RequestOptions = encrypted ? { signal, agent: this.#agent } : { signal, agent: false };
      (encrypted ? httpsGet : httpGet)(address, options, resolve).once("error", reject);
    });
  }
}
