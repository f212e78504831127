import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { runtime } from "@pulumi/pulumi";
import { textOf } from "../../core/findings/finding";
import { checkRepository } from "../../core/secrets/check";
import { mergeBase, scanFiles, scanHistory, uncommitted } from "../../core/secrets/history";
import { leaksIn } from "../../core/tree/build";
import { ensureTools } from "../../tools/tools";
import { smallTree } from "./small-tree";
import { temporaryDirectory, writeFiles } from "./temporary";

/** Random text, so that no token stands in this file. */
const some = (length: number) =>
  randomBytes(length).toString("base64").replace(/\W/g, "x").slice(0, length).replace(/^./, "a");
const hex = (length: number) => randomBytes(length).toString("hex").slice(0, length);
const age = `AGE-SECRET-KEY-1${"Q".repeat(58)}`;

const base64 = (text: string) => Buffer.from(text).toString("base64");
const uuid = "3f2b8c1d-9a4e-4c7b-8d21-5e6f7a8b9c0d";

const pem = ["-----BEGIN EC", "PRIVATE KEY-----"].join(" ");
const upper = (length: number) =>
  some(length)
    .toUpperCase()
    .replace(/[0189]/g, "R");
const digits = (length: number) =>
  BigInt(`0x${hex(length)}`)
    .toString()
    .padEnd(length, "7")
    .slice(0, length);

before("platform-tree", async function () {
  this.timeout("20m");
  await ensureTools(["platform-tree"], { report: console.error });
});

