import type { Manifest } from "./client";

/** A condition in the status of a Kubernetes object. */
export interface Condition {
  readonly type: string;
  readonly status: string;
  readonly observedGeneration?: number;
  readonly reason?: string;
  readonly message?: string;
}

/** The condition of a type, such as `Ready`; undefined when the object does not have it. */
export function condition(object: Manifest | undefined, type: string): Condition | undefined {
  // A new CustomResourceDefinition has `conditions: null`.
  const { conditions } = (object?.status ?? {}) as { conditions?: readonly Condition[] | null };
  return conditions?.find((entry) => entry.type === type);
}
