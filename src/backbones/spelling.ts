/**
 * Corrects spelling: a word that no vocabulary entry spells becomes the likeliest common entry that is one edit away, which
 * is a letter too many, missing, wrong, or swapped with the next (Damerau 1964, "A Technique for Computer Detection and
 * Correction of Spelling Errors"). All such edits are looked up, so that no index is needed (Norvig 2007, "How to Write a
 * Spelling Corrector"). The likeliest is by a noisy channel (Kernighan, Church and Gale 1990, "A Spelling Correction Program
 * Based on a Noisy Channel Model"), with an entry's frequency by Zipf's law:
 *
 *   P(entry | word) ∝ P(edit) / (rank + 10),   P(edit): 1 for a letter that is missing or swapped, 1/10 for any other
 */
import { splitWords } from "../core/text/words.ts";
import { MAX_CHARACTERS } from "./sentence-encoder/tokenizer.ts";

/** What `correctSpelling` computes. A change of it changes embeddings, so it is part of their backbone's revision. */
export const SPELLING_VERSION = 2;

/** A shorter word is one edit away from too many others. Nothing that is longer is a common word. */
const MIN_LETTERS = 4;
const MAX_LETTERS = 16;
/** Corrections are among the most frequent entries: so many for each letter of the word from the fourth on. */
const ENTRIES_PER_LETTER = 4000;
/** A letter that is too many or wrong may be any; one that is missing or swapped is known. */
const ANY_LETTER = 10;
const RANK_OFFSET = 10;
/** Where a larger share of the words is unknown, the text is of another language, or of names. One word may always be. */
const MAX_UNKNOWN_SHARE = 0.25;

const LETTERS = [..."abcdefghijklmnopqrstuvwxyz"];
/** Words of ASCII letters that are no part of a code, an address, a contraction or a compound. */
const WORD = /(?<![\p{L}\p{M}\p{N}_@.'\u2019/-])[A-Za-z]?[a-z]+(?![\p{L}\p{M}\p{N}_@'\u2019/-]|\.[\p{L}\p{N}])/gu;

/**
 * The text with corrected words, and otherwise the same. `ranks` has the place of each vocabulary entry, the most frequent
 * first. Left alone are entries; words of fewer than 4 or more than 16 letters, with letters beyond ASCII or beside digits
 * or signs; names; and texts of another language.
 */
export function correctSpelling(text: string, ranks: ReadonlyMap<string, number>): string {
  const words = splitWords(text.slice(0, MAX_CHARACTERS)).filter((word) => /^\p{L}/u.test(word));
  const unknownCount = words.filter((word) => !ranks.has(word)).length;
  if (unknownCount === 0 || unknownCount > Math.max(1, MAX_UNKNOWN_SHARE * words.length)) return text;
  return text.replace(WORD, (word, start: number) => {
    if (word.length < MIN_LETTERS || word.length > MAX_LETTERS || start + word.length > MAX_CHARACTERS) return word;
    const lower = word.toLowerCase();
    if (ranks.has(lower)) return word;
    const capital = word !== lower;
    if (capital && !startsSentence(text, start)) return word;
    const corrected = likeliestEdit(lower, ranks) ?? lower;
    return capital ? corrected.charAt(0).toUpperCase() + corrected.slice(1) : corrected;
  });
}

/** Whether the word at this position is the first of a sentence. Other words with a capital are names. */
function startsSentence(text: string, position: number): boolean {
  const before = text.slice(0, position).trimEnd();
  return before === "" || /[.!?]$/.test(before);
}

/** The likeliest common entry that is one edit away from a word of the letters a to z, or null. */
function likeliestEdit(word: string, ranks: ReadonlyMap<string, number>): string | null {
  const maxRank = ENTRIES_PER_LETTER * (word.length - MIN_LETTERS + 1);
  let best: string | null = null;
  let bestCost = Number.POSITIVE_INFINITY;
  const compare = (edited: string, factor: number) => {
    const rank = ranks.get(edited) ?? maxRank;
    const cost = factor * (rank + RANK_OFFSET);
    if (rank >= maxRank || cost >= bestCost) return;
    best = edited;
    bestCost = cost;
  };
  for (let i = 0; i <= word.length; i++) {
    const before = word.slice(0, i);
    const after = word.slice(i);
    const afterNext = after.slice(1);
    if (afterNext !== "") compare(before + afterNext.charAt(0) + after.charAt(0) + afterNext.slice(1), 1);
    if (after !== "") compare(before + afterNext, ANY_LETTER);
    for (const letter of LETTERS) {
      compare(before + letter + after, 1);
      if (after !== "") compare(before + letter + afterNext, ANY_LETTER);
    }
  }
  return best;
}
