import type { Clock } from "../../system/clock";
import { nameOf, refOf, type KubernetesApi, type Manifest } from "./client";
import { condition } from "./condition";

/**
 * Server-side apply of objects that need each other: namespaces, then definitions until the API server serves
 * their kinds, then the rest side by side.
 *
 * @throws Error naming the object that the API server refused, or the definition that it did not serve within 30 s
 */
export async function applyInOrder(
  api: KubernetesApi,
  clock: Clock,
  objects: readonly Manifest[],
  fieldManager: string,
): Promise<void> {
  const definitions = objects.filter(({ kind }) => kind === "CustomResourceDefinition");
  const namespaces = objects.filter(({ kind }) => kind === "Namespace");
  const rest = objects.filter((object) => !definitions.includes(object) && !namespaces.includes(object));

  await Promise.all([...namespaces, ...definitions].map((object) => api.apply(object, fieldManager)));
  await Promise.all(definitions.map((definition) => established(api, clock, definition)));
  await Promise.all(rest.map((object) => api.apply(object, fieldManager)));
}

async function established(api: KubernetesApi, clock: Clock, definition: Manifest): Promise<void> {
  const deadline = clock.now() + 30_000;
  while (clock.now() < deadline) {
    if (condition(await api.get(refOf(definition)), "Established")?.status === "True") return;
    await clock.sleep(50);
  }
  throw new Error(
    `Applying ${nameOf(refOf(definition))} failed: the API server did not serve it within 30 s.`,
  );
}
