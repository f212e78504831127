/** A fault that a check found. Code tells findings apart by their fields, never by their text. */
export interface Finding {
  /** The name of the check, such as `port` or `private-key`. */
  readonly check: string;
  /** Operation, subject and cause: one sentence. */
  readonly message: string;
  /** The way to correct the fault. @default none is known */
  readonly remedy?: string;
  /** Path of the file, relative to the tree; of `secrets check`, relative to the repository. */
  readonly file?: string;
  /** Line in the file, from 1. */
  readonly line?: number;
  /** The object with the fault: kind, name, and the fields or keys with the fault. */
  readonly object?: FoundObject;
  /** The Flux Kustomization that brings the object. */
  readonly layer?: string;
  /** Abbreviated name of the commit that has the fault. @default the files on the disk have it */
  readonly commit?: string;
}

/** The object of a finding. */
export interface FoundObject {
  readonly kind: string;
  /** @default the file names none; kustomize may set it */
  readonly namespace?: string;
  readonly name: string;
  readonly fields?: readonly string[];
}

/** A finding as text: the message and the remedy. */
export function textOf({ message, remedy }: Pick<Finding, "message" | "remedy">): string {
  return remedy === undefined ? message : `${message} ${remedy}`;
}
