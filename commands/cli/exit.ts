/** Ends the process with a command's exit code; an error is told as its sentence, without a stack. */
export function exitWith(command: Promise<number>): void {
  const exit = (code: number) => {
    // What was printed into a pipe is not yet written.
    process.stdout.write("", () => process.exit(code));
  };
  command.then(exit, (error: unknown) => {
    process.stderr.write(`${(error as Error).message}\n`);
    exit(1);
  });
}
