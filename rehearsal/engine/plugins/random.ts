import { randomInt } from "node:crypto";
import { serve, type Resource } from "./stand-in";

interface PasswordInputs {
  /** Characters. */
  readonly length: number;
  /** Whether there are special characters. @default true */
  readonly special?: boolean;
  /** Another value of it makes another password. @default none */
  readonly keepers?: Readonly<Record<string, string>>;
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/** Those of the real plugin. */
const specials = "!@#$%&*()-_=+[]{}<>:?";

/** Kept in state, where `RandomPassword` of the SDK marks `result` as a secret; there is nothing else to read or delete. */
const password: Resource = {
  inputs: { length: "replace", special: "replace", keepers: "replace" },
  create: (inputs: PasswordInputs) => {
    const characters = alphanumeric + (inputs.special === false ? "" : specials);
    const result = Array.from({ length: inputs.length }, () => characters[randomInt(characters.length)]);
    return Promise.resolve({ id: "none", outs: { ...inputs, result: result.join("") } });
  },
};

void serve("random", { "random:index/randomPassword:RandomPassword": password });
