/** Divides text into words, for embeddings and for lexical features. */

/** ASCII text needs no normalisation. */
const ASCII = /^[\0-\x7f]*$/;
/** A run of letters and their marks, with apostrophes inside; a run of digits; or any other single character. */
const WORD_PATTERN = /[\p{L}\p{M}]+(?:['\u2019][\p{L}\p{M}]+)*|\p{N}+|\S/gu;

/**
 * Folds case and removes compatibility forms and accents. The removed marks are those of the Inherited script, which
 * are put on letters of many scripts (accents, Arabic vowel signs). Other marks, such as Indic vowel signs, spell words
 * and stay.
 */
export function normaliseText(text: string): string {
  if (ASCII.test(text)) return text.toLowerCase();
  const stripped = text.normalize("NFKD").replace(/\p{Script=Inherited}+/gu, "");
  return stripped.toUpperCase().toLowerCase();
}

/**
 * The normalised words of a text in their order: runs of letters of any script ("don't" is one word), runs of digits,
 * and every other character except white space. A text of accents alone is one word, not normalised. White space alone
 * has no words.
 */
export function splitWords(text: string): string[] {
  const found = normaliseText(text).match(WORD_PATTERN);
  if (found !== null) return found.map((word) => (word.includes("’") ? word.replaceAll("’", "'") : word));
  const trimmed = text.trim();
  return trimmed === "" ? [] : [trimmed];
}
