import { parse, stringify } from "yaml";
import { nameOf, refOf, type Manifest } from "./kubernetes";

/**
 * One variable reference of Flux: `${name}`, with `:=` or `:-` and a default, or escaped as `$${name}`.
 * Source: https://fluxcd.io/flux/components/kustomize/kustomizations/#post-build-variable-substitution
 */
const reference = String.raw`(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*)(?::[=-]([^}]*))?\}`;

/** Whether an object is left as it is: it carries Flux's mark as a label or an annotation. */
function isExempt({ metadata }: Manifest): boolean {
  const key = "kustomize.toolkit.fluxcd.io/substitute";
  return metadata.labels?.[key] === "disabled" || metadata.annotations?.[key] === "disabled";
}

/** The variables that an object needs: those without a default. */
export function variablesOf(object: Manifest): string[] {
  if (isExempt(object)) return [];
  const names = [...JSON.stringify(object).matchAll(new RegExp(reference, "g"))]
    .filter(([, escape, , fallback]) => escape === "" && fallback === undefined)
    .map(([, , name]) => name ?? "");
  return [...new Set(names)];
}

/**
 * Flux's substitution, on the object's YAML text as Flux does it, so that a number comes out as a number.
 *
 * @throws Error naming the object and the variable that is not set
 */
export function substitute(object: Manifest, variables: Readonly<Record<string, string>>): Manifest {
  if (isExempt(object)) return object;
  const text = stringify(object, { lineWidth: 0 }).replace(
    new RegExp(reference, "g"),
    (match, escape: string, name: string, fallback: string | undefined) => {
      if (escape !== "") return match.slice(1);
      const value = variables[name] ?? fallback;
      if (value === undefined) {
        throw new Error(
          `Substituting variables in ${nameOf(refOf(object))} failed: \${${name}} is not set. Add it to the cluster's variables.yaml.`,
        );
      }
      return value;
    },
  );
  return parse(text) as Manifest;
}
