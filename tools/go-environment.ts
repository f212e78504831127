import { environmentOf } from "./command";

/**
 * The part of an environment that Go gets: the source of modules, such as a company's `GOPROXY`, and their store. Flags
 * are for the user's own builds, also flags that `go env -w` keeps in a file.
 */
export function goEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { ...environmentOf("go", env), GOFLAGS: "-mod=readonly", GOWORK: "off" };
}
