import type { CustomResourceOptions, dynamic, Output } from "@pulumi/pulumi";
import { SystemClock } from "../../system/clock";
import { KubernetesClient } from "../../clients/kubernetes/client";
import { KindCli } from "../../clients/kind/client";
import {
  KindLifecycle,
  refusal,
  warning,
  type KindInputs,
  type KindOutputs,
} from "../../core/cluster/kind/lifecycle";
import { CheckedOutResource, providerOf, type Args } from "./provider";

const lifecycle = () =>
  new KindLifecycle(new KindCli(), (kubeconfig) => new KubernetesClient(kubeconfig), new SystemClock());

/** The provider that {@link CheckedOutResource} loads. */
export const provider: dynamic.ResourceProvider<KindInputs, KindOutputs> = {
  ...providerOf<KindInputs, KindOutputs>({ id: ({ name }) => name, lifecycle }),
  check: async (olds, news) => {
    // For a cluster in state, `diff` reports the loss.
    const isNew = (olds as Partial<KindInputs>).name === undefined;
    // The resources that need the Docker Engine report that it does not answer.
    const findings = isNew
      ? await lifecycle()
          .check(news)
          .catch(() => [])
      : [];
    return { inputs: news, failures: findings.map((reason) => ({ property: "name", reason })) };
  },
  diff: (_id, olds, news) => {
    const { changes, replaces, reasons } = lifecycle().diff(olds, news);
    if (replaces.length > 0) {
      if (!news.allowReplace) {
        // Pulumi prints the stack of an error that `diff` throws.
        return Promise.reject(Object.assign(new Error(refusal(olds.name, reasons)), { stack: "" }));
      }
      console.warn(warning(olds.name, reasons));
    }
    return Promise.resolve({ changes, replaces, deleteBeforeReplace: true });
  },
};

/** A Kind cluster. */
export class Kind extends CheckedOutResource<KindInputs> {
  /** Admin kubeconfig; a secret. */
  declare readonly kubeconfig: Output<string>;

  constructor(name: string, args: Args<KindInputs>, opts?: CustomResourceOptions) {
    super(
      {
        file: "kind",
        type: ["cluster", "Kind"],
        outputs: ["kubeconfig", "running"],
        secrets: ["kubeconfig"],
      },
      name,
      args,
      opts,
    );
  }
}
