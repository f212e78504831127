import { isDeepStrictEqual } from "node:util";
import { isSecretPath } from "../../clients/sops/secret-file";

/** A fault that a check found. Code tells findings apart by their fields, never by their text. */
export interface Finding {
  /** The name of the check, such as `port` or `plain-secret`; of a search for leaks, `leak/<kind>`. */
  readonly check: string;
  /** Operation, subject and cause: one sentence. */
  readonly message: string;
  /** The way to correct the fault. @default the message says it, or it is not known */
  readonly remedy?: string;
  /** Path relative to the gitops tree: the path of a file beside the tree starts with `../`. */
  readonly file?: string;
  /** Line in the file, from 1. */
  readonly line?: number;
  readonly object?: FoundObject;
  /** The Flux Kustomization that brings the object. */
  readonly layer?: string;
  /** Abbreviated name of the commit that has the fault. @default the files on the disk have it */
  readonly commit?: string;
}

/** The object that has a fault. */
export interface FoundObject {
  readonly kind: string;
  /** @default the file names none; kustomize may add it */
  readonly namespace?: string;
  readonly name: string;
  /** The fields or keys that have the fault. */
  readonly fields?: readonly string[];
}

/** A finding as text: the message and the remedy. */
export function textOf({ message, remedy }: Finding): string {
  return remedy === undefined ? message : `${message} ${remedy}`;
}

/** An error whose message is the text of findings, one a line; `findingsOf` returns them. */
export function errorOf(findings: readonly Finding[], cause?: unknown): Error {
  return Object.assign(new Error(findings.map(textOf).join("\n"), { cause }), { findings });
}

/** The findings of an error of `errorOf`; of any other error, its message as a finding of `check`. */
export function findingsOf(error: unknown, check: string): readonly Finding[] {
  const { findings, message } = error as Error & { findings?: readonly Finding[] };
  return findings ?? [{ check, message }];
}

/**
 * The findings of several checks without repetitions. The check that says most about encrypted files comes first: only
 * its findings are kept for such a file. A fault of a file and a commit is told with the commit. A fault of a file is
 * not told again for the object that kustomize makes of the file.
 */
export function mergeFindings(...checks: readonly (readonly Finding[])[]): Finding[] {
  const all = checks.flat();
  const merged: Finding[] = [];
  for (const findings of checks) {
    const explained = merged
      .map(({ file }) => file)
      .filter((file) => file !== undefined && isSecretPath(file));
    for (const finding of findings) {
      if (explained.includes(finding.file)) continue;
      if (merged.some((other) => isDeepStrictEqual(other, finding))) continue;
      if (!all.some((other) => isMoreExact(other, finding))) merged.push(finding);
    }
  }
  return merged;
}

/** Whether a finding is about the same fault as another, and names the commit or the file that the other does not. */
function isMoreExact(finding: Finding, { check, object, file, commit }: Finding): boolean {
  if (finding.check !== check) return false;
  if (file !== undefined) {
    return (
      finding.file === file &&
      finding.commit !== undefined &&
      commit === undefined &&
      isDeepStrictEqual(finding.object, object)
    );
  }
  const { file: named, object: inFile } = finding;
  return (
    named !== undefined &&
    inFile !== undefined &&
    isDeepStrictEqual({ ...object, namespace: inFile.namespace }, { namespace: undefined, ...inFile }) &&
    [undefined, object?.namespace].includes(inFile.namespace)
  );
}
