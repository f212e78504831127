import { Argument, type Command } from "commander";
import { stacksOf } from "../../core/settings/config";
import { project } from "./project";

/** The code that a shell runs to complete a line: it asks the program itself. */
const scripts = {
  bash: `_platform() {
  local IFS=$'\\n'
  COMPREPLY=($(compgen -W "$(platform complete -- "\${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _platform platform
`,
  zsh: `#compdef platform
_platform() {
  compadd -- \${(f)"$(platform complete -- "\${(@)words[2,CURRENT-1]}" 2>/dev/null)"}
}
compdef _platform platform
`,
  fish: `complete -c platform -f -a '(platform complete -- (commandline -opc)[2..] 2>/dev/null)'
`,
};

/** Adds the commands with which shells complete the program's lines. */
export function addCompletion(program: Command): void {
  program
    .command("completion")
    .description("Prints the completion script of a shell.")
    .addArgument(new Argument("<shell>", "your shell").choices(Object.keys(scripts)))
    .addHelpText(
      "after",
      '\nWith this project\'s "commands" directory on PATH: source <(platform completion bash)',
    )
    .action((shell: keyof typeof scripts) => {
      process.stdout.write(scripts[shell]);
    });
  program
    .command("complete", { hidden: true })
    .argument("[words...]")
    .action(async (words: readonly string[]) => {
      for (const candidate of await candidates(program, words)) console.log(candidate);
    });
}

/**
 * The possible next words of a line.
 *
 * @param words without the program's own name, up to the word to complete
 */
export async function candidates(program: Command, words: readonly string[]): Promise<string[]> {
  let command = program;
  let rest = words;
  for (;;) {
    const next = command.commands.find((each) => each.name() === rest[0]);
    if (next === undefined) break;
    command = next;
    rest = rest.slice(1);
  }
  const help = command.createHelp();
  const names = help.visibleCommands(command).map((each) => each.name());
  if (names.length > 0) return names;
  const last = rest.at(-1);
  const option = command.options.find(
    ({ short, long }) => last !== undefined && [short, long].includes(last),
  );
  const stacks = await stacksOf(project);
  if (option?.required === true) {
    return option.long === "--stack" ? stacks : [...(option.argChoices ?? [])];
  }
  const isNamed = rest.some((word) => stacks.includes(word));
  const takesStack = command.registeredArguments.some((argument) => argument.name() === "stack");
  const options = help.visibleOptions(command).map(({ long, short }) => long ?? short ?? "");
  const [choices = []] = command.registeredArguments.map(({ argChoices }) => argChoices);
  return [...choices, ...(takesStack && !isNamed ? stacks : []), ...options];
}
