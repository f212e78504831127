import type { OciRegistry } from "../../clients/registry/oci";

/** The tags of one repository. */
export class FakeRegistry implements OciRegistry {
  /** Tag → digest. */
  readonly held = new Map<string, string>();
  /** Digests, in the order of their deletion. */
  readonly deleted: string[] = [];

  push(): Promise<void> {
    return Promise.resolve();
  }

  tag(_repository: string, digest: string, tag: string): Promise<void> {
    this.held.set(tag, digest);
    return Promise.resolve();
  }

  digest(_repository: string, reference: string): Promise<string | undefined> {
    return Promise.resolve(this.held.get(reference));
  }

  tags(): Promise<string[]> {
    return Promise.resolve([...this.held.keys()]);
  }

  delete(_repository: string, digest: string): Promise<void> {
    this.deleted.push(digest);
    for (const [tag, held] of this.held) if (held === digest) this.held.delete(tag);
    return Promise.resolve();
  }

  /** What channels serve and were Ready at, without the tags of revisions. */
  channels(): [string, string][] {
    return [...this.held].filter(([tag]) => !/\d{14}/.test(tag));
  }
}
