/** A text that only its owner may know. */
export interface Leak {
  /** The name of the leak: "a private key". */
  readonly what: string;
  /** Its first characters, which show only its kind. */
  readonly start: string;
}

/** The comment that excuses its line from all but the search for private keys. */
export const notASecret = "platform:not-a-secret";

/** The kind of leak that no comment excuses. */
export const privateKey = "a private key";

/** A kind of secret with a known form. Every pattern starts with the text of its quick search. */
interface Form {
  readonly what: string;
  /** A text that every match contains: the search for it costs almost nothing. */
  readonly holds: readonly string[];
  readonly pattern: RegExp;
  /** The number of characters that a message may show. */
  readonly shown: number;
  /** Whether a match is harmless, by its groups. @default only examples of documentation are harmless */
  readonly isNone?: (groups: readonly string[]) => boolean;
}

/**
 * The forms of keys and tokens. Sources: filippo.io/age, whose Bech32 may be in lower case; RFC 7468, as it stands and
 * in Base64; the prefixes that GitHub, GitLab, Slack, AWS, Google, Stripe, npm, Cloudflare, Grafana, Docker and Pulumi
 * document for theirs; RFC 7519; gitleaks' rules `anthropic-api-key`, `openai-api-key` and `telegram-bot-api-token`;
 * TruffleHog's detector `discordwebhook`; the `auths` of Docker's config.json.
 *
 * A function makes them, because Pulumi does not serialise a RegExp of a module.
 */
