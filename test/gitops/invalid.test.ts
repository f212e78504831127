import { equal, match } from "node:assert/strict";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { inspectTree } from "../../components/artifact/tree";
import { ensureTools } from "../../tools/tools";
import { temporaryDirectory } from "../unit/temporary";

const tree = join(__dirname, "..", "..", "gitops");
const invalid = join(__dirname, "invalid");

before("platform-tree", async function () {
  this.timeout(600_000);
  await ensureTools(["platform-tree"], { report: console.error });
});

/**
 * Each directory of `invalid/` is laid over a copy of the real tree and must be refused with the sentence of its
 * `expected.txt`, a regular expression, and with no other. `cluster.txt` names a cluster other than "local".
 */
describe("a tree is refused for", () => {
  for (const name of readdirSync(invalid)) {
    it(name.replaceAll("-", " "), async () => {
      const copy = join(temporaryDirectory(), "gitops");
      cpSync(tree, copy, { recursive: true });
      cpSync(join(invalid, name), copy, { recursive: true });
      const expected = readFileSync(join(copy, "expected.txt"), "utf8").trim();
      const clusterFile = join(copy, "cluster.txt");
      const cluster = existsSync(clusterFile) ? readFileSync(clusterFile, "utf8").trim() : "local";
      for (const file of ["expected.txt", "cluster.txt"]) rmSync(join(copy, file), { force: true });

      const { findings } = await inspectTree(copy, cluster);
      equal(findings.length, 1, findings.join("\n"));
      match(findings[0] ?? "", new RegExp(expected));
      equal(findings[0]?.includes(copy), false, `it names a temporary path: ${findings[0] ?? ""}`);
    });
  }
});
