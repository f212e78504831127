/** The label of all containers, networks, volumes and images that a stack makes on a machine: `project/stack`. */
export const ownerLabel = "platform.pulumi.com/owner";

/** The label of objects from before the label named project and stack; the names in Docker tell the stacks apart. */
const formerOwner = "platform";

/** The label of an image of nodes that this project made: the Docker network that they are for. */
export const networkLabel = "platform.pulumi.com/network";

/** The labels in the output of `docker inspect`; Docker writes null for no labels. */
export type Labels = Readonly<Record<string, string>> | null | undefined;

/**
 * The refusal to touch an object of another owner.
 *
 * @param what the object, such as `container "registry"`
 * @param owner `project/stack`
 * @param removal the command that removes the object
 */
export function foreignError(
  operation: string,
  what: string,
  { labels, owner }: { readonly labels: Labels; readonly owner: string | undefined },
  removal: string,
): Error {
  return new Error(
    `${operation} ${what} failed: it exists and ${isNotOf(owner, "it", labels)}. Remove it with "${removal}" and run again.`,
  );
}

/**
 * Why an object in Docker does not belong to a stack, for a sentence.
 *
 * @param owner `project/stack`; undefined in state from before the label named them
 * @param bearer the object that carries the labels, or should
 */
export function isNotOf(owner: string | undefined, bearer: string, labels: Labels): string {
  const label = labels?.[ownerLabel];
  const carries =
    label === undefined ? `lacks the label ${ownerLabel}` : `has the label ${ownerLabel}=${label}`;
  return `is not of "${owner ?? formerOwner}" (${bearer} ${carries})`;
}

/**
 * Whether an object in Docker belongs to a stack, which then may adopt, change and delete it.
 *
 * @param owner `project/stack`; undefined in state from before the label named them
 */
export function isOwn(labels: Labels, owner: string | undefined): boolean {
  const label = labels?.[ownerLabel];
  return label === formerOwner || (label !== undefined && label === owner);
}
