import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { extract } from "tar";
import { parse } from "yaml";

/** What a chart takes, and the charts inside it. */
export interface ChartInterface {
  readonly name: string;
  /** The text of `values.yaml`: some settings are there as comments only. */
  readonly text: string;
  readonly schema: Schema;
  /** By name or alias. */
  readonly parts: ReadonlyMap<string, ChartInterface>;
}

interface Schema {
  readonly properties?: Readonly<Record<string, Schema>>;
}

type Values = Readonly<Record<string, unknown>>;

/** Reads a chart: a directory, or an archive that `helm package` made. */
export async function readChart(path: string): Promise<ChartInterface> {
  if (!path.endsWith(".tgz")) return readDirectory(path);
  const directory = await mkdtemp(join(tmpdir(), "platform-chart-"));
  try {
    await extract({ file: path, cwd: directory });
    const [name = ""] = await readdir(directory);
    return await readDirectory(join(directory, name));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function readDirectory(directory: string): Promise<ChartInterface> {
  const read = (file: string) => readFile(join(directory, file), "utf8").catch(() => "");
  const { name, dependencies = [] } = parse(await read("Chart.yaml")) as {
    name: string;
    dependencies?: { name: string; alias?: string }[];
  };
  const carried = dependencies.filter((part) => existsSync(join(directory, "charts", part.name)));
  const parts = carried.map(
    async (part) =>
      [part.alias ?? part.name, await readDirectory(join(directory, "charts", part.name))] as const,
  );
  return {
    name,
    text: await read("values.yaml"),
    schema: JSON.parse((await read("values.schema.json")) || "{}") as Schema,
    parts: new Map(await Promise.all(parts)),
  };
}

/**
 * Settings that a chart does not know: neither a default value, nor a property of its schema, nor a commented example
 * names them. What stands below an empty default (`{}`, `[]`, null) is the user's own.
 *
 * @returns the path of each, such as `operator.replica`
 */
export function unknownKeys(values: Values, chart: ChartInterface): string[] {
  const commented = new Set([...chart.text.matchAll(/^\s*#+\s*-?\s*([\w.-]+):/gm)].map(([, key]) => key));
  const visit = (given: Values, defaults: unknown, schema: Schema | undefined, path: string): string[] =>
    Object.entries(given).flatMap(([key, value]) => {
      const at = path === "" ? key : `${path}.${key}`;
      const part = path === "" ? chart.parts.get(key) : undefined;
      const known = isMap(defaults) && key in defaults;
      if (part !== undefined) {
        // The parent may say more of a part than the part itself does.
        const own = known ? visit(value as Values, defaults[key], schema?.properties?.[key], at) : undefined;
        return unknownKeys(value as Values, part)
          .map((found) => `${at}.${found}`)
          .filter((found) => own === undefined || own.includes(found));
      }
      const property = schema?.properties?.[key];
      if (!known && property === undefined) return commented.has(key) || path === "global" ? [] : [at];
      const below = isMap(defaults) ? defaults[key] : undefined;
      if (!isMap(value) || !isMap(below) || Object.keys(below).length === 0) return [];
      return visit(value, below, property, at);
    });
  return visit(values, parse(chart.text), chart.schema, "");
}

function isMap(value: unknown): value is Values {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
