import { deepEqual, equal } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { textOf } from "../../core/findings/finding";
import { checkChanges, isSopsRewrite, type Change } from "../../core/secrets/rewrite";

const base64 = (bytes: number) => randomBytes(bytes).toString("base64");
const raw = (bytes: number) => base64(bytes).replace(/=+$/, "");

/** The MAC of a file, or a value of it, as SOPS writes them. */
const seal = ({ data = base64(128), iv = base64(32), tag = base64(16) } = {}) =>
  `ENC[AES256_GCM,data:${data},iv:${iv},tag:${tag},type:str]`;

/** What an armored age file for one recipient is made of. */
interface Parts {
  /** @default X25519 */
  readonly type?: string;
  readonly share: string;
  readonly key: string;
  readonly mac: string;
  readonly payload: Buffer;
}
const parts = (): Parts => ({ share: raw(32), key: raw(32), mac: raw(32), payload: randomBytes(64) });

function age({ type = "X25519", share, key, mac, payload }: Parts): string {
  const header = `age-encryption.org/v1\n-> ${type} ${share}\n${key}\n--- ${mac}\n`;
  const lines =
    Buffer.concat([Buffer.from(header), payload])
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return ["-----BEGIN AGE ENCRYPTED FILE-----", ...lines, "-----END AGE ENCRYPTED FILE-----", ""].join("\n");
}

interface Shape {
  /** Recipient → its copy of the data key. */
  readonly stanzas: Readonly<Record<string, string>>;
  readonly mac: string;
  readonly label: string;
  readonly more: string;
}

const value = seal({ data: base64(7) });

/** A file as SOPS writes it. */
function file({ stanzas, mac, label, more }: Shape): string {
  const entries = Object.entries(stanzas).map(
    ([recipient, enc]) =>
      `    - enc: |\n${enc.replace(/^(?=.)/gm, "        ")}      recipient: ${recipient}\n`,
  );
  return `apiVersion: v1
kind: Secret
metadata:
  name: s
  labels:
    ${label}: b
stringData:
  A: ${value}
sops:
${more}  age:
${entries.join("")}  encrypted_regex: ^(data|stringData)$
  lastmodified: "2026-11-21T13:49:43Z"
  mac: ${mac}
  version: 3.13.3
`;
}

const mine = parts();
const theirs = parts();
const shape: Shape = {
  stanzas: { age1mine: age(mine), age1theirs: age(theirs) },
  ...{ mac: seal(), label: "a", more: "" },
};
const original = file(shape);
const changed = (change: Partial<Shape>) => file({ ...shape, ...change });
/** Both recipients' copies are new, as those are that `sops updatekeys` writes. */
const anew = () => ({ age1mine: age(parts()), age1theirs: age(parts()) });
const plain =
  'apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  labels:\n    a: b\nstringData:\n  A: ""\n';

