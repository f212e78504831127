import { deepEqual, equal, match } from "node:assert/strict";
import { textOf } from "../../core/findings/finding";
import * as checks from "../../core/tree/check";
import { inOrder } from "../../core/tree/check";
import type { Manifest } from "../../clients/kubernetes/client";
import { publicValuesIn } from "../../core/tree/public-values";

const checkFile = (path: string, text: string) => checks.checkFile({ path, text, leaks: [] }).map(textOf);
const checkOrder = (layers: Parameters<typeof checks.checkOrder>[0]) => checks.checkOrder(layers).map(textOf);
const checkSecrets = (...args: Parameters<typeof checks.checkSecrets>) =>
  checks.checkSecrets(...args).map(textOf);
const layer = (name: string, dependsOn: readonly string[] = []) => ({ name, dependsOn });
const object = (kind: string, name: string, fields: object = {}): Manifest => ({
  ...{ apiVersion: "v1", kind, metadata: { name } },
  ...fields,
});

describe("check of the order of layers", () => {
  it("finds nothing wrong with a line, whatever its order in the tree", () => {
    deepEqual(
      checkOrder([layer("apps", ["certs"]), layer("certs", ["controllers"]), layer("controllers")]),
      [],
    );
  });

  it("names the layers of a cycle, and not those before it", () => {
    deepEqual(
      checkOrder([layer("controllers"), layer("certs", ["apps", "controllers"]), layer("apps", ["certs"])]),
      [
        'Layers "certs", "apps" wait for each other: "dependsOn" has a cycle. Remove one dependency of the cycle.',
      ],
    );
  });

  it("finds a layer that waits for itself", () => {
    match(checkOrder([layer("apps", ["apps"])]).join(), /^Layers "apps" wait for each other/);
  });

  it("names a dependency that is no layer, and the layers there are", () => {
    deepEqual(checkOrder([layer("controllers"), layer("apps", ["cert"])]), [
      'Layer "apps" depends on "cert", which is no layer of this cluster. Name one of controllers, apps.',
    ]);
  });

  it("puts dependencies before dependents", () => {
    const layers = [
      layer("apps", ["certs", "controllers"]),
      layer("certs", ["controllers"]),
      layer("controllers"),
    ];
    deepEqual(
      inOrder(layers).map(({ name }) => name),
      ["controllers", "certs", "apps"],
    );
  });
});

describe("check of Secrets", () => {
  const secret = (fields: object) => checkSecrets([object("Secret", "s", fields)]);

  it("accepts what SOPS encrypted and what is empty", () => {
    const encrypted = { data: { a: "ENC[AES256_GCM,data:x]" }, stringData: { b: "" } };
    deepEqual(secret({ ...encrypted, sops: { mac: "x" } }), []);
    deepEqual(secret({}), []);
  });

  it("does not take a value for encrypted that only looks so", () => {
    match(secret({ data: { a: "ENC[plain" } }).join(), /holds "a" in plain text/);
    match(secret({ data: { a: "plain" }, sops: { mac: "x" } }).join(), /holds "a" in plain text/);
  });

  it("names the keys that hold plain text, never the text", () => {
    deepEqual(secret({ data: { a: "cGFzcw==" }, stringData: { b: "hunter2", c: "" } }), [
      'Secret default/s holds "a", "b" in plain text. Encrypt its file with "sops encrypt --in-place", name it *.enc.yaml, and replace the value: it is known from now on. Or, where it is public, mark its line with the comment "platform:not-a-secret <reason>".',
    ]);
  });

  it("accepts what kustomize generates of a file that SOPS encrypted", () => {
    const cipher = "ENC[AES256_GCM,data:Zm9v,iv:YmFy+/==,tag:YmF6,type:str]";
    const encoded = (text: string) => ({ data: { a: Buffer.from(text).toString("base64") } });
    deepEqual(secret(encoded(cipher)), []);
    match(secret(encoded(`${cipher}hunter2`)).join(), /holds "a" in plain text/);
    match(secret(encoded("ENC[plain]")).join(), /holds "a" in plain text/);
  });

  it("names a key whose value is no text", () => {
    match(secret({ stringData: { pin: 1234 } }).join(), /^Secret default\/s holds "pin" in plain text/);
  });
});

