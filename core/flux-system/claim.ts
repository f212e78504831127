import {
  nameOf,
  type FieldTree,
  type KubernetesApi,
  type ManagedFields,
  type ManifestRef,
} from "../../clients/kubernetes/client";

/** The field manager of everything that Pulumi owns in a cluster, whatever state it has. */
export const fieldManager = "platform";

/** The annotation of what Pulumi owns in a cluster: `project/stack`. */
export const ownerAnnotation = "platform.pulumi.com/owner";

/** The annotation of what is made again with the namespace of Flux: the uid of that namespace. */
export const namespaceUidAnnotation = "platform.pulumi.com/namespace-uid";

/** How Pulumi's Kubernetes provider names a field manager for itself, another one for each state. */
const formerFieldManager = "pulumi-kubernetes-";

/**
 * Makes sure that an object is this stack's, or not there, before Pulumi's Kubernetes provider applies it with force.
 *
 * What a former state applied becomes the work of `fieldManager`: a field that the stack drops is not kept by a
 * manager that nobody is any more.
 *
 * @param owner `project/stack`
 * @throws Error when somebody else made the object
 */
export async function claim(
  api: Pick<KubernetesApi, "get" | "merge">,
  ref: ManifestRef,
  owner: string,
): Promise<void> {
  const found = await api.get(ref);
  if (found === undefined) return;
  const { annotations = {}, managedFields = [], resourceVersion } = found.metadata;
  const made = annotations[ownerAnnotation];
  // What was made before there were owners carries the uid of its namespace.
  if (made !== owner && (made !== undefined || !(namespaceUidAnnotation in annotations))) {
    const whose = made === undefined ? `it lacks the annotation ${ownerAnnotation}` : `it is of "${made}"`;
    throw new Error(
      `Adopting ${nameOf(ref)} failed: it exists and is not of "${owner}" (${whose}). Delete it, or give this stack another cluster, and run again.`,
    );
  }
  const isOurs = ({ manager = "", operation }: ManagedFields) =>
    operation === "Apply" && (manager === fieldManager || manager.startsWith(formerFieldManager));
  const ours = managedFields.filter(isOurs);
  const [first] = ours;
  if (first === undefined || ours.every(({ manager }) => manager === fieldManager)) return;
  const fieldsV1 = ours.map((entry) => entry.fieldsV1 ?? {}).reduce(union);
  const one = { ...first, manager: fieldManager, fieldsV1 };
  const others = managedFields.filter((entry) => !isOurs(entry));
  await api.merge(ref, { metadata: { resourceVersion, managedFields: [...others, one] } });
}

/** The fields of both trees. */
function union(one: FieldTree, other: FieldTree): FieldTree {
  const common = Object.entries(other).map(
    ([field, tree]) => [field, union(one[field] ?? {}, tree)] as const,
  );
  return { ...one, ...Object.fromEntries(common) };
}
