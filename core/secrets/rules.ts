import { join, relative } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { Document, isMap, isSeq, parseDocument, YAMLSeq } from "yaml";
import { sentence } from "../../system/sentence";
import { firstMatch } from "../../clients/sops/client";
import { errorOf, findingsOf, type Finding } from "../findings/finding";
import type { Generate } from "./files";
import { isEncrypted, recipientsOf } from "../../clients/sops/secret-file";

/** The part of a Secret that SOPS encrypts: its values, and none of the fields that identify it. */
export const encryptedRegex = "^(data|stringData)$";

/** Other fields that a stack's own rule may set: they change the coverage of the MAC, not the recipients. */
const extras: readonly string[] = ["mac_only_encrypted"];

/** The recipients of the secrets of a stack. */
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

/** The `*.enc.yaml` files of a tree, relative to the rules. */
export interface RuledFiles {
  /** The path of the tree from the directory of the rules, `gitops`; empty for that directory itself. */
  readonly tree: string;
  /** Path relative to the tree → content: the files of the checked stack. */
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
 * The text of `.sops.yaml`: a rule for each stack that has recipients and secrets. Rules for files outside the tree's
 * clusters, comments and all other content stay. A new rule comes before the rules of other owners, because SOPS takes
 * the first match.
 *
 * @param tree the path of the tree from the directory of the rules
 * @param before the current text. @default nothing
 * @throws Error when that text is not YAML, or has no list of rules
 */
export function renderRules(
  readers: readonly Readers[],
  { tree, all }: Pick<RuledFiles, "tree" | "all">,
  before?: string,
): string {
  const wanted = readers
    .filter((stack) => needsRule(stack) && all.some((path) => path.startsWith(`clusters/${stack.cluster}/`)))
    .sort((a, b) => (a.cluster < b.cluster ? -1 : 1))
    .map((stack) => ({
      path_regex: patternFor(tree, stack.cluster),
      encrypted_regex: encryptedRegex,
      age: everyRecipient(stack).join(","),
    }));
  if (before === undefined) {
    const file = new Document({ creation_rules: wanted, stores: { yaml: { indent: 2 } } });
    return `# Made by "npx platform secrets" from platform:sops of the stacks\n${file.toString({ lineWidth: 0 })}`;
  }
  const document = parseRules(before);
  const rules = rulesIn(document);
  const isOwn = (rule: Rule) => isOwnPattern(tree, patternOf(rule));
  const without = (rule: Rule) =>
    Object.fromEntries(Object.entries(rule).filter(([key]) => !extras.includes(key)));
  if (isDeepStrictEqual(rules.filter(isOwn).map(without), wanted)) return before;
  const list = document.get("creation_rules");
  const items = isSeq(list) ? [...list.items] : [];
  const own = rules.flatMap((rule, index) => (isOwn(rule) ? [{ index, pattern: patternOf(rule) }] : []));
  // The first rule for a cluster keeps its place; SOPS never reads a second rule for the same cluster.
  const nodes = wanted.map((rule) => {
    const node = items[own.find(({ pattern }) => pattern === rule.path_regex)?.index ?? -1];
    if (!isMap(node)) return document.createNode(rule);
    if (!isDeepStrictEqual(without(node.toJS(document) as Rule), rule)) {
      for (const { key } of [...node.items]) if (!extras.includes(String(key))) node.delete(key);
      for (const [key, value] of Object.entries(rule)) node.set(key, value);
    }
    return node;
  });
  const kept = items.filter((_, index) => !own.some((rule) => rule.index === index));
  const place = own[0]?.index ?? 0;
  const result = isSeq(list) ? list : new YAMLSeq();
  result.items = [...kept.slice(0, place), ...nodes, ...kept.slice(place)];
  if (result.items.length > 0) result.flow = false;
  if (!isSeq(list)) document.set("creation_rules", result);
  if (isMap(document.contents)) document.contents.flow = false;
  return document.toString({ lineWidth: 0, indentSeq: !/^creation_rules:.*\n(\s*#.*\n)*-/m.test(before) });
}

/**
 * Reads `.sops.yaml`.
 *
 * @throws Error when the text is not YAML, or has no list of rules
 */
export function parseRules(text: string): Document {
  const document = parseDocument(text);
  const [wrong] = document.errors;
  const [reason = ""] = (wrong?.message ?? "").split("\n");
  const { contents } = document;
  const list = isMap(contents) ? (contents.get("creation_rules") ?? null) : contents;
  const isRules = list === null || (isMap(contents) && isSeq(list));
  if (wrong === undefined && isRules) return document;
  const cause = wrong === undefined ? '"creation_rules" is not a list' : reason.replace(/:\s*$/, "");
  const message = `Reading .sops.yaml failed: ${sentence(cause)}`;
  throw errorOf([{ check: "secret-rules", message, remedy: "Correct it, or restore it from Git." }]);
}

function rulesIn(document: Document): Rule[] {
  const file = document.toJS() as { creation_rules?: (Rule | null)[] | null } | null;
  return (file?.creation_rules ?? []).map((rule) => rule ?? {});
}

/**
 * Checks the rules against a stack's recipients, and its files against both.
 *
 * @param text of `.sops.yaml`; undefined when there is none
 */
export async function checkRules(
  text: string | undefined,
  readers: Readers,
  files: RuledFiles,
): Promise<Finding[]> {
  const { stack } = readers;
  const file = join(relative(files.tree, ""), ".sops.yaml");
  const init = `run "npx platform secrets init ${stack}"`;
  const found = (subject: string, cause: string, remedy = `R${init.slice(1)}.`): Finding => {
    return { check: "secret-rules", file, message: `Checking ${subject} failed: ${cause}.`, remedy };
  };
  if (text === undefined) {
    const isMissing = needsRule(readers) && files.own.size > 0;
    return isMissing ? [found(`stack "${stack}"`, "there is no .sops.yaml beside its tree")] : [];
  }
  let document: Document;
  try {
    document = parseRules(text);
  } catch (error) {
    return findingsOf(error, "secret-rules").map((finding) => ({ ...finding, file }));
  }
  if (!document.has("creation_rules")) return [found(".sops.yaml", 'it has no list "creation_rules"')];
  const rules = rulesIn(document);
  const isForTree = (rule: Rule) => patternOf(rule).startsWith(clustersPattern(files.tree));
  const isOwn = (rule: Rule) => isOwnPattern(files.tree, patternOf(rule));
  const firstOf = async (candidates: readonly Rule[], path: string) =>
    candidates[await firstMatch(candidates.map(patternOf), below(files.tree, path))];
  const first = new Map<string, Rule | undefined>();
  const used = new Set<Rule | undefined>();
  try {
    // SOPS compiles the patterns up to the first match.
    await firstOf(rules, "none");
    for (const path of files.all) {
      const rule = await firstOf(rules, path);
      first.set(path, rule);
      // A rule of another owner that comes first is a finding of its own.
      used.add(rule !== undefined && isForTree(rule) ? rule : await firstOf(rules.filter(isForTree), path));
    }
  } catch (error) {
    const [, reason] = /error parsing regexp: (.*)$/.exec((error as Error).message) ?? [];
    if (reason === undefined) throw error;
    const cause = `a pattern is not a regular expression (${reason})`;
    return [found(".sops.yaml", cause, "Correct it, or remove its rule.")];
  }
  const ofStack = new Set([...files.own.keys()].map((path) => first.get(path)));
  const settings = `platform:sops.recipients of Pulumi.${stack}.yaml`;
  const wanted = { encrypted_regex: encryptedRegex, age: everyRecipient(readers).sort() };
  return [
    ...rules.flatMap((rule, index) => {
      const subject = `rule ${index + 1} of .sops.yaml`;
      if (isForTree(rule) && !used.has(rule)) {
        const remedy = `Remove the rule${isOwn(rule) ? `, or ${init}` : ""}.`;
        return [found(subject, `no file matches "${patternOf(rule)}" first`, remedy)];
      }
      if (!ofStack.has(rule)) return [];
      if (!isOwn(rule)) {
        if (!needsRule(readers)) return [];
        const cause = `"${patternOf(rule)}" is the first that matches files of stack "${stack}", and not that stack's own`;
        return [found(subject, cause, `R${init.slice(1)}, and put the rule below those of the stacks.`)];
      }
      if (!needsRule(readers)) {
        const cause = `it matches files of stack "${stack}", which has no recipients`;
        return [found(subject, cause, `Set ${settings}, or remove the rule.`)];
      }
      const actual = contentOf(rule);
      if (isDeepStrictEqual(actual, wanted)) return [];
      const cause = `it has ${JSON.stringify(actual)}, and stack "${stack}" needs ${JSON.stringify(wanted)}`;
      return [found(subject, cause, `Correct ${settings}, or ${init}.`)];
    }),
    ...[...files.own].flatMap(([path, content]) => {
      const rule = first.get(path);
      const subject = below(files.tree, path);
      if (!needsRule(readers)) return [];
      if (rule === undefined) return [{ ...found(subject, "no rule of .sops.yaml matches it"), file: path }];
      if (!isEncrypted(content) || !isOwn(rule)) return [];
      const [actual, expected] = [recipientsOf(content).sort(), recipientsIn(rule)];
      if (isDeepStrictEqual(actual, expected)) return [];
      const cause = `it is encrypted for ${actual.join(", ") || "nobody"}, its rule in .sops.yaml says ${expected.join(", ") || "nobody"}`;
      return [{ ...found(subject, cause), file: path }];
    }),
  ];
}

/** The fields of a rule that have an effect on its files, except its pattern and `extras`. */
function contentOf({ encrypted_regex = null, age, ...others }: Rule): object {
  const effective = Object.entries(others).filter(
    ([key, value]) =>
      !["path_regex", ...extras].includes(key) && ![undefined, null, ""].includes(value as string | null),
  );
  return { encrypted_regex, age: recipientsIn({ age }), ...Object.fromEntries(effective) };
}

/** Sorted. */
function recipientsIn({ age }: Rule): string[] {
  const text = Array.isArray(age) ? age.join(",") : typeof age === "string" ? age : "";
  return text
    .split(",")
    .map((recipient) => recipient.trim())
    .filter((recipient) => recipient !== "")
    .sort();
}

/** A rule without a pattern matches every file. */
function patternOf({ path_regex: pattern }: Rule): string {
  return typeof pattern === "string" ? pattern : "";
}

/** The start of the rules for the files of a tree. */
function clustersPattern(tree: string): string {
  return `^${escaped(below(tree, "clusters/"))}`;
}

function patternFor(tree: string, cluster: string): string {
  return `${clustersPattern(tree)}${escaped(cluster)}/.*\\.enc\\.yaml$`;
}

/** Whether a pattern was made for a stack of the tree, existing or not. */
function isOwnPattern(tree: string, pattern: string): boolean {
  const [start, end] = [clustersPattern(tree), "/.*\\.enc\\.yaml$"];
  const cluster = pattern.slice(start.length, -end.length);
  return pattern.startsWith(start) && pattern.endsWith(end) && /^[^/]+$/.test(cluster);
}

function below(tree: string, path: string): string {
  return tree === "" ? path : `${tree}/${path}`;
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
