/**
 * The n-grams that replace the row of a word that has none of its own (Bojanowski et al. 2017, "Enriching Word Vectors
 * with Subword Information"): the character n-grams of "<word>", each hashed into one of a fixed number of rows.
 */

const MIN_NGRAM = 3;
const MAX_NGRAM = 5;

/** All numbers with equally many digits are one word: that a text has a number matters more than which one. */
const NUMBER = /^\p{N}+$/u;

/** The vocabulary's entry for a word (core/text/words.ts): the word itself, but `<n5>` for a run of five digits. */
export function vocabularyKey(word: string): string {
  return NUMBER.test(word) ? `<n${word.length}>` : word;
}

/** How many n-grams `forEachSubword` visits. The sum of their rows is divided by the square root of this number. */
export function subwordCount(word: string): number {
  let count = 0;
  for (let n = MIN_NGRAM; n <= MAX_NGRAM; n++) count += Math.max(0, word.length + 2 - n + 1);
  return count;
}

/**
 * Visits the row of each 3- to 5-gram of "<word>": FNV-1a over its UTF-16 code units, modulo `buckets`. Every word has
 * one.
 */
export function forEachSubword(word: string, buckets: number, visit: (row: number) => void): void {
  const bounded = `<${word}>`;
  for (let start = 0; start + MIN_NGRAM <= bounded.length; start++) {
    const end = Math.min(bounded.length, start + MAX_NGRAM);
    let hash = 0x811c9dc5;
    for (let i = start; i < end; i++) {
      hash = Math.imul(hash ^ bounded.charCodeAt(i), 0x01000193);
      if (i - start + 1 >= MIN_NGRAM) visit((hash >>> 0) % buckets);
    }
  }
}
