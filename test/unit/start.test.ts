import { deepEqual, match } from "node:assert/strict";
import { pulumiDefaults } from "../../commands/start";

describe("pulumiDefaults", () => {
  it("keeps state in files of the user, with an empty passphrase", () => {
    deepEqual(pulumiDefaults({ XDG_STATE_HOME: "/state" }, false), {
      PULUMI_BACKEND_URL: "file:///state/platform",
      PULUMI_CONFIG_PASSPHRASE: "",
    });
    match(pulumiDefaults({}, false).PULUMI_BACKEND_URL ?? "", /^file:\/\/\/.*\/\.local\/state\/platform$/);
  });

  it("leaves the backend that the user logged in to, or named", () => {
    deepEqual(pulumiDefaults({}, true), { PULUMI_CONFIG_PASSPHRASE: "" });
    deepEqual(pulumiDefaults({ PULUMI_BACKEND_URL: "s3://bucket" }, false), { PULUMI_CONFIG_PASSPHRASE: "" });
  });

  it("leaves the passphrase that the user set, even an empty one", () => {
    for (const env of [
      { PULUMI_CONFIG_PASSPHRASE: "secret" },
      { PULUMI_CONFIG_PASSPHRASE: "" },
      { PULUMI_CONFIG_PASSPHRASE_FILE: "/passphrase" },
    ]) {
      deepEqual(pulumiDefaults(env, true), {});
    }
  });

  it("leaves the backend of a user who has an access token", () => {
    deepEqual(pulumiDefaults({ PULUMI_ACCESS_TOKEN: "pul-1" }, false), { PULUMI_CONFIG_PASSPHRASE: "" });
  });
});
