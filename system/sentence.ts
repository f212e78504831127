/** Text with the end of a sentence, for any end that a program left. */
export function sentence(text: string): string {
  return text.trim().replace(/[.\s]*$/, ".");
}
