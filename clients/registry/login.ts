import { randomUUID } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ScratchDirectory } from "../../system/scratch-directory";
import { run } from "../../tools/command";
import { isUnknown } from "./oci";
import { sentence } from "../../system/sentence";

/**
 * The user who pulls from a registry. The user name `<token>` says that the password is an identity token, as in
 * Docker.
 */
export interface RegistryLogin {
  readonly username: string;
  readonly password: string;
}

/**
 * The key under which Docker keeps its login to Docker Hub. Source: https://docs.docker.com/reference/cli/docker/login/
 */
const dockerHub = "https://index.docker.io/v1/";

/**
 * The content of a Secret of type `kubernetes.io/dockerconfigjson`.
 *
 * @param host of the registry, `host[:port]`
 * @param login undefined: the user of the Secret pulls without a login
 */
export function dockerConfig(host: string, login: RegistryLogin | undefined): string {
  if (login === undefined) return JSON.stringify({ auths: {} });
  const { username, password } = login;
  const entry =
    username === "<token>"
      ? { identitytoken: password }
      : { username, password, auth: Buffer.from(`${username}:${password}`).toString("base64") };
  return JSON.stringify({ auths: { [host === "docker.io" ? dockerHub : host]: entry } });
}

/**
 * Docker's own login to a registry, credential helpers included.
 *
 * @param host `host[:port]`
 * @returns undefined when Docker has none
 */
export async function dockerLogin(host: string): Promise<RegistryLogin | undefined> {
  let text: string;
  try {
    text = await run("crane", ["auth", "get", host]);
  } catch (error) {
    // The message of crane when there is no login, which is also the message of a credential helper.
    if (/credentials not found in native keychain/.test((error as Error).message)) return undefined;
    throw new Error(
      `Reading Docker's login to ${host} failed: ${sentence((error as Error).message)} Run "docker login ${host}", or set platform:registry.pullUsername and platform:registry.pullPassword.`,
      { cause: error },
    );
  }
  const { Username: username = "", Secret: password = "" } = JSON.parse(text) as {
    Username?: string;
    Secret?: string;
  };
  return password === "" ? undefined : { username, password };
}

/**
 * Asks a registry whether a login may pull from a repository, which may not exist yet.
 *
 * @param repository `host[:port]/path`
 * @returns the reason for a refusal, with the remedy; undefined when the login may pull
 */
export async function refusalOf(
  repository: string,
  login: RegistryLogin,
  insecure: boolean,
): Promise<string | undefined> {
  const host = repository.split("/")[0] ?? "";
  const scratch = new ScratchDirectory(join(tmpdir(), `platform-login-${randomUUID()}`));
  try {
    await writeFile(join(scratch.path, "config.json"), dockerConfig(host, login), { mode: 0o600 });
    await run("crane", [...(insecure ? ["--insecure"] : []), "ls", repository], {
      env: { DOCKER_CONFIG: scratch.path },
      timeout: 30_000,
    });
    return undefined;
  } catch (error) {
    const { message } = error as Error;
    if (isUnknown(error)) return undefined;
    const remedy = /\b40[13]\b|UNAUTHORIZED|DENIED/.test(message)
      ? "Set platform:registry.pullUsername and the secret platform:registry.pullPassword to a login that may pull."
      : "Check platform:registry.repository, and that the registry answers.";
    return `Pulling from ${repository} as "${login.username}" failed: ${sentence(message)} ${remedy}`;
  } finally {
    await scratch.remove();
  }
}
