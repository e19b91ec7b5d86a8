/** Hashes the words, word pairs and character n-grams of a text into buckets (FNV-1a, Weinberger et al. 2009). */
import { splitWords } from "./words.ts";

const MIN_NGRAM = 2;
const MAX_NGRAM = 4;
/** Each kind of feature hashes from its own starting value, so that the word "<a" differs from the n-gram "<a". */
const WORD_SEED = 0x811c9dc5;
const PAIR_SEED = 0x9dc5811c;
const NGRAM_SEED = 0x01234567;

/** A head should have at most so many lexical weights. */
const MAX_LEXICAL_WEIGHTS = 160_000;
export const MIN_BUCKETS = 256;
const MAX_BUCKETS = 32_768;

/**
 * The number of buckets for a head with so many outputs, a power of two. More outputs have fewer buckets, since each
 * costs more weights.
 */
export function lexicalBucketCount(outputs: number): number {
  let buckets = MAX_BUCKETS;
  while (buckets > MIN_BUCKETS && 2 * buckets * outputs > MAX_LEXICAL_WEIGHTS) buckets /= 2;
  return buckets;
}

/** Whether a head with so many outputs has room for lexical features at all. */
export function hasLexicalRoom(outputs: number): boolean {
  return 2 * MIN_BUCKETS * outputs <= MAX_LEXICAL_WEIGHTS;
}

/** Reused by every call, since allocating it costs more than counting a text. All zeros between two calls. */
const counts = new Uint32Array(2 * MAX_BUCKETS);

/**
 * The buckets of a text, each once, and how often each occurs. Words and pairs hash into the first `buckets`, n-grams
 * into as many after them.
 */
export function countBuckets(
  text: string,
  buckets: number,
): { readonly foundBuckets: readonly number[]; readonly bucketCounts: readonly number[] } {
  const foundBuckets: number[] = [];
  forEachBucket(splitWords(text), buckets, (bucket) => {
    const count = counts[bucket] ?? 0;
    if (count === 0) foundBuckets.push(bucket);
    counts[bucket] = count + 1;
  });
  const bucketCounts = foundBuckets.map((bucket) => counts[bucket] ?? 0);
  for (const bucket of foundBuckets) counts[bucket] = 0;
  return { foundBuckets, bucketCounts };
}

/**
 * Visits the bucket of each feature of a text's words: `word` is the index of the word that the feature is or is part of,
 * and of a pair that of its second word.
 */
export function forEachBucket(
  words: readonly string[],
  buckets: number,
  visit: (bucket: number, word: number, isPair: boolean) => void,
): void {
  const bucketOf = (hash: number) => mixHash(hash) & (buckets - 1);
  let previousHash: number | null = null;
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as string;
    const hash = hashWord(word);
    visit(bucketOf(hash), i, false);
    if (previousHash !== null) visit(bucketOf(fnvStep(fnvStep(PAIR_SEED, previousHash), hash)), i, true);
    previousHash = hash;
    addNgrams(word, (ngram) => visit(buckets + bucketOf(ngram), i, false));
  }
}

function fnvStep(hash: number, unit: number): number {
  return Math.imul(hash ^ unit, 0x01000193);
}

function hashWord(word: string): number {
  let hash = WORD_SEED;
  for (let i = 0; i < word.length; i++) hash = fnvStep(hash, word.charCodeAt(i));
  return hash;
}

/** MurmurHash3's finaliser, which spreads the low bits of FNV over all 32. */
function mixHash(hash: number): number {
  let h = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** Calls `add` with the hash of each 2- to 4-gram of "<word>". */
function addNgrams(word: string, add: (hash: number) => void): void {
  const length = word.length + 2;
  const codeUnitAt = (i: number) => (i === 0 ? 60 : i === length - 1 ? 62 : word.charCodeAt(i - 1));
  for (let start = 0; start + MIN_NGRAM <= length; start++) {
    const end = Math.min(length, start + MAX_NGRAM);
    let hash = fnvStep(NGRAM_SEED, codeUnitAt(start));
    for (let i = start + 1; i < end; i++) {
      hash = fnvStep(hash, codeUnitAt(i));
      add(hash);
    }
  }
}
