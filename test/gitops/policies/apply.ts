import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { stringify } from "yaml";
import { nameOf, refOf, type Manifest } from "../../../clients/kubernetes/client";
import { ensureTools } from "../../../tools/tools";

/** Who asks the API server for something. */
export interface Requester {
  readonly username: string;
  readonly groups: readonly string[];
}

/** What a policy says of an object. */
export interface Verdict {
  readonly policy: string;
  readonly object: Manifest;
  /** `error` where the policy's expression itself went wrong; `skip` where its conditions leave the object out. */
  readonly result: "pass" | "fail" | "error" | "skip";
  readonly message: string;
}

/** The request that a policy is shown. */
export interface Request {
  /** @default Flux's kustomize-controller */
  readonly requester?: Requester;
  /** @default "CREATE" */
  readonly operation?: "CREATE" | "UPDATE";
}

/** The service account that applies the tree. */
const flux: Requester = {
  username: "system:serviceaccount:flux-system:kustomize-controller",
  groups: ["system:serviceaccounts", "system:serviceaccounts:flux-system", "system:authenticated"],
};

/** What Kyverno derives from a rule about pods. */
const derived = ["cronjobs", "daemonsets", "deployments", "jobs", "replicasets", "statefulsets"];

/**
 * Has Kyverno's own command-line tool judge objects, as its webhook would.
 *
 * @param policies `ValidatingPolicy` objects
 * @param manifests no two the same; those of kinds that no policy watches get no verdict, and a Namespace lends its
 *   labels
 */
export async function judge(
  manifests: readonly Manifest[],
  policies: readonly Manifest[],
  { requester = flux, operation = "CREATE" }: Request = {},
): Promise<Verdict[]> {
  const resources = new Set(policies.flatMap(watchedBy));
  const watched = manifests.filter(({ kind }) => resources.has(`${kind.toLowerCase()}s`));
  if (watched.length === 0) return [];
  // A report names an object; its place in the list finds it again.
  const objects = watched.map((object, index) => ({
    ...object,
    metadata: { namespace: "default", ...object.metadata, uid: String(index) },
  }));
  const labelled = new Map(
    manifests
      .filter(({ kind }) => kind === "Namespace")
      .map(({ metadata }) => [metadata.name, metadata.labels]),
  );
  const namespaces = [...new Set(objects.map(({ metadata }) => metadata.namespace))].map((name) => ({
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { name, labels: { ...labelled.get(name), "kubernetes.io/metadata.name": name } },
  }));
  const directory = await mkdtemp(join(tmpdir(), "platform-policies-"));
  try {
    const file = async (name: string, contents: readonly object[]) => {
      const path = join(directory, `${name}.yaml`);
      await writeFile(path, contents.map((content) => stringify(content)).join("---\n"));
      return path;
    };
    const setting = (kind: string, fields: object) => [
      { apiVersion: "cli.kyverno.io/v1alpha1", kind, metadata: { name: "request" }, ...fields },
    ];
    const values = { globalValues: { "request.operation": operation }, namespaces };
    const report = await kyverno([
      ...["apply", await file("policies", policies.map(enforced))],
      ...["--resource", await file("resources", objects)],
      ...["--values-file", await file("values", setting("Values", values))],
      ...["--userinfo", await file("user", setting("UserInfo", { userInfo: requester }))],
      ...["--policy-report", "--output-format", "json"],
    ]);
    return report.results.flatMap(({ policy, result, message, resources: [reference] }) => {
      const object = watched[Number(reference?.uid)];
      if (object === undefined)
        throw new Error(`Kyverno judged an object that it was not given (${policy}).`);
      return [{ policy, object, result, message }];
    });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/**
 * Every way in which objects break policies, one sentence each: policy, object, message.
 *
 * @param manifests the final objects of a cluster, as Flux and Helm apply them
 * @param policies `ValidatingPolicy` objects, whatever they do about what they refuse
 */
export async function violations(
  manifests: readonly Manifest[],
  policies: readonly Manifest[],
): Promise<string[]> {
  return (await judge(manifests, policies))
    .filter(({ result }) => result === "fail" || result === "error")
    .map(({ policy, object, message }) => `Policy ${policy} refuses ${nameOf(refOf(object))}: ${message}`)
    .sort();
}

/** The resources that a policy watches, derived ones included: "deployments". */
function watchedBy({ spec }: Manifest): string[] {
  const { matchConstraints } = spec as { matchConstraints: { resourceRules: { resources: string[] }[] } };
  const resources = matchConstraints.resourceRules.flatMap((rule) => rule.resources);
  return resources.includes("pods") ? [...resources, ...derived] : resources;
}

/** A policy as it is in production. */
function enforced(policy: Manifest): Manifest {
  return { ...policy, spec: { ...(policy.spec as object), validationActions: ["Deny"] } };
}

interface Report {
  readonly results: readonly {
    readonly policy: string;
    readonly result: Verdict["result"];
    readonly message: string;
    readonly resources: readonly { readonly uid: string }[];
  }[];
}

/** @throws Error with what Kyverno says when it has no report to give */
async function kyverno(args: readonly string[]): Promise<Report> {
  const { kyverno: command } = await ensureTools(["kyverno"], { report: console.error });
  const { stdout, stderr, code } = await promisify(execFile)(command, args, { maxBuffer: 256 * 1024 * 1024 })
    .then((said) => ({ ...said, code: 0 }))
    // It fails where it finds a violation, after it has reported it.
    .catch((error: unknown) => error as { stdout: string; stderr: string; code: number | string });
  // It has no report to give where no policy watches an object.
  if (code === 0 && stdout.trim() === "") return { results: [] };
  try {
    return JSON.parse(stdout) as Report;
  } catch (error) {
    throw new Error(`"kyverno apply" failed: ${(stderr || stdout).trim().split("\n", 1)[0] || code}`, {
      cause: error,
    });
  }
}
