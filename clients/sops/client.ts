import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { run } from "../../tools/command";

/** The calls of the lifecycles to SOPS and age. Plain text passes between processes on standard input only. */
export interface Sops {
  /** Encrypts the values of a Secret manifest. `path` names the file in error messages. */
  encrypt(manifest: string, path: string, recipients: readonly string[]): Promise<string>;
  /** Decrypts a file's content and checks its MAC. */
  decrypt(content: string, path: string, identity: string): Promise<string>;
  /** The recipients (`age1…`) of an identity file: one for each identity in the file. */
  recipients(identity: string): Promise<string[]>;
  /** Makes a new identity, only in memory. */
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
        // Rules matter only for encryption; SOPS would report broken rules as a broken file.
        ...["--config", "/dev/null", "decrypt"],
        ...["--input-type", "yaml", "--output-type", "yaml", "--filename-override", path],
      ],
      {
        input: content,
        // Only this identity: sops would also try the key files and SSH keys of the user.
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

/**
 * Asks SOPS which of some patterns a file belongs to. Patterns are Go's regular expressions, and SOPS compiles no
 * pattern after the first match.
 *
 * The program does not print the matching rule, but it writes the rule's `encrypted_regex` into its output. Here that
 * is the number of the pattern. Source: `parseCreationRuleForFile` in getsops/sops, config/config.go.
 *
 * @param patterns each the `path_regex` of a rule; an empty pattern matches every file
 * @param path as seen from the directory of the rules
 * @returns the index of the pattern; -1 when none matches
 * @throws Error when SOPS cannot compile a pattern
 */
export async function firstMatch(patterns: readonly string[], path: string): Promise<number> {
  if (patterns.length === 0) return -1;
  const directory = await mkdtemp(join(tmpdir(), "platform-rules-"));
  try {
    const config = join(directory, ".sops.yaml");
    const rules = patterns.map((pattern, index) => ({
      ...(pattern === "" ? {} : { path_regex: pattern }),
      encrypted_regex: `^${index}$`,
      // Nothing is encrypted for this recipient.
      age: "age1zcm96q648wghlgrurszthl284u9vnx67rq8h2zp9l32ye0dtv36qc3q9ev",
    }));
    await writeFile(config, JSON.stringify({ creation_rules: rules }));
    const encrypted = await run(
      "sops",
      [
        ...["--config", config, "encrypt", "--input-type", "yaml", "--output-type", "json"],
        ...["--filename-override", join(directory, path)],
      ],
      { input: "a: b\n" },
    );
    const { sops } = JSON.parse(encrypted) as { sops: { encrypted_regex: string } };
    return Number(sops.encrypted_regex.slice(1, -1));
  } catch (error) {
    if ((error as Error).message.includes("no matching creation rules found")) return -1;
    throw error;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
