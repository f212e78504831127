import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { execFileSync } from "node:child_process";
import { mergeBase, scanFiles, scanHistory } from "../../components/sops/history";
import { isRandom, leaksIn } from "../../components/sops/leaks";
import { temporaryDirectory, writeFiles } from "./temporary";

/** Random text, so that no token stands in this file. */
const some = (length: number) =>
  randomBytes(length).toString("base64").replace(/\W/g, "x").slice(0, length).replace(/^./, "a");
const hex = (length: number) => randomBytes(length).toString("hex").slice(0, length);
const age = `AGE-SECRET-KEY-1${"Q".repeat(58)}`;

describe("leaks", () => {
  for (const [what, text, start] of [
    ["an age identity", age, "AGE-SECRET-KEY-"],
    ["a post-quantum age identity", `AGE-SECRET-KEY-PQ-1${"Q".repeat(58)}`, "AGE-SECRET-KEY-"],
    ["a PEM key", ["-----BEGIN EC", "PRIVATE KEY-----"].join(" "), "-----BEGIN EC P"],
    ["a PGP key", ["-----BEGIN PGP", "PRIVATE KEY BLOCK-----"].join(" "), "-----BEGIN PGP "],
    ["a token of GitHub", `ghp_${some(36)}`, "ghp_"],
    ["a fine-grained token of GitHub", `github_pat_${some(70)}`, "github_pat_"],
    ["a token of GitLab", `glpat-${some(20)}`, "glpat"],
    ["a token of Slack", `xoxb-${some(24)}`, "xoxb-"],
    ["a hook of Slack", `https://hooks.slack.com/services/T1/B1/${some(24)}`, "hooks.slack.com"],
    ["a key of AWS", `AKIA${"Q".repeat(16)}`, "AKIA"],
    ["a key of Google", `AIza${some(35)}`, "AIza"],
    ["a key of Stripe", `sk_live_${some(24)}`, "sk_live_"],
    ["a token of npm", `npm_${some(36)}`, "npm_"],
    ["a token of Grafana", `glsa_${some(32)}_${hex(8)}`, "glsa_"],
    ["a token of Docker", `dckr_pat_${some(27)}`, "dckr_pat_"],
    ["a token of Pulumi", `pul-${hex(40)}`, "pul-"],
    ["a JWT", `eyJ${some(20)}.eyJ${some(20)}.${some(30)}`, "eyJ"],
    ["a password in a URL", `postgres://me:${some(12)}@db.example.com/x`, ""],
  ] as const) {
    it(`are found in ${what}, which is not shown`, () => {
      const leaks = leaksIn(`a: 1\nb: ${text}\n`);
      equal(leaks.length, 1, JSON.stringify(leaks));
      equal(leaks[0]?.start, start);
    });
  }

  it("are found in random values of names that promise a secret, however they are written", () => {
    for (const line of [
      `password: ${some(24)}1a2b3c`,
      `DB_PASSWORD=${hex(32)}`,
      `"clientSecret": "${some(24)}1a2b3c",`,
      `  api-key: '${hex(40)}'`,
      `export TOKEN="${hex(32)}"`,
    ]) {
      deepEqual(
        leaksIn(`x\n${line}\ny`).map(({ what }) => what.replace(/".*"/, "…")),
        ["a random value of …"],
        line,
      );
    }
  });

  it("are not seen in names, references, variables, public things and what SOPS encrypted", () => {
    for (const line of [
      "existingSecret: nextcloud-admin-credentials",
      "secretName: wildcard-tls-2026-production",
      "passwordKey: ${database_password_key_name}",
      "tokenReviewEndpoint: authentication.k8s.io/v1/tokenreviews",
      "secret: ENC[AES256_GCM,data:9gkVZ9s8d7f6g5h4,iv:x,tag:y,type:str]",
      `digest: sha256:${hex(64)}`,
      `revision: ${hex(40)}`,
      "postgres://user:$(PASSWORD)@host/db",
      "postgres://user:${password}@host/db",
      "image: ghcr.io/org/token-server:v1.2.3",
      "-----BEGIN CERTIFICATE-----",
      "age19vpqke59kpdy7nvxcmhfhtgd6spdzra0ak5dk6ltuleg6waq4f6saw4fd6",
      "this.secretTokenLifetimeSeconds = defaultLifetime.secondsOfAllTokens",
    ]) {
      deepEqual(leaksIn(line), [], line);
    }
  });

  it("of 32 random characters are told from none in all but few of 2000 cases", () => {
    const missed = Array.from({ length: 2000 }, () => hex(32)).filter((value) => !isRandom(value)).length;
    equal(missed < 20, true, `${missed} missed`);
  });
});

