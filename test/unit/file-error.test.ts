import { equal, match, rejects } from "node:assert/strict";
import { mkdirSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { readProjectFile, readStackFile } from "../../core/settings/config";
import { existingCluster } from "../../core/cluster/existing/existing";
import { causeOf, messageOf } from "../../system/file-error";
import { temporaryDirectory, writeFiles } from "./temporary";

/** The error of an action. */
function errorOf(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  throw new Error("the action did not fail");
}

describe("errors of the file system", () => {
  const directory = temporaryDirectory();
  writeFiles(directory, { file: "" });
  const missing = join(directory, "missing");
  const below = join(directory, "file", "x");

  for (const [what, action, cause] of [
    ["a missing file", () => readFileSync(missing), `${missing} does not exist`],
    ["a path through a file", () => readFileSync(below), `${below} leads through a file, or is one itself`],
    ["a directory that is written", () => openSync(directory, "w"), `${directory} is a directory`],
    [
      "a directory that exists",
      () => {
        mkdirSync(directory);
      },
      `${directory} exists already`,
    ],
  ] as const) {
    it(`say what is wrong with ${what}`, () => {
      const error = errorOf(action);
      equal(causeOf(error), cause);
      match(messageOf(error), /^Using a file failed: [^\n]*\. (Make|Name|Move) [^\n]*\.$/);
      equal(messageOf(error).includes(cause), true);
    });
  }

  it("say it of the path that the user named, also if Node names none", () => {
    equal(
      causeOf(
        errorOf(() => readFileSync(directory)),
        "~/x",
      ),
      "~/x is a directory",
    );
    equal(
      causeOf(
        errorOf(() => readFileSync(missing)),
        "~/x",
      ),
      "~/x does not exist",
    );
  });

  it("name the directory that cannot be written, and the variables that choose another one", () => {
    for (const code of ["ENOENT", "EACCES", "EROFS"]) {
      const error = Object.assign(new Error(code), { code, syscall: "mkdir", path: join(missing, "a", "b") });
      equal(
        messageOf(error),
        `Making directory ${missing}/a/b failed: this user cannot write to ${directory}. Give this user access to it, or choose other directories with XDG_STATE_HOME and XDG_CACHE_HOME.`,
      );
    }
  });

  it("leave every other error as it is", () => {
    const refused = Object.assign(new Error("connect ECONNREFUSED"), {
      code: "ECONNREFUSED",
      syscall: "connect",
    });
    equal(messageOf(refused), "connect ECONNREFUSED");
    equal(causeOf(refused), "connect ECONNREFUSED");
    // An error of this project may carry a code, too.
    const own = Object.assign(new Error("Unable to execute it."), { code: "ENOENT" });
    equal(messageOf(own), "Unable to execute it.");
  });
});

describe("files that the user names", () => {
  for (const [what, content, message] of [
    ["is missing", undefined, "Reading Pulumi.yaml failed: Pulumi.yaml does not exist. Restore it from Git."],
    ["is empty", "", 'Reading Pulumi.yaml failed: it has no "name". Restore it from Git.'],
    ["is no YAML", "name: [", /^Reading Pulumi\.yaml failed: [^\n]+\. Restore it from Git\.$/],
  ] as const) {
    it(`Pulumi.yaml that ${what}`, async () => {
      const project = temporaryDirectory();
      if (content !== undefined) writeFiles(project, { "Pulumi.yaml": content });
      await rejects(readProjectFile(project), { message });
    });
  }

  it("settings that are a directory", async () => {
    const project = temporaryDirectory();
    mkdirSync(join(project, "Pulumi.dev.yaml"));
    await rejects(readStackFile("dev", project), {
      message: "Reading Pulumi.dev.yaml failed: Pulumi.dev.yaml is a directory. Correct the file.",
    });
  });

  for (const [what, kubeconfigFile, cause] of [
    ["is missing", "/no/such/file", "/no/such/file does not exist"],
    ["is a directory", "/", "/ is a directory"],
  ] as const) {
    it(`a kubeconfig that ${what}`, async () => {
      const settings = {
        kind: "existing",
        kubeconfigFile,
        loadBalancerCidr: "10.0.0.0/24",
        cni: "auto",
      } as const;
      await rejects(existingCluster.kubeconfig(settings), {
        message: `Reading the kubeconfig of the cluster failed: ${cause}. Set platform:cluster.kubeconfigFile to the path of the kubeconfig.`,
      });
    });
  }
});
