import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Sops } from "../../clients/sops/client";
import { textOf } from "../../core/findings/finding";
import { identityIn, IdentityLifecycle, type IdentityInputs } from "../../core/secrets/identity";
import { temporaryDirectory, writeFiles } from "./temporary";

/** Encryption whose identity "of X" opens what names the recipient "age1X", unless it was tampered with. */
class FakeSops implements Sops {
  readonly opened: string[] = [];

  encrypt(): Promise<string> {
    throw new Error("the identity encrypts nothing");
  }

  decrypt(content: string, path: string, identity: string): Promise<string> {
    this.opened.push(path);
    if (content.includes("tampered"))
      throw new Error('"sops decrypt" failed: MAC mismatch. File has 1, computed 2');
    const own = this.recipient(identity);
    if (!content.includes(`recipient: ${own}`))
      throw new Error('"sops decrypt" failed: no key could decrypt the data');
    return Promise.resolve(content);
  }

  recipients(identity: string): Promise<string[]> {
    return Promise.resolve([this.recipient(identity)]);
  }

  generate(file: string): Promise<string> {
    writeFileSync(file, "of generated");
    return Promise.resolve("of generated");
  }

  keygen(): Promise<string> {
    throw new Error("the identity is a file's");
  }

  private recipient(identity: string): string {
    return `age1${/of (\w+)/.exec(identity)?.[1] ?? "nobody"}`;
  }
}

const sealed = (recipient: string, more = "") =>
  `kind: Secret\nmetadata: {name: s}\nstringData: {A: "ENC[x]${more}"}\nsops:\n  age:\n    - recipient: ${recipient}\n`;
const empty = 'kind: Secret\nmetadata: {name: s}\nstringData: {A: ""}\n';
const path = "clusters/dev/apps/a.enc.yaml";

/** A lifecycle over a tree of its own; `identity` is what the identity file holds. */
function stack(options: {
  readonly files?: Readonly<Record<string, string>>;
  readonly identity?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly generate?: IdentityInputs["generate"];
  readonly key?: string;
  readonly command?: readonly string[];
}) {
  const directory = temporaryDirectory();
  writeFiles(directory, {
    "tree/clusters/dev/kustomization.yaml": "",
    ...Object.fromEntries(
      Object.entries(options.files ?? {}).map(([name, content]) => [`tree/${name}`, content]),
    ),
  });
  const file = join(directory, "dev.agekey");
  if (options.identity !== undefined) writeFileSync(file, options.identity);
  const inputs: IdentityInputs = {
    ...{
      stack: "dev",
      file,
      generate: options.generate ?? "none",
      tree: join(directory, "tree"),
      cluster: "dev",
    },
    ...(options.key === undefined ? {} : { key: options.key }),
    ...(options.command === undefined ? {} : { command: options.command }),
  };
  const sops = new FakeSops();
  return { directory, file, inputs, sops, lifecycle: new IdentityLifecycle(sops, options.env ?? {}) };
}

