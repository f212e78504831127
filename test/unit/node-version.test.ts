import { deepEqual, doesNotThrow, equal, throws } from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { leastNode, refuseOldNode } from "../../system/node-version";

const project = join(__dirname, "..", "..");

interface Lock {
  readonly packages: Readonly<Record<string, { readonly engines?: { readonly node?: string } }>>;
}

/** Whether one of the alternatives of a range, such as "^20.19.0 || >=22.12.0", takes a version. */
function takes(range: string, version: string): boolean {
  const [major = 0, minor = 0, patch = 0] = version.split(".").map(Number);
  const value = (text: string) => {
    const [a = 0, b = 0, c = 0] = text.split(".").map((part) => Number(part) || 0);
    return a * 1e6 + b * 1e3 + c;
  };
  const own = major * 1e6 + minor * 1e3 + patch;
  return range.split("||").some((alternative) =>
    alternative
      .trim()
      .replace(/([<>=^~])\s+/g, "$1")
      .split(/\s+/)
      .every((part) => {
        const [, operator = "", bound = ""] = /^([<>=^~]*)v?([\d.x*]*)$/.exec(part) ?? [];
        if (bound === "" || bound === "*") return true;
        const limit = value(bound);
        if (operator === ">=") return own >= limit;
        if (operator === ">") return own > limit;
        if (operator === "<") return own < limit;
        if (operator === "<=") return own <= limit;
        return Math.floor(limit / 1e6) === major && own >= limit;
      }),
  );
}

describe("version of Node", () => {
  it("is one that every dependency takes", () => {
    const { packages } = JSON.parse(readFileSync(join(project, "package-lock.json"), "utf8")) as Lock;
    const refusing = Object.entries(packages).filter(
      ([, { engines }]) => engines?.node !== undefined && !takes(engines.node, leastNode()),
    );
    deepEqual(refusing, []);
  });

  it("is not older than some dependency asks for", () => {
    const { packages } = JSON.parse(readFileSync(join(project, "package-lock.json"), "utf8")) as Lock;
    const [major = 0, minor = 0] = leastNode().split(".").map(Number);
    const older = `${major}.${minor - 1}.0`;
    equal(
      Object.entries(packages).some(
        ([name, { engines }]) => name !== "" && engines?.node !== undefined && !takes(engines.node, older),
      ),
      true,
    );
  });

  it("is refused with one sentence where it is older, as the program's own first step", () => {
    for (const version of ["20.20.2", "22.18.9", "18.0.0"]) {
      throws(
        () => {
          refuseOldNode(version);
        },
        new RegExp(
          `^Error: Running the program failed: Pulumi started it with Node ${version}, and its libraries need Node ${leastNode()} or newer\\. Run "npx platform up"`,
        ),
      );
    }
    for (const version of [leastNode(), "22.23.3", "24.0.0", "23.1.0"]) {
      doesNotThrow(() => {
        refuseOldNode(version);
      }, version);
    }
    const main =
      readFileSync(join(project, "index.ts"), "utf8").split(/async function main\([^)]*\)/)[1] ?? "";
    equal(main.split("\n")[1]?.trim(), "refuseOldNode(process.versions.node);");
  });

  it("of npm scripts is their own, whatever the system's is", () => {
    const script = 'require("./system/node-version.ts").refuseOldNode(process.versions.node)';
    const path = `${join(project, "node_modules", ".bin")}:/usr/local/bin:/usr/bin:/bin`;
    execFileSync("node", ["-r", "ts-node/register/transpile-only", "-e", script], {
      cwd: project,
      env: { ...process.env, PATH: path },
    });
  });
});
