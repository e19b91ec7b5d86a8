/**
 * Whether texts are in a language that the pre-trained backbones in the box know: by how many of their words have an
 * embedding of their own.
 */
import { splitWords } from "../core/text/words.ts";

/** The beginning of an import says enough. */
const MAX_WORDS = 2_000;
const MIN_WORDS = 20;
/** English texts have more than nine tenths; those of other languages borrow up to three fifths from it. */
const MIN_KNOWN_SHARE = 2 / 3;
const MAX_EXAMPLES = 5;

export interface WordCoverage {
  add(text: string): void;
  /** How many of the words looked at are not known, and the first of them; null if most are known, or too few were there. */
  unknown(): { readonly count: number; readonly words: number; readonly examples: readonly string[] } | null;
}

export function measureWordCoverage(isKnown: (word: string) => boolean): WordCoverage {
  let words = 0;
  let count = 0;
  const examples = new Set<string>();
  return {
    add(text) {
      if (words >= MAX_WORDS) return;
      for (const word of splitWords(text)) {
        if (!/^\p{L}/u.test(word)) continue;
        words++;
        if (isKnown(word)) continue;
        count++;
        if (examples.size < MAX_EXAMPLES) examples.add(word);
      }
    },
    unknown: () =>
      words < MIN_WORDS || words - count >= MIN_KNOWN_SHARE * words ? null : { count, words, examples: [...examples] },
  };
}