describe("leaks", () => {
  it("are found in each kind of key, token and password", async () => {
    const texts: [kind: string, text: string][] = [
      ["age-secret-key", age],
      ["age-secret-key", `AGE-SECRET-KEY-PQ-1${"Q".repeat(58)}`],
      ["age-secret-key", age.toLowerCase()],
      ...["", "RSA ", "EC ", "OPENSSH ", "DSA ", "ENCRYPTED "].map((kind): [string, string] => [
        "private-key-in-base64",
        `client-key-data: ${base64(["-----BEGIN", `${kind}PRIVATE`, "KEY-----\nMIIE"].join(" "))}`,
      ]),
      ["private-key", pem],
      ["private-key", ["-----BEGIN PGP", "PRIVATE KEY BLOCK-----"].join(" ")],
      ["github-pat", `ghp_${some(36)}`],
      ["github-fine-grained-pat", `github_pat_${some(82)}`],
      ["gitlab-pat", `glpat-${some(20)}`],
      ["slack-bot-token", `xoxb-${digits(12)}-${digits(12)}-${some(24)}`],
      ["slack-webhook-url", `https://hooks.slack.com/services/T${upper(8)}/B${upper(8)}/${some(26)}`],
      ["discord-webhook", `https://discord.com/api/webhooks/${"1".repeat(18)}/${some(68)}`],
      ["telegram-bot-api-token", `bot: ${"1".repeat(10)}:A${some(34)}`],
      ["anthropic-api-key", `sk-ant-api03-${some(93)}AA`],
      ["openai-api-key", `sk-proj-${some(74)}T3BlbkFJ${some(74)}`],
      ["registry-login", `"auth": "${base64(`robot:${some(12)}`)}",`],
      ["aws-access-token", `AKIA${upper(16)}`],
      ["gcp-api-key", `AIza${some(35)}`],
      ["stripe-access-token", `sk_live_${some(24)}`],
      ["npm-access-token", `npm_${some(36)}`],
      ["grafana-service-account-token", `glsa_${some(32)}_${hex(8)}`],
      ["docker-access-token", `dckr_pat_${some(27)}`],
      ["pulumi-api-token", `pul-${hex(40)}`],
      ["jwt", `eyJ${some(20)}.eyJ${some(20)}.${some(30)}`],
      ["password-in-url", `postgres://me:${some(12)}@db.corp.internal/x`],
      // Kinds that only gitleaks knows.
      ["vault-service-token", `hvs.${some(95)}`],
      ["digitalocean-pat", `dop_v1_${hex(64)}`],
      ["sendgrid-api-token", `SG.${some(66)}`],
      ["hashicorp-tf-api-token", `${some(14)}.atlasv1.${some(65)}`],
      ["huggingface-access-token", `hf_${some(34).replace(/\d/g, "q")}`],
      ["cloudflare-api-key", `cloudflare_api_key = "${hex(40)}"`],
    ];
    const found = await leaksIn(texts.map(([, text]) => `a: 1\nb: ${text}\n`));
    for (const [index, [kind, text]] of texts.entries()) {
      const key = /^(?:age|private)/.test(kind);
      deepEqual(found[index], [{ kind, line: 2, key }], `${kind} ${text}`);
    }
  });

  it("are found in random values of names that promise a secret, however they are written", async () => {
    const lines = [
      `password: ${some(24)}1a2b3c`,
      `DB_PASSWORD=${hex(32)}`,
      `"clientSecret": "${some(24)}1a2b3c",`,
      `  api-key: '${hex(40)}'`,
      `export TOKEN="${hex(32)}"`,
      `DB_PASS=${hex(32)}`,
      `dbPass: ${hex(32)}`,
      `MYSQL_PWD: ${hex(32)}`,
      `passphrase: ${hex(32)}`,
      `spring.datasource.password=${hex(32)}`,
      `- name: DB_PASSWORD\n  value: ${hex(32)}`,
      `- name: DB_PASSWORD\n  value: "${hex(32)}"`,
      `[{ "name": "DB_PASSWORD", "value": "${hex(32)}" }]`,
    ];
    const found = await leaksIn(lines.map((line) => `x\n${line}\ny`));
    for (const [index, line] of lines.entries()) {
      deepEqual(found[index], [{ kind: "generic-random-value", line: 2, key: false }], line);
    }
  });

  it("are not seen in names, references, variables, public things and what SOPS encrypted", async () => {
    const lines = [
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
      "-----BEGIN PUBLIC KEY-----",
      "-----BEGIN AGE ENCRYPTED FILE-----",
      "age19vpqke59kpdy7nvxcmhfhtgd6spdzra0ak5dk6ltuleg6waq4f6saw4fd6",
      "this.secretTokenLifetimeSeconds = defaultLifetime.secondsOfAllTokens",
      `checksum/secret: ${hex(64)}`,
      `checksum/app-secret-config: ${hex(64)}`,
      `secretName: tls-${hex(32)}`,
      `secret_ref: ${hex(32)}`,
      `secretVersion: ${hex(32)}`,
      `TOKEN_FILE=/run/${hex(32)}`,
      `password-hash: ${hex(64)}`,
      `token-proxy-sha=${hex(40)}`,
      `token.example.org/revision: ${hex(40)}`,
      `credentialsId: ${uuid}`,
      `secret: ${uuid}`,
      `"js-tokens": "sha512-${some(80)}1a2b3c=="`,
      `kind: SealedSecret\nspec:\n  encryptedData:\n    password: AgA1b2c3${hex(64)}`,
      `- name: DB_HOST\n  value: ${hex(32)}`,
      `compass: ${hex(32)}`,
      ["AKIA", "IOSFODNN7", "EXAMPLE"].join(""),
      ["aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY", "EXAMPLEKEY"].join(""),
      "https://user:password@example.com",
      "https://user:password1@docs.example.org/x",
      "postgres:postgres@localhost",
      "postgres://postgres:postgres@db:5432/x",
      "postgres://me:hunter2hunter2@localhost:5432/x",
      `"auth": "${base64("oauth2-proxy")}"`,
      "auth: kubernetes-service-account",
      `password: \${${some(20)}1a2b3c}`,
    ];
    const found = await leaksIn(lines);
    for (const [index, line] of lines.entries()) deepEqual(found[index], [], line);
  });

  it("are looked for behind an example", async () => {
    const aws = ["AKIA", "IOSFODNN7", "EXAMPLE"].join("");
    const found = await leaksIn([
      `a: ${aws}\nb: AKIA${upper(16)}\n`,
      `https://a:password@example.com\nhttps://a:${some(12)}@db.internal\n`,
      `secretName: ${hex(32)}\nsecret: ${hex(32)}\n`,
      `kind: SealedSecret\npassword: ${hex(32)}\n`,
      `\n{"checksum/secret":"${hex(64)}", "password":"${hex(32)}"}`,
    ]);
    deepEqual(
      found.map((leaks) => leaks.map(({ line }) => line)),
      [[2], [2], [2], [2], [2]],
    );
  });

  it("are not looked for in a line with a comment that excuses it, but for private keys", async () => {
    for (const mark of ["# platform:not-a-secret", "# gitleaks:allow"]) {
      const value = `password: ${hex(32)}`;
      const found = await leaksIn([
        `a\n${value} ${mark}\nb: ghp_${some(36)} ${mark}`,
        `- name: PASSWORD\n  value: ${hex(32)} ${mark}\n`,
        `a: 1 ${mark}\n${value}`,
        `${value}\na: 1 ${mark}`,
        ...[age, pem, base64(`${pem}\nMIIE`)].map((key) => `${key} ${mark}`),
      ]);
      deepEqual(
        found.map((leaks) => leaks.map(({ line }) => line)),
        [[], [], [2], [1], [1], [1], [1]],
      );
    }
  });

  it("are found in a long text: in each line of it, and in a line of a million characters", async () => {
    const long = "- name: PASSWORD\n  value: ";
    const found = await leaksIn([
      ...Array.from({ length: 90 }, (_, lines) => `${"x\n".repeat(lines)}${long}${hex(32)}`),
      `secret: |\n  secret${"ab/".repeat(350_000)}\n${" \n".repeat(100_000)}`,
    ]);
    deepEqual(
      found.map((leaks) => leaks.map(({ line }) => line)),
      [...Array.from({ length: 90 }, (_, lines) => [lines + 1]), []],
    );
  });

  it("of 32 random characters are told from none in all but few of 2000 cases", async () => {
    const found = await leaksIn(Array.from({ length: 2000 }, () => `secret: ${hex(32)}`));
    const missed = found.filter((leaks) => leaks.length === 0).length;
    equal(missed < 20, true, `${missed} missed`);
  });
});

