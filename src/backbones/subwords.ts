/**
 * What a word's vector is made of when no row of its own says it (Bojanowski et al. 2017, "Enriching Word Vectors with
 * Subword Information"): the character n-grams of "<word>", each hashed into one of a fixed number of rows.
 */

const MIN_NGRAM = 3;
const MAX_NGRAM = 5;

/** A run of digits stands for every number of as many: what a number is says less than that it is one. */
const NUMBER = /^\p{N}+$/u;

/** The word under which a word (core/words.ts) has its vector: itself, but runs of digits as "<n" + how many + ">". */
export function vocabularyKey(word: string): string {
  return NUMBER.test(word) ? `<n${word.length}>` : word;
}

/** How many n-grams `eachSubword` visits: their rows' sum is divided by the square root of it. */
export function subwordCount(word: string): number {
  let count = 0;
  for (let n = MIN_NGRAM; n <= MAX_NGRAM; n++) count += Math.max(0, word.length + 2 - n + 1);
  return count;
}

/** Visits the row, of `rows`, of each 3- to 5-gram of "<word>": FNV-1a of its UTF-16 code units. No word is without. */
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
