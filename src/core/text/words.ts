/** How text is cut into words, for embeddings and for lexical features alike. */

/** Needs no normalisation. */
const ASCII = /^[\0-\x7f]*$/;
/** A run of letters and their marks with the apostrophes inside of it, a run of digits, or another character alone. */
const WORDS = /[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*|\p{N}+|\S/gu;

/**
 * Case folded, compatibility forms and accents taken away. Marks of the Inherited script are those put on letters of
 * many scripts (accents, Arabic vowel signs); the others, such as Indic vowel signs, spell words and stay.
 */
export function fold(text: string): string {
  if (ASCII.test(text)) return text.toLowerCase();
  const bare = text.normalize("NFKD").replace(/\p{Script=Inherited}+/gu, "");
  return bare.toUpperCase().toLowerCase();
}

/**
 * The words of a text, folded, in their order: runs of letters of any script ("don't" is one), runs of digits, and every
 * other character that is not white space by itself. A text of accents alone is one word, unfolded; white space alone has none.
 */
export function words(text: string): string[] {
  const found = fold(text).match(WORDS);
  if (found !== null) return found.map((word) => (word.includes("’") ? word.replaceAll("’", "'") : word));
  const rest = text.trim();
  return rest === "" ? [] : [rest];
}
