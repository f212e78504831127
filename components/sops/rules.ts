import { parse, stringify } from "yaml";
import type { Generate } from "./files";
import { isEncrypted, recipientsOf } from "./secret-file";

/** What SOPS encrypts of a Secret: its values, and nothing by which it is known. */
export const encryptedRegex = "^(data|stringData)$";

/** Whom the secrets of a stack are encrypted for. */
export interface Readers {
  readonly stack: string;
  /** Directory below `clusters/`. */
  readonly cluster: string;
  readonly generate: Generate;
  /** `age1…`, each once. */
  readonly recipients: readonly string[];
  readonly recoveryRecipient?: string;
}

/** Everybody that can open the secrets of a stack: its recipients, and the recovery key last. */
export function everyRecipient({ recipients, recoveryRecipient }: Readers): string[] {
  return recoveryRecipient === undefined ? [...recipients] : [...recipients, recoveryRecipient];
}

/** Whether files of a stack are encrypted in Git. */
export function needsRule({ recipients }: Readers): boolean {
  return recipients.length > 0;
}

/** The `*.enc.yaml` files of a tree, as the rules see them. */
export interface RuledFiles {
  /** The tree as seen from the directory of the rules, `gitops`; empty for that directory itself. */
  readonly tree: string;
  /** Path relative to the tree → content: the files of the stack that is checked. */
  readonly own: ReadonlyMap<string, string>;
  /** Paths relative to the tree: the files of all stacks. */
  readonly all: readonly string[];
}

/** One of the `creation_rules`. Source: https://getsops.io/docs/#using-sops-yaml-conf-to-select-kms-pgp-and-age-for-new-files */
interface Rule {
  readonly path_regex?: unknown;
  readonly encrypted_regex?: unknown;
  readonly age?: unknown;
}

/**
 * The text of `.sops.yaml`: a rule for each stack that has recipients and secrets.
 *
 * @param tree as seen from the directory of the rules
 */
export function renderRules(
  readers: readonly Readers[],
  { tree, all }: Pick<RuledFiles, "tree" | "all">,
): string {
  const ruled = readers
    .filter((stack) => needsRule(stack) && all.some((path) => path.startsWith(`clusters/${stack.cluster}/`)))
    .sort((a, b) => (a.cluster < b.cluster ? -1 : 1));
  const rules = {
    creation_rules: ruled.map((stack) => ({
      path_regex: `^${escaped(below(tree, `clusters/${stack.cluster}/`))}.*\\.enc\\.yaml$`,
      encrypted_regex: encryptedRegex,
      age: everyRecipient(stack).join(","),
    })),
    stores: { yaml: { indent: 2 } },
  };
  return `# Made by "npm run secrets" from platform:sops of the stacks\n${stringify(rules, { lineWidth: 0 })}`;
}

/**
 * Checks the rules against a stack's recipients, and its files against both. Each finding is one sentence with
 * operation, subject, cause and remedy.
 *
 * @param text of `.sops.yaml`; undefined when there is none
 */
export function checkRules(text: string | undefined, stack: Readers, files: RuledFiles): string[] {
  if (text === undefined) return needsRule(stack) && files.own.size > 0 ? [noRules(stack)] : [];
  let rules: readonly Rule[];
  try {
    const { creation_rules: list } = (parse(text) ?? {}) as { creation_rules?: unknown };
    if (!Array.isArray(list)) throw new Error('it has no list "creation_rules"');
    rules = (list as (Rule | null)[]).map((rule) => rule ?? {});
  } catch (error) {
    const [reason = ""] = (error as Error).message.split("\n");
    return [`Reading .sops.yaml failed: ${reason.replace(/[:.]\s*$/, "")}. ${remedy(stack)}`];
  }
  const broken = rules.flatMap((rule, index) => checkPattern(rule, index, stack));
  if (broken.length > 0) return broken;
  const ruleOf = (path: string) => rules.findIndex((rule) => matches(rule, below(files.tree, path)));
  const used = new Set(files.all.map(ruleOf));
  const own = new Set([...files.own.keys()].map(ruleOf));
  return [
    ...rules.flatMap((rule, index) => [
      ...(used.has(index)
        ? []
        : [
            `Checking rule ${index + 1} of .sops.yaml failed: no file matches "${patternOf(rule)}" first. Remove the rule, or run "npm run secrets -- init --stack ${stack.stack}".`,
          ]),
      ...(own.has(index) ? checkRule(rule, index, stack) : []),
    ]),
    ...[...files.own].flatMap(([path, content]) =>
      checkRuled(rules[ruleOf(path)], below(files.tree, path), content, stack),
    ),
  ];
}

