import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { temporaryDirectory } from "./temporary";

/** Kinds that a server knows: apiVersion → kind → plural, and whether objects have a namespace. */
export type Served = Readonly<
  Record<string, Readonly<Record<string, readonly [plural: string, namespaced: boolean]>>>
>;

interface Answer {
  readonly status: number;
  readonly body: string;
}

/** As much of an API server as a client sees: discovery, get, list, server-side apply, merge patch and delete, over TLS. */
export class FakeApiServer {
  /** Path → object. */
  readonly objects = new Map<string, Record<string, unknown>>();
  /** `METHOD path` of each request, in order. */
  readonly requests: string[] = [];
  /** An answer that comes before what the server would say; undefined lets it speak. */
  override: (method: string, path: string) => Answer | undefined = () => undefined;

  private constructor(
    private readonly server: Server,
    readonly kubeconfig: string,
  ) {}

  /** @throws Error when there is no `openssl` to make a certificate */
  static async start(served: Served): Promise<FakeApiServer> {
    const directory = temporaryDirectory();
    const [key, cert] = [join(directory, "key.pem"), join(directory, "cert.pem")];
    const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    const subject = ["-subj", "/CN=fake", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"];
    execFileSync("openssl", ["req", "-x509", ...curve, ...subject, "-keyout", key, "-out", cert], {
      stdio: "ignore",
    });

    const server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        const { method = "", url = "" } = request;
        fake.requests.push(`${method} ${url}`);
        const { status, body } =
          fake.override(method, url) ??
          fake.answer(served, method, url.split("?")[0] ?? "", Buffer.concat(chunks).toString());
        response.writeHead(status, { "Content-Type": "application/json" }).end(body);
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    const fake = new FakeApiServer(server, kubeconfigOf(`https://127.0.0.1:${port}`, readFileSync(cert)));
    return fake;
  }

  stop(): void {
    this.server.closeAllConnections();
    this.server.close();
  }

  private answer(served: Served, method: string, path: string, body: string): Answer {
    const ok = (value: unknown) => ({ status: 200, body: JSON.stringify(value) });
    const group = served[path.replace(/^\/apis?\//, "")];
    if (group !== undefined) {
      const resources = Object.entries(group).map(([kind, [name, namespaced]]) => ({
        kind,
        name,
        namespaced,
      }));
      return ok({ resources: [...resources, { kind: "Status", name: "nodes/status", namespaced: false }] });
    }
    const object = this.objects.get(path);
    if (method === "GET" && object !== undefined) return ok(object);
    if (
      method === "GET" &&
      Object.values(served).some((kinds) =>
        Object.values(kinds).some(([plural]) => path.endsWith(`/${plural}`)),
      )
    ) {
      // Of one namespace, or of all.
      const [prefix, plural] = [path.slice(0, path.lastIndexOf("/")), path.slice(path.lastIndexOf("/"))];
      const everywhere = (key: string) =>
        key.startsWith(`${prefix}/namespaces/`) && key.includes(`${plural}/`);
      const items = [...this.objects]
        .filter(([key]) => key.startsWith(`${path}/`) || everywhere(key))
        .map(([, value]) => value);
      return ok({ items });
    }
    if (method === "PATCH" && body.includes('"apiVersion"')) {
      const applied = JSON.parse(body) as Record<string, unknown>;
      // A definition is served as soon as it is there.
      const status =
        applied.kind === "CustomResourceDefinition"
          ? { conditions: [{ type: "Established", status: "True" }] }
          : {};
      this.objects.set(path, { ...applied, status });
      return ok(applied);
    }
    if (method === "PATCH" && object !== undefined) {
      merge(object, JSON.parse(body) as Record<string, unknown>);
      return ok(object);
    }
    if (method === "DELETE" && this.objects.delete(path)) return ok({ kind: "Status" });
    return { status: 404, body: JSON.stringify({ kind: "Status", message: `${path} not found` }) };
  }
}

/** The kubeconfig of a server; its token is "the token". */
export function kubeconfigOf(server: string, certificate?: Buffer): string {
  const authority =
    certificate === undefined ? {} : { "certificate-authority-data": certificate.toString("base64") };
  return JSON.stringify({
    ...{ apiVersion: "v1", kind: "Config", "current-context": "x" },
    clusters: [{ name: "c", cluster: { server, ...authority } }],
    users: [{ name: "u", user: { token: "the token" } }],
    contexts: [{ name: "x", context: { cluster: "c", user: "u" } }],
  });
}

function merge(target: Record<string, unknown>, patch: Record<string, unknown>): void {
  for (const [key, value] of Object.entries(patch)) {
    const old = target[key];
    if (typeof value === "object" && value !== null && typeof old === "object" && old !== null) {
      merge(old as Record<string, unknown>, value as Record<string, unknown>);
    } else if (value === null) {
      Reflect.deleteProperty(target, key);
    } else {
      target[key] = value;
    }
  }
}
