import * as z from "zod";

/*
 * The forms that settings share. Each error completes the sentence "Set it to …".
 */

/** The facts on which defaults and paths of the settings depend. */
export interface SettingsContext {
  readonly stack: string;
  /** Directory of the user's own configuration, such as `~/.config`. */
  readonly userConfig: string;
  /** Makes a path absolute. */
  readonly path: (value: string) => string;
}

/** A wrong setting takes no part in the rules between settings. */
export const abort = true;
/** Separates the faults of such a rule from the faults of one setting. */
export const rule = { rule: true };

export const text = z.string("a text").min(1, { abort });
export const flag = z.boolean("true or false");

export function textOf(form: RegExp | ((value: string) => boolean), error: string) {
  return form instanceof RegExp ? text.regex(form, { error, abort }) : text.refine(form, { error, abort });
}

export function whole(least: number, most: number) {
  return z.int(`a whole number from ${least} to ${most}`).min(least, { abort }).max(most, { abort });
}

export const port = whole(1, 65_535);

/** Refuses a setting that does not go with another one. */
export function refuse(context: z.RefinementCtx, path: PropertyKey[], message: string): void {
  context.addIssue({ code: "custom", path, message, params: rule });
}

export type ReadonlyDeep<T> = { readonly [K in keyof T]: ReadonlyDeep<T[K]> };
