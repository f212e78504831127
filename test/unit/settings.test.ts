import { deepEqual, equal } from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { format, resolveConfig } from "prettier";
import { parse } from "yaml";
import * as z from "zod";
import { stacksOf } from "../../core/settings/config";
import { settings } from "../../core/settings/schema";

const project = join(__dirname, "..", "..");

/** The parts of a JSON Schema that the table of settings shows. */
interface Setting {
  readonly description?: string;
  readonly default?: unknown;
  readonly const?: string;
  readonly properties?: Readonly<Record<string, Setting>>;
  readonly required?: readonly string[];
  readonly items?: Setting;
  readonly oneOf?: readonly Setting[];
}

const schema = z.toJSONSchema(
  settings({ stack: "<stack>", userConfig: "~/.config", path: (value) => value }),
  { io: "input", target: "draft-07" },
) as Setting;

/** A JSON Schema of `Pulumi.<stack>.yaml`; keys of other packages than this one are free. */
function stackFile(): object {
  const prefixed = (key: string) => `platform:${key}`;
  const { properties = {}, required = [] } = JSON.parse(
    // Editors show no links of the README.
    JSON.stringify(schema, (key, value: unknown) =>
      key === "description" && typeof value === "string" ? value.replace(/\[(.*?)\]\(.*?\)/g, "$1") : value,
    ),
  ) as Setting;
  const config = {
    type: "object",
    properties: Object.fromEntries(Object.entries(properties).map(([key, of]) => [prefixed(key), of])),
    patternProperties: { "^(?!platform:)": {} },
    required: required.map(prefixed),
    additionalProperties: false,
  };
  return {
    $schema: "http://json-schema.org/draft-07/schema#",
    title: "Settings of a stack: Pulumi.<stack>.yaml",
    ...{ type: "object", properties: { config }, required: ["config"] },
  };
}

/** A row for each setting below a key: key, kind of cluster or registry, meaning, default. */
function rows(key: string, setting: Setting, required: boolean, kind = ""): string[][] {
  const code = (text: string) => `\`${text}\``;
  if (setting.oneOf !== undefined) {
    const kinds = setting.oneOf.map(({ properties: { kind, ...properties } = {}, ...rest }) => ({
      ...{ kind: code(kind?.const ?? ""), meaning: kind?.description ?? "", of: { ...rest, properties } },
    }));
    const meaning = kinds.map(({ kind, meaning }) => `${kind}: ${meaning}`).join("; ");
    return [
      [code(`${key}.kind`), "", meaning, "required"],
      ...kinds.flatMap(({ kind, of }) => rows(key, of, true, kind)),
    ];
  }
  const below = Object.entries((setting.items ?? setting).properties ?? {}).flatMap(([name, of]) =>
    rows(
      [key, name].filter((part) => part !== "").join(setting.items === undefined ? "." : "[]."),
      of,
      (setting.items ?? setting).required?.includes(name) === true,
      kind,
    ),
  );
  if (setting.properties !== undefined) return below;
  const value = setting.default;
  const none = value === undefined || (Array.isArray(value) && value.length === 0);
  const shown = none ? (required ? "required" : "none") : code(JSON.stringify(value).replaceAll('"', ""));
  return [[code(key), kind, setting.description ?? "", shown], ...below];
}

function table(): string {
  return [["setting", "of kind", "meaning", "default"], ["-", "-", "-", "-"], ...rows("", schema, true)]
    .map((cells) => `| ${cells.join(" | ")} |\n`)
    .join("");
}

/** What the schema of the settings gives: file → how its text becomes current. */
const derived: Readonly<Record<string, (text: string) => string>> = {
  "docs/settings.schema.json": () => JSON.stringify(stackFile()),
  "README.md": (text) => {
    const [before, old, after] = text.split(/(?<=\n## Settings of a stack\n(?:[^|].*\n|\n)*)((?:\|.*\n)+)/);
    if (old === undefined) throw new Error('README.md has no table below "Settings of a stack".');
    return `${before ?? ""}${table()}${after ?? ""}`;
  },
};

describe("the schema of the settings", () => {
  for (const [file, current] of Object.entries(derived)) {
    it(`gives ${file}; "npm run settings" writes it`, async () => {
      const path = join(project, file);
      const before = await readFile(path, "utf8").catch(() => "");
      const after = await format(current(before), { ...(await resolveConfig(path)), filepath: path });
      if (process.env.SETTINGS === "write") await writeFile(path, after);
      else equal(before, after, `${file} is not what core/settings/schema.ts gives. Run "npm run settings".`);
    });
  }

  it("says of each setting what it means", () => {
    deepEqual(
      rows("", schema, true).filter(([, , meaning]) => meaning === ""),
      [],
    );
  });

  it("gives editors a JSON Schema that takes every stack of the project and refuses what is wrong", async () => {
    const editor = z.fromJSONSchema(stackFile() as z.core.JSONSchema.BaseSchema);
    for (const stack of await stacksOf(project)) {
      const text = await readFile(join(project, `Pulumi.${stack}.yaml`), "utf8");
      equal(text.split("\n")[0], "# yaml-language-server: $schema=docs/settings.schema.json");
      const content = parse(text) as { config: Record<string, object> };
      const takes = (change: object) =>
        editor.safeParse({ config: { ...content.config, ...change } }).success;
      deepEqual(
        [
          {},
          { "aws:region": "eu" },
          { "platform:sops": { ageKey: { secure: "v1:abc" } } },
          { "platform:domian": "example.com" },
          { "platform:domain": undefined },
          { "platform:release": { timeoutSeconds: 5 } },
          { "platform:cluster": { ...content.config["platform:cluster"], kubeconfgFile: "x" } },
          { "platform:registry": { kind: "cloud" } },
        ].map(takes),
        [true, true, true, false, false, false, false, false],
        stack,
      );
    }
  });
});
