import { createHash } from "node:crypto";
import { kustomizationLabel } from "../../clients/flux/kinds";
import { Channel } from "../release/channel";
import type { KubernetesApi, Manifest } from "../../clients/kubernetes/client";
import type { ArtifactReader } from "../../clients/registry/oci";
import type { Sops } from "../../clients/sops/client";
import { isEncrypted, secretKeys, secretsIn, valuesIn, withValues } from "../../clients/sops/secret-file";

/** Path → key → value. */
type Values = Readonly<Record<string, Readonly<Record<string, string>>>>;

/** Secrets that the stack generates. Paths are relative to the gitops tree. */
export interface GeneratedInputs {
  /** Path → the file as committed: a Secret with empty values. */
  readonly files: Readonly<Record<string, string>>;
  /** A new value for each key of each file, for keys that have no value yet. A secret input. */
  readonly values: Values;
  /** age recipients, `age1…`. */
  readonly recipients: readonly string[];
  /** The stack's age identity, which opens the values of earlier runs. A secret input. */
  readonly identity: string;
  /** Repository of the artifacts, as this machine reaches it: `host[:port]/path`. */
  readonly repository: string;
  /** The registry speaks plain HTTP. */
  readonly insecure: boolean;
  /** The tag that the cluster follows. */
  readonly channel: string;
  /** The kubeconfig of the cluster that holds the Secrets. A secret input. */
  readonly kubeconfig: string;
  /** `platform:sops.valuesRevision`: with another number than the last run's, every value is new. */
  readonly revision: number;
}

/** The encrypted files, which are not secret. */
export interface GeneratedOutputs {
  /** Path → content, encrypted with SOPS. */
  readonly encrypted: Readonly<Record<string, string>>;
  /** SHA-256 of files, values and recipients; the state does not keep the values. */
  readonly fingerprint: string;
  /** The input; a state from an older version has none. */
  readonly revision?: number;
}

/** Looks up the values of files, by their paths; the result leaves out unknown values. */
type Source = (paths: readonly string[]) => Promise<Values>;

/**
 * Encrypts generated values into files of the committed shape; plain text never touches the disk.
 *
 * A value in use stays in use: databases on volumes keep their passwords, even after the loss of Pulumi's state. The
 * lifecycle looks for the value in the state, in the last Ready artifact, in the artifact of the channel, and in the
 * cluster.
 */
export class GeneratedLifecycle {
  constructor(
    private readonly sops: Sops,
    private readonly registry: ArtifactReader,
    private readonly api: Pick<KubernetesApi, "get" | "list">,
  ) {}

  /** @throws Error when registry or cluster does not answer: the values in use are then unknown */
  async create(inputs: GeneratedInputs): Promise<GeneratedOutputs> {
    const inForce = await this.inForce(inputs, this.released(inputs));
    const count = Object.values(inForce).flatMap((values) => Object.keys(values)).length;
    if (count > 0) {
      console.warn(
        `Generated secrets: ${count} values are in force and stay. To replace them, run again with another platform:sops.valuesRevision.`,
      );
    }
    return this.seal(inputs, inForce);
  }

  /** @throws Error as `create` does */
  async update(inputs: GeneratedInputs, olds: GeneratedOutputs): Promise<GeneratedOutputs> {
    if ((olds.revision ?? 0) !== inputs.revision) return this.seal(inputs, {});
    const stated: Source = () => this.open(inputs, olds.encrypted);
    return this.seal(inputs, await this.inForce(inputs, [stated, ...this.released(inputs)]));
  }

  diff(olds: GeneratedOutputs, news: GeneratedInputs): boolean {
    return olds.fingerprint !== this.fingerprint(news);
  }

  private async seal(inputs: GeneratedInputs, inForce: Values): Promise<GeneratedOutputs> {
    const encrypted = await Promise.all(
      Object.entries(inputs.files).map(async ([path, content]) => {
        const plain = withValues(content, { ...inputs.values[path], ...inForce[path] });
        return [path, await this.sops.encrypt(plain, path, inputs.recipients)] as const;
      }),
    );
    return {
      encrypted: Object.fromEntries(encrypted),
      fingerprint: this.fingerprint(inputs),
      revision: inputs.revision,
    };
  }

