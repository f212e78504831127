// Stands in for a program such as `docker`: sends its arguments to the machine of a rehearsal, and prints the answer.
// Node runs this file without a transpiler, because every call of a program starts it.
import { connect } from "node:net";
import { text } from "node:stream/consumers";

const [, , socket = "", program = "", ...args] = process.argv;

async function main(): Promise<void> {
  const input = args.includes("--interactive") || args.includes("-") ? await text(process.stdin) : "";
  const connection = connect(socket);
  connection.end(JSON.stringify({ program, args, input, env: process.env }));
  const answer = JSON.parse(await text(connection)) as { code: number; stdout: string; stderr: string };
  const { code, stdout, stderr } = answer;
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  process.exitCode = code;
}

main().catch((error: unknown) => {
  const { message } = error as Error;
  console.error(`Cannot connect to the Docker daemon of this rehearsal: ${message}. It has ended.`);
  process.exitCode = 1;
});