describe("a plain value of a Secret that is public", () => {
  const mark = "# platform:not-a-secret only a reference";
  const base64 = (text: string) => Buffer.from(text).toString("base64");
  for (const [what, text, data] of [
    ["a variable", `stringData:\n  host: \${domain} ${mark}\n`, { stringData: { host: "${domain}" } }],
    ["quoted", `stringData:\n  host: 'a b' ${mark}\n`, { stringData: { host: "a b" } }],
    ["base64", `data:\n  host: ${base64("public")} ${mark}\n`, { data: { host: base64("public") } }],
    [
      "of several lines",
      `stringData:\n  host: | ${mark}\n    a\n    b\n`,
      { stringData: { host: "a\nb\n" } },
    ],
    ["in a flow map", `stringData: {host: x} ${mark}\n`, { stringData: { host: "x" } }],
    ["no text", `stringData:\n  host: 1 ${mark}\n`, { stringData: { host: 1 } }],
  ] as const) {
    it(`is excused where its line says so, in the file and in what is built of it: ${what}`, () => {
      const secret = `apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n${text}`;
      deepEqual(checkFile("a.yaml", secret), []);
      equal(checkFile("a.yaml", secret.replace(mark, "# public")).length, 1);
      const built = [object("Secret", "s", data)];
      deepEqual(checkSecrets(built, publicValuesIn(secret)), []);
      equal(checkSecrets(built, []).length, 1);
    });
  }

  it("is excused where a secretGenerator or a patch of a kustomization makes it", () => {
    const kustomization = [
      "secretGenerator:",
      "  - name: s",
      `    literals: ["a=x"]`,
      "  - name: t",
      "    literals:",
      `      - host=https://\${domain}/?a=b ${mark}`,
      "      - other=x",
      "patches:",
      "  - patch: |",
      "      kind: Secret",
      "      metadata: {name: u}",
      `      stringData:`,
      `        user: admin ${mark}`,
      "",
    ].join("\n");
    const check = (data: object) =>
      checkSecrets([object("Secret", "s", data)], publicValuesIn(kustomization)).length;
    equal(check({ data: { host: base64("https://${domain}/?a=b") } }), 0);
    equal(check({ stringData: { user: "admin" } }), 0);
    equal(check({ stringData: { user: "root" } }), 1);
    equal(check({ stringData: { password: "admin" } }), 1);
    equal(check({ data: { a: base64("x") } }), 1);
    equal(check({ data: { other: base64("x") } }), 1);
  });
});

describe("check of a file", () => {
  it("finds a plain Secret that no layer builds", () => {
    const text =
      "kind: ConfigMap\n---\nkind: Secret\nmetadata: {name: s, namespace: n}\nstringData: {a: x}\n";
    match(
      checkFile("bases/unused.yaml", text).join(),
      /^File bases\/unused\.yaml: Secret n\/s holds "a" in plain text/,
    );
    deepEqual(checkFile("README.md", text), []);
  });

  it("finds a plain Secret in a List, and one that is JSON", () => {
    const secret = { kind: "Secret", metadata: { name: "s", namespace: "n" }, stringData: { a: "x" } };
    const list = { apiVersion: "v1", kind: "List", items: [{ kind: "ConfigMap" }, null, secret] };
    for (const [path, content] of [
      ["a.json", JSON.stringify(secret)],
      ["a.json", JSON.stringify(list, undefined, 2)],
      ["a.yaml", JSON.stringify(list)],
      [
        "a.yaml",
        "kind: List\nitems:\n  - kind: Secret\n    metadata: {name: s, namespace: n}\n    data: {a: eA==}\n",
      ],
      ["a.yaml", JSON.stringify({ ...secret, items: [] })],
      ["a.yaml", JSON.stringify({ kind: "List", items: [list] })],
    ] as const) {
      const findings = checkFile(path, content);
      equal(findings.length, 1, content);
      match(findings[0] ?? "", new RegExp(`^File ${path}: Secret n/s holds "a" in plain text`));
    }
    deepEqual(
      checkFile("a.json", JSON.stringify({ ...list, items: [{ ...secret, stringData: { a: "" } }] })),
      [],
    );
  });

  it("names the line of a leak, and says how to mark what is no secret, unless it is a private key", () => {
    const leaks = [
      { kind: "github-pat", line: 3, key: false },
      { kind: "age-secret-key", line: 5, key: true },
    ];
    const found = checks.checkFile({ path: "a.txt", text: "", leaks });
    deepEqual(found.map(textOf), [
      'File a.txt holds a secret of kind github-pat in line 3. Remove it from the tree and its history, and replace it, or, where it is none, mark its line with the comment "platform:not-a-secret <reason>".',
      "File a.txt holds a private key in line 5. Remove it from the tree and its history, and replace the key.",
    ]);
    deepEqual(
      found.map(({ check, file, line }) => [check, file, line]),
      [
        ["leak/github-pat", "a.txt", 3],
        ["leak/age-secret-key", "a.txt", 5],
      ],
    );
  });
});
