/** Text that ends as a sentence does, whatever a program left at its end. */
export function sentence(text: string): string {
  return text.trim().replace(/[.\s]*$/, ".");
}
