import { run } from "./command";

/** Where artifacts are stored: what the lifecycles ask of an OCI registry. */
export interface OciRegistry {
  /** Pushes the image of an OCI layout directory to `repository` under its digest alone. */
  push(layout: string, repository: string, digest: string): Promise<void>;
  /** Points `tag` of `repository` at a digest that it holds. */
  tag(repository: string, digest: string, tag: string): Promise<void>;
  /** The digest (`sha256:…`) behind a tag or digest, or undefined when the registry does not hold it. */
  digest(repository: string, reference: string): Promise<string | undefined>;
}

/**
 * An OCI registry through `crane`, which reads Docker's own credentials and speaks plain HTTP to loopback
 * addresses; any other registry without TLS needs `insecure`.
 */
export class Crane implements OciRegistry {
  constructor(private readonly insecure: boolean) {}

  async push(layout: string, repository: string, digest: string): Promise<void> {
    await this.crane(`Pushing ${digest} to ${repository}`, "push", layout, `${repository}@${digest}`);
  }

  async tag(repository: string, digest: string, tag: string): Promise<void> {
    await this.crane(`Tagging ${repository}@${digest} as "${tag}"`, "tag", `${repository}@${digest}`, tag);
  }

  async digest(repository: string, reference: string): Promise<string | undefined> {
    const separator = reference.startsWith("sha256:") ? "@" : ":";
    try {
      const name = repository + separator + reference;
      return (await this.crane(`Looking up ${name}`, "digest", name)).trim();
    } catch (error) {
      if (/404 Not Found|MANIFEST_UNKNOWN|NAME_UNKNOWN/.test((error as Error).message)) return undefined;
      throw error;
    }
  }

  private async crane(operation: string, ...args: string[]): Promise<string> {
    try {
      return await run("crane", this.insecure ? ["--insecure", ...args] : args);
    } catch (error) {
      throw new Error(`${operation} failed: ${(error as Error).message}`, { cause: error });
    }
  }
}
