import { getProject, getStack, log, RunError, runtime } from "@pulumi/pulumi";
import { partsOf, provenance, releaseSource } from "./core/tree/source";
import { inspectTree } from "./core/tree/tree";
import { Platform } from "./components/platform";
import { dockerLogin, refusalOf, type RegistryLogin } from "./clients/registry/login";
import { clusterKindOf } from "./core/cluster/kinds";
import { isGenerated, secretFilesIn } from "./core/secrets/files";
import { checkForms } from "./core/secrets/place";
import { ageKeyOf, parseConfig, pullLoginOf, type PlatformConfig } from "./core/settings/config";
import { messageOf } from "./system/file-error";
import { refuseOldNode } from "./system/node-version";
import { ensureTools, programTools } from "./tools/tools";
import { examine } from "./core/needs/needs";
import { errorOf, textOf, type Finding } from "./core/findings/finding";

/** The program: it reads and checks all its inputs before it registers the first resource. */
async function main(examineStack: typeof examine): Promise<Record<string, unknown>> {
  refuseOldNode(process.versions.node);
  // The SDK sends every answer of the engine as a debug message, with the secrets in plain text: "pulumi up --debug"
  // prints it, and an event log keeps it.
  Object.assign(log, { debug: () => Promise.resolve() });
  const context = { name: getProject(), project: __dirname, env: process.env };
  const config = parseConfig(getStack(), runtime.allConfig(), context);
  const kind = clusterKindOf(config.cluster);
  await ensureTools([...programTools, ...kind.tools], { report: console.error });

  const { tree, cluster, requireClean } = config.gitops;
  const source = await releaseSource(tree, requireClean);
  const [inspected, origin, ofKind, kubeconfig, pullLogin] = await Promise.all([
    inspectTree(source, cluster),
    provenance(source),
    kind.checkTree(config.cluster, source, cluster),
    kind.exists ? kind.kubeconfig(config.cluster) : undefined,
    readPullLogin(config),
    examineStack(config).then(tellFindings),
  ]);
  const { content, texts, findings: ofTree, notes } = inspected;
  const secretFiles = await secretFilesIn(texts, cluster).catch((error: unknown) => {
    // The tree's findings explain an unreadable file better.
    if (ofTree.length + ofKind.length === 0) throw error;
    return new Map<string, string>();
  });
  const ofSecrets = checkForms(secretFiles, config);
  // These findings explain a broken secret file better.
  const findings = [...(ofSecrets.length > 0 ? ofSecrets : ofTree), ...ofKind];
  if (findings.length > 0) throw errorOf(findings);
  for (const note of notes) await log.info(note);

  const platform = new Platform("platform", {
    config,
    content,
    provenance: origin,
    commit: partsOf(source).commit,
    generated: new Map([...secretFiles].filter(([, content]) => isGenerated(content, config.sops.generate))),
    ageKey: ageKeyOf(runtime.allConfig()),
    ...{ kubeconfig, pullLogin },
  });
  const { digest, ready, layers } = platform;
  return { kubeconfig: platform.kubeconfig, digest, ready, layers };
}

/** Reports missing requirements of a stack: a preview warns, an update is refused. */
async function tellFindings(findings: readonly Finding[]): Promise<void> {
  if (findings.length > 0 && !runtime.isDryRun()) throw errorOf(findings);
  for (const finding of findings) await log.warn(textOf(finding));
}

/**
 * The login with which the cluster pulls: the tested login of the settings, or Docker's login, which the doctor tests.
 */
async function readPullLogin({ registry }: PlatformConfig): Promise<RegistryLogin | undefined> {
  if (registry.kind !== "remote") return undefined;
  const { repository, insecure } = registry;
  const own = pullLoginOf(runtime.allConfig());
  if (own === undefined) return dockerLogin(repository.split("/")[0] ?? "");
  const refusal = await refusalOf(repository, own, insecure);
  if (refusal !== undefined && !runtime.isDryRun()) throw new Error(refusal);
  if (refusal !== undefined) await log.warn(refusal);
  return own;
}

/**
 * Pulumi runs this export. It shows the sentence of a `RunError`. The error has no stack, because Pulumi takes 15 s to
 * colour a stack for a trace (https://github.com/nodejs/node/issues/64011).
 *
 * @param examineStack another function, for the cluster of a rehearsal
 */
export = (examineStack = examine): Promise<Record<string, unknown>> =>
  main(examineStack).catch((error: unknown) => {
    throw Object.assign(new RunError(messageOf(error)), { stack: undefined });
  });
