import { deepEqual, equal } from "node:assert/strict";
import { Channel } from "../../core/release/channel";
import { FakeRegistry } from "./fake-registry";

const [a, b, c, d, e] = ["1", "2", "3", "4", "5"].map((digit) => `sha256:${digit.repeat(64)}`) as [
  string,
  string,
  string,
  string,
  string,
];
const minute = 60_000;

function channel() {
  const registry = new FakeRegistry();
  const local = new Channel(registry, "r/platform", "local");
  let now = 0;
  /** Releases digests a minute after each other, all of them Ready, and prunes after each. */
  const release = async (keep: number, ...digests: readonly string[]) => {
    for (const digest of digests) {
      await local.moveTo(digest, (now += minute));
      await local.markReady(digest);
      await local.prune(keep);
    }
  };
  return { registry, local, release };
}

describe("channel", () => {
  it("serves the digest that it was moved to, after it tagged the digest with the UTC time", async () => {
    const { registry, local } = channel();
    equal(await local.serves(), undefined);
    await local.moveTo(a, Date.UTC(2026, 10, 21, 7, 5, 3, 999));
    equal(await local.serves(), a);
    deepEqual(
      [...registry.held],
      [
        ["local-20261121070503-111111111111", a],
        ["local", a],
      ],
    );
  });

  it("remembers the last good digest beside the digest that it serves", async () => {
    const { local } = channel();
    await local.moveTo(a, 0);
    equal(await local.lastGood(), undefined);
    await local.markReady(a);
    await local.moveTo(b, minute);
    deepEqual([await local.lastGood(), await local.serves()], [a, b]);
  });

  it("names a digest as Flux does", () => {
    equal(channel().local.revision(a), `local@${a}`);
  });
});

describe("the return of a channel", () => {
  it("leads to the good digest, and says so", async () => {
    const { registry, local, release } = channel();
    await release(0, a, b);
    equal(await local.returnTo(a, b), a);
    deepEqual(registry.channels(), [
      ["local", a],
      ["local-ready", b],
    ]);
  });

  for (const [other, digest] of [
    ["another release", c],
    ["the deletion of the channel", undefined],
  ] as const) {
    it(`does not undo ${other}, and says what the channel serves`, async () => {
      const { registry, local, release } = channel();
      await release(0, a, b);
      if (digest === undefined) registry.held.delete("local");
      else await release(0, digest);
      equal(await local.returnTo(a, b), digest);
      equal(await local.serves(), digest);
    });
  }

  /** Runs `action` once, after the channel was compared and before its tag is moved to `digest`. */
  function beforeTag(registry: FakeRegistry, digest: string, action: () => Promise<void>): void {
    const tag = registry.tag.bind(registry);
    registry.tag = async (...args) => {
      registry.tag = tag;
      await action();
      equal(args[1], digest);
      await tag(...args);
    };
  }

  it("does not undo a release that comes between the comparison and the tag", async () => {
    const { registry, local, release } = channel();
    await release(0, a, b);
    beforeTag(registry, a, () => local.moveTo(c, 10 * minute));
    equal(await local.returnTo(a, b), c);
    equal(await local.serves(), c);
  });

  it("takes the newest of several releases that come in between", async () => {
    const { registry, local, release } = channel();
    await release(0, a, b);
    beforeTag(registry, a, async () => {
      await local.moveTo(d, 11 * minute);
      await local.moveTo(c, 10 * minute);
    });
    equal(await local.returnTo(a, b), d);
  });

  it("takes no release of another channel for its own", async () => {
    const { registry, local, release } = channel();
    await release(0, a, b);
    beforeTag(registry, a, () => new Channel(registry, "r/platform", "local-x").moveTo(c, 10 * minute));
    equal(await local.returnTo(a, b), a);
  });

  for (const failing of [[0, 1], [0], [1]]) {
    it(`does not need the list of tags (answers that fail: ${failing.join(", ")})`, async () => {
      const { registry, local, release } = channel();
      await release(0, c, a, b);
      const tags = registry.tags.bind(registry);
      let asked = 0;
      registry.tags = () => (failing.includes(asked++) ? Promise.reject(new Error("unsupported")) : tags());
      equal(await local.returnTo(a, b), a);
      equal(await local.serves(), a);
    });
  }
});

describe("the revisions of a channel", () => {
  it("are deleted, except the newest", async () => {
    const { registry, release } = channel();
    await release(2, a, b);
    deepEqual(registry.deleted, []);
    await release(2, c, d, e);
    deepEqual(registry.deleted, [a, b, c]);
    deepEqual([...registry.held.values()].sort(), [d, e, e, e]);
  });

  it("count once, by their last release, however often they were released", async () => {
    const { registry, release } = channel();
    await release(2, a, a, b, b, a);
    deepEqual(registry.deleted, []);
    await release(2, c);
    deepEqual(registry.deleted, [b]);
  });

  it("are all kept, and not listed, without a number to keep", async () => {
    const { registry, release } = channel();
    registry.tags = () => Promise.reject(new Error("the registry does not list tags"));
    await release(0, a, b, c);
    deepEqual(registry.deleted, []);
  });

  it("are kept while the channel serves them or was Ready at them, at any age", async () => {
    const { registry, local, release } = channel();
    await release(0, a, b, c);
    await local.returnTo(a, c);
    await local.markReady(b);
    await local.prune(1);
    deepEqual(registry.deleted, []);
    await local.markReady(a);
    await local.prune(1);
    deepEqual(registry.deleted, [b]);
  });

  for (const tag of ["prod", "prod-ready", "other-20260101000000-111111111111", "local-x", "v1.0.0"]) {
    it(`are kept while tag "${tag}", which is no revision of the channel, points at them`, async () => {
      const { registry, release } = channel();
      registry.held.set(tag, a);
      await release(1, a, b, c);
      deepEqual(registry.deleted, [b]);
      equal(registry.held.get(tag), a);
    });
  }

  it("of other channels are not deleted", async () => {
    const { registry, release } = channel();
    registry.held.set("local-x-20200101000000-111111111111", a);
    registry.held.set("prod-20200101000000-222222222222", b);
    await release(1, c);
    deepEqual(registry.deleted, []);
  });

  it("that are gone already are left alone", async () => {
    const { registry, local, release } = channel();
    await release(0, a, b);
    const digest = registry.digest.bind(registry);
    registry.digest = (repository, reference) =>
      reference.endsWith("-111111111111") ? Promise.resolve(undefined) : digest(repository, reference);
    await local.prune(1);
    deepEqual(registry.deleted, []);
  });
});
