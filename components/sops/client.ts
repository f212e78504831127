import { mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { run } from "../command";

/** What the lifecycles ask of SOPS and age. Plain text crosses process borders by standard input only. */
export interface Sops {
  /** Encrypts the values of a Secret manifest. `path` says which file it is, for error messages. */
  encrypt(manifest: string, path: string, recipients: readonly string[]): Promise<string>;
  /** Decrypts a file's content and checks its MAC. */
  decrypt(content: string, path: string, identity: string): Promise<string>;
  /** The recipients (`age1…`) of an identity file: one for each identity in it. */
  recipients(identity: string): Promise<string[]>;
  /** Makes a new identity, in memory alone. */
  keygen(): Promise<string>;
  /** Makes a new identity file, mode 0600, and returns its content. */
  generate(file: string): Promise<string>;
}

/** The official `sops` and `age-keygen` programs. */
export class SopsCli implements Sops {
  async encrypt(manifest: string, path: string, recipients: readonly string[]): Promise<string> {
    return run(
      "sops",
      [
        ...["--config", "/dev/null", "--indent", "2", "encrypt", "--age", recipients.join(",")],
        ...["--encrypted-regex", "^(data|stringData)$"],
        ...["--input-type", "yaml", "--output-type", "yaml", "--filename-override", path],
      ],
      { input: manifest },
    );
  }

  async decrypt(content: string, path: string, identity: string): Promise<string> {
    return run(
      "sops",
      [
        // The rules are for what is encrypted; broken ones would be taken for a broken file.
        ...["--config", "/dev/null", "decrypt"],
        ...["--input-type", "yaml", "--output-type", "yaml", "--filename-override", path],
      ],
      {
        input: content,
        // This identity alone: sops would also try the key files and SSH keys of the user.
        env: {
          SOPS_AGE_KEY: identity,
          HOME: "/nonexistent",
          XDG_CONFIG_HOME: "/nonexistent",
        },
      },
    );
  }

  async recipients(identity: string): Promise<string[]> {
    return (await run("age-keygen", ["-y"], { input: identity })).trim().split("\n");
  }

  async keygen(): Promise<string> {
    return run("age-keygen", []);
  }

  async generate(file: string): Promise<string> {
    await mkdir(dirname(file), { recursive: true, mode: 0o700 });
    await run("age-keygen", ["-o", file]);
    return readFile(file, "utf8");
  }
}
