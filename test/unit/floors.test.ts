import { deepEqual, equal } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { temporaryDirectory, writeFiles } from "./temporary";

const project = join(__dirname, "..", "..");
const floors = ["index.ts", "commands", "rehearsal", "components", "core", "clients", "tools", "system"];

/**
 * What `npm run floors` refuses in a copy of the product with more files.
 *
 * @param rules how the names of the rules begin
 * @returns lines of the form "<rule>: <file or folder> → <import>"
 */
function refused(rules: string, files: Readonly<Record<string, string>>): string[] {
  const copy = temporaryDirectory();
  for (const name of [...floors, ".dependency-cruiser.cjs", "package.json", "tsconfig.json"])
    cpSync(join(project, name), join(copy, name), { recursive: true });
  symlinkSync(join(project, "node_modules"), join(copy, "node_modules"));
  writeFiles(copy, files);
  const { stdout, stderr } = spawnSync("npm", ["run", "-s", "floors", "--", "--output-type", "json"], {
    cwd: copy,
    encoding: "utf8",
    maxBuffer: 64 * 1024 * 1024,
  });
  equal(stderr, "");
  const { summary } = JSON.parse(stdout) as {
    summary: { violations: readonly { rule: { name: string }; from: string; to: string }[] };
  };
  return summary.violations
    .filter(({ rule }) => rule.name.startsWith(rules))
    .map(({ rule, from, to }) => `${rule.name}: ${from} → ${to.replace(/^.*node_modules/, "node_modules")}`)
    .sort();
}

describe("floors", function () {
  this.timeout(60_000);

  it("refuse an import of a floor above, of types too", () => {
    deepEqual(
      refused("nothing above", {
        "system/planted.ts": 'export { run } from "../tools/command";\n',
        "tools/planted.ts":
          'import type { Docker } from "../clients/docker/client";\nexport type A = Docker;\n',
        "clients/git/planted.ts": 'export const a = () => import("../../core/tree/render");\n',
        "core/tree/planted.ts": 'export { Platform } from "../../components/platform";\n',
        "components/planted.ts": 'export { newApp } from "../commands/new";\n',
        "rehearsal/planted.ts": 'export const { up } = require("../commands/up");\n',
      }),
      [
        "nothing above clients: clients/git/planted.ts → core/tree/render.ts",
        "nothing above components: components/planted.ts → commands/new.ts",
        "nothing above core: core/tree/planted.ts → components/platform.ts",
        "nothing above rehearsal: rehearsal/planted.ts → commands/up.ts",
        "nothing above system: system/planted.ts → tools/command.ts",
        "nothing above tools: tools/planted.ts → clients/docker/client.ts",
      ],
    );
  });

  it("refuse Pulumi below the components, and circles of folders on one floor", () => {
    deepEqual(
      refused("no ", {
        "core/tree/planted.ts":
          'import type { Output } from "@pulumi/pulumi";\nexport type A = Output<string>;\n',
        "core/findings/planted.ts": 'export { render } from "../tree/planted";\n',
      }),
      [
        "no Pulumi below components: core/tree/planted.ts → node_modules/@pulumi/pulumi/index.js",
        "no circle of folders: core/findings → core/tree",
        "no circle of folders: core/tree → core/findings",
      ],
    );
  });
});
