import { join } from "node:path";
import * as z from "zod";
import { isImageReference, isRegistryHost, isRepository } from "../../clients/registry/image-reference";
import { clusterSettings, type ClusterConfig } from "../cluster/kinds";
import { abort, flag, port, refuse, rule, text, textOf, whole, type SettingsContext } from "../fields/fields";

/*
 * The only definition of a stack's settings: this schema checks them, types them, and gives the README's table and the
 * JSON Schema for editors. The settings of a cluster are with its kind in core/cluster.
 */

function eachOnce(entry: typeof text, name: string) {
  return z
    .array(entry, "a list of texts")
    .refine((list) => new Set(list).size === list.length, { error: `each ${name} once`, params: rule });
}

/** A config secret: decrypted by Pulumi, or sealed as in the file. The value is not part of the parsed settings. */
function secret(error: string) {
  return z
    .unknown()
    .refine(
      (value) =>
        typeof value === "string" || typeof (value as { secure?: unknown } | null)?.secure === "string",
      { error, abort, params: { fault: "is no text and no secret" } },
    )
    .meta({
      anyOf: [
        { type: "string" },
        { type: "object", properties: { secure: { type: "string" } }, required: ["secure"] },
      ],
    })
    .transform(() => undefined)
    .optional();
}

const emptyIsUnset = <T>(list: T[]) => (list.length === 0 ? undefined : list);
/** The public half of an age identity. Source: https://github.com/C2SP/C2SP/blob/main/age.md#the-x25519-recipient-type */
const recipient = /^age1[02-9ac-hj-np-z]{58}$/;

export function isRecipient(value: string): boolean {
  return recipient.test(value);
}

const localRegistry = z
  .strictObject({
    kind: z.literal("local").describe("a container on 127.0.0.1"),
    port: port.default(5050).describe("port on 127.0.0.1; mirrors take the ports that follow"),
    image: textOf(isImageReference, 'an image such as "registry:3"')
      .default("registry:3")
      .describe("image of the container"),
    mirrors: eachOnce(textOf(isRegistryHost, 'the host of a registry, such as "ghcr.io"'), "host")
      .default([])
      .describe(
        "hosts of registries whose images this machine keeps; see [Without the internet](#without-the-internet)",
      ),
    airGapped: flag
      .default(false)
      .describe(
        "pull only from the mirrors and the Docker Engine; see [Without the internet](#without-the-internet)",
      ),
    keep: whole(1, 10_000)
      .default(20)
      .describe(
        "number of revisions of the artifact to keep; the channel's revision and the last good one always stay",
      ),
    retain: flag.default(false).describe("keep the volume when the stack is destroyed"),
  })
  .superRefine((registry, context) => {
    const most = 65_535 - registry.mirrors.length;
    if (registry.port > most) refuse(context, ["port"], `a whole number from 1 to ${most}`);
  });

const remoteRegistry = z.strictObject({
  kind: z.literal("remote").describe("a registry that exists already"),
  repository: textOf(
    isRepository,
    'a host and a path, such as "ghcr.io/example/platform", without scheme and tag',
  ).describe("`host[:port]/path`, without scheme and tag"),
  insecure: flag.default(false).describe("the registry speaks plain HTTP"),
  pullUsername: text
    .transform(() => undefined)
    .optional()
    .describe(
      "user name with which the cluster pulls, in place of Docker's own login; see [Private registries](#private-registries)",
    ),
  pullPassword: secret('a password, with "pulumi config set --secret --path"').describe(
    "password of `pullUsername`, as a config secret",
  ),
});

