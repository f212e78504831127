import { isMap, isNode, isScalar, isSeq, parseAllDocuments, visit } from "yaml";

/** The comment that excuses its line from the search for leaks; nothing excuses a private key. */
export const notASecret = "platform:not-a-secret";

/**
 * The values that a text says are public: each stands in a line with the comment `platform:not-a-secret` and a reason,
 * as the value of a key, as a literal `key=value` of a secretGenerator, or in a flow map. Patches inside a
 * kustomization are read, too.
 *
 * @returns one text for each, as `publicValue` makes it
 */
export function publicValuesIn(content: string): string[] {
  if (!content.includes(notASecret)) return [];
  const isMarked = (node: unknown) => isNode(node) && (node.comment ?? "").includes(notASecret);
  const found: string[] = [];
  for (const document of parseAllDocuments(content, { logLevel: "error" })) {
    // kustomize refuses a file that does not parse.
    if (document.errors.length > 0) continue;
    visit(document, {
      Map: (_, map) => {
        for (const { key, value } of map.items) {
          if (isScalar(key) && isScalar(value) && (isMarked(value) || (map.flow === true && isMarked(map)))) {
            found.push(publicValue(String(key.value), value.value));
          }
        }
      },
      Scalar: (_, { value, comment }, path) => {
        const parent = path.at(-1);
        if (typeof value !== "string") return;
        if (isSeq(parent) && (comment ?? "").includes(notASecret)) {
          const [key = "", ...rest] = value.split("=");
          found.push(publicValue(key, rest.join("=")));
        } else if (!isMap(parent) && value.includes(notASecret)) {
          found.push(...publicValuesIn(value));
        }
      },
    });
  }
  return found;
}

/** A key and its value as one text. */
export function publicValue(key: string, value: unknown): string {
  return JSON.stringify([key, String(value)]);
}