function forms(): readonly Form[] {
  const key = privateKey;
  const token = "a token";
  const inBase64 = ["", "RSA ", "EC ", "OPENSSH "].map((kind) =>
    base64Start(`-----BEGIN ${kind}PRIVATE KEY`),
  );
  return [
    {
      ...{ what: key, holds: ["AGE-SECRET-KEY-", "age-secret-key-"], shown: 15 },
      pattern: /AGE-SECRET-KEY-(?:PQ-)?1[0-9A-Z]{20,}/gi,
    },
    {
      ...{ what: key, holds: ["PRIVATE KEY"], shown: 15 },
      pattern: /-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----/g,
    },
    { ...{ what: key, holds: inBase64, shown: 15 }, pattern: new RegExp(inBase64.join("|"), "g") },
    {
      ...{ what: token, holds: ["ghp_", "gho_", "ghu_", "ghs_", "ghr_"], shown: 4 },
      pattern: /\bgh[pousr]_[A-Za-z0-9]{36,}/g,
    },
    { ...{ what: token, holds: ["github_pat_"], shown: 11 }, pattern: /\bgithub_pat_\w{60,}/g },
    {
      ...{ what: token, holds: ["glpat-", "gldt-", "glrt-", "glptt-", "glsoat-"], shown: 5 },
      pattern: /\bgl(?:pat|dt|rt|ptt|soat)-[\w-]{20,}/g,
    },
    { ...{ what: token, holds: ["xox"], shown: 5 }, pattern: /\bxox[abeoprs]-[\w-]{20,}/g },
    {
      ...{ what: token, holds: ["hooks.slack.com/"], shown: 15 },
      pattern: /hooks\.slack\.com\/services\/T\w+\/B\w+\/\w{20,}/g,
    },
    {
      ...{ what: token, holds: ["/webhooks/"], shown: 11 },
      pattern: /\bdiscord(?:app)?\.com\/api\/(?:v\d+\/)?webhooks\/\d{17,20}\/[\w-]{60,}/g,
    },
    { ...{ what: token, holds: [":A"], shown: 0 }, pattern: /\b\d{5,16}:A[\w-]{34}(?![\w-])/g },
    {
      ...{ what: token, holds: ["sk-ant-"], shown: 7 },
      pattern: /\bsk-ant-[a-z]+\d\d-[\w-]{40,}/g,
    },
    {
      ...{ what: token, holds: ["sk-proj-", "sk-svcacct-", "sk-admin-"], shown: 6 },
      pattern: /\bsk-(?:proj|svcacct|admin)-[\w-]{40,}/g,
    },
    { ...{ what: token, holds: ["AKIA", "ASIA"], shown: 4 }, pattern: /\b(?:AKIA|ASIA)[0-9A-Z]{16}\b/g },
    { ...{ what: token, holds: ["AIza"], shown: 4 }, pattern: /\bAIza[\w-]{35}\b/g },
    { ...{ what: token, holds: ["k_live_"], shown: 8 }, pattern: /\b[rs]k_live_[A-Za-z0-9]{20,}/g },
    { ...{ what: token, holds: ["npm_"], shown: 4 }, pattern: /\bnpm_[A-Za-z0-9]{36}\b/g },
    { ...{ what: token, holds: ["glsa_"], shown: 5 }, pattern: /\bglsa_[A-Za-z0-9]{32}_[0-9a-f]{8}\b/g },
    { ...{ what: token, holds: ["dckr_pat_"], shown: 9 }, pattern: /\bdckr_pat_[\w-]{20,}/g },
    { ...{ what: token, holds: ["pul-"], shown: 4 }, pattern: /\bpul-[0-9a-f]{40}\b/g },
    {
      ...{ what: token, holds: ["eyJ"], shown: 3 },
      pattern: /\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}/g,
    },
    {
      ...{ what: "a password in a URL", holds: ["://"], shown: 0 },
      pattern: /:\/\/([^\s/:@"'`${}<>]+):((?![\s$<{*])[^\s/:@"'`${}<>]{8,})@([\w.-]+)/g,
      isNone: ([user, password, host = ""]) => user === password || isExampleHost(host),
    },
    {
      ...{ what: "a login of a registry", holds: ['auth"', "auth:"], shown: 0 },
      pattern: /\bauth"?\s{0,3}:\s{0,3}"?([A-Za-z0-9+/]{8,}={0,2})(?=["\s,}]|$)/g,
      isNone: ([login = ""]) => {
        const [, user, password] =
          /^([!-9;-~]+):([!-~]+)$/.exec(Buffer.from(login, "base64").toString()) ?? [];
        return user === undefined || user === password;
      },
    },
  ];
}

/** The Base64 of every text with this start: only the complete characters, which no later byte changes. */
function base64Start(text: string): string {
  return Buffer.from(text)
    .toString("base64")
    .slice(0, Math.floor((text.length * 8) / 6));
}

/** Names that belong to no owner. Source: RFC 2606. */
function isExampleHost(host: string): boolean {
  return /(?:^|\.)(?:example\.(?:com|org|net|test)|localhost)$|^127\.0\.0\.1$/i.test(host);
}

/**
 * Looks for secrets in a text: keys and tokens by their form, and values of names such as "password" with a random,
 * machine-made look. Ciphers of SOPS and examples of documentation are no leaks. A line with the comment
 * `platform:not-a-secret` holds no leak either, except a private key.
 *
 * @returns one leak for each kind
 */
export function leaksIn(text: string): Leak[] {
  const found: Leak[] = [];
  const unmarked = text.includes(notASecret) ? text.replace(/^.*platform:not-a-secret.*$/gm, "") : text;
  for (const { what, holds, pattern, shown, isNone = () => false } of forms()) {
    const searched = what === privateKey ? text : unmarked;
    if (!holds.some((part) => searched.includes(part))) continue;
    for (const [match, ...groups] of searched.matchAll(pattern)) {
      if (isExample(match) || isNone(groups)) continue;
      found.push({ what, start: match.slice(0, shown) });
      break;
    }
  }
  const name = randomValueIn(unmarked);
  if (name !== undefined) found.push({ what: `a random value of "${name}"`, start: "" });
  return found;
}

/** The end of the keys in AWS's documentation. */
function isExample(value: string): boolean {
  return /EXAMPLE(?:KEY)?$/.test(value);
}

/** The first name that promises a secret and holds one. */
function randomValueIn(text: string): string | undefined {
  const hint = /pass|pwd|secret|token|credential|(?:api|access|private|auth|encryption)[_-]?key/gi;
  const value = `["'\`]?([A-Za-z0-9+/=_.~-]{16,})(?=["'\`\\s,;})]|$)`;
  const assignment = new RegExp(`(?<![\\w./-])([\\w./-]+)["']?\\s{0,3}[:=]\\s{0,3}${value}`, "g");
  // An environment variable of Kubernetes.
  const pair = new RegExp(`\\bname["']?:\\s*["']?([\\w./-]+)["']?[\\s,]+["']?value["']?:\\s*${value}`, "g");
  const isSealed = text.includes("SealedSecret");
  const lineEnd = (from: number) => (text.includes("\n", from) ? text.indexOf("\n", from) : text.length);
  for (let match = hint.exec(text); match !== null; match = hint.exec(text)) {
    const start = text.lastIndexOf("\n", match.index) + 1;
    const end = lineEnd(match.index);
    // The search below covers the other names of this line.
    hint.lastIndex = end;
    const line = text.slice(start, end);
    const found = [...line.matchAll(assignment)];
    if (line.includes("name")) found.push(...text.slice(start, lineEnd(end + 1)).matchAll(pair));
    for (const [, name = "", value = ""] of found) {
      // A cipher of SealedSecrets starts with the length of a key in 16 bits.
      if (
        promisesSecret(name) &&
        isRandom(value) &&
        !isPublic(value) &&
        !(isSealed && value.startsWith("Ag"))
      )
        return name;
    }
  }
  return undefined;
}

/** Whether a name is the name of a secret itself, not the name of its name, place or checksum. */
function promisesSecret(name: string): boolean {
  const last = name.split(/[/.]/).at(-1) ?? "";
  return (
    !/^checksum\//i.test(name) &&
    !/(?:name|id|ref|version|path|file|url|sha\d*|hash|digest|checksum)s?$/i.test(last) &&
    (/passw(?:or)?d|passphrase|secret|token|credential|(?:api|access|private|auth|encryption)[_-]?key/i.test(
      last,
    ) ||
      /(?:^|[_-])(?:pass|pwd)(?=$|[_-])/i.test(last) ||
      /[a-z](?:Pass|Pwd)(?![a-z])/.test(last))
  );
}

/** Whether a value is public though it is random: a checksum, a UUID, an example of documentation. */
function isPublic(value: string): boolean {
  return (
    /^sha\d{1,3}[-:]/i.test(value) ||
    /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i.test(value) ||
    isExample(value)
  );
}

/**
 * Whether a text looks machine-made: letters and digits mixed, unlike a name or path, with much
 * information for its length. 3 bits a character tell hexadecimal digits (at most 4) from words with a number.
 */
export function isRandom(value: string): boolean {
  const digits = value.replace(/\D/g, "").length;
  const changes = value.match(/[a-z](?=\d)|\d(?=[a-z])/gi)?.length ?? 0;
  return digits >= 3 && digits < value.length && changes >= 4 && entropy(value) >= 3;
}

/** Shannon's entropy of the characters of a text, in bits a character. */
function entropy(text: string): number {
  const counts = new Map<string, number>();
  for (const character of text) counts.set(character, (counts.get(character) ?? 0) + 1);
  let bits = 0;
  for (const count of counts.values()) bits -= (count / text.length) * Math.log2(count / text.length);
  return bits;
}
