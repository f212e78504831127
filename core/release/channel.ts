import type { OciRegistry } from "../../clients/registry/oci";

/** The number of characters of a digest in the tag of a revision. */
const shortLength = 12;

/**
 * A channel of a repository: the artifact that a cluster follows. The channel has three kinds of tags:
 *
 * - `<name>` points at the digest that the cluster follows.
 * - `<name>-ready` points at the last digest that was Ready.
 * - `<name>-<UTC time>-<start of the digest>` marks each release of a digest.
 */
export class Channel {
  /** @param repository as this machine reaches it: `host[:port]/path` */
  constructor(
    private readonly registry: OciRegistry,
    private readonly repository: string,
    private readonly name: string,
  ) {}

  /** The digest that the channel serves; undefined when nothing was released. */
  serves(): Promise<string | undefined> {
    return this.registry.digest(this.repository, this.name);
  }

  /** The last digest that was Ready. */
  lastGood(): Promise<string | undefined> {
    return this.registry.digest(this.repository, `${this.name}-ready`);
  }

  /** The form in which Flux reports a digest of the channel. */
  revision(digest: string): string {
    return `${this.name}@${digest}`;
  }

  /**
   * Points the channel at a digest that the repository holds.
   *
   * @param now the time of the release, in milliseconds
   */
  async moveTo(digest: string, now: number): Promise<void> {
    const time = new Date(now).toISOString().replace(/\D/g, "").slice(0, "YYYYMMDDhhmmss".length);
    const short = digest.slice("sha256:".length).slice(0, shortLength);
    // `returnTo` relies on this order.
    await this.tag(digest, `${this.name}-${time}-${short}`);
    await this.tag(digest, this.name);
  }

  /**
   * Points the channel back at `good`, if it still serves `from`.
   *
   * A registry cannot compare and swap in one step. But every release tags its revision before it moves the channel: a
   * new revision shows that another release moved the channel between the two steps, and that release stays.
   *
   * @returns the digest that the channel serves now
   */
  async returnTo(good: string, from: string): Promise<string | undefined> {
    // Some registries do not list tags; there, only the comparison protects the other release.
    const revisions = () => this.revisions().catch((): string[] => []);
    const before = await revisions();
    const serves = await this.serves();
    if (serves !== from) return serves;
    await this.tag(good, this.name);
    if (before.length === 0) return good;
    const added = (await revisions()).filter((tag) => !before.includes(tag)).at(-1);
    const other = added && (await this.registry.digest(this.repository, added));
    if (other === undefined) return good;
    await this.tag(other, this.name);
    return other;
  }

  /** Remembers a digest of which every layer is Ready. */
  markReady(digest: string): Promise<void> {
    return this.tag(digest, `${this.name}-ready`);
  }

  /**
   * Removes the oldest revisions, except revisions with a tag of another meaning: the channel's own, the last good
   * one, and the revisions of other channels.
   *
   * @param keep the number of revisions that stay; 0 keeps them all
   */
  async prune(keep: number): Promise<void> {
    if (keep === 0) return;
    const tags = await this.registry.tags(this.repository);
    const newestFirst = this.revisionsIn(tags).reverse();
    // A digest counts once, by its newest tag.
    const old = newestFirst
      .filter((tag, index) => newestFirst.findIndex((each) => shortOf(each) === shortOf(tag)) === index)
      .slice(keep);
    if (old.length === 0) return;
    const digest = (tag: string) => this.registry.digest(this.repository, tag);
    const held = await Promise.all(tags.filter((tag) => !this.isRevision(tag)).map(digest));
    for (const superseded of await Promise.all(old.map(digest))) {
      if (superseded !== undefined && !held.includes(superseded)) {
        await this.registry.delete(this.repository, superseded);
      }
    }
  }

  private tag(digest: string, tag: string): Promise<void> {
    return this.registry.tag(this.repository, digest, tag);
  }

  private async revisions(): Promise<string[]> {
    return this.revisionsIn(await this.registry.tags(this.repository));
  }

  /** The channel's revisions among tags, oldest first: the time in a tag sorts. */
  private revisionsIn(tags: readonly string[]): string[] {
    return tags.filter((tag) => this.isRevision(tag)).sort();
  }

  private isRevision(tag: string): boolean {
    const rest = tag.startsWith(`${this.name}-`) ? tag.slice(this.name.length + 1) : "";
    return /^\d{14}-[0-9a-f]{12}$/.test(rest);
  }
}

function shortOf(tag: string): string {
  return tag.slice(-shortLength);
}
