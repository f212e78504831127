/** The label of everything that a stack makes on a machine, containers, networks, volumes and images: `project/stack`. */
export const ownerLabel = "platform.pulumi.com/owner";

/** The label of what was made before it named project and stack; the names of Docker tell the stacks apart. */
const formerOwner = "platform";

/** The label of an image of nodes that this project made: the Docker network that they are for. */
export const networkLabel = "platform.pulumi.com/network";

/** What `docker inspect` tells of labels; Docker writes null for none. */
export type Labels = Readonly<Record<string, string>> | null | undefined;

/**
 * The refusal to touch what somebody else made.
 *
 * @param what such as `container "registry"`
 * @param owner `project/stack`
 * @param removal the command that removes it
 */
export function foreign(
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
 * Why something in Docker is not a stack's, for a sentence.
 *
 * @param owner `project/stack`; undefined in state of before the label named them
 * @param bearer what carries the labels, or should
 */
export function isNotOf(owner: string | undefined, bearer: string, labels: Labels): string {
  const label = labels?.[ownerLabel];
  const carries =
    label === undefined ? `lacks the label ${ownerLabel}` : `has the label ${ownerLabel}=${label}`;
  return `is not of "${owner ?? formerOwner}" (${bearer} ${carries})`;
}

/**
 * Whether something in Docker is a stack's, to adopt, change and delete.
 *
 * @param owner `project/stack`; undefined in state of before the label named them
 */
export function isOwn(labels: Labels, owner: string | undefined): boolean {
  const label = labels?.[ownerLabel];
  return label === formerOwner || (label !== undefined && label === owner);
}
