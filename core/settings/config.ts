import { readdir, readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { parse } from "yaml";
import type * as z from "zod";
import type { RegistryLogin } from "../../clients/registry/login";
import { causeOf } from "../../system/file-error";
import { sentence } from "../../system/sentence";
import type { ReadonlyDeep } from "../fields/fields";
import { settings } from "./schema";

/** The settings of a stack, from `Pulumi.<stack>.yaml`; paths are absolute. */
export interface PlatformConfig extends ReadonlyDeep<z.output<ReturnType<typeof settings>>> {
  readonly stack: string;
  /** `project/stack`, the mark on everything that the stack makes in Docker and owns in the cluster. */
  readonly owner: string;
  /** Absolute path of the directory for files of the stack on this machine, such as its audit log. */
  readonly directory: string;
}

/** The environment of a stack's settings: the place of the program and of the user's own files. */
export interface ConfigContext {
  /** The project's name, from Pulumi.yaml. */
  readonly name: string;
  /** Absolute path of the directory that holds Pulumi.yaml. */
  readonly project: string;
  readonly env: NodeJS.ProcessEnv;
}

/**
 * Reads the settings of a stack.
 *
 * @param all every setting, `namespace:key` → text, as Pulumi gives it: objects and numbers are JSON
 * @throws Error with one sentence for each setting that is unknown, missing or wrong, the unknown ones first
 */
export function parseConfig(
  stack: string,
  all: Readonly<Record<string, string>>,
  context: ConfigContext,
): PlatformConfig {
  const { env, name, project } = context;
  const schema = settings({
    stack,
    userConfig: env.XDG_CONFIG_HOME ?? join(homedir(), ".config"),
    path: (value) => (value.startsWith("~/") ? join(homedir(), value.slice(2)) : resolve(project, value)),
  });
  const input: Record<string, unknown> = {};
  const problems: Problem[] = [];
  for (const [key, text] of Object.entries(all)) {
    const [namespace = "", ...rest] = key.split(":");
    const setting = rest.join(":");
    if (namespace === "platform") {
      input[setting] = withoutNull(fromJson(text));
      // The settings of other packages, such as "aws:region", do not belong to this project.
    } else if (nearest(namespace, ["platform"]) !== undefined) {
      problems.push(unknownKey(key, `platform:${setting}`));
    }
  }
  // For a missing section, the error names the key that the section needs.
  input.cluster ??= {};
  input.registry ??= {};
  const { data } = schema.safeParse(input);
  problems.push(...problemsOf(schema, input));
  if (data === undefined || problems.length > 0) {
    throw new Error(
      sentencesOf(problems)
        .map((text) => `Reading the config of stack "${stack}" failed: ${text}`)
        .join("\n"),
    );
  }
  const { cluster } = data;
  if ("allowReplace" in cluster && env.PLATFORM_ALLOW_REPLACE === "true") cluster.allowReplace = true;
  return { ...data, stack, owner: `${name}/${stack}`, directory: join(stateDirectory(env), stack) };
}

/**
 * The settings of `Pulumi.<stack>.yaml`, in the form of the file: `namespace:key` → value.
 *
 * @param project absolute path of the directory that holds Pulumi.yaml
 * @throws Error when there is no such stack, naming the existing stacks
 */
export async function readStackFile(stack: string, project: string): Promise<Record<string, unknown>> {
  try {
    const text = await readFile(join(project, `Pulumi.${stack}.yaml`), "utf8");
    const { config = {} } = (parse(text) ?? {}) as { config?: unknown };
    if (typeof config !== "object" || config === null || Array.isArray(config)) {
      throw new Error(`"config" is ${JSON.stringify(config)}, not a map.`);
    }
    return config as Record<string, unknown>;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
      const [reason = ""] = causeOf(error, `Pulumi.${stack}.yaml`).split("\n");
      throw new Error(
        `Reading Pulumi.${stack}.yaml failed: ${sentence(reason.replace(/:\s*$/, ""))} Correct the file.`,
        { cause: error },
      );
    }
    throw new Error(
      `Reading stack "${stack}" failed: there is no Pulumi.${stack}.yaml. Stacks here are ${(await stacksOf(project)).join(", ")}.`,
      { cause: error },
    );
  }
}

/** The names of a project's stacks, sorted: each has a file `Pulumi.<stack>.yaml`. */
export async function stacksOf(project: string): Promise<string[]> {
  return (await readdir(project)).flatMap((name) => /^Pulumi\.(.+)\.yaml$/.exec(name)?.[1] ?? []).sort();
}

/**
 * The age identity that the settings hold, as a Pulumi config secret. It is not part of `PlatformConfig`, which is
 * printed and passed on.
 *
 * @param all as `parseConfig` takes it, decrypted
 */