describe("a rewrite of an encrypted file is SOPS's", () => {
  const [, data = "", iv = "", tag = ""] = /data:(.*),iv:(.*),tag:(.*),type/.exec(shape.mac) ?? [];
  for (const [what, newer] of [
    ["when nothing changed", original],
    ["when its MAC is new", changed({ mac: seal(), label: "c" })],
    [
      "when cipher text and tag of its MAC are new, as after a rotation in one second",
      changed({ mac: seal({ iv }) }),
    ],
    ["when its MAC and all recipients' copies are new", changed({ mac: seal(), stanzas: anew() })],
    ["when all recipients' copies are new, and nothing else", changed({ stanzas: anew() })],
    [
      "when a recipient came, and all copies are new",
      changed({ stanzas: { ...anew(), age1new: age(parts()) } }),
    ],
    ["when a recipient left, and all copies are new", changed({ stanzas: { age1mine: age(parts()) } })],
    [
      "when it stands for other recipients in another order",
      changed({ stanzas: { age1x: age(parts()), ...anew() } }),
    ],
    ["when it is not encrypted any more, and nothing of SOPS is in it", plain],
  ] as const) {
    it(what, () => {
      equal(isSopsRewrite(original, newer), true);
    });
  }

  it("when the older was not encrypted, or no YAML", () => {
    equal(isSopsRewrite(plain, original), true);
    equal(isSopsRewrite("a: [", original), true);
  });

  it("when the older was written by a version that lists every kind of key", () => {
    const older = changed({ more: "  kms: []\n  pgp: []\n" });
    equal(isSopsRewrite(older, changed({ stanzas: anew() })), true);
    equal(isSopsRewrite(older, original), false);
  });

  for (const [what, newer] of [
    ["with a space more", original.replace("name: s", "name:  s")],
    ["with a comment", original.replace("name: s", "name: s # x")],
    ["with the name of a label changed", changed({ label: "c" })],
    ["with digits of the version changed", original.replace("3.13.3", "3.13.4")],
    ["with the time changed", original.replace("13:49:43", "13:49:44")],
    ["with only the cipher text of the MAC changed", changed({ mac: seal({ iv, tag }) })],
    ["with only the tag of the MAC changed", changed({ mac: seal({ data, iv }) })],
    ["with only the vector of the MAC changed", changed({ mac: seal({ data, tag }) })],
    ["with something behind the MAC", changed({ mac: `${seal()}x` })],
    ["without a MAC", original.replace(/ {2}mac: .*\n/, "")],
    ["without recipients", changed({ stanzas: {} })],
    ["without SOPS's own part, and with a value of it", original.replace("sops:", "sopz:")],
    ["as something that is no YAML", original.replace("metadata:", "metadata: [")],
    ["for other recipients, and with a label changed", changed({ stanzas: anew(), label: "c" })],
    [
      "for other recipients, of whom one keeps its copy",
      changed({ stanzas: { ...anew(), age1mine: age(mine) } }),
    ],
    ["without a recipient, and the other's copy as it was", changed({ stanzas: { age1mine: age(mine) } })],
    [
      "with the same copies under other names",
      changed({ stanzas: { age1mine: age(theirs), age1theirs: age(mine) } }),
    ],
    [
      "with a new MAC, and the same copies under other names",
      changed({ mac: seal(), stanzas: { age1mine: age(theirs) } }),
    ],
  ] as const) {
    it(`not ${what}`, () => {
      equal(isSopsRewrite(original, newer), false);
    });
  }

  for (const [what, enc] of [
    ["a share that is the old one", age({ ...parts(), share: theirs.share })],
    ["a wrapped file key that is the old one", age({ ...parts(), key: theirs.key })],
    ["a header MAC that is the old one", age({ ...parts(), mac: theirs.mac })],
    ["a payload that is the old one", age({ ...parts(), payload: theirs.payload })],
    ["one part of the old one changed", age({ ...theirs, payload: randomBytes(64) })],
    ["a byte less", age({ ...parts(), payload: randomBytes(63) })],
    ["a share that is not canonical", age({ ...parts(), share: `${"A".repeat(42)}B` })],
    ["two stanzas", age({ ...parts(), key: `${raw(32)}\n-> X25519 ${raw(32)}\n${raw(32)}` })],
    ["another type of recipient", age({ ...parts(), type: "X25518" })],
    ["an armor with a space in it", age(parts()).replace("\n", "\n ")],
    ["an armor that is not canonical", age(parts()).replace(/.(==?)\n/, "/$1\n")],
    ["an armor that ends early", age(parts()).replace("-----END AGE ENCRYPTED FILE-----\n", "")],
    ["another armor", age(parts()).replaceAll("AGE ENCRYPTED FILE", "AGE ENCRYPTED FILe")],
    ["no armor", "x\n"],
  ] as const) {
    it(`not when a recipient's copy of the data key has ${what}, with the old MAC or a new one`, () => {
      for (const mac of [shape.mac, seal()]) {
        equal(isSopsRewrite(original, changed({ mac, stanzas: { ...anew(), age1theirs: enc } })), false);
      }
    });
  }

  it("when a copy that was no age file is made anew", () => {
    const broken = changed({ stanzas: { ...shape.stanzas, age1theirs: "x\n" } });
    equal(isSopsRewrite(broken, changed({ stanzas: anew() })), true);
    equal(isSopsRewrite(broken, changed({ mac: seal(), stanzas: shape.stanzas })), true);
  });
});

