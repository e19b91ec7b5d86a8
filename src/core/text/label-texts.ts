/** What is known of a label without examples: its name, as words, and its description. A head can be trained on these texts. */

export interface DescribedLabel {
  readonly name: string;
  readonly description?: string | undefined;
}

/**
 * A name as words: `book_restaurant`, `BookRestaurant` and `book-restaurant` are "book restaurant". One of separators
 * alone stays as it is.
 */
export function wordsOfName(name: string): string {
  const words = name
    .replace(/(?<=[\p{Ll}\p{N}])(?=\p{Lu})|(?<=\p{Lu})(?=\p{Lu}\p{Ll})/gu, " ")
    .replace(/[\s_./|:\\-]+/g, " ")
    .trim()
    .toLowerCase();
  return words === "" ? name : words;
}

/**
 * The texts that stand for a label: its name, its name as something that a person wants, and its description. The second
 * makes a name more like what people write; it is in English, whatever the name's language.
 */
export function textsOfLabel({ name, description }: DescribedLabel): string[] {
  const words = wordsOfName(name);
  return [words, `I want to ${words}`, ...(description === undefined ? [] : [description])];
}