describe("age identity", () => {
  it("opens every encrypted file of the cluster, and gives out both halves", async () => {
    const { inputs, lifecycle, sops } = stack({
      files: {
        [path]: sealed("age1me"),
        "clusters/dev/b.enc.yaml": sealed("age1me"),
        "clusters/prod/c.enc.yaml": "",
      },
      identity: "of me",
    });
    deepEqual((await lifecycle.check(inputs)).map(textOf), []);
    deepEqual(sops.opened.sort(), [path, "clusters/dev/b.enc.yaml"]);
    deepEqual(await lifecycle.create(inputs), { ...inputs, identity: "of me", recipients: ["age1me"] });
  });

  it("comes from SOPS_AGE_KEY, SOPS_AGE_KEY_FILE and the file of the stack, in this order", async () => {
    const named = join(temporaryDirectory(), "named.agekey");
    writeFileSync(named, "of named");
    for (const [env, expected] of [
      [{ SOPS_AGE_KEY: "of env", SOPS_AGE_KEY_FILE: named }, "of env"],
      [{ SOPS_AGE_KEY: "", SOPS_AGE_KEY_FILE: named }, "of named"],
      [{ SOPS_AGE_KEY_FILE: "" }, "of file"],
      [{}, "of file"],
    ] as const) {
      const { inputs, lifecycle } = stack({ identity: "of file", env });
      equal((await lifecycle.create(inputs)).identity, expected);
    }
  });

  it("comes from the config's secret or command before the file of the stack, and after the user's variables", async () => {
    const command = ["printf", "%s\\n", "# from the manager", "of manager"];
    for (const [options, expected] of [
      [{ key: "of config", command, env: { SOPS_AGE_KEY: "of env" } }, "of env"],
      [{ key: "of config", command }, "of config"],
      [{ command }, "of manager\n"],
      [{ generate: "empty", key: "of config", command }, "of file"],
    ] as const) {
      const { inputs, lifecycle } = stack({ identity: "of file", ...options });
      equal((await lifecycle.create(inputs)).identity, expected);
    }
  });

  it("names a command that fails, and nothing of what it said", async () => {
    const { inputs, lifecycle } = stack({ command: ["sh", "-c", "echo half a key; echo half >&2; exit 3"] });
    await rejects(lifecycle.check(inputs), {
      message:
        'Reading the age identity of stack "dev" failed: "sh" of platform:sops.ageKeyCommand ended with an error. Run it by hand, or correct the setting.',
    });
    const missing = stack({ command: ["no-such-manager"] });
    await rejects(missing.lifecycle.check(missing.inputs), /"no-such-manager" of .* is not on PATH\./);
  });

  it("is what its file holds, without the comments", async () => {
    const { inputs, lifecycle } = stack({ identity: "# created: 2026\n# public key: x\nof me\n" });
    equal((await lifecycle.create(inputs)).identity, "of me\n");
  });

  for (const generate of ["empty", "all"] as const) {
    it(`never takes the user's own keys where the stack makes its own (${generate})`, async () => {
      const { inputs, lifecycle, file } = stack({
        generate,
        env: { SOPS_AGE_KEY: "of env", SOPS_AGE_KEY_FILE: "/x" },
      });
      deepEqual((await lifecycle.check(inputs)).map(textOf), []);
      const outputs = await lifecycle.create(inputs);
      equal(outputs.identity, "of generated");
      deepEqual(outputs.recipients, ["age1generated"]);
      equal(readFileSync(file, "utf8"), "of generated");
    });
  }

  it("is found among what stands around it: comments, spaces, ends of lines, what npm prints before a command", () => {
    const [one, two] = ["AGE-SECRET-KEY-1ONE", "AGE-PLUGIN-YUBIKEY-1TWO"];
    equal(
      identityIn(
        `\n> platform@0.1.0 secrets\n> node commands/secrets.ts\n\n# public key: age1one\r\n  ${one} \r\n${two}`,
      ),
      `${one}\n${two}\n`,
    );
    equal(identityIn("# nothing\nof a key\n"), "of a key\n");
  });

  it("is made once: an identity that is there stays", async () => {
    const { inputs, lifecycle, file } = stack({ generate: "empty", identity: "of earlier" });
    equal((await lifecycle.create(inputs)).identity, "of earlier");
    equal(readFileSync(file, "utf8"), "of earlier");
  });

  it("need not open what the stack makes up", async () => {
    const files = { [path]: empty, "clusters/dev/b.enc.yaml": sealed("age1other") };
    const all = stack({ generate: "all", identity: "of me", files });
    deepEqual(await all.lifecycle.check(all.inputs), []);
    deepEqual(all.sops.opened, []);
    const onlyEmpty = stack({ generate: "empty", identity: "of me", files });
    equal((await onlyEmpty.lifecycle.check(onlyEmpty.inputs)).length, 1);
    deepEqual(onlyEmpty.sops.opened, ["clusters/dev/b.enc.yaml"]);
  });

  it("is refused when it is missing, naming where it was looked for", async () => {
    const { inputs, lifecycle, file } = stack({});
    const sentence = `Reading the age identity of stack "dev" failed: SOPS_AGE_KEY is not set, and ${file} does not exist. Put the identity there, or set SOPS_AGE_KEY or SOPS_AGE_KEY_FILE to it.`;
    deepEqual((await lifecycle.check(inputs)).map(textOf), [sentence]);
    await rejects(lifecycle.create(inputs), { message: sentence });
  });

  it("is refused when it does not open a file, naming file and recipients", async () => {
    const { inputs, lifecycle } = stack({ files: { [path]: sealed("age1other") }, identity: "of me" });
    const sentence = `Decrypting ${path} with the identity of stack "dev" failed: it is encrypted for age1other, the identity is age1me. Set SOPS_AGE_KEY_FILE to the right identity, ask a person whose identity opens it to run "npx platform secrets init dev --recipient age1me", or replace the file with a Secret of your own.`;
    deepEqual((await lifecycle.check(inputs)).map(textOf), [sentence]);
    await rejects(lifecycle.create(inputs), { message: sentence });
  });

  it("names every file that it does not open, and never itself", async () => {
    const { inputs, lifecycle } = stack({
      files: { [path]: sealed("age1other"), "clusters/dev/b.enc.yaml": sealed("age1me", "tampered") },
      identity: "secret half of me",
    });
    const findings = await lifecycle.check(inputs);
    equal(findings.length, 2);
    equal(
      findings.some((finding) => textOf(finding).includes("secret half")),
      false,
    );
  });

  it("tells a file that was changed by hand from one for somebody else", async () => {
    const { inputs, lifecycle } = stack({
      files: { [path]: sealed("age1me", "tampered") },
      identity: "of me",
    });
    deepEqual((await lifecycle.check(inputs)).map(textOf), [
      `Decrypting ${path} with the identity of stack "dev" failed: its MAC does not hold: another program than SOPS changed the file. Restore it from Git.`,
    ]);
  });

  it("refuses a file that nobody encrypted and nobody makes up", async () => {
    const { inputs, lifecycle, sops } = stack({ files: { [path]: empty }, identity: "of me" });
    sops.decrypt = () => Promise.reject(new Error('"sops decrypt" failed: sops metadata not found'));
    deepEqual((await lifecycle.check(inputs)).map(textOf), [
      `Decrypting ${path} with the identity of stack "dev" failed: it is not encrypted. Run "npx platform secrets init dev".`,
    ]);
  });

  it("says why its file cannot be read", async () => {
    const { inputs, lifecycle, file } = stack({});
    mkdirSync(file); // a directory: not even root can read it as a file
    await rejects(lifecycle.check(inputs), (error: Error) => {
      match(
        error.message,
        /^Reading the age identity of stack "dev" failed: \S+dev\.agekey is a directory\. Make .*dev\.agekey readable for this user\.$/,
      );
      return true;
    });
  });

  it("says where a cluster's directory is missing", async () => {
    const { inputs, lifecycle, directory } = stack({ identity: "of me" });
    await rejects(lifecycle.check({ ...inputs, cluster: "staging" }), {
      message: `Reading cluster "staging" of the tree failed: there is no directory clusters/staging in ${directory}/tree. Add it, or correct the stack's name.`,
    });
  });

  it("is gone when its file is gone, and what the file holds otherwise", async () => {
    const { inputs, lifecycle, file } = stack({ identity: "of me" });
    const outputs = await lifecycle.create(inputs);
    writeFileSync(file, "of somebody");
    deepEqual(await lifecycle.read(outputs), {
      ...outputs,
      identity: "of somebody",
      recipients: ["age1somebody"],
    });

    rmSync(file);
    equal(await lifecycle.read(outputs), undefined);
  });

  it("is due again when stack, file or mode changed, not when the tree moved", async () => {
    const { inputs, lifecycle } = stack({ identity: "of me" });
    const outputs = await lifecycle.create(inputs);
    equal(lifecycle.diff(outputs, { ...inputs, tree: "/elsewhere" }), false);
    equal(lifecycle.diff(outputs, { ...inputs, stack: "prod" }), true);
    equal(lifecycle.diff(outputs, { ...inputs, file: "/x" }), true);
    equal(lifecycle.diff(outputs, { ...inputs, generate: "all" }), true);
    equal(lifecycle.diff(outputs, { ...inputs, key: "of config" }), true);
    equal(lifecycle.diff(outputs, { ...inputs, command: ["pass"] }), true);
  });

  it("names the file of SOPS_AGE_KEY_FILE when that one is missing", async () => {
    const { inputs, lifecycle } = stack({ identity: "of me", env: { SOPS_AGE_KEY_FILE: "/no/such.agekey" } });
    match((await lifecycle.check(inputs)).map(textOf).join("\n"), /\/no\/such\.agekey/);
  });

  it("is refused before one is made that could not open a file anyway", async () => {
    const { inputs, lifecycle } = stack({ generate: "empty", files: { [path]: sealed("age1other") } });
    match((await lifecycle.check(inputs)).map(textOf).join("\n"), /encrypted for age1other/);
  });

  it("points to the identity's own file where the user's keys are not looked at", async () => {
    const { inputs, lifecycle, file } = stack({
      ...{ generate: "empty", identity: "of me", files: { [path]: sealed("age1other") } },
    });
    const finding = (await lifecycle.check(inputs)).map(textOf).join("\n");
    equal(finding.includes("SOPS_AGE_KEY_FILE"), false, finding);
    equal(finding.includes(file), true, finding);
  });
});
