/** The label of everything that this project makes on a machine: containers, networks, volumes and images. */
export const ownerLabel = "platform.pulumi.com/owner";
export const owner = "platform";

/** The label of an image of nodes that this project made: the Docker network that they are for. */
export const networkLabel = "platform.pulumi.com/network";

/** What `docker inspect` tells of labels; Docker writes null for none. */
export type Labels = Readonly<Record<string, string>> | null | undefined;

/**
 * The refusal to touch what somebody else made.
 *
 * @param what such as `container`
 * @param removal the command that removes it, without its name
 */
export function foreign(operation: string, what: string, name: string, removal: string): Error {
  return new Error(
    `${operation} ${what} "${name}" failed: it exists and is not this project's (it lacks the label ${ownerLabel}=${owner}). Remove it with "${removal} ${name}" and run again.`,
  );
}

/** Whether something in Docker is this project's, to adopt, change and delete. */
export function isOwn(labels: Labels): boolean {
  return labels?.[ownerLabel] === owner;
}
