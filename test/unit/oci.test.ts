import { rejects } from "node:assert/strict";
import { Crane } from "../../clients/registry/oci";
import { fakeTools, withEnvironment } from "./temporary";

describe("an OCI registry", () => {
  const operation = "Pushing sha256:1 to localhost/x failed:";
  const remedy =
    'Free space on the disk that holds its volume, such as with "docker system prune", and run again.';
  for (const [said, message] of [
    ["write /var/lib/registry/x: no space left on device", `the registry has no space left. ${remedy}`],
    [
      "PUT http://localhost/v2/x: RANGE_INVALID: invalid content range",
      `the registry kept only a part of a blob, as a registry without space does. ${remedy}`,
    ],
    ["UNAUTHORIZED: no", '"crane push /layout" failed: UNAUTHORIZED: no'],
  ] as const) {
    it(`that says "${said}" is told of with its remedy`, async () => {
      const tools = fakeTools({ crane: `echo "${said}" >&2; exit 1` });
      await withEnvironment(tools, () =>
        rejects(new Crane(false).push("/layout", "localhost/x", "sha256:1"), {
          message: `${operation} ${message}`,
        }),
      );
    });
  }
});
