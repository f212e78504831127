/** The label of everything that this project makes on a machine: containers, networks, volumes and images. */
export const ownerLabel = "platform.pulumi.com/owner";
export const owner = "platform";

/** What `docker inspect` tells of labels; Docker writes null for none. */
export type Labels = Readonly<Record<string, string>> | null | undefined;

/** Whether something in Docker is this project's, to adopt, change and delete. */
export function isOwn(labels: Labels): boolean {
  return labels?.[ownerLabel] === owner;
}
