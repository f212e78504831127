import { deepEqual, equal, throws } from "node:assert/strict";
import { parse } from "yaml";
import {
  isEncrypted,
  isSecretPath,
  recipientsOf,
  secretKeys,
  withValues,
} from "../../clients/sops/secret-file";

const shape = `
# Empty on purpose
apiVersion: v1
kind: Secret
metadata:
  name: homepage
  namespace: homepage
type: Opaque
data:
  CERTIFICATE: ""
stringData:
  TOKEN: ""
`;
const sealed = `${shape}
sops:
  age:
    - recipient: age1first
    - recipient: age1second
`;

describe("secret file", () => {
  it("is known by its name", () => {
    equal(isSecretPath("apps/homepage.enc.yaml"), true);
    equal(isSecretPath("apps/homepage.yaml"), false);
    equal(isSecretPath("apps/enc.yaml"), false);
  });

  it("is encrypted when SOPS signed it", () => {
    equal(isEncrypted(sealed), true);
    equal(isEncrypted(shape), false);
    equal(isEncrypted(""), false);
  });

  it("names the recipients that it is encrypted for", () => {
    deepEqual(recipientsOf(sealed), ["age1first", "age1second"]);
    deepEqual(recipientsOf(shape), []);
    deepEqual(recipientsOf(""), []);
  });

  it("shows the keys of data and stringData, whether it is encrypted or not", () => {
    deepEqual(secretKeys(shape), ["CERTIFICATE", "TOKEN"]);
    deepEqual(secretKeys(sealed), ["CERTIFICATE", "TOKEN"]);
    deepEqual(secretKeys(""), []);
  });

  it("is filled with values, base64 in data and as they are in stringData", () => {
    deepEqual(parse(withValues(sealed, { CERTIFICATE: "cert", TOKEN: "yes: #1" })), {
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name: "homepage", namespace: "homepage" },
      type: "Opaque",
      data: { CERTIFICATE: "Y2VydA==" },
      stringData: { TOKEN: "yes: #1" },
    });
  });

  it("is not filled when a value is missing, naming the key and no value", () => {
    throws(() => withValues(shape, { CERTIFICATE: "the certificate" }), {
      message: 'Filling Secret homepage failed: there is no value for its key "TOKEN".',
    });
  });
});
