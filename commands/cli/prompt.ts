import { createInterface, type Interface } from "node:readline";
import { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { isKey, noKey } from "../../core/secrets/add";

/** The time in milliseconds in which the lines of one paste arrive: less than a person needs for a key. */
const paste = 20;

/** A question on the terminal. */
interface Question {
  /** The subject of the question, for errors. */
  readonly what: string;
  readonly text: string;
  /** Do not show the answer. @default false */
  readonly hidden?: boolean;
  /** The remedy for an answer of several lines. */
  readonly otherwise: string;
}

/** Asks on the terminal for one line after another. */
class Prompt {
  private readonly terminal: Interface;
  private readonly answers: AsyncIterator<string, unknown>;
  private muted = false;
  private lines = 0;
  private cancelled = false;

  constructor() {
    const output = new Writable({
      write: (chunk: Buffer, _encoding, callback) => {
        if (!this.muted) process.stderr.write(chunk);
        callback();
      },
    });
    this.terminal = createInterface({
      ...{ input: process.stdin, output, terminal: true },
      // Otherwise the arrow keys bring back an answer, and show it.
      historySize: 0,
    });
    this.terminal.on("line", () => {
      // Text that is pasted after a line may be a secret too.
      this.muted = true;
      this.lines++;
    });
    this.terminal.once("SIGINT", () => {
      this.cancelled = true;
      this.terminal.close();
    });
    this.answers = this.terminal[Symbol.asyncIterator]();
  }

  /**
   * @returns the answer; "" at Ctrl-D
   * @throws Error at Ctrl-C, and when several lines come at once
   */
  async ask({ what, text, hidden = false, otherwise }: Question): Promise<string> {
    this.lines = 0;
    this.muted = false;
    this.terminal.setPrompt(text);
    this.terminal.prompt();
    this.muted = hidden;
    const answer = await this.answers.next();
    const ended = answer.done === true;
    if (hidden || ended) process.stderr.write("\n");
    if (this.cancelled || (hidden && ended)) {
      throw new Error(`Asking for ${what} was cancelled: nothing is written.`);
    }
    if (ended) return "";
    await sleep(paste);
    if (this.lines > 1 || this.terminal.line !== "") {
      throw new Error(`Asking for ${what} failed: more than one line came at once. ${otherwise}`);
    }
    return answer.value;
  }

  close(): void {
    this.terminal.close();
  }
}

/** Asks for one secret, which is not shown. @throws Error as `Prompt.ask` */
export async function askForSecret(question: Question): Promise<string> {
  const prompt = new Prompt();
  try {
    return await prompt.ask({ ...question, hidden: true });
  } finally {
    prompt.close();
  }
}

/**
 * Asks for the keys and values of a Secret and does not show the values. A second value of a key replaces the first.
 *
 * @throws Error as `Prompt.ask`
 */
export async function askForValues(): Promise<Record<string, string>> {
  const prompt = new Prompt();
  const otherwise =
    'Give a value of several lines with --from-file <key>=<path>, and lines "key=value" on standard input.';
  const values = new Map<string, string>();
  try {
    for (;;) {
      const key = (await prompt.ask({ what: "a key", text: "Key (none to end): ", otherwise })).trim();
      if (key === "") return Object.fromEntries(values);
      if (!isKey(key)) {
        process.stderr.write(`${noKey(key)}\n`);
        continue;
      }
      const what = `${values.has(key) ? "another" : "the"} value of ${key}`;
      const value = await prompt.ask({
        ...{ what, hidden: true, otherwise },
        text: `${what}, which is not shown: `.replace(/^./, (letter) => letter.toUpperCase()),
      });
      if (value === "") process.stderr.write(`The value of ${key} is empty.\n`);
      values.set(key, value);
    }
  } finally {
    prompt.close();
  }
}
