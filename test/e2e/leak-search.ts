import { readdirSync, readFileSync, statSync } from "node:fs";
import { request } from "node:https";
import { join, sep } from "node:path";
import { text } from "node:stream/consumers";
import { gunzipSync } from "node:zlib";
import { parse } from "yaml";
import type { Manifest, ManifestRef } from "../../clients/kubernetes/client";

/** A text that nobody may find, and the Secret that it belongs to. */
export interface Marker {
  /** What it is: "DB_PASSWORD of Secret nextcloud/nextcloud". */
  readonly what: string;
  readonly value: string;
  /** @default none: it is in no object of the cluster */
  readonly home?: ManifestRef;
}

/** Every form of a text that somebody could read it in: as it is, in hexadecimal, in base64 at any offset. */
function formsOf(value: string): string[] {
  const offsets = [0, 1, 2].map((offset) => {
    const encoded = Buffer.from(`${"\0".repeat(offset)}${value}`).toString("base64");
    // The first and the last characters depend on what stands beside it.
    return encoded.slice(offset === 0 ? 0 : 4, -4);
  });
  return [value, Buffer.from(value).toString("hex"), ...offsets];
}

/** Says where markers are. */
export class Search {
  readonly markers: Marker[] = [];
  private readonly forms: (readonly [form: string, marker: Marker])[] = [];

  /** A marker that is known is not added again. */
  add(marker: Marker): void {
    if (this.markers.some(({ value }) => value === marker.value)) return;
    this.markers.push(marker);
    this.forms.push(...formsOf(marker.value).map((form) => [form, marker] as const));
  }

  /** The markers that a text holds, in what it is packed into too. */
  in(content: Buffer | string): Marker[] {
    const found = new Set<Marker>();
    for (const layer of unpacked(Buffer.from(content))) {
      for (const [form, marker] of this.forms) if (layer.includes(form)) found.add(marker);
    }
    return [...found];
  }

  /** One sentence for each marker in a text. */
  report(where: string, content: Buffer | string): string[] {
    return this.in(content).map(({ what }) => `${where} holds ${what}`);
  }
}

/** A content, and what it is when it is gunzipped. */
export function unpacked(content: Buffer): string[] {
  const whole = content.toString("latin1");
  if (content[0] !== 0x1f || content[1] !== 0x8b) return [whole];
  try {
    return [whole, gunzipSync(content).toString("latin1")];
  } catch {
    return [whole];
  }
}

/** The files below a directory, as far as they are there when it is looked at. */
export function filesBelow(directory: string): string[] {
  try {
    return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
      const path = join(directory, entry.name);
      return entry.isDirectory() ? filesBelow(path) : entry.isFile() ? [path] : [];
    });
  } catch {
    return [];
  }
}

/** The content of a file that may be gone by now, or of a process that ended: empty then. */
export function readNow(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch {
    return Buffer.alloc(0);
  }
}

/**
 * Looks at every process and every temporary file while something runs.
 *
 * What belongs to the cluster is left out: etcd holds the Secrets themselves.
 */
