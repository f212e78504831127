/** Something in a text that nobody but its owner may know. */
export interface Leak {
  /** What it is: "a private key". */
  readonly what: string;
  /** Its first characters, which say its kind and nothing else. */
  readonly start: string;
}

/** A kind of secret that is known by its form. Every pattern starts with what is looked for before it is run. */
interface Form {
  readonly what: string;
  /** What every text of this form holds: a search for it costs next to nothing. */
  readonly holds: readonly string[];
  readonly pattern: RegExp;
  /** How much of it may be shown. */
  readonly shown: number;
}

/**
 * The forms of keys and tokens. Sources: filippo.io/age; RFC 7468; the prefixes that GitHub, GitLab, Slack, AWS,
 * Google, Stripe, npm, Cloudflare, Grafana, Docker and Pulumi document for theirs; RFC 7519.
 *
 * They are made in a function: Pulumi serialises no RegExp of a module.
 */
function forms(): readonly Form[] {
  const key = "a private key";
  const token = "a token";
  return [
    {
      ...{ what: key, holds: ["AGE-SECRET-KEY-"], shown: 15 },
      pattern: /AGE-SECRET-KEY-(PQ-)?1[0-9A-Z]{20,}/,
    },
    {
      ...{ what: key, holds: ["PRIVATE KEY"], shown: 15 },
      pattern: /-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----/,
    },
    {
      ...{ what: token, holds: ["ghp_", "gho_", "ghu_", "ghs_", "ghr_"], shown: 4 },
      pattern: /\bgh[pousr]_[A-Za-z0-9]{36,}/,
    },
    { ...{ what: token, holds: ["github_pat_"], shown: 11 }, pattern: /\bgithub_pat_\w{60,}/ },
    {
      ...{ what: token, holds: ["glpat-", "gldt-", "glrt-", "glptt-", "glsoat-"], shown: 5 },
      pattern: /\bgl(pat|dt|rt|ptt|soat)-[\w-]{20,}/,
    },
    { ...{ what: token, holds: ["xox"], shown: 5 }, pattern: /\bxox[abeoprs]-[\w-]{20,}/ },
    {
      ...{ what: token, holds: ["hooks.slack.com/"], shown: 15 },
      pattern: /hooks\.slack\.com\/services\/T\w+\/B\w+\/\w{20,}/,
    },
    { ...{ what: token, holds: ["AKIA", "ASIA"], shown: 4 }, pattern: /\b(AKIA|ASIA)[0-9A-Z]{16}\b/ },
    { ...{ what: token, holds: ["AIza"], shown: 4 }, pattern: /\bAIza[\w-]{35}\b/ },
    { ...{ what: token, holds: ["k_live_"], shown: 8 }, pattern: /\b[rs]k_live_[A-Za-z0-9]{20,}/ },
    { ...{ what: token, holds: ["npm_"], shown: 4 }, pattern: /\bnpm_[A-Za-z0-9]{36}\b/ },
    { ...{ what: token, holds: ["glsa_"], shown: 5 }, pattern: /\bglsa_[A-Za-z0-9]{32}_[0-9a-f]{8}\b/ },
    { ...{ what: token, holds: ["dckr_pat_"], shown: 9 }, pattern: /\bdckr_pat_[\w-]{20,}/ },
    { ...{ what: token, holds: ["pul-"], shown: 4 }, pattern: /\bpul-[0-9a-f]{40}\b/ },
    {
      ...{ what: token, holds: ["eyJ"], shown: 3 },
      pattern: /\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}/,
    },
    {
      ...{ what: "a password in a URL", holds: ["://"], shown: 0 },
      pattern: /:\/\/[^\s/:@"'`${}<>]+:(?![\s$<{*])[^\s/:@"'`${}<>]{8,}@[\w.-]+/,
    },
  ];
}

/**
 * Looks for what nobody may know in a text: keys and tokens by their form, and values of names such as "password"
 * that look made up by a machine. What SOPS encrypted is none.
 *
 * @returns one for each kind that is found
 */
export function leaksIn(text: string): Leak[] {
  const found: Leak[] = [];
  for (const { what, holds, pattern, shown } of forms()) {
    const match = holds.some((part) => text.includes(part)) ? pattern.exec(text) : null;
    if (match !== null) found.push({ what, start: match[0].slice(0, shown) });
  }
  const name = randomValueIn(text);
  if (name !== undefined) found.push({ what: `a random value of "${name}"`, start: "" });
  return found;
}

/** The first name that promises a secret and holds one. */
function randomValueIn(text: string): string | undefined {
  const promise =
    /passw(?:or)?d|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?key|encryption[_-]?key/gi;
  const assignment = /([\w.-]+)["']?\s{0,3}[:=]\s{0,3}["'`]?([A-Za-z0-9+/=_.~-]{16,})(?=["'`\s,;})]|$)/g;
  for (let match = promise.exec(text); match !== null; match = promise.exec(text)) {
    const start = text.lastIndexOf("\n", match.index) + 1;
    const newline = text.indexOf("\n", match.index);
    const end = newline < 0 ? text.length : newline;
    // The next one of this line is in what is looked at now.
    promise.lastIndex = end;
    for (const [, name = "", value = ""] of text.slice(start, end).matchAll(assignment)) {
      if (new RegExp(promise.source, "i").test(name) && isRandom(value)) return name;
    }
  }
  return undefined;
}

/**
 * Whether a text looks made up by a machine: letters and digits mixed, as no name or path is, with much
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