export function ageKeyOf(all: Readonly<Record<string, string>>): string | undefined {
  const { ageKey } = (fromJson(all["platform:sops"] ?? "{}") ?? {}) as { ageKey?: unknown };
  return typeof ageKey === "string" && ageKey !== "" ? ageKey : undefined;
}

/**
 * The login with which the cluster pulls from a remote registry, if the settings hold one. Like the age identity, it is
 * not part of `PlatformConfig`.
 *
 * @param all as `parseConfig` takes it, decrypted
 * @throws Error when only one half of the login is set
 */
export function pullLoginOf(all: Readonly<Record<string, string>>): RegistryLogin | undefined {
  const { pullUsername: username, pullPassword: password } = (fromJson(all["platform:registry"] ?? "{}") ??
    {}) as { pullUsername?: unknown; pullPassword?: unknown };
  if (username === undefined && password === undefined) return undefined;
  if (typeof username === "string" && typeof password === "string" && password !== "") {
    return { username, password };
  }
  const missing = typeof username === "string" ? "pullPassword" : "pullUsername";
  throw new Error(
    `Reading the login of the registry failed: "platform:registry.${missing}" is not set, but the other half is. Set both, or neither to use Docker's own login.`,
  );
}

/** Settings as Pulumi passes them to a program: every value except a text is JSON. */
export function asPulumiConfig(settings: Readonly<Record<string, unknown>>): Record<string, string> {
  const asText = (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value));
  return Object.fromEntries(Object.entries(settings).map(([key, value]) => [key, asText(value)]));
}

/** `readStackFile` and `parseConfig` in one, for code outside of the program. */
export async function readStackConfig(
  stack: string,
  project: string,
  env: NodeJS.ProcessEnv,
): Promise<PlatformConfig> {
  const settings = asPulumiConfig(await readStackFile(stack, project));
  return parseConfig(stack, settings, await contextOf(project, env));
}

/** The context of the settings of a project's stacks. @param project absolute path */
export async function contextOf(
  project: string,
  env: NodeJS.ProcessEnv = process.env,
): Promise<ConfigContext> {
  const { name } = await readProjectFile(project);
  return { name, project, env };
}

/** The fields of Pulumi.yaml that this project uses. */
export interface ProjectFile {
  readonly name: string;
  /** The backend that the project chooses. */
  readonly backend?: { readonly url?: string };
}

/** Reads Pulumi.yaml. @param project absolute path of its directory @throws Error when it is no map with a name */
export async function readProjectFile(project: string): Promise<ProjectFile> {
  try {
    const read = parse(await readFile(join(project, "Pulumi.yaml"), "utf8")) as Partial<ProjectFile> | null;
    const { name, backend } = read ?? {};
    if (typeof name !== "string") throw new Error('it has no "name"');
    return { name, ...(backend === undefined ? {} : { backend }) };
  } catch (error) {
    const [reason = ""] = causeOf(error, "Pulumi.yaml").split("\n");
    throw new Error(
      `Reading Pulumi.yaml failed: ${sentence(reason.replace(/:\s*$/, ""))} Restore it from Git.`,
      {
        cause: error,
      },
    );
  }
}

/** Absolute path of the files that the stacks of this user leave on the machine. */
export function stateDirectory(env: NodeJS.ProcessEnv): string {
  return join(env.XDG_STATE_HOME ?? join(homedir(), ".local", "state"), "platform");
}

/** A fault of one setting. */
interface Problem {
  /** The setting's whole key. */
  readonly key: string;
  readonly sentence: string;
  /** For an unknown key: the key that the user may mean. */
  readonly unknown?: { readonly meant: string | undefined };
  readonly missing?: boolean;
}

/**
 * Unknown keys first, keys of outer maps before keys of inner maps. A setting that is missing because its key is
 * misspelt is named once.
 */
function sentencesOf(problems: readonly Problem[]): string[] {
  const depth = ({ key }: Problem) => key.split(".").length;
  const unknown = problems
    .filter((problem) => problem.unknown !== undefined)
    .sort((one, other) => depth(one) - depth(other));
  const misspelt = unknown.map((problem) => problem.unknown?.meant);
  const known = problems.filter(
    ({ key, missing, unknown }) => unknown === undefined && !(missing === true && misspelt.includes(key)),
  );
  return [...new Set([...unknown, ...known].map(({ sentence }) => sentence))];
}

function unknownKey(key: string, meant: string | undefined, known: readonly string[] = []): Problem {
  const remedy =
    meant === undefined
      ? `Here are ${known.map((name) => `"${name}"`).join(", ")}.`
      : `Did you mean "${meant}"?`;
  return { key, sentence: `there is no setting "${key}". ${remedy}`, unknown: { meant } };
}