describe("changes of encrypted files", () => {
  const path = "gitops/clusters/x/s.enc.yaml";
  const tampered = changed({ label: "c" });
  const finding = (commit: string, at = path, from = at) =>
    `Checking ${at} failed: another program than SOPS changed it since commit ${commit}. Restore it from Git (${commit}:${from}), and change it with "npx platform secrets edit".`;
  const change = (
    older: string | undefined,
    newer: string | undefined,
    commit: string,
    at = path,
  ): Change => ({
    path: at,
    olders: older === undefined ? [] : [{ text: older, path: at, commit }],
    ...(newer === undefined ? {} : { newer }),
  });
  const check = (...changes: readonly Change[]) =>
    Object.fromEntries([...checkChanges(changes)].map(([at, found]) => [at, textOf(found)]));

  it("are in order when SOPS made them, and when a file is new or gone", () => {
    const edited = changed({ mac: seal() });
    deepEqual(
      check(
        change(undefined, original, ""),
        change(original, edited, "bbbbbbb"),
        change(edited, undefined, "ccccccc"),
        change(undefined, plain, ""),
        change(plain, changed({ mac: seal() }), "ddddddd"),
      ),
      {},
    );
  });

  it("are refused with file and last commit that was in order, once for each file", () => {
    const again = changed({ label: "d" });
    const other = "gitops/clusters/y/s.enc.yaml";
    deepEqual(
      check(
        change(original, tampered, "aaaaaaa"),
        change(tampered, again, "bbbbbbb"),
        change(original, tampered, "ccccccc", other),
      ),
      { [path]: finding("aaaaaaa"), [other]: finding("ccccccc", other) },
    );
  });

  it("are refused when SOPS wrote on top of them", () => {
    const edited = changed({ label: "c", mac: seal() });
    deepEqual(check(change(original, tampered, "aaaaaaa"), change(tampered, edited, "bbbbbbb")), {
      [path]: finding("aaaaaaa"),
    });
  });

  it("are no matter when the file is as it was, or gone", () => {
    const first = change(original, tampered, "aaaaaaa");
    deepEqual(check(first, change(tampered, original, "bbbbbbb")), {});
    deepEqual(check(first, change(tampered, undefined, "bbbbbbb")), {});
    // What came back in another commit is what was refused.
    deepEqual(check(first, change(tampered, original, "bbbbbbb"), change(original, tampered, "ccccccc")), {
      [path]: finding("ccccccc"),
    });
  });

  it("are seen in a file that was renamed, in the same commit or a later one, and in a copy", () => {
    const moved = "gitops/clusters/x/t.enc.yaml";
    const gone = change(original, undefined, "aaaaaaa");
    deepEqual(check(change(undefined, tampered, "", moved), gone), {
      [moved]: finding("aaaaaaa", moved, path),
    });
    deepEqual(check(gone, change(undefined, tampered, "", moved)), {
      [moved]: finding("aaaaaaa", moved, path),
    });
    deepEqual(check(gone, change(undefined, original, "", moved)), {});
    deepEqual(check(gone, change(undefined, changed({ stanzas: anew() }), "", moved)), {});
  });

  it("of a merge must follow from each parent", () => {
    const edited = changed({ mac: seal() });
    const merge = (newer: string): Change => ({
      path,
      olders: [
        { text: changed({ stanzas: rewritten }), path, commit: "aaaaaaa" },
        { text: edited, path, commit: "bbbbbbb" },
      ],
      newer,
    });
    const rewritten = anew();
    const { mac = "" } = /mac: (?<mac>.*)/.exec(edited)?.groups ?? {};
    // As Git joins the recipients of one with the values of the other.
    deepEqual(check(merge(changed({ mac, stanzas: rewritten }))), {});
    deepEqual(check(merge(changed({ mac, stanzas: rewritten, label: "c" }))), { [path]: finding("bbbbbbb") });
  });

  it("that a merge took from a parent are what they were there", () => {
    const taken = (text: string): Change => ({
      path,
      olders: [{ text, path, commit: "ccccccc" }],
      newer: text,
    });
    const elsewhere = changed({ label: "e" });
    deepEqual(check(change(original, tampered, "aaaaaaa"), taken(elsewhere)), {});
    deepEqual(check(change(original, tampered, "aaaaaaa"), taken(tampered)), { [path]: finding("aaaaaaa") });
  });
});
