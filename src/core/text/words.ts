/** How text is cut into words, for embeddings and for lexical features alike. */

/** Needs no normalisation. */
const ASCII = /^[\0-\x7f]*$/;
/** A run of letters and their marks with the apostrophes inside of it, a run of digits, or another character alone. */
const WORD_PATTERN = /[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*|\p{N}+|\S/gu;

/**
 * Case folded, compatibility forms and accents taken away. Marks of the Inherited script are those put on letters of
 * many scripts (accents, Arabic vowel signs); the others, such as Indic vowel signs, spell words and stay.
 */
export function normaliseText(text: string): string {
  if (ASCII.test(text)) return text.toLowerCase();
  const stripped = text.normalize("NFKD").replace(/\p{Script=Inherited}+/gu, "");
  return stripped.toUpperCase().toLowerCase();
}

/**
 * The words of a text, folded, in their order: runs of letters of any script ("don't" is one), runs of digits, and every
 * other character that is not white space by itself. A text of accents alone is one word, unfolded; white space alone has none.
 */
export function splitWords(text: string): string[] {
  const found = normaliseText(text).match(WORD_PATTERN);
  if (found !== null) return found.map((word) => (word.includes("’") ? word.replaceAll("’", "'") : word));
  const trimmed = text.trim();
  return trimmed === "" ? [] : [trimmed];
}
