import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { fork } from "node:child_process";
import { readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { KubernetesClient, type ManifestRef } from "../../clients/kubernetes/client";
import { SopsCli } from "../../clients/sops/client";
import { recover } from "../../core/secrets/recovery";
import { recipientsOf, secretKeys } from "../../clients/sops/secret-file";
import type { SecretStore } from "../../core/secrets/store";
import { Rehearsal } from "../../rehearsal/rehearsal";
import { KnownSecrets } from "./known-secrets";
import type { RotateMessage, RotateRequest } from "./rotate";

const repository = join(__dirname, "..", "..");
const stack = "prod";
const sops = new SopsCli();
const secretNamed = (name: string, namespace = name): ManifestRef => ({
  ...{ apiVersion: "v1", kind: "Secret", name, namespace },
});
const sopsAge = secretNamed("sops-age", "flux-system");
/** Made up by the stack; all other files are encrypted in the tree. */
const generated = "clusters/prod/apps/homepage.enc.yaml";

describe("secrets of a rehearsed stack", function () {
  this.timeout(600_000);
  const progress: string[] = [];
  let known: KnownSecrets;
  let project: string;
  let tree: string;
  let identityFile: string;
  let rehearsal: Rehearsal;
  let api: KubernetesClient;
  let store: SecretStore;
  /** The encrypted file that the reader reads, its object, and one of its values. */
  let read: { path: string; ref: ManifestRef; key: string; value: string };

  before(async () => {
    known = await KnownSecrets.make({ stack, generated: [generated] });
    ({ project, tree, identityFile, store } = known);
    const file = known.files.at(-1);
    ok(file !== undefined);
    const [[key, value] = ["", ""]] = Object.entries(file.values);
    read = { path: file.path, ref: file.ref, key, value };
    rehearsal = await Rehearsal.start({
      ...{ stack, project, identity: true },
      report: (line) => progress.push(line),
    });
    api = new KubernetesClient(rehearsal.controlPlane.kubeconfig);
  });

  after(async () => {
    await rehearsal.stop();
    await known.remove();
  });

  /** `pulumi up` with the settings as they are now. */
  async function up(): Promise<void> {
    await rehearsal.up(await known.settings());
  }

  async function valueOf(ref: ManifestRef, key: string): Promise<string | undefined> {
    const data = (await api.get(ref))?.data as Record<string, string> | undefined;
    return data?.[key] === undefined ? undefined : Buffer.from(data[key], "base64").toString();
  }

  const changes = () => progress.filter((line) => /^(create|update|replace|restore) /.test(line));

  describe("are refused before anything is made", () => {
    /** Runs with a file changed, and takes the change back. */
    async function refused(
      file: string,
      change: (text: string) => string | Promise<string>,
      message: RegExp,
    ) {
      const before = await readFile(file, "utf8");
      await writeFile(file, await change(before));
      progress.length = 0;
      try {
        await rejects(up(), (error: Error) => {
          match(error.message, message);
          return true;
        });
      } finally {
        await writeFile(file, before);
      }
      deepEqual(changes(), []);
      equal(await api.get(sopsAge), undefined);
    }
    const path = () => join(tree, read.path);
    const changedByte = (text: string) =>
      text.replace(
        /(mac: ENC\[AES256_GCM,data:)(.)/,
        (_, start: string, c: string) => start + (c === "A" ? "B" : "A"),
      );

    it("for a wrong identity, naming files and recipients", async () => {
      const [own = ""] = recipientsOf(await readFile(path(), "utf8"));
      const other = await sops.keygen();
      const [recipient = ""] = await sops.recipients(other);
      await refused(
        identityFile,
        () => other,
        new RegExp(
          `Decrypting ${read.path} .*: it is encrypted for ${own}, age1\\w+, the identity is ${recipient}\\.`,
        ),
      );
    });

    it("for a missing identity", async () => {
      await refused(
        join(project, `Pulumi.${stack}.yaml`),
        (text) => text.replace(identityFile, `${identityFile}.missing`),
        /Decrypting clusters\/prod\/\S+ .*: it is encrypted for age1.*, there is no identity yet\./,
      );
    });

    it("for a file that was tampered with", async () => {
      await refused(
        path(),
        changedByte,
        new RegExp(`Decrypting ${read.path} .* another program than SOPS changed the file\\.`),
      );
    });

    it("for a file that was cut off", async () => {
      await refused(
        path(),
        (text) => text.replace(/^sops:[^]*/m, ""),
        new RegExp(`Checking ${read.path} failed: SOPS's own part of it is missing`),
      );
    });

    it("for a file of another environment", async () => {
      const dev = join(repository, "gitops", "clusters", "dev", "apps", "nextcloud.enc.yaml");
      const [theirs = ""] = recipientsOf(await readFile(dev, "utf8"));
      await refused(
        join(tree, "clusters", "prod", "apps", "nextcloud.enc.yaml"),
        () => readFile(dev, "utf8"),
        new RegExp(
          `Decrypting clusters/prod/apps/nextcloud\\.enc\\.yaml with .* failed: it is encrypted for ${theirs}, the identity is age1`,
        ),
      );
    });
  });

  describe("in the cluster", () => {
    it("are rotated without a failed read, killed at each step and resumed", async () => {
      await up();
      const before = await store.readIdentityFile();
      const oldKey = before?.keys[0] ?? "";
      const [token = ""] = secretKeys(await readFile(join(tree, generated), "utf8"));
      const firstToken = await valueOf(secretNamed("homepage"), token);
      equal(await valueOf(read.ref, read.key), read.value);

      const reads = { done: 0, failed: [] as string[], tokens: new Set<string | undefined>() };
      const reading = new AbortController();
      const reader = (async () => {
        while (!reading.signal.aborted) {
          const [value, made] = await Promise.all([
            valueOf(read.ref, read.key).catch((error: unknown) => (error as Error).message),
            valueOf(secretNamed("homepage"), token).catch((error: unknown) => (error as Error).message),
          ]);
          reads.done++;
          if (value !== read.value) reads.failed.push(String(value));
          reads.tokens.add(made);
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      })();

      const survived: string[] = [];
      const keys: number[] = [];
      let runs = 0;
      for (let ended = false; !ended; runs++) {
        ok(runs < 40, survived.join("\n"));
        ended = await rotateOnce(survived, async () => {
          await up();
          keys.push((await valueOf(sopsAge, "age.agekey"))?.match(/AGE-SECRET-KEY-/g)?.length ?? 0);
        });
      }
      reading.abort();
      await reader;

      deepEqual(
        survived.map((step) => step.replace(/^\d+ recipients, /, "")),
        [
          "identity file: … is in it, beside …",
          "settings: Pulumi.prod.yaml",
          "rules: .sops.yaml",
          "encrypted: …",
          "releasing",
          "settings: Pulumi.prod.yaml",
          "rules: .sops.yaml",
          "encrypted: …",
          "identity file: … left it",
          "releasing",
        ],
      );
      deepEqual(reads.failed, []);
      ok(reads.done > 100, `${reads.done} reads`);
      deepEqual([...new Set(keys)], [2, 1]);

      const { keys: left } = (await store.readIdentityFile()) ?? { keys: [] };
      equal(left.length, 1);
      equal((await stat(identityFile)).mode & 0o777, 0o600);
      equal((await valueOf(sopsAge, "age.agekey"))?.trim(), left[0]);
      for (const [path, content] of await store.files()) {
        await rejects(sops.decrypt(content, path, `${oldKey}\n`), path);
      }
      // The generated value changed once, for a value that the file of the stack does not hold.
      const lastToken = await valueOf(secretNamed("homepage"), token);
      deepEqual([...reads.tokens], [firstToken, lastToken]);
      progress.length = 0;
      await up();
      deepEqual(changes(), []);
      console.error(
        `      ${runs} runs, ${survived.length} of them killed; ${reads.done} reads, none failed`,
      );
    });

    it("are recovered with the recovery key where the identity is lost", async () => {
      await rm(identityFile);
      await recover(store, { key: known.recoveryKey, release: up, tell: () => undefined });
      const [key = ""] = (await store.readIdentityFile())?.keys ?? [];
      equal((await valueOf(sopsAge, "age.agekey"))?.trim(), key);
      equal(await valueOf(read.ref, read.key), read.value);
      equal((await readFile(identityFile, "utf8")).includes(known.recoveryKey), false);
    });
  });

  /**
   * One process that rotates, killed at the first step that none before it was killed at.
   *
   * @returns whether it came to its end
   */
  async function rotateOnce(survived: string[], release: () => Promise<void>): Promise<boolean> {
    const child = fork(join(__dirname, "rotate.ts"), [], {
      execArgv: ["-r", "ts-node/register/transpile-only"],
    });
    let last = "";
    let releasing: Promise<void> = Promise.resolve();
    const ended = await new Promise<{ code: number | null; signal: NodeJS.Signals | null; error?: string }>(
      (resolve, reject) => {
        let error: string | undefined;
        child.on("message", (message: RotateMessage) => {
          if (message.kind === "step") last = message.step;
          if (message.kind === "ended") error = message.error;
          if (message.kind !== "release") return;
          // A release that began goes on when who asked for it is killed.
          releasing = release();
          releasing.then(
            () => child.connected && child.send({}),
            (cause: unknown) => child.connected && child.send({ error: (cause as Error).message }),
          );
        });
        child.once("error", reject);
        child.once("exit", (code, signal) => {
          resolve({ code, signal, ...(error === undefined ? {} : { error }) });
        });
        child.send({ stack, project, survived } satisfies RotateRequest);
      },
    );
    await releasing;
    equal(ended.error, undefined);
    if (ended.signal === null) {
      equal(ended.code, 0);
      return true;
    }
    equal(ended.signal, "SIGKILL");
    ok(!survived.includes(last), `it was killed at "${last}" again`);
    survived.push(last);
    return false;
  }
});