function checkRule(rule: Rule, index: number, stack: Readers): string[] {
  const subject = `Checking rule ${index + 1} of .sops.yaml failed:`;
  if (!needsRule(stack)) {
    return [
      `${subject} it matches files of stack "${stack.stack}", which has no recipients. Set platform:sops.recipients of Pulumi.${stack.stack}.yaml, or remove the rule.`,
    ];
  }
  const wanted = everyRecipient(stack);
  const named = recipientsIn(rule);
  const others = Object.keys(rule).filter(
    (key) => !["path_regex", "encrypted_regex", "age"].includes(key) && !isNothing(rule[key as keyof Rule]),
  );
  return [
    ...named
      .filter((recipient) => !wanted.includes(recipient))
      .map(
        (recipient) =>
          `${subject} recipient ${recipient} is none of stack "${stack.stack}". Add it to platform:sops.recipients of Pulumi.${stack.stack}.yaml, or run "npm run secrets -- init --stack ${stack.stack}".`,
      ),
    ...wanted
      .filter((recipient) => !named.includes(recipient))
      .map(
        (recipient) =>
          `${subject} it lacks recipient ${recipient} of stack "${stack.stack}". ${remedy(stack)}`,
      ),
    ...(rule.encrypted_regex === encryptedRegex
      ? []
      : [
          `${subject} "encrypted_regex" is ${JSON.stringify(rule.encrypted_regex ?? null)}, not "${encryptedRegex}". ${remedy(stack)}`,
        ]),
    ...others.map(
      (key) =>
        `${subject} it sets "${key}", and secrets are encrypted with age alone. Remove that key, or run "npm run secrets -- init --stack ${stack.stack}".`,
    ),
  ];
}

/** @param path as seen from the directory of the rules */
function checkRuled(rule: Rule | undefined, path: string, content: string, stack: Readers): string[] {
  if (!needsRule(stack)) return [];
  if (rule === undefined) {
    return [`Checking ${path} failed: no rule of .sops.yaml matches it. ${remedy(stack)}`];
  }
  if (!isEncrypted(content)) return [];
  const actual = recipientsOf(content);
  const expected = recipientsIn(rule);
  if (same(actual, expected)) return [];
  return [
    `Checking ${path} failed: it is encrypted for ${actual.join(", ") || "nobody"}, its rule in .sops.yaml says ${expected.join(", ") || "nobody"}. ${remedy(stack)}`,
  ];
}

function checkPattern(rule: Rule, index: number, stack: Readers): string[] {
  try {
    matches(rule, "");
    return [];
  } catch {
    return [
      `Checking rule ${index + 1} of .sops.yaml failed: "${patternOf(rule)}" is no regular expression. ${remedy(stack)}`,
    ];
  }
}

function noRules({ stack }: Readers): string {
  return `Checking the rules of stack "${stack}" failed: there is no .sops.yaml beside its tree. Run "npm run secrets -- init --stack ${stack}".`;
}

function remedy({ stack }: Readers): string {
  return `Run "npm run secrets -- init --stack ${stack}".`;
}

function recipientsIn({ age }: Rule): string[] {
  const text = Array.isArray(age) ? age.join(",") : typeof age === "string" ? age : "";
  return text
    .split(",")
    .map((recipient) => recipient.trim())
    .filter((recipient) => recipient !== "");
}

function matches(rule: Rule, path: string): boolean {
  return new RegExp(patternOf(rule)).test(path);
}

/** A rule without a pattern is for every file. */
function patternOf({ path_regex: pattern }: Rule): string {
  return typeof pattern === "string" ? pattern : "";
}

function isNothing(value: unknown): boolean {
  return value === undefined || value === null || value === "";
}

function same(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((entry) => b.includes(entry));
}

function below(tree: string, path: string): string {
  return tree === "" ? path : `${tree}/${path}`;
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