/** Every fault that the schema finds. */
function problemsOf(
  schema: ReturnType<typeof settings>,
  input: Readonly<Record<string, unknown>>,
): Problem[] {
  const check = (value: unknown) => schema.safeParse(value, { error: expected }).error?.issues ?? [];
  const isRule = (issue: z.core.$ZodIssue) => issue.code === "custom" && issue.params?.rule === true;
  const found = check(input);
  // zod skips the rules between settings while one of the settings is wrong by itself. A second look leaves out the
  // wrong settings, and lists with a wrong entry.
  const rest = structuredClone(input);
  for (const issue of found.filter((issue) => !isRule(issue))) {
    const paths =
      issue.code === "unrecognized_keys" ? issue.keys.map((key) => [...issue.path, key]) : [issue.path];
    for (const path of paths) {
      const index = path.findIndex((key) => typeof key === "number");
      const wrong = index < 0 ? path : path.slice(0, index);
      Reflect.deleteProperty(at(rest, wrong.slice(0, -1)) ?? {}, wrong.at(-1) ?? "");
    }
  }
  const told = found.map(({ path }) => nameOf(path));
  const broken = check(rest).filter((issue) => isRule(issue) && !told.includes(nameOf(issue.path)));
  return [...found, ...broken].flatMap((issue) => {
    const { path, message } = issue;
    const value = at(input, path) as unknown;
    const misspelt = (map: PropertyKey[], keys: readonly string[], known: readonly string[]) =>
      keys.map((key) => {
        const unset = known.filter((name) => at(input, [...map, name]) === undefined);
        const meant = nearest(key, unset);
        return unknownKey(
          nameOf([...map, key]),
          meant && nameOf([...map, meant]),
          known.map((name) => nameOf([...map, name])),
        );
      });
    if (issue.code === "unrecognized_keys") return misspelt(path, issue.keys, message.split(" "));
    const key = nameOf(path);
    if (value === undefined) {
      // If a map lacks its kind, zod does not say which other keys are unknown.
      const parent = path.slice(0, -1);
      const keys = "discriminator" in issue ? Object.keys(at(input, parent) ?? {}) : [];
      return [
        ...misspelt(parent, keys, ["kind"]).filter(({ unknown }) => unknown?.meant !== undefined),
        { key, sentence: `"${key}" is not set. Set it to ${message}.`, missing: true },
      ];
    }
    const fault = issue.code === "custom" ? (issue.params?.fault as string | undefined) : undefined;
    return [{ key, sentence: `"${key}" ${fault ?? `is ${JSON.stringify(value)}`}. Set it to ${message}.` }];
  });
}

/** Completes "Set it to" if the schema has no words of its own; for unknown keys, with the known keys. */
const expected: z.core.$ZodErrorMap = (issue) => {
  const quoted = (values: readonly unknown[]) => values.map((value) => JSON.stringify(value)).join(" or ");
  if (issue.code === "unrecognized_keys") return Object.keys((issue.inst as z.ZodObject).shape).join(" ");
  if (issue.code === "invalid_value") return quoted(issue.values);
  if (issue.code === "invalid_union") return quoted(issue.options as string[]);
  return "a map";
};

function nameOf(path: readonly PropertyKey[]): string {
  const rest = path.slice(1).map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`));
  return `platform:${String(path[0])}${rest.join("")}`;
}

function at(value: unknown, path: readonly PropertyKey[]): object | undefined {
  return path.reduce((map, key) => (map as Record<PropertyKey, unknown> | undefined)?.[key], value) as
    object | undefined;
}

/**
 * The name that differs least from another, by letters added, left out, changed or swapped: at most a third of them.
 */
function nearest(name: string, names: readonly string[]): string | undefined {
  const [best] = names
    .map((candidate) => ({ candidate, distance: distance(name.toLowerCase(), candidate.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance);
  return best !== undefined && best.distance <= Math.max(1, Math.floor(name.length / 3))
    ? best.candidate
    : undefined;
}

/** The optimal string alignment distance. Source: https://en.wikipedia.org/wiki/Damerau-Levenshtein_distance */
function distance(a: string, b: string): number {
  const rows: number[][] = [];
  /** The distance of the first `i` letters of one to the first `j` letters of the other. */
  const at = (i: number, j: number) => rows[i]?.[j] ?? Math.max(i, j);
  for (let i = 1; i <= a.length; i++) {
    const row: number[] = (rows[i] = []);
    for (let j = 1; j <= b.length; j++) {
      const changed = at(i - 1, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1);
      const isSwapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const swapped = isSwapped ? at(i - 2, j - 2) + 1 : Infinity;
      row[j] = Math.min(at(i - 1, j) + 1, at(i, j - 1) + 1, changed, swapped);
    }
  }
  return at(a.length, b.length);
}

function fromJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

/** A key without a value is not set. */
function withoutNull(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNull);
  if (typeof value !== "object" || value === null) return value ?? undefined;
  return Object.fromEntries(Object.entries(value).map(([key, of]) => [key, withoutNull(of)]));
}
