import { deepEqual, equal } from "node:assert/strict";
import { errorOf, findingsOf, mergeFindings, textOf, type Finding } from "../../core/findings/finding";

const fault = (check: string, fields: Partial<Finding> = {}): Finding => ({
  check,
  message: `${check} ${JSON.stringify(fields)}.`,
  ...fields,
});

describe("a finding", () => {
  it("is told with its remedy, if it has one", () => {
    equal(textOf({ check: "a", message: "Checking a failed: b." }), "Checking a failed: b.");
    equal(textOf({ check: "a", message: "B is wrong.", remedy: "Correct it." }), "B is wrong. Correct it.");
  });

  it("comes out of an error as it went in", () => {
    const findings = [fault("a", { file: "x" }), fault("b", { remedy: "Do it." })];
    const error = errorOf(findings);
    equal(error.message, findings.map(textOf).join("\n"));
    deepEqual(findingsOf(error, "c"), findings);
    deepEqual(findingsOf(new Error("It failed."), "c"), [{ check: "c", message: "It failed." }]);
  });
});

describe("findings of several checks", () => {
  it("are each told once, and those of an encrypted file by the first check that names it", () => {
    const file = "clusters/x/a.enc.yaml";
    const form = [fault("form", { file }), fault("form", { file, line: 2 })];
    const other = fault("change", { file: "clusters/y/a.enc.yaml" });
    const beside = [fault("leak", { file: "b.txt" }), fault("rules")];
    deepEqual(
      mergeFindings(
        form,
        [fault("change", { file }), other],
        [fault("identity", { file }), ...beside],
        beside,
      ),
      [...form, other, ...beside],
    );
  });

  it("are told with the commit that has them, if one has", () => {
    const object = { kind: "Secret", name: "s" };
    const kept = [
      fault("leak", { file: "c.txt" }),
      fault("key", { file: "a.txt" }),
      fault("leak", { file: "a.txt", commit: "abc1234" }),
      fault("leak", { file: "a.txt", commit: "def5678" }),
      fault("plain", { file: "s.yaml", object, commit: "abc1234" }),
      fault("leak", { file: "x/c.txt", commit: "abc1234" }),
    ];
    const onDisk = [fault("leak", { file: "a.txt" }), fault("plain", { file: "s.yaml", object })];
    deepEqual(mergeFindings([...onDisk, ...kept.slice(0, 2)], kept.slice(2)), kept);
    const another = fault("plain", { file: "s.yaml", object: { ...object, name: "t" } });
    deepEqual(mergeFindings([another], kept), [another, ...kept]);
  });

  it("name an object that kustomize makes of a file only if the file is not named", () => {
    const object = { kind: "Secret", namespace: undefined, name: "s", fields: ["a"] };
    const inFile = fault("plain", { file: "s.yaml", object });
    const built = (fields: object, check = "plain") =>
      fault(check, { object: { ...object, namespace: "n", ...fields } });
    deepEqual(mergeFindings([inFile], [built({}), built({ namespace: undefined })]), [inFile]);
    const others = [built({ name: "t" }), built({ fields: ["a", "b"] }), built({}, "type"), fault("plain")];
    deepEqual(mergeFindings([inFile], others), [inFile, ...others]);
    const named = fault("plain", { file: "s.yaml", object: { ...object, namespace: "m" } });
    deepEqual(mergeFindings([named], [built({})]), [named, built({})]);
  });
});
