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

/** A normalised word, and the part of the text that it is, in UTF-16 code units. */
export interface LocatedWord {
  readonly word: string;
  readonly start: number;
  readonly end: number;
}

/**
 * The words of a text, as `splitWords` answers them, with their places. Compatibility forms may be several words in one
 * place. Where a place's words depend on what is around it, all words have that of the whole text.
 */
export function locateWords(text: string): LocatedWord[] {
  const words = splitWords(text);
  const places = Array.from(text.matchAll(WORD_PATTERN), ({ 0: found, index }) => ({
    start: index,
    end: index + found.length,
  }));
  const located = places.flatMap(({ start, end }) =>
    splitWords(text.slice(start, end)).map((word) => ({ word, start, end })),
  );
  const isSame = located.length === words.length && located.every(({ word }, i) => word === words[i]);
  return isSame ? located : words.map((word) => ({ word, start: 0, end: text.length }));
}
