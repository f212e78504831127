import { equal, match } from "node:assert/strict";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { textOf } from "../../core/findings/finding";
import { inspectTree } from "../../core/tree/tree";
import { ensureTools } from "../../tools/tools";
import { temporaryDirectory } from "../unit/temporary";

const tree = join(__dirname, "..", "..", "gitops");
const invalid = join(__dirname, "invalid");

before("platform-tree", async function () {
  this.timeout(600_000);
  await ensureTools(["platform-tree"], { report: console.error });
});

/**
 * Each directory of `invalid/` is laid over a copy of the real tree and must be refused with the sentences of its
 * `expected.txt`, a regular expression in each line, and with no other. `cluster.txt` names a cluster other than "local".
 */
describe("a tree is refused for", () => {
  for (const name of readdirSync(invalid)) {
    it(name.replaceAll("-", " "), async () => {
      const copy = join(temporaryDirectory(), "gitops");
      cpSync(tree, copy, { recursive: true });
      cpSync(join(invalid, name), copy, { recursive: true });
      const expected = readFileSync(join(copy, "expected.txt"), "utf8").trim().split("\n");
      const clusterFile = join(copy, "cluster.txt");
      const cluster = existsSync(clusterFile) ? readFileSync(clusterFile, "utf8").trim() : "local";
      for (const file of ["expected.txt", "cluster.txt"]) rmSync(join(copy, file), { force: true });

      const findings = (await inspectTree(copy, cluster)).findings.map(textOf);
      equal(findings.length, expected.length, findings.join("\n"));
      expected.forEach((pattern, index) => {
        match(findings[index] ?? "", new RegExp(pattern));
      });
      const told = findings.join("\n");
      equal(told.includes(copy), false, `it names a temporary path: ${told}`);
    });
  }
});
