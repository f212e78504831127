import { parseArgs, type ParseArgsConfig } from "node:util";
import { sentence } from "../../system/sentence";

/**
 * Reads the arguments of a command.
 *
 * @param command as the user calls it: "npm run render"
 * @throws Error with one sentence, whose remedy is the command's help
 */
export function readArguments<Config extends ParseArgsConfig>(
  command: string,
  config: Config,
): ReturnType<typeof parseArgs<Config>> {
  try {
    return parseArgs(config);
  } catch (error) {
    // What follows the first sentence is how to write an argument that starts with "-".
    const [reason = ""] = (error as Error).message.split(/\.\s/);
    throw new Error(`Running "${command}" failed: ${sentence(reason)} See "${command} -- --help".`, {
      cause: error,
    });
  }
}
