import { deepEqual, equal, match, throws } from "node:assert/strict";
import { join } from "node:path";
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { textOf } from "../../core/findings/finding";
import { readSecretFiles } from "../../core/secrets/files";
import { checkSecretFiles, findRules, readersOf, secretPaths } from "../../core/secrets/place";
import { checkRules, everyRecipient, renderRules, type Readers } from "../../core/secrets/rules";
import { readStackConfig } from "../../core/settings/config";
import { ensureTools } from "../../tools/tools";
import { temporaryDirectory, writeFiles } from "./temporary";

before("sops", async function () {
  this.timeout(600_000);
  await ensureTools(["sops"], { report: console.error });
});

const dev: Readers = { stack: "dev", cluster: "dev", generate: "none", recipients: ["age1a", "age1b"] };
const prod: Readers = {
  ...{ stack: "prod", cluster: "prod", generate: "none", recipients: ["age1p"], recoveryRecipient: "age1r" },
};
const local: Readers = { stack: "local", cluster: "local", generate: "all", recipients: [] };
const sealed = (...recipients: readonly string[]) =>
  `kind: Secret\nmetadata: {name: s}\nstringData: {A: "ENC[AES256_GCM,data:x]"}\nsops:\n  encrypted_regex: ^(data|stringData)$\n  mac: ENC[AES256_GCM,data:x]\n  age:\n${recipients.map((recipient) => `    - recipient: ${recipient}\n`).join("")}`;
const file = "clusters/dev/apps/a.enc.yaml";
const all = [file, "clusters/local/apps/a.enc.yaml", "clusters/prod/a.enc.yaml"];
const rules = renderRules([prod, dev, local], { tree: "gitops", all });
const check = async (
  text: string | undefined,
  stack: Readers = dev,
  content = sealed(...everyRecipient(stack)),
  path = file,
) => (await checkRules(text, stack, { tree: "gitops", own: new Map([[path, content]]), all })).map(textOf);
/** The findings in the files of a stack, as text. */
async function findingsIn(tree: string, stack: Readers): Promise<string[]> {
  return (await checkSecretFiles(tree, stack, await readSecretFiles(tree, stack.cluster))).map(textOf);
}
const run = 'Run "npx platform secrets init dev".';

