/**
 * Lexical features: TF-IDF (Salton and Buckley 1988) of a text's words, word pairs and the character 2- to 4-grams of its
 * words, hashed (Weinberger et al. 2009), fitted on a tenant's own examples. They tell a head which words were used where
 * the embedding tells what they mean.
 *
 *   t = s (ŵ, ĉ)    w_j = (1 + ln n_j) · idf_j over the words and pairs hashed into bucket j, n_j of them; c likewise over the n-grams
 *   idf_j = ln((1 + examples) / (1 + examples with j)) + 1;    ŵ = w / ‖w‖; buckets that no example has are left out
 *
 * beside embeddings whose spread is 1, as a training scales them (design.ts): s is ½ for few examples, where the embedding
 * should say most, and 1 for many.
 */
import type { SparseRows } from "../tensors.ts";
import { splitWords } from "./words.ts";

/** What is fitted: the buckets that any example has, and the inverse document frequency of each. */
export interface LexicalVocabulary {
  /** Of words and pairs, and as many of n-grams after them. */
  readonly buckets: number;
  /** s */
  readonly scale: number;
  /** The buckets that were seen, ascending. They are the features' columns; no other bucket has any. */
  readonly seenBuckets: Uint16Array;
  /** One for each of them. */
  readonly idf: Float32Array;
}

/** A text's features: columns, each once, and their values. */
export type SparseVector = Pick<SparseRows, "columns" | "values">;

const MIN_NGRAM = 2;
const MAX_NGRAM = 4;
const MAX_SMALL_TRAINING_SET = 640;
/** The kinds of features hash from different starting values, so that the word "<a" is not the n-gram "<a". */
const WORD_SEED = 0x811c9dc5;
const PAIR_SEED = 0x9dc5811c;
const NGRAM_SEED = 0x01234567;

/** Parameters beside the dense ones that a head should have at most, and bounds of the buckets. */
const MAX_LEXICAL_WEIGHTS = 160_000;
export const MIN_BUCKETS = 256;
const MAX_BUCKETS = 32_768;

/** How many buckets a head of so many outputs hashes into: fewer where each costs more weights. A power of two. */
export function lexicalBucketCount(outputs: number): number {
  let buckets = MAX_BUCKETS;
  while (buckets > MIN_BUCKETS && 2 * buckets * outputs > MAX_LEXICAL_WEIGHTS) buckets /= 2;
  return buckets;
}

/** Whether so many outputs leave room for lexical features at all. */
export function hasLexicalRoom(outputs: number): boolean {
  return 2 * MIN_BUCKETS * outputs <= MAX_LEXICAL_WEIGHTS;
}

/** Room to count in, all zeros between two texts: one of its own for each prediction would cost more than the counting. */
const counts = new Uint32Array(2 * MAX_BUCKETS);

/** A text's buckets, each once, and how often it has each. */
function countBuckets(
  text: string,
  buckets: number,
): { readonly foundBuckets: readonly number[]; readonly bucketCounts: readonly number[] } {
  const foundBuckets: number[] = [];
  const add = (hash: number, offset: number) => {
    const bucket = offset + (mixHash(hash) & (buckets - 1));
    if (counts[bucket] === 0) foundBuckets.push(bucket);
    counts[bucket] = (counts[bucket] as number) + 1;
  };
  const addGram = (hash: number) => add(hash, buckets);
  let previousHash: number | null = null;
  for (const word of splitWords(text)) {
    const hash = hashWord(word);
    add(hash, 0);
    if (previousHash !== null) add(fnvStep(fnvStep(PAIR_SEED, previousHash), hash), 0);
    previousHash = hash;
    addNgrams(word, addGram);
  }
  const bucketCounts = foundBuckets.map((bucket) => counts[bucket] as number);
  for (const bucket of foundBuckets) counts[bucket] = 0;
  return { foundBuckets, bucketCounts };
}

function fnvStep(hash: number, unit: number): number {
  return Math.imul(hash ^ unit, 0x01000193);
}

function hashWord(word: string): number {
  let hash = WORD_SEED;
  for (let i = 0; i < word.length; i++) hash = fnvStep(hash, word.charCodeAt(i));
  return hash;
}

