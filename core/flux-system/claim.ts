import {
  nameOf,
  type FieldTree,
  type KubernetesApi,
  type ManagedFields,
  type ManifestRef,
} from "../../clients/kubernetes/client";

/** The field manager of all objects that Pulumi owns in a cluster, for every state. */
export const fieldManager = "platform";

/** The annotation of objects that Pulumi owns in a cluster: `project/stack`. */
export const ownerAnnotation = "platform.pulumi.com/owner";

/** The annotation of objects that are remade with the namespace of Flux: the uid of that namespace. */
export const namespaceUidAnnotation = "platform.pulumi.com/namespace-uid";

/** The pattern of the names that Pulumi's Kubernetes provider gives its field managers, a new name for each state. */
const formerFieldManager = "pulumi-kubernetes-";

/**
 * Makes sure that an object belongs to this stack or does not exist, before Pulumi's Kubernetes provider applies it
 * with force.
 *
 * `fieldManager` takes over the fields of former states: otherwise a field that the stack drops would stay with a
 * manager that no longer exists.
 *
 * @param owner `project/stack`
 * @throws Error when the object has another owner
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
  // Objects from before owners existed carry the uid of their namespace.
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