describe("leaks in a repository", () => {
  function repository() {
    const directory = temporaryDirectory();
    const git = (...args: readonly string[]) =>
      execFileSync("git", ["-c", "user.name=T", "-c", "user.email=t@example.com", ...args], {
        ...{ cwd: directory, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] },
      }).trim();
    git("init", "--initial-branch", "main");
    const commit = (files: Readonly<Record<string, string>>, message = "Change"): string => {
      writeFiles(directory, files);
      git("add", "--all");
      git("commit", "--allow-empty", "--message", message);
      return git("rev-parse", "--short=7", "HEAD");
    };
    return { directory, git, commit };
  }
  const nothing = () => false;
  const plain = "kind: Secret\nmetadata: {name: s, namespace: n}\nstringData: {A: x}\n";

  it("are found in files that Git has or would take, not in those that it ignores", async () => {
    const { directory, commit } = repository();
    commit({ ".gitignore": "*.agekey\n", "a.txt": "fine" });
    writeFiles(directory, { "dev.agekey": age, "new file.txt": age, "examples/k.txt": age, "s.yaml": plain });
    const { findings, files } = await scanFiles(directory, (path) => path.startsWith("examples/"));
    deepEqual(findings, [
      'File new file.txt holds a private key ("AGE-SECRET-KEY-…"). Remove it from the tree and its history, and replace the key.',
      'Secret n/s holds "A" in plain text. Encrypt its file with "sops encrypt --in-place" and name it *.enc.yaml.',
    ]);
    equal(files, 4);
  });

  it("are found in commits since the base, though a later one took them out, and not before it", async () => {
    const { directory, git, commit } = repository();
    commit({ "old.txt": age });
    git("switch", "--quiet", "--create", "topic");
    const first = commit({ "dir/ä b.txt": `x\n${age}\n`, "s.yaml": plain });
    commit({ "dir/ä b.txt": "gone", "s.yaml": "gone" });
    const base = git("rev-parse", "main");
    equal(await mergeBase(directory), base);
    const { findings, files } = await scanHistory(directory, base, nothing);
    deepEqual([...findings].sort(), [
      `File dir/ä b.txt holds a private key ("AGE-SECRET-KEY-…"). Remove it from the tree and its history, and replace the key (commit ${first}).`,
      `Secret n/s holds "A" in plain text. Encrypt its file with "sops encrypt --in-place" and name it *.enc.yaml (commit ${first}).`,
    ]);
    equal(files, 3);
    deepEqual((await scanHistory(directory, base, () => true)).findings, []);
  });

  it("are found in the message of a commit", async () => {
    const { directory, git, commit } = repository();
    commit({ a: "1" });
    git("switch", "--quiet", "--create", "topic");
    const hash = commit({ a: "2" }, `Fix\n\nwith ghp_${some(36)}`);
    match(
      (await scanHistory(directory, "main", nothing)).findings.join("\n"),
      new RegExp(`^The message of commit ${hash} holds a token \\("ghp_…"\\)\\.`),
    );
  });

  it("are looked for since a base that is named, which must be there", async () => {
    const { directory, git, commit } = repository();
    commit({ a: "1" });
    const second = git("rev-parse", "HEAD");
    commit({ a: "2" });
    equal(await mergeBase(directory, second), second);
    await rejects(mergeBase(directory, "origin/main"), {
      message:
        'Reading the history since origin/main failed: Git knows no common commit of it and HEAD. Fetch it with its history ("git fetch --unshallow origin"), or correct --base.',
    });
    git("branch", "--move", "trunk");
    equal(await mergeBase(directory), undefined);
  });
});