describe("rules of SOPS", () => {
  it("are one for each stack that has recipients and secrets, the recovery key's among its recipients", () => {
    deepEqual(parse(rules), {
      creation_rules: [
        {
          path_regex: "^gitops/clusters/dev/.*\\.enc\\.yaml$",
          encrypted_regex: "^(data|stringData)$",
          age: "age1a,age1b",
        },
        {
          path_regex: "^gitops/clusters/prod/.*\\.enc\\.yaml$",
          encrypted_regex: "^(data|stringData)$",
          age: "age1p,age1r",
        },
      ],
      stores: { yaml: { indent: 2 } },
    });
    equal(renderRules([dev], { tree: "gitops", all: [] }).includes("clusters"), false);
  });

  it("of this project are those that its stacks make, and nothing is wrong with its secrets", async () => {
    const project = join(__dirname, "..", "..");
    const tree = join(project, "gitops");
    const configs = await Promise.all(
      ["local", "dev", "prod"].map((stack) => readStackConfig(stack, project, {})),
    );
    const expected = renderRules(configs.map(readersOf), { tree: "gitops", all: await secretPaths(tree) });
    equal(readFileSync(join(project, ".sops.yaml"), "utf8"), expected);
    for (const config of configs) deepEqual(await findingsIn(tree, readersOf(config)), []);
  });

  it("have nothing wrong with them where they say what the stacks say", async () => {
    deepEqual(await check(rules), []);
    deepEqual(await check(rules, prod, sealed("age1r", "age1p"), "clusters/prod/a.enc.yaml"), []);
    deepEqual(await check(rules, local, "kind: Secret", "clusters/local/apps/a.enc.yaml"), []);
  });

  for (const [what, text, finding] of [
    [
      "a rule that no file matches",
      rules.replace("stores:", "  - path_regex: ^gitops/clusters/old/\n    age: age1a\nstores:"),
      'Checking rule 3 of .sops.yaml failed: no file matches "^gitops/clusters/old/" first. Remove the rule.',
    ],
    [
      "a rule for a stack that is gone",
      rules.replace("stores:", "  - path_regex: ^gitops/clusters/old/.*\\.enc\\.yaml$\nstores:"),
      `Checking rule 3 of .sops.yaml failed: no file matches "^gitops/clusters/old/.*\\.enc\\.yaml$" first. Remove the rule, or ${run.replace("Run", "run")}`,
    ],
    [
      "a rule of others that is before the stack's own",
      rules.replace("rules:", 'rules:\n  - path_regex: "\\\\.yaml$"\n    age: age1a,age1b'),
      'Checking rule 1 of .sops.yaml failed: "\\.yaml$" is the first that matches files of stack "dev", and not that stack\'s own. Run "npx platform secrets init dev", and put the rule below those of the stacks.',
    ],
    [
      "a file that no rule matches",
      renderRules([prod], { tree: "gitops", all }),
      `Checking gitops/${file} failed: no rule of .sops.yaml matches it. ${run}`,
    ],
    [
      "a regular expression that is none",
      rules.replace("^gitops/clusters/dev/", "("),
      "Checking .sops.yaml failed: a pattern is not a regular expression (missing closing ): `(.*\\.enc\\.yaml$`). Correct it, or remove its rule.",
    ],
    [
      "other values than those of a Secret",
      rules.replace("^(data|stringData)$", "^data$"),
      'Checking rule 1 of .sops.yaml failed: it has {"encrypted_regex":"^data$","age":["age1a","age1b"]}, and stack "dev" needs {"encrypted_regex":"^(data|stringData)$","age":["age1a","age1b"]}. Correct platform:sops.recipients of Pulumi.dev.yaml, or run "npx platform secrets init dev".',
    ],
    [
      "another kind of key",
      rules.replace("    age: age1a", "    pgp: ABCD\n    age: age1a"),
      'Checking rule 1 of .sops.yaml failed: it has {"encrypted_regex":"^(data|stringData)$","age":["age1a","age1b"],"pgp":"ABCD"}, and stack "dev" needs {"encrypted_regex":"^(data|stringData)$","age":["age1a","age1b"]}. Correct platform:sops.recipients of Pulumi.dev.yaml, or run "npx platform secrets init dev".',
    ],
    [
      "no YAML",
      "a: [",
      "Reading .sops.yaml failed: Flow sequence in block collection must be sufficiently indented and end with a ] at line 1, column 5. Correct it, or restore it from Git.",
    ],
    [
      "rules that are no list",
      "creation_rules: 1",
      'Reading .sops.yaml failed: "creation_rules" is not a list. Correct it, or restore it from Git.',
    ],
    ["no rules", "{}", `Checking .sops.yaml failed: it has no list "creation_rules". ${run}`],
    ["no file", undefined, `Checking stack "dev" failed: there is no .sops.yaml beside its tree. ${run}`],
  ] as const) {
    it(`are refused for ${what}`, async () => {
      deepEqual(await check(text), [finding]);
    });
  }

  it("name a recipient that is not the stack's, one that lacks, and a file that is for others", async () => {
    deepEqual(await check(rules.replace("age1a,age1b", "age1a,age1x")), [
      'Checking rule 1 of .sops.yaml failed: it has {"encrypted_regex":"^(data|stringData)$","age":["age1a","age1x"]}, and stack "dev" needs {"encrypted_regex":"^(data|stringData)$","age":["age1a","age1b"]}. Correct platform:sops.recipients of Pulumi.dev.yaml, or run "npx platform secrets init dev".',
      `Checking gitops/${file} failed: it is encrypted for age1a, age1b, its rule in .sops.yaml says age1a, age1x. ${run}`,
    ]);
    deepEqual(await check(rules, dev, sealed("age1a")), [
      `Checking gitops/${file} failed: it is encrypted for age1a, its rule in .sops.yaml says age1a, age1b. ${run}`,
    ]);
  });

  it("may not be there for a stack without recipients", async () => {
    match(
      (await check(rules, { ...dev, recipients: [] })).join("\n"),
      /rule 1 of \.sops\.yaml failed: it matches files of stack "dev", which has no recipients\./,
    );
    deepEqual(await check(undefined, { ...dev, recipients: [] }), []);
  });

  it("are those of any stack where it makes its values up and has recipients, as a rehearsal does", async () => {
    const rehearsed: Readers = { ...dev, generate: "all" };
    deepEqual(await check(rules, rehearsed), []);
    deepEqual(await check(rules, rehearsed, sealed("age1a")), await check(rules, dev, sealed("age1a")));
    deepEqual(await check(undefined, rehearsed), await check(undefined, dev));
    const others = rules.replace("age1a,age1b", "age1a");
    deepEqual(await check(others, rehearsed), await check(others, dev));
    equal((await check(others, rehearsed)).length, 2);
  });

  it("may have rules of others below them, whatever those match", async () => {
    const others = "  - path_regex: ^notes/\n    pgp: ABCD\n  - age: age1x\n";
    for (const stack of [dev, { ...local, cluster: "dev" }]) {
      const mine = stack === dev ? rules : renderRules([prod], { tree: "gitops", all });
      deepEqual(await check(mine.replace("stores:", `${others}stores:`), stack), []);
    }
  });

  it("are Go's regular expressions, as SOPS reads them", async () => {
    for (const pattern of [
      "(?i)^NOTES/.*\\\\.Yaml\\\\z",
      "^[[:alpha:]]+/x\\\\.yaml$",
      "\\\\A(?P<any>notes)",
    ]) {
      const other = `  - path_regex: "${pattern}"\n    age: age1x\n`;
      deepEqual(await check(rules.replace("creation_rules:\n", `creation_rules:\n${other}`)), [], pattern);
    }
    const first = (pattern: string) =>
      check(
        rules.replace("creation_rules:\n", `creation_rules:\n  - path_regex: ${pattern}\n    age: age1x\n`),
      );
    match(
      (await first("(?i)\\.ENC\\.YAML\\z")).join(),
      /^Checking rule 1 .* is the first that matches files of stack "dev"/,
    );
  });

  it("may say that SOPS's MAC covers what is encrypted alone", async () => {
    const own = rules.replace("    age: age1a", "    mac_only_encrypted: true\n    age: age1a");
    deepEqual(await check(own), []);
    equal(renderRules([prod, dev, local], { tree: "gitops", all }, own), own);
    const moved = renderRules([prod, { ...dev, recipients: ["age1c"] }], { tree: "gitops", all }, own);
    match(moved, /mac_only_encrypted: true\n[^-]*age: age1c/);
  });

  it("leave all else of the file as it is, and come before the rules of others", async () => {
    const theirs = `# Ours, since 2019
creation_rules:
  # Notes
  - path_regex: ^notes/
    pgp: ABCD # Anna
  - age: age1x
stores:
  json: { indent: 4 }
destination_rules: [] # none yet
`;
    const render = (stacks: readonly Readers[], before: string) =>
      renderRules(stacks, { tree: "gitops", all }, before);
    const rule = (cluster: string, age: string) =>
      `  - path_regex: ^gitops/clusters/${cluster}/.*\\.enc\\.yaml$\n    encrypted_regex: ^(data|stringData)$\n    age: ${age}\n`;
    const including = (...added: readonly string[]) =>
      theirs.replace("  # Notes\n", `${added.join("")}  # Notes\n`);
    equal(render([local], theirs), theirs);
    const one = render([prod], theirs);
    deepEqual(parse(one), parse(including(rule("prod", "age1p,age1r"))));
    for (const comment of ["# Ours, since 2019", "# Notes", "# Anna", "# none yet"])
      match(one, RegExp(comment));
    const both = render([prod, dev], one);
    deepEqual(parse(both), parse(including(rule("dev", "age1a,age1b"), rule("prod", "age1p,age1r"))));
    equal(render([prod, dev], both), both);
    // Replaced in place, and gone with their recipients.
    const moved = both.replace("age1a,age1b", "age1a\n    pgp: X");
    equal(render([prod, dev], moved), both);
    equal(render([], both), theirs);
    deepEqual(await check(both), []);
    for (const broken of ["a: [", "creation_rules: 1", "[]"])
      throws(() => render([dev], broken), /^Error: Reading/);
    for (const empty of ["", "{}", "# mine\n", "creation_rules:\n"])
      deepEqual(await check(render([prod, dev], empty)), []);
  });

  it("are found beside the tree or above it, in its repository or project", () => {
    const directory = temporaryDirectory();
    const tree = join(directory, "a", "b", "gitops");
    const beside = (path: string) => join(directory, path, ".sops.yaml");
    writeFiles(directory, { ".sops.yaml": "" });
    equal(findRules(tree), undefined);
    writeFiles(directory, { "a/Pulumi.yaml": "" });
    equal(findRules(tree), undefined);
    writeFiles(directory, { "a/.sops.yaml": "" });
    equal(findRules(tree), beside("a"));
    writeFiles(directory, { "a/b/.git": "" });
    equal(findRules(tree), beside("a"));
    writeFiles(directory, { "a/b/.sops.yaml": "" });
    equal(findRules(tree), beside("a/b"));
    const repository = temporaryDirectory();
    writeFiles(repository, { ".git": "", ".sops.yaml": "", "a/Pulumi.yaml": "" });
    equal(findRules(join(repository, "a", "gitops")), join(repository, ".sops.yaml"));
  });
});

