import { deepEqual, equal, throws } from "node:assert/strict";
import { asPulumiConfig, parseConfig, readStackConfig, readStackFile } from "../../config";
import { join } from "node:path";
import { rejects } from "node:assert";

const context = { project: "/project", env: { XDG_CONFIG_HOME: "/home/me/.config" } };
const local = {
  "platform:cluster": { kind: "kind" },
  "platform:registry": { kind: "local" },
  "platform:domain": "platform.localhost",
};
const parse = (settings: Record<string, unknown>) =>
  parseConfig("local", asPulumiConfig({ ...local, ...settings }), context);

describe("config", () => {
  it("fills in what a stack does not say", () => {
    deepEqual(parse({}), {
      stack: "local",
      cluster: { kind: "kind", name: "local", workers: 0 },
      registry: { kind: "local", port: 5050 },
      domain: "platform.localhost",
      gitops: { tree: "/project/gitops", cluster: "local", requireClean: false },
      sops: { generate: "none", identityFile: "/home/me/.config/platform/age/local.agekey" },
      release: { timeoutSeconds: 900 },
    });
  });

  it("reads every stack of the project", async () => {
    const project = join(__dirname, "..", "..");
    for (const [stack, kind] of [
      ["local", "kind"],
      ["dev", "existing"],
      ["prod", "existing"],
    ] as const) {
      equal((await readStackConfig(stack, project, {})).cluster.kind, kind);
    }
  });

  it("leaves the settings of other packages alone", () => {
    equal(parse({ "aws:region": "eu" }).stack, "local");
  });

  for (const [name, settings, message] of [
    [
      "an unknown key",
      { "platform:domian": "x" },
      /there is no setting "platform:domian"\. Here are .*"platform:domain"/,
    ],
    [
      "an unknown nested key",
      { "platform:registry": { kind: "local", prot: 1 } },
      /no setting "platform:registry\.prot"/,
    ],
    [
      "a text for a number",
      { "platform:registry": { kind: "local", port: "high" } },
      /"platform:registry\.port" is "high"\. Set it to a whole number from 1 to 65535/,
    ],
    ["a number out of range", { "platform:registry": { kind: "local", port: 70000 } }, /is 70000/],
    [
      "an unknown kind of cluster",
      { "platform:cluster": { kind: "cloud" } },
      /"platform:cluster\.kind" is "cloud"\. Set it to "kind" or "existing"/,
    ],
    [
      "a list for a map",
      { "platform:cluster": ["kind"] },
      /"platform:cluster" is \["kind"\]\. Set it to a map/,
    ],
    [
      "a missing key",
      { "platform:cluster": { kind: "existing" } },
      /"platform:cluster\.kubeconfigFile" is not set/,
    ],
    [
      "a setting of another kind of cluster",
      { "platform:cluster": { kind: "kind", kubeconfigFile: "x" } },
      /no setting "platform:cluster\.kubeconfigFile"/,
    ],
  ] as const) {
    it(`refuses ${name}, naming it`, () => {
      throws(() => parse(settings), message);
    });
  }

  it("refuses an unknown stack, naming those there are", async () => {
    await rejects(
      readStackFile("staging", join(__dirname, "..", "..")),
      /no Pulumi\.staging\.yaml\. Stacks here are .*local/,
    );
  });
});
