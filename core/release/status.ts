import type { KubernetesApi } from "../../clients/kubernetes/client";
import type { OciRegistry } from "../../clients/registry/oci";
import { sentence } from "../../system/sentence";
import { Channel } from "./channel";
import { look, oneRevision } from "./look";
import { observe } from "./observe";

/** The state of a stack's cluster. */
export interface Status {
  /** Whether every object of the release that the channel serves is Ready. */
  readonly ready: boolean;
  /** The release that the channel serves, `<channel>@sha256:…`; undefined when nothing was released. */
  readonly revision: string | undefined;
  /** Kustomizations and HelmReleases of the release; empty while the cluster does not run it. */
  readonly members: readonly {
    /** `Kustomization namespace/name`. */
    readonly name: string;
    readonly ready: boolean;
    /** Flux's message. */
    readonly message: string;
    /** Objects in its inventory. */
    readonly objects: number;
  }[];
  /** The reason why the cluster does not run the release, one sentence; undefined when it does. */
  readonly problem: string | undefined;
}

/**
 * Compares the cluster with the registry, and changes nothing.
 *
 * @param repository as this machine reaches it
 * @param channel the tag that the cluster follows
 * @throws Error when the cluster or the registry does not answer
 */
export async function statusOf(
  api: Pick<KubernetesApi, "get" | "list">,
  registry: OciRegistry,
  { repository, channel: name }: { readonly repository: string; readonly channel: string },
): Promise<Status> {
  const channel = new Channel(registry, repository, name);
  const [digest, observed] = await Promise.all([channel.serves(), observe(api)]);
  const none = { ready: false, members: [] };
  if (digest === undefined) {
    return { ...none, revision: undefined, problem: `Channel "${name}" of ${repository} serves nothing.` };
  }
  const revision = channel.revision(digest);
  const seen = look(observed, oneRevision(revision));
  if (seen === undefined)
    return { ...none, revision, problem: "The cluster has no Flux source of the platform." };
  const said = seen.source.message === "" ? "" : ` ${sentence(seen.source.message)}`;
  return {
    revision,
    ready: seen.ready,
    members: seen.members.map(({ name, ready, message, objects }) => ({
      ...{ name, ready, message, objects },
    })),
    problem: seen.served ? undefined : `The cluster's source does not serve ${revision}.${said}`,
  };
}