  /** The values of all sources; for each value, the first source that has it counts. */
  private async inForce({ files }: GeneratedInputs, sources: readonly Source[]): Promise<Values> {
    const found: Record<string, Record<string, string>> = {};
    const lacks = ([path, content]: [string, string]) =>
      secretKeys(content).some((key) => found[path]?.[key] === undefined);
    for (const source of sources) {
      const paths = Object.entries(files)
        .filter(lacks)
        .map(([path]) => path);
      if (paths.length === 0) break;
      for (const [path, values] of Object.entries(await source(paths))) {
        const keys = secretKeys(files[path] ?? "");
        const own = Object.entries(values).filter(([key, value]) => keys.includes(key) && value !== "");
        if (own.length > 0) found[path] = { ...Object.fromEntries(own), ...found[path] };
      }
    }
    return found;
  }

  /** The values that the registry and the cluster have. */
  private released(inputs: GeneratedInputs): readonly Source[] {
    const { repository } = inputs;
    const channel = new Channel(this.registry, repository, inputs.channel);
    const filesOf =
      (lookUp: () => Promise<string | undefined>): Source =>
      async (paths) => {
        const digest = await lookUp();
        if (digest === undefined) return {};
        return this.open(inputs, await this.registry.files(repository, digest, paths));
      };
    const applied: Source = async (paths) => {
      const values = paths.map(
        async (path) => [path, await this.valuesInCluster(inputs.files[path] ?? "")] as const,
      );
      return Object.fromEntries(await Promise.all(values));
    };
    return [filesOf(() => channel.lastGood()), filesOf(() => channel.serves()), applied];
  }

  /** The values of encrypted files. A file for a lost identity has no readable values. */
  private async open(
    { identity }: GeneratedInputs,
    files: Readonly<Record<string, string>>,
  ): Promise<Values> {
    const opened = Object.entries(files)
      .filter(([, content]) => isEncrypted(content))
      .map(async ([path, content]) => {
        const plain = await this.sops.decrypt(content, path, identity).catch(() => "");
        return [path, valuesIn(plain)] as const;
      });
    return Object.fromEntries(await Promise.all(opened));
  }

  /** The values of a file's Secrets in the cluster. */
  private async valuesInCluster(content: string): Promise<Readonly<Record<string, string>>> {
    const secrets = secretsIn(content).map(async ({ apiVersion, kind, metadata: { name, namespace } }) => {
      const named =
        namespace === undefined ? undefined : await this.api.get({ apiVersion, kind, name, namespace });
      return (named ?? (await this.applied(name)))?.data as Readonly<Record<string, string>> | undefined;
    });
    const decoded = (await Promise.all(secrets)).flatMap((data) =>
      Object.entries(data ?? {}).map(([key, value]) => [key, Buffer.from(value, "base64").toString()]),
    );
    return Object.fromEntries(decoded) as Record<string, string>;
  }

  /** The only Secret of a name that Flux applied: a kustomization may have set its namespace. */
  private async applied(name: string): Promise<Manifest | undefined> {
    const secrets = await this.api.list("v1", "Secret");
    const [secret, ...others] = secrets.filter(
      ({ metadata }) => metadata.name === name && metadata.labels?.[kustomizationLabel] !== undefined,
    );
    return others.length === 0 ? secret : undefined;
  }

  private fingerprint({ files, values, recipients }: GeneratedInputs): string {
    const sorted = (record: Readonly<Record<string, unknown>>): unknown =>
      Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1));
    return createHash("sha256")
      .update(
        JSON.stringify([
          sorted(files),
          sorted(Object.fromEntries(Object.entries(values).map(([path, keys]) => [path, sorted(keys)]))),
          recipients,
        ]),
      )
      .digest("hex");
  }
}