/** MurmurHash3's finaliser spreads FNV's low bits over all 32. */
function mixHash(hash: number): number {
  let h = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** The hash of each 2- to 4-gram of "<word>". */
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

/** The features of a training's texts. */
export interface LexicalFeatures {
  readonly vocabulary: LexicalVocabulary;
  readonly columns: number;
  /** Numbers in the rows. */
  readonly entries: number;
  /** The rows, text by text. They are given away: a training needs their memory for other things. */
  takeRows(): SparseRows;
}

/** What texts are read into, one after another, before the frequencies in all of them are known. */
export interface LexicalReader {
  add(text: string): void;
  /** Numbers so far. */
  entries(): number;
  /** Buckets of words and pairs, and as many of n-grams. */
  buckets(): number;
  /** Goes on with half as many buckets, as if it had begun with them. */
  halve(): void;
  /** Ends the reader. */
  fit(): LexicalFeatures;
}

/** Numbers that are read into one array: an array of each text's own would be larger than what it holds. */
const CHUNK_SIZE = 65_536;

/** A reader that hashes into so many buckets of words and pairs, a power of two, and as many of n-grams. */
export function createLexicalReader(maxBuckets: number): LexicalReader {
  let buckets = maxBuckets;
  const chunks: SparseVector[] = [];
  const starts = [0];
  let entries = 0;
  let { columns, values }: SparseVector = { columns: new Uint16Array(0), values: new Float32Array(0) };
  return {
    add(text) {
      const { foundBuckets, bucketCounts } = countBuckets(text, buckets);
      for (const [i, bucket] of foundBuckets.entries()) {
        const index = entries++ % CHUNK_SIZE;
        if (index === 0) {
          columns = new Uint16Array(CHUNK_SIZE);
          values = new Float32Array(CHUNK_SIZE);
          chunks.push({ columns, values });
        }
        columns[index] = bucket;
        values[index] = bucketCounts[i] as number;
      }
      starts.push(entries);
    },
    entries: () => entries,
    buckets: () => buckets,
    halve() {
      entries = halveBuckets(chunks, starts, buckets);
      buckets /= 2;
      chunks.length = Math.ceil(entries / CHUNK_SIZE);
      ({ columns, values } = chunks.at(-1) ?? { columns, values });
    },
    fit() {
      const rows = { starts: Uint32Array.from(starts), ...joinChunks(chunks, entries) };
      chunks.length = 0;
      const examples = starts.length - 1;
      const scale = examples <= MAX_SMALL_TRAINING_SET ? 0.5 : 1;
      const vocabulary = { buckets, scale, ...fitIdf(rows.columns, examples, 2 * buckets) };
      bucketsToColumns(rows.columns, vocabulary.seenBuckets);
      for (let i = 0; i < examples; i++) {
        const [from, to] = [rows.starts[i] as number, rows.starts[i + 1] as number];
        applyTfidf(rows.columns.subarray(from, to), rows.values.subarray(from, to), vocabulary);
      }
      let retained: SparseRows | null = rows;
      const takeRows = () => {
        const result = retained;
        retained = null;
        if (result === null) throw new Error("The rows have been taken.");
        return result;
      };
      return { vocabulary, columns: vocabulary.seenBuckets.length, entries, takeRows };
    },
  };
}

/** Puts each two buckets that half as many would be one into one, text by text, in place; answers how many numbers are left. */
function halveBuckets(chunks: readonly SparseVector[], starts: number[], buckets: number): number {
  const half = buckets / 2;
  /** One more than where each new bucket was last put. */
  const lastIndices = new Uint32Array(2 * half);
  let writeIndex = 0;
  let readIndex = 0;
  for (let text = 1; text < starts.length; text++) {
    const textStart = writeIndex;
    for (const end = starts[text] as number; readIndex < end; readIndex++) {
      const { columns, values } = chunks[Math.floor(readIndex / CHUNK_SIZE)] as SparseVector;
      const oldBucket = columns[readIndex % CHUNK_SIZE] as number;
      const termCount = values[readIndex % CHUNK_SIZE] as number;
      const bucket = (oldBucket & (half - 1)) + (oldBucket < buckets ? 0 : half);
      const knownIndex = (lastIndices[bucket] as number) - 1;
      const index = knownIndex >= textStart ? knownIndex : writeIndex++;
      lastIndices[bucket] = index + 1;
      const target = chunks[Math.floor(index / CHUNK_SIZE)] as SparseVector;
      target.columns[index % CHUNK_SIZE] = bucket;
      target.values[index % CHUNK_SIZE] =
        index === knownIndex ? (target.values[index % CHUNK_SIZE] as number) + termCount : termCount;
    }
    starts[text] = writeIndex;
  }
  return writeIndex;
}

function joinChunks(chunks: readonly SparseVector[], entries: number): SparseVector {
  const joined = { columns: new Uint16Array(entries), values: new Float32Array(entries) };
  chunks.forEach(({ columns, values }, i) => {
    const size = Math.min(CHUNK_SIZE, entries - i * CHUNK_SIZE);
    joined.columns.set(columns.subarray(0, size), i * CHUNK_SIZE);
    joined.values.set(values.subarray(0, size), i * CHUNK_SIZE);
  });
  return joined;
}

/** A function that gives a text's features. */
export function createLexicalVectorizer(lexical: LexicalVocabulary): (text: string) => SparseVector {
  return (text) => {
    const { foundBuckets, bucketCounts } = countBuckets(text, lexical.buckets);
    const columns = new Uint16Array(foundBuckets.length);
    const values = new Float32Array(foundBuckets.length);
    let size = 0;
    for (const [i, bucket] of foundBuckets.entries()) {
      const column = binarySearch(lexical.seenBuckets, bucket);
      if (column < 0) continue;
      columns[size] = column;
      values[size++] = bucketCounts[i] as number;
    }
    const features = { columns: columns.subarray(0, size), values: values.subarray(0, size) };
    applyTfidf(features.columns, features.values, lexical);
    return features;
  };
}

/** Where a number is among others, which ascend, or −1. */
function binarySearch(sorted: Uint16Array, value: number): number {
  let low = 0;
  let high = sorted.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const middleValue = sorted[middle] as number;
    if (middleValue === value) return middle;
    if (middleValue < value) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

/** The buckets that are among those of the examples, each example's once, and their inverse document frequencies. */
function fitIdf(
  buckets: Uint16Array,
  examples: number,
  bucketCount: number,
): Pick<LexicalVocabulary, "seenBuckets" | "idf"> {
  const documentCounts = new Uint32Array(bucketCount);
  for (let m = 0; m < buckets.length; m++) {
    const bucket = buckets[m] as number;
    documentCounts[bucket] = (documentCounts[bucket] as number) + 1;
  }
  const seenBuckets = Uint16Array.from(
    Array.from(documentCounts.keys()).filter((bucket) => documentCounts[bucket] !== 0),
  );
  const idf = new Float32Array(seenBuckets.length);
  for (let j = 0; j < seenBuckets.length; j++)
    idf[j] = Math.log((1 + examples) / (1 + (documentCounts[seenBuckets[j] as number] as number))) + 1;
  return { seenBuckets, idf };
}

/** Turns buckets into columns, in place. */
function bucketsToColumns(buckets: Uint16Array, seenBuckets: Uint16Array): void {
  const columns = new Uint16Array((seenBuckets.at(-1) ?? 0) + 1);
  for (let j = 0; j < seenBuckets.length; j++) columns[seenBuckets[j] as number] = j;
  for (let m = 0; m < buckets.length; m++) buckets[m] = columns[buckets[m] as number] as number;
}

/** Turns one text's counts into its features, in place. */
function applyTfidf(
  columns: Uint16Array,
  values: Float32Array,
  { buckets, seenBuckets, idf, scale }: LexicalVocabulary,
): void {
  let wordSquares = 0;
  let ngramSquares = 0;
  for (let m = 0; m < columns.length; m++) {
    const column = columns[m] as number;
    const value = (1 + Math.log(values[m] as number)) * (idf[column] as number);
    values[m] = value;
    if ((seenBuckets[column] as number) < buckets) wordSquares += value * value;
    else ngramSquares += value * value;
  }
  const wordFactor = scale / (Math.sqrt(wordSquares) || 1);
  const ngramFactor = scale / (Math.sqrt(ngramSquares) || 1);
  for (let m = 0; m < columns.length; m++)
    values[m] =
      (values[m] as number) * ((seenBuckets[columns[m] as number] as number) < buckets ? wordFactor : ngramFactor);
}