/** A Git repository of its own. */
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

describe("leaks in a repository", () => {
  const nothing = () => false;
  const plain = "kind: Secret\nmetadata: {name: s, namespace: n}\nstringData: {A: x}\n";

  it("are found in files that Git has or would take, not in those that it ignores", async () => {
    const { directory, commit } = repository();
    commit({ ".gitignore": "*.agekey\n", "a.txt": "fine" });
    writeFiles(directory, { "dev.agekey": age, "new file.txt": age, "examples/k.txt": age, "s.yaml": plain });
    const { findings, files } = await scanFiles(directory, (path) => path.startsWith("examples/"));
    deepEqual(findings.map(textOf), [
      "File new file.txt holds a private key in line 1. Remove it from the tree and its history, and replace the key.",
      'File s.yaml: Secret n/s holds "A" in plain text. Encrypt its file with "sops encrypt --in-place", name it *.enc.yaml, and replace the value: it is known from now on. Or, where it is public, mark its line with the comment "platform:not-a-secret <reason>".',
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
    deepEqual(findings.map(textOf).sort(), [
      `File dir/ä b.txt of commit ${first} holds a private key in line 2. Remove it from the tree and its history, and replace the key.`,
      `File s.yaml of commit ${first}: Secret n/s holds "A" in plain text. Encrypt its file with "sops encrypt --in-place", name it *.enc.yaml, and replace the value: it is known from now on. Or, where it is public, mark its line with the comment "platform:not-a-secret <reason>".`,
    ]);
    equal(files, 4);
    deepEqual((await scanHistory(directory, base, () => true)).findings, []);
  });

  it("are excused in a commit by the mark of a later one, but for private keys", async () => {
    const { directory, git, commit } = repository();
    commit({ a: "1" });
    git("switch", "--quiet", "--create", "topic");
    const line = `password: ${hex(32)}`;
    const first = commit({ "a.yaml": `x:\n  ${line}\n`, "k.txt": `${age}\n` });
    const findings = async () =>
      (await scanHistory(directory, "main", nothing)).findings.map(({ file }) => file);
    deepEqual(await findings(), ["a.yaml", "k.txt"]);
    const mark = "# platform:not-a-secret";
    commit({ "a.yaml": `y:\n    ${line} ${mark}\n`, "k.txt": `${age} ${mark}\n` });
    const found = (await scanHistory(directory, "main", nothing)).findings;
    equal(
      found.every(({ file }) => file === "k.txt"),
      true,
      found.map(textOf).join("\n"),
    );
    equal(
      found.some(({ commit: of }) => of === first),
      true,
    );
    commit({ "a.yaml": `x:\n  ${line}\n` });
    equal((await findings()).includes("a.yaml"), true);
  });

  it("are found in the message of a commit", async () => {
    const { directory, git, commit } = repository();
    commit({ a: "1" });
    git("switch", "--quiet", "--create", "topic");
    const hash = commit({ a: "2" }, `Fix\n\nwith ghp_${some(36)}`);
    match(
      (await scanHistory(directory, "main", nothing)).findings.map(textOf).join("\n"),
      new RegExp(`^The message of commit ${hash} holds a secret of kind github-pat in line 3\\.`),
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
        'Reading the history since origin/main failed: origin/main and HEAD have no common commit in this clone. Fetch the history with "git fetch --unshallow origin", or correct --base.',
    });
    git("branch", "--move", "trunk");
    equal(await mergeBase(directory), undefined);
  });
});

describe("changes of encrypted files in a repository", () => {
  const isEncrypted = (path: string) => path.endsWith(".enc.yaml");
  const file = "t/a.enc.yaml";
  const content = (text: string) => ({ [file]: `# ${text}\n` });
  const history = async (directory: string, base: string) =>
    (await scanHistory(directory, base, () => false, isEncrypted)).changes.map(
      ({ path, olders, newer }) =>
        `${olders.map(({ text, commit }) => `${commit} ${text.trim()}`).join(" and ")} -> ${path} ${newer?.trim() ?? "gone"}`,
    );

  it("are read from first to last, with what was there before and the commit that had it", async () => {
    const { directory, git, commit } = repository();
    const base = commit({ ...content("one"), "b.yaml": "x" });
    const second = commit({ ...content("two"), "b.yaml": "y" });
    const third = commit({ "t/ä b.enc.yaml": "# new\n" });
    git("rm", "--quiet", file);
    commit({});
    deepEqual(await history(directory, base), [
      `${base} # one -> ${file} # two`,
      " -> t/ä b.enc.yaml # new",
      `${third} # two -> ${file} gone`,
    ]);
    deepEqual(await history(directory, second), [
      " -> t/ä b.enc.yaml # new",
      `${third} # two -> ${file} gone`,
    ]);
  });

  it("that a merge made are compared with each parent, and what it took from one is that parent's", async () => {
    const { directory, git, commit } = repository();
    const base = commit({ ...content("one"), "t/b.enc.yaml": "# b\n" });
    git("switch", "--quiet", "--create", "topic");
    const topic = commit(content("topic"));
    git("switch", "--quiet", "main");
    const main = commit({ ...content("main"), "t/b.enc.yaml": "# b2\n" });
    git("switch", "--quiet", "topic");
    try {
      git("merge", "--quiet", "main");
    } catch {
      // It is in conflict.
    }
    const merged = commit(content("both"), "Merge");
    const changes = await history(directory, base);
    deepEqual(changes.slice(-2), [
      `${topic} # topic and ${main} # main -> ${file} # both`,
      `${merged} # b2 -> t/b.enc.yaml # b2`,
    ]);
    equal(changes.length, 5);
  });

  it("that are in no commit yet are compared with the last", async () => {
    const { directory, git, commit } = repository();
    const base = commit({ ...content("one"), "t/b.enc.yaml": "# b\n", "t/c.enc.yaml": "# c\n" });
    const version = (path: string, text: string) => [{ path, text, commit: base }];
    writeFiles(directory, { ...content("staged"), "t/d e.enc.yaml": "# d\n", "t/b.enc.yaml": "# b2\n" });
    git("add", file);
    writeFiles(directory, content("unstaged"));
    git("rm", "--quiet", "t/c.enc.yaml");
    deepEqual(await uncommitted(directory, isEncrypted), {
      staged: [{ path: file, olders: version(file, "# one\n"), newer: "# staged\n" }],
      unstaged: [
        { path: file, olders: version(file, "# one\n"), newer: "# unstaged\n" },
        { path: "t/b.enc.yaml", olders: version("t/b.enc.yaml", "# b\n"), newer: "# b2\n" },
        { path: "t/c.enc.yaml", olders: version("t/c.enc.yaml", "# c\n") },
        { path: "t/d e.enc.yaml", olders: [], newer: "# d\n" },
      ],
    });
  });

  it("of a merge that is under way are compared with both sides", async () => {
    const { directory, git, commit } = repository();
    commit(content("one"));
    git("switch", "--quiet", "--create", "topic");
    commit(content("topic"));
    git("switch", "--quiet", "main");
    commit(content("main"));
    try {
      git("merge", "--quiet", "topic");
    } catch {
      writeFiles(directory, content("both"));
    }
    const { unstaged } = await uncommitted(directory, isEncrypted);
    deepEqual(
      unstaged.map(({ olders, newer }) => [...olders.map(({ text }) => text), newer]),
      [["# main\n", "# topic\n", "# both\n"]],
    );
  });
});

describe("the check of a repository", () => {
  /** A file that SOPS encrypted, for all that Git knows. */
  const sealed = (label: string) =>
    `kind: Secret\nmetadata:\n  name: s\n  labels:\n    ${label}: b\nstringData:\n  A: ENC[AES256_GCM,data:eA==,iv:eA==,tag:eA==,type:str]\nsops:\n  age: []\n  mac: ENC[AES256_GCM,data:eA==,iv:eA==,tag:eA==,type:str]\n`;
  const file = "gitops/clusters/x/s.enc.yaml";
  const changed = (commit: string) =>
    `Checking ${file} failed: another program than SOPS changed it since commit ${commit}. Restore it from Git (${commit}:${file}), and change it with "npx platform secrets edit".`;

  it("finds nothing where there is none", async () => {
    const directory = temporaryDirectory();
    deepEqual(await checkRepository(directory), {
      ...{ findings: [], changed: [] },
      notes: [`${directory} is in no Git repository: there is no history to check.`],
    });
  });

  it("finds what is beside the tree and in the history, and not what is in the tree", async () => {
    const { directory, git, commit } = repository();
    commit({ "gitops/a.yaml": "x" });
    git("switch", "--quiet", "--create", "topic");
    const hash = commit({ "b.txt": age });
    commit({ "b.txt": "gone" });
    writeFiles(directory, { "gitops/a.yaml": age, "c.txt": age, "x/test/gitops/invalid/d.txt": age });
    const { findings, notes } = await checkRepository(join(directory, "gitops"));
    deepEqual(
      findings.map(({ check, file, commit: of }) => [check, file, of]),
      [
        ["leak/age-secret-key", "../c.txt", undefined],
        ["leak/age-secret-key", "../b.txt", hash],
      ],
    );
    deepEqual(notes, [
      "Looked for keys and tokens in 2 other files of the repository.",
      `Looked for keys and tokens in 2 versions of files, and in the messages, since commit ${git("rev-parse", "main").slice(0, 7)}.`,
    ]);
    deepEqual((await checkRepository(join(directory, "gitops"), { strict: true })).notes.slice(-1), [
      "Compared 0 changes of encrypted files with what SOPS does.",
    ]);
  });

  it("says so where nothing is newer than the default branch, and where the history is not here", async () => {
    const { directory, git, commit } = repository();
    commit({ a: "1" });
    const [, second] = [commit({ a: "2" }), commit({ a: "3" })];
    const noteOf = async (of: string, base?: string) =>
      (await checkRepository(of, base === undefined ? {} : { base })).notes.filter((note) =>
        /commit|history/.test(note),
      );
    deepEqual(await noteOf(directory), [
      `No commit is newer than the default branch (${second}): no history was checked. Name an older commit with --base to check the commits after it.`,
    ]);
    deepEqual(await noteOf(directory, "HEAD~1"), [
      `Looked for keys and tokens in 1 versions of files, and in the messages, since commit ${git("rev-parse", "--short=7", "HEAD~1")}.`,
    ]);
    const shallow = temporaryDirectory();
    git("clone", "--quiet", "--depth", "2", `file://${directory}`, shallow);
    const few =
      'Only 2 commits are in this clone. Fetch the history with "git fetch --unshallow" to check it.';
    deepEqual(await noteOf(shallow), [few]);
    deepEqual((await noteOf(shallow, "HEAD~1")).at(-1), few);
  });

  it("says what was not compared where there is no default branch", async () => {
    const { directory, git, commit } = repository();
    const hash = commit({ [file]: sealed("a") });
    git("branch", "--move", "trunk");
    writeFiles(directory, { [file]: sealed("c") });
    const { changed: found, notes } = await checkRepository(join(directory, "gitops"), { strict: true });
    deepEqual(found.map(textOf), [changed(hash)]);
    match(notes.join("\n"), /^The history was not checked: the repository has no default branch\./m);
  });

  it("finds a file that something else than SOPS changed: committed, staged or in the work tree", async () => {
    const { directory, git, commit } = repository();
    const tree = join(directory, "gitops");
    const first = commit({ [file]: sealed("a"), "other/clusters/x/s.enc.yaml": sealed("a") });
    const found = async () =>
      (await checkRepository(tree, { base: first, strict: true })).changed.map(textOf);
    deepEqual(await found(), []);
    writeFiles(directory, { [file]: sealed("c"), "other/clusters/x/s.enc.yaml": sealed("c") });
    deepEqual(await found(), [changed(first)]);
    git("add", "--all");
    deepEqual(await found(), [changed(first)]);
    // What is staged is what the next commit holds.
    writeFiles(directory, { [file]: sealed("a") });
    deepEqual(await found(), [changed(first)]);
    commit({ [file]: sealed("c") });
    deepEqual(await found(), [changed(first)]);
    commit({ a: "x" });
    deepEqual(await found(), [changed(first)]);
    git("mv", file, "gitops/t.enc.yaml");
    equal((await found()).join().startsWith("Checking gitops/t.enc.yaml failed: "), true);
    git("mv", "gitops/t.enc.yaml", file);
    writeFiles(directory, { [file]: sealed("a") });
    deepEqual(await found(), []);
    commit({});
    deepEqual(await found(), []);
  });

  it("compares no encrypted file where it is not asked to", async () => {
    const { directory, commit } = repository();
    commit({ [file]: sealed("a") });
    writeFiles(directory, { [file]: sealed("c") });
    deepEqual((await checkRepository(join(directory, "gitops"))).changed, []);
  });

  it("takes a repository that is a tree itself for one", async () => {
    const { directory, commit } = repository();
    const first = commit({ "clusters/x/s.enc.yaml": sealed("a") });
    writeFiles(directory, { "clusters/x/s.enc.yaml": sealed("c"), "a.txt": age });
    const { changed: found, findings } = await checkRepository(directory, { base: first, strict: true });
    deepEqual([found.length, findings.length], [1, 0]);
  });
});

describe("every run", function () {
  this.timeout(600_000);

  /** Runs the project's program on a tree. */
  async function run(tree: string): Promise<{ message: string; registered: string[] }> {
    const registered: string[] = [];
    await runtime.setMocks(
      {
        newResource: ({ type, name, inputs }) => {
          registered.push(type);
          return { id: `${name}-id`, state: inputs as object };
        },
        call: ({ token }) => Promise.reject(new Error(`Nobody calls ${token}.`)),
      },
      "platform",
      "x",
      false,
    );
    const kubeconfigFile = join(tree, "..", "kubeconfig");
    runtime.setAllConfig({
      "platform:cluster": JSON.stringify({
        kind: "existing",
        kubeconfigFile,
        loadBalancerCidr: "10.0.0.0/24",
      }),
      "platform:registry": JSON.stringify({ kind: "remote", repository: "localhost/x" }),
      "platform:domain": "example.com",
      "platform:gitops": JSON.stringify({ tree }),
      "platform:sops": JSON.stringify({ generate: "all" }),
    });
    try {
      const { default: program } = await import("../../index");
      const message = await program(() => Promise.resolve([])).then(
        () => "",
        (error: unknown) => (error as Error).message,
      );
      await runtime.disconnect();
      return { message, registered };
    } finally {
      runtime.setAllConfig({});
    }
  }

  const sealed = (label: string) =>
    `apiVersion: v1\nkind: Secret\nmetadata: {name: ${label}}\nstringData: {A: "ENC[AES256_GCM,data:x]"}\nsops:\n  age: []\n  encrypted_regex: ^(data|stringData)$\n  mac: ENC[AES256_GCM,data:x]\n`;
  const file = "gitops/clusters/x/controllers/secret.enc.yaml";
  const tree = Object.fromEntries(Object.entries(smallTree).map(([path, text]) => [`gitops/${path}`, text]));

  it("checks the tree that it releases, and nothing beside it: no other file, no history, no rules", async () => {
    const { directory, git, commit } = repository();
    commit({ ...tree, [file]: sealed("a") });
    git("switch", "--quiet", "--create", "topic");
    commit({ "services/api/test/key.pem": age, "gitops/c.txt": age });
    commit({ "gitops/c.txt": "gone" }, `Remove ${age}`);
    writeFiles(directory, {
      ...{ kubeconfig: "", untracked: age, [file]: sealed("c") },
      ".sops.yaml": "creation_rules:\n  - path_regex: '('\n",
    });
    const { message, registered } = await run(join(directory, "gitops"));
    equal(message, "");
    ok(registered.includes("platform:index:Platform"), registered.join());
  });

  it("is refused before anything is registered for what is in the tree, and says of no file twice", async () => {
    const { directory, commit } = repository();
    commit({ ...tree, [file]: sealed("a"), "gitops/c.txt": age, kubeconfig: "" });
    const refused = await run(join(directory, "gitops"));
    deepEqual(refused.registered, []);
    match(refused.message, /^File c\.txt holds a private key in line 1\. [^\n]*$/);
    writeFiles(directory, { [file]: sealed("a").replace(/^sops:[^]*/m, "") });
    const broken = await run(join(directory, "gitops"));
    deepEqual(broken.registered, []);
    match(
      broken.message,
      /^Checking clusters\/x\/controllers\/secret\.enc\.yaml failed: SOPS's own part [^\n]*$/,
    );
  });
});