/** @param context gives defaults and absolute paths */
export function settings(context: SettingsContext) {
  const { stack, userConfig, path } = context;
  return z
    .strictObject({
      cluster: clusterSettings(context),
      registry: z.discriminatedUnion("kind", [localRegistry, remoteRegistry]),
      domain: textOf(isDomain, 'a DNS name in lower case, such as "example.com"').describe(
        "domain of the applications: `homepage.<domain>`",
      ),
      gitops: z
        .strictObject({
          tree: text.prefault("gitops").transform(path).describe("directory of the tree"),
          cluster: textOf(/^[\w-][\w.-]*$/, 'the name of a directory below "clusters"')
            .prefault(stack)
            .describe("directory below the tree's `clusters/`"),
          requireClean: flag.default(false).describe("refuse a tree with uncommitted changes"),
        })
        .prefault({}),
      sops: z
        .strictObject({
          generate: z
            .enum(["none", "empty", "all"])
            .default("none")
            .describe(
              "secrets whose values the stack generates: `none`, the `empty` ones, or `all` for a temporary stack",
            ),
          identityFile: text
            .prefault(join(userConfig, "platform", "age", `${stack}.agekey`))
            .transform(path)
            .describe(
              "file of the stack's age identity, if `SOPS_AGE_KEY` and `SOPS_AGE_KEY_FILE` are not set",
            ),
          recipients: eachOnce(
            textOf(recipient, 'a recipient such as "age-keygen -y" prints it: "age1…"'),
            "recipient",
          )
            .transform(emptyIsUnset)
            .optional()
            .describe(
              "recipients of the secrets, `age1…`, including the stack's own recipient; see [docs/secrets.md](docs/secrets.md)",
            ),
          recoveryRecipient: textOf(recipient, 'the "age1…" of a key that is not among the recipients')
            .optional()
            .describe("recipient of an offline key that also opens the secrets"),
          ageKeyCommand: z
            .union(
              [
                // No shell reads the command.
                text.transform((words) => words.split(" ").filter((word) => word !== "")),
                z.array(text),
              ],
              "a list of texts",
            )
            .transform(emptyIsUnset)
            .optional()
            .describe(
              "command that prints the identity, such as `pass show platform/prod`: a text, or a list of its words",
            ),
          ageKey: secret('an age identity, with "npx platform secrets init"').describe(
            "the identity itself, as a config secret",
          ),
          valuesRevision: whole(0, 1_000_000)
            .default(0)
            .describe("a new number gives generated secrets new values"),
        })
        .superRefine(({ recipients, recoveryRecipient }, context) => {
          if (recoveryRecipient !== undefined && recipients?.includes(recoveryRecipient) === true) {
            refuse(context, ["recoveryRecipient"], 'the "age1…" of a key that is not among the recipients');
          }
        })
        .prefault({}),
      release: z
        .strictObject({
          timeoutSeconds: whole(10, 7200).default(900).describe("time until every layer is Ready"),
        })
        .prefault({}),
      hooks: z
        .strictObject({
          afterReady: z
            .array(text)
            .default([])
            .describe(
              "shell commands that run one after another when a release is Ready, such as a smoke test; see [hooks](#hooks)",
            ),
        })
        .prefault({}),
      protect: flag.default(false).describe("`pulumi destroy` refuses the stack"),
      rehearsal: z
        .strictObject({
          definitions: text
            .transform(path)
            .optional()
            .describe("directory with the CRDs of charts that a rehearsal cannot render"),
        })
        .optional(),
      chartMirror: textOf(
        (value) => !value.includes("://") || isOciPrefix(value),
        'a directory, or a prefix such as "oci://registry.example.com/charts"',
      )
        .transform((value) => (value.startsWith("oci://") ? value : path(value)))
        .optional()
        .describe(
          "source of every chart of the seeds: `oci://host/prefix`, or a directory of unpacked charts",
        ),
    })
    .superRefine(({ cluster, registry, chartMirror }, context) => {
      if (registry.kind === "local" && registry.airGapped && chartMirror === undefined) {
        refuse(
          context,
          ["chartMirror"],
          'a directory or registry that holds the charts of the seeds: "platform:registry.airGapped" is true',
        );
      }
      if ("ports" in cluster) checkPorts(cluster.ports, registry, context);
    });
}

type Settings = z.output<ReturnType<typeof settings>>;

/** Refuses ports of the cluster that another port of the cluster, or the registry of the stack, listens on. */
function checkPorts(
  ports: Extract<ClusterConfig, { ports: unknown }>["ports"],
  registry: Settings["registry"],
  context: z.RefinementCtx,
): void {
  const taken =
    registry.kind === "local"
      ? ["registry.port", ...registry.mirrors.map((host) => `registry.mirrors (${host})`)].map(
          (owner, index) => ({ address: "127.0.0.1", protocol: "TCP", port: registry.port + index, owner }),
        )
      : [];
  const everywhere = ["0.0.0.0", "::"];
  for (const [index, { listenAddress: address = "127.0.0.1", protocol, hostPort: port }] of ports.entries()) {
    const other = taken.find(
      (listener) =>
        listener.port === port &&
        listener.protocol === protocol &&
        (listener.address === address || [listener.address, address].some((any) => everywhere.includes(any))),
    );
    if (other !== undefined) {
      const remedy = `another port: "platform:${other.owner}" takes this one`;
      refuse(context, ["cluster", "ports", index, "hostPort"], remedy);
    }
    taken.push({ address, protocol, port, owner: `cluster.ports[${index}].hostPort` });
  }
}

/** A name to which the hosts of applications are added: labels in lower case, as Gateway API takes them; no address. */
function isDomain(value: string): boolean {
  const label = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
  // 253 in all, minus 63 and a dot for the host.
  return (
    value.length <= 189 && value.split(".").every((part) => label.test(part)) && !/(^|\.)\d+$/.test(value)
  );
}

function isOciPrefix(value: string): boolean {
  const place = /^oci:\/\/(.+?)\/?$/.exec(value)?.[1] ?? "";
  return isRegistryHost(place) || isRepository(place);
}