describe("form of secret files", () => {
  const good = sealed("age1a", "age1b");
  async function findings(content: string, stack: Readers = dev): Promise<string[]> {
    const directory = temporaryDirectory();
    writeFiles(directory, { [`gitops/${file}`]: content, ".sops.yaml": rules });
    writeFiles(directory, { "gitops/clusters/prod/a.enc.yaml": sealed("age1p", "age1r") });
    return findingsIn(join(directory, "gitops"), stack);
  }

  it("is right as SOPS leaves it, empty values included", async () => {
    deepEqual(await findings(good), []);
    deepEqual(await findings(good.replace("stringData:", 'data: {B: "", C: null}\nstringData:')), []);
  });

  for (const [what, content] of [
    ["kubectl writes", good.replace("{name: s}", "{name: s, creationTimestamp: null}")],
    ["SOPS's own settings write", good.replace("sops:\n", "sops:\n  mac_only_encrypted: true\n")],
    ["are two Secrets in one file", `${good}---\n${good.replace("name: s", "name: t")}`],
    ["start with a document mark", `---\n${good}`],
    [
      "somebody says is public, in a file of which only a part is encrypted",
      good
        .replace(
          "stringData: {A: ",
          "stringData:\n  url: https://${domain} # platform:not-a-secret public address\n  A: ",
        )
        .replace('x]"}', 'x]"'),
    ],
  ] as const) {
    it(`is right with what ${what}`, async () => {
      deepEqual(await findings(content), []);
    });
  }

  it("is wrong in either of two Secrets in one file", async () => {
    const second = good.replace("name: s", "name: t").replace("stringData: {", "stringData: {B: hunter2, ");
    match((await findings(`${good}---\n${second}`)).join("\n"), /^[^\n]* it holds "B" in plain text[^\n]*$/);
  });

  for (const [what, content, expected] of [
    ["was cut off", good.replace(/sops:[^]*/, ""), /failed: SOPS's own part of it is missing: .* cut off\./],
    ["has no MAC", good.replace(/ {2}mac:.*\n/, ""), /failed: it has no MAC/],
    [
      "has a plain value",
      good.replace("stringData: {", "stringData: {B: hunter2, "),
      /failed: it holds "B" in plain text\. (?!.*hunter2)/,
    ],
    [
      "has a value that only starts as an encrypted one",
      good.replace("stringData: {", "stringData: {B: 'ENC[AES256_GCM,data:x] hunter2', "),
      /failed: it holds "B" in plain text\./,
    ],
    ["is plain", good.replace(/sops:[^]*/, "").replace(/ENC[^"]*/, "x"), /failed: it is not encrypted\./],
    [
      "was encrypted under another expression",
      good.replace("  encrypted_regex: ^(data|stringData)$\n", ""),
      /failed: it was encrypted with "encrypted_regex" null, not /,
    ],
    [
      "has its name encrypted",
      good.replace("name: s", 'name: "ENC[AES256_GCM,data:x]"'),
      /failed: more than "data" and "stringData" is encrypted\./,
    ],
    [
      "has something else than a list of recipients",
      good.replace(/ {2}age:\n/, "  age: x\n").replace(/ {4}- recipient.*\n/g, ""),
      /failed: its "sops\.age" is not a list of recipients\. Restore it from Git\./,
    ],
    [
      "is opened by a key of another kind",
      good.replace("sops:\n", "sops:\n  pgp: [{fp: ABCD}]\n"),
      /failed: a key of kind "pgp" opens it/,
    ],
  ] as const) {
    it(`is wrong where a file ${what}`, async () => {
      const found = await findings(content);
      equal(found.length, 1, found.join("\n"));
      match(found[0] ?? "", expected);
      match(found[0] ?? "", new RegExp(`^Checking ${file} failed: `));
    });
  }

  it("says nothing of a file that the stack makes up, and may be one that is not encrypted", async () => {
    const empty = 'kind: Secret\nmetadata: {name: s}\nstringData: {A: ""}\n';
    for (const generate of ["empty", "all"] as const)
      deepEqual(await findings(empty, { ...dev, generate }), []);
    equal((await findings(empty)).length, 1);
  });

  it("is that of any stack's in an encrypted file whose values are made up, as in a rehearsal", async () => {
    const rehearsed: Readers = { ...dev, generate: "all" };
    deepEqual(await findings(good, rehearsed), []);
    for (const wrong of [good.replace(/ {2}mac:.*\n/, ""), good.replace(/sops:[^]*/, ""), sealed("age1a")]) {
      const found = await findings(wrong, rehearsed);
      equal(found.length, 1);
      deepEqual(found, await findings(wrong));
    }
  });

  it("is said of a file that is wrong, and its recipients are not said then", async () => {
    const found = await findings(sealed("age1x").replace(/ {2}mac:.*\n/, ""));
    equal(found.length, 1, found.join("\n"));
    match(found[0] ?? "", /it has no MAC/);
  });
});