export class Watch {
  /** Names of the processes that were seen, such as `sops`. */
  readonly seen = new Set<string>();
  /** Limits of core files, as `<soft> of <process>`. */
  readonly cores = new Set<string>();
  looks = 0;
  /** Arguments and environments of all processes → whose they are. Some markers are known later than they are seen. */
  private readonly texts = new Map<string, string>();
  private readonly ofFiles = new Set<string>();
  private readonly known = new Map<string, string>();
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly search: Search,
    private readonly directories: readonly string[],
    private readonly root = process.pid,
  ) {}

  start(): void {
    const begin = Date.now();
    this.look();
    const next = () => {
      this.start();
    };
    // No more than half of the time, so that what is looked at runs as it does alone.
    this.timer = setTimeout(next, Math.max(25, Date.now() - begin)).unref();
  }

  stop(): void {
    clearTimeout(this.timer);
    this.look();
  }

  /** What was found in arguments and environments: one sentence each. */
  inProcesses(): string[] {
    return [...this.texts].flatMap(([content, where]) => this.search.report(where, content));
  }

  /** What was found in temporary files, and what is in those that are there now. */
  inFiles(): string[] {
    this.known.clear();
    this.lookAtFiles();
    return [...this.ofFiles];
  }

  private look(): void {
    this.looks++;
    for (const pid of descendants(this.root)) {
      // Before its name: a process that becomes SOPS in between is SOPS.
      const environment = readNow(`/proc/${pid}/environ`).toString("latin1");
      const name = readNow(`/proc/${pid}/comm`).toString().trim();
      this.seen.add(name);
      this.texts.set(readNow(`/proc/${pid}/cmdline`).toString("latin1"), `the arguments of ${name}`);
      // SOPS is told the identity there, and hands its environment on to nobody.
      if (name !== "sops") {
        this.texts.set(environment, `the environment of ${name}`);
      }
      const [, core] = /Max core file size\s+(\S+)/.exec(readNow(`/proc/${pid}/limits`).toString()) ?? [];
      if (core !== undefined) this.cores.add(`${core} of ${name}`);
    }
    this.lookAtFiles();
  }

  private lookAtFiles(): void {
    for (const path of this.directories.flatMap(filesBelow)) {
      if (path.includes(`${sep}etcd${sep}`)) continue;
      const { mtimeMs = 0, size = 0 } = statSync(path, { throwIfNoEntry: false }) ?? {};
      const version = `${mtimeMs} ${size}`;
      if (this.known.get(path) === version) continue;
      this.known.set(path, version);
      for (const finding of this.search.report(path, readNow(path))) this.ofFiles.add(finding);
    }
  }
}

/** A process and everything it started, as long as it lives. */
function descendants(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const pid of readdirSync("/proc").map(Number).filter(Boolean)) {
    // The name of a program may hold spaces and brackets; what follows the last one is the state and the parent.
    const [, parent = ""] = /\) \S (\d+) [^)]*$/.exec(readNow(`/proc/${pid}/stat`).toString()) ?? [];
    children.set(Number(parent), [...(children.get(Number(parent)) ?? []), pid]);
  }
  const found = [root];
  for (let index = 0; index < found.length; index++) found.push(...(children.get(found[index] ?? 0) ?? []));
  return found;
}

/** Every object of a cluster. */
export async function objectsOf(kubeconfig: string): Promise<Manifest[]> {
  const { clusters, users } = parse(kubeconfig) as {
    clusters: [{ cluster: { server: string; "certificate-authority-data": string } }];
    users: [{ user: { token?: string; "client-certificate-data"?: string; "client-key-data"?: string } }];
  };
  const decoded = (value: string | undefined) => value && Buffer.from(value, "base64");
  const { server, "certificate-authority-data": authority } = clusters[0].cluster;
  const { token, "client-certificate-data": certificate, "client-key-data": key } = users[0].user;
  const get = <T>(path: string) =>
    new Promise<T>((resolve, reject) => {
      const call = request(
        `${server}${path}`,
        {
          ca: decoded(authority),
          cert: decoded(certificate),
          key: decoded(key),
          headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
        },
        (response) => {
          text(response).then((body) => {
            if (response.statusCode === 200) resolve(JSON.parse(body) as T);
            else reject(new Error(`GET ${path}: ${response.statusCode ?? 0} ${body}`));
          }, reject);
        },
      );
      call.on("error", reject).end();
    });
  const { groups } = await get<{ groups: { versions: { groupVersion: string }[] }[] }>("/apis");
  const versions = [
    "/api/v1",
    ...groups.flatMap((group) => group.versions.map((v) => `/apis/${v.groupVersion}`)),
  ];
  const objects: Manifest[] = [];
  for (const version of versions) {
    const { groupVersion, resources } = await get<{
      groupVersion: string;
      resources: { name: string; kind: string; verbs: string[] }[];
    }>(version);
    for (const { name, kind } of resources.filter(({ verbs }) => verbs.includes("list"))) {
      const { items } = await get<{ items: Manifest[] }>(`${version}/${name}`);
      objects.push(...items.map((item) => ({ ...item, apiVersion: groupVersion, kind })));
    }
  }
  return objects;
}
