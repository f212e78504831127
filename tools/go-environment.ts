import { environmentOf } from "./command";

/**
 * What Go gets of an environment: where modules come from, such as a company's `GOPROXY`, and where they are kept. Flags
 * are for the user's own builds, also those that `go env -w` keeps in a file.
 */
export function goEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { ...environmentOf("go", env), GOFLAGS: "-mod=readonly", GOWORK: "off" };
}
