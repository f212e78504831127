import type { Manifest } from "../../clients/kubernetes/client";
import { sentence } from "../../system/sentence";
import { buildTree, type Built, type BuiltKustomization, type Mistyped, type ObjectName } from "./build";
import { errorOf, type Finding } from "../findings/finding";
import { runtimeKeys, runtimeName } from "./check";
import type { TreeSource } from "./source";

/** One Flux Kustomization of a cluster and its objects. */
export interface Layer {
  /** `controllers`; outside of namespace `flux-system` `namespace/name`. */
  readonly name: string;
  /** Path inside the tree, from the Flux Kustomization. */
  readonly path: string;
  /** Names in the form of `name`. */
  readonly dependsOn: readonly string[];
  readonly manifests: readonly Manifest[];
}

/** A cluster's part of the tree, variables filled in. */
export interface Rendered {
  /** The objects of the root Kustomization: variables and the Flux Kustomizations. */
  readonly root: readonly Manifest[];
  /** The Kustomizations of the release, nested ones included. In the order of the tree, not of `dependsOn`. */
  readonly layers: readonly Layer[];
  /** The parts that are not built here, or not exactly known; one sentence each. */
  readonly notes: readonly string[];
}

/** Options of rendering. */
export interface RenderOptions {
  /** Values of the ConfigMap `platform-runtime`. @default `unknown` for each of its keys */
  readonly runtime?: Readonly<Record<string, string>>;
  /** The name of the wanted layer. @default all */
  readonly layer?: string;
}

/**
 * Builds `clusters/<cluster>` and every layer below it, as Flux does.
 *
 * @throws Error naming every layer that does not build, with Flux's message; or the unknown layer
 */
export async function renderCluster(
  source: TreeSource,
  cluster: string,
  { runtime, layer }: RenderOptions = {},
): Promise<Rendered> {
  const built = await buildTree(source, cluster, {
    given: [runtimeConfig(runtime)],
    // Outside of Flux's namespace, a layer is named `namespace/name`.
    ...(layer === undefined ? {} : { only: [layer.slice(layer.indexOf("/") + 1)] }),
  });
  const wanted = built.kustomizations.filter((each) => layer === undefined || labelOf(each) === layer);
  const failures = failuresOf({ ...built, kustomizations: wanted }, cluster);
  if (failures.length > 0) throw errorOf(failures);
  if (layer !== undefined && wanted.length === 0) {
    throw new Error(
      `Rendering cluster "${cluster}" failed: there is no layer "${layer}". Layers are ${built.kustomizations.map(labelOf).join(", ")}.`,
    );
  }
  return {
    root: built.root.objects ?? [],
    layers: layersOf(wanted),
    notes: notesOf({ ...built, kustomizations: wanted }),
  };
}

/** The ConfigMap `platform-runtime`, as Pulumi writes it. */
export function runtimeConfig(runtime?: Readonly<Record<string, string>>): Manifest {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: runtimeName, namespace: "flux-system" },
    data: runtime ?? Object.fromEntries(runtimeKeys.map((key) => [key, "unknown"])),
  };
}

/** The layers that were built. */
function layersOf(kustomizations: readonly BuiltKustomization[]): Layer[] {
  return kustomizations.flatMap((each) =>
    each.objects === undefined
      ? []
      : [
          {
            name: labelOf(each),
            path: each.path,
            dependsOn: each.dependsOn.map(labelOf),
            manifests: each.objects,
          },
        ],
  );
}

/** The failures of builds, with Flux's message. */
export function failuresOf({ root, kustomizations }: Built, cluster: string): Finding[] {
  return [root, ...kustomizations].flatMap((each): Finding[] => {
    const layer = labelOf(each);
    if (each.unset.length > 0) {
      return each.unset.map(({ kind, name, variable }) => ({
        ...{ check: "variable", layer, object: { kind, name } },
        message: `${kind} ${name} of layer "${layer}" uses \${${variable}}, which is not set.`,
        remedy: "Add it to the cluster's variables.yaml.",
      }));
    }
    const subject = `${each === root ? "" : `layer "${layer}" of `}cluster "${cluster}"`;
    const operation = `Building ${subject} failed:`;
    // Flux's message for these holds the value, which may be secret.
    if (each.mistyped.length > 0) return each.mistyped.map((field) => wrongType(operation, layer, field));
    if (each.error === undefined) return [];
    const message = `${operation} ${sentence(each.error)} Nothing was released.`;
    return [{ check: "build", layer, message }];
  });
}

/**
 * The finding for a value of the wrong type. Source:
 * https://fluxcd.io/flux/components/kustomize/kustomizations/#post-build-substitution-of-numbers-and-booleans
 */
function wrongType(operation: string, layer: string, mistyped: Mistyped): Finding {
  const { kind, namespace, name, field, expected, got } = mistyped;
  const object = `${kind} ${namespace === "" ? "" : `${namespace}/`}${name}`;
  const is = `"${field}" of ${object} is ${got === "nothing" ? got : `a ${got}`} and must be ${expected === "text" ? expected : `a ${expected}`}`;
  return {
    ...{ check: "type", layer, object: { kind, namespace, name, fields: [field] } },
    message: `${operation} ${is}.`,
    remedy:
      expected === "text" && ["number", "boolean", "nothing"].includes(got)
        ? `Write it in quotes, or, where it comes from a variable, as \${quote}\${name}\${quote} with quote: '"' among the cluster's variables: Flux's substitution drops the quotes of the file.`
        : "Correct the value.",
  };
}

/** The parts that are not built here, or not exactly known, one sentence each. */
export function notesOf({ root, kustomizations }: Built): string[] {
  return [root, ...kustomizations].flatMap((each) => [
    ...(each.notBuilt === undefined ? [] : [`Layer "${labelOf(each)}" is not built here: ${each.notBuilt}.`]),
    ...each.notes.map((note) => `Layer "${labelOf(each)}": ${note}.`),
  ]);
}

/** The name of a Kustomization: without its namespace, if that is Flux's own. */
export function labelOf({ namespace, name }: ObjectName): string {
  return namespace === "flux-system" ? name : `${namespace}/${name}`;
}
