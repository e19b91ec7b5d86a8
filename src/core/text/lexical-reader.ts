/** Reads the texts of a training and fits their lexical features. */
import type { SparseRows } from "../tensors.ts";
import { countBuckets } from "./buckets.ts";
import { applyTfidf, type LexicalVocabulary, type SparseVector } from "./lexical.ts";

/** A set of so many examples is small: the embedding should weigh more than the lexical features. */
const MAX_SMALL_TRAINING_SET = 640;

/** The lexical features of a training's texts. */
export interface LexicalFeatures {
  readonly vocabulary: LexicalVocabulary;
  readonly columns: number;
  /** Entries in the rows. */
  readonly entries: number;
  /**
   * Hands over the rows, one for each text, in blocks of these heights. It keeps none, because a training needs their
   * memory.
   */
  takeBlocks(heights: readonly number[]): Generator<SparseRows, void>;
}

/** Counts the buckets of texts, one after another. The document frequencies are known at the end. */
export interface LexicalReader {
  add(text: string): void;
  /** Entries so far. */
  entries(): number;
  /** Buckets of words and pairs. There are as many of n-grams. */
  buckets(): number;
  /** Halves the number of buckets, as if it had started with that. */
  halve(): void;
  /** Ends the reader. */
  fit(): LexicalFeatures;
}

/** Entries of one array. An array for each text would be larger than its content. */
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
        values[index] = bucketCounts[i] ?? 0;
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
      const examples = starts.length - 1;
      const scale = examples <= MAX_SMALL_TRAINING_SET ? 0.5 : 1;
      const vocabulary = { buckets, scale, ...fitIdf(chunks, entries, examples, 2 * buckets) };
      let retained: SparseVector[] | null = chunks.splice(0);
      const takeBlocks = (heights: readonly number[]) => {
        if (retained === null) throw new Error("The rows have been taken.");
        const taken = retained;
        retained = null;
        return makeBlocks(taken, starts, vocabulary, heights);
      };
      return { vocabulary, columns: vocabulary.seenBuckets.length, entries, takeBlocks };
    },
  };
}

/**
 * Merges pairs of buckets that are one if there are half as many, text by text, in place. Returns how many entries are
 * left.
 */
function halveBuckets(chunks: readonly SparseVector[], starts: number[], buckets: number): number {
  const half = buckets / 2;
  /** For each new bucket, one more than the index of its last entry. */
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

/** The texts' features, in blocks of these heights. Drops each chunk once it has been read. */
function* makeBlocks(
  chunks: SparseVector[],
  starts: readonly number[],
  vocabulary: LexicalVocabulary,
  heights: readonly number[],
): Generator<SparseRows, void> {
  const columnOfBucket = new Uint16Array((vocabulary.seenBuckets.at(-1) ?? 0) + 1);
  for (const [column, bucket] of vocabulary.seenBuckets.entries()) columnOfBucket[bucket] = column;
  let first = 0;
  for (const height of heights) {
    const start = starts[first] as number;
    const end = starts[first + height] as number;
    const { columns, values } = readEntries(chunks, start, end);
    for (let m = 0; m < columns.length; m++) columns[m] = columnOfBucket[columns[m] as number] as number;
    const blockStarts = Uint32Array.from({ length: height + 1 }, (_, i) => (starts[first + i] as number) - start);
    for (let i = 0; i < height; i++) {
      const [from, to] = [blockStarts[i] as number, blockStarts[i + 1] as number];
      applyTfidf(columns.subarray(from, to), values.subarray(from, to), vocabulary);
    }
    chunks.fill({ columns: new Uint16Array(0), values: new Float32Array(0) }, 0, Math.floor(end / CHUNK_SIZE));
    yield { starts: blockStarts, columns, values };
    first += height;
  }
}

/** A copy of the entries from `start` to `end`, exclusive. */
function readEntries(chunks: readonly SparseVector[], start: number, end: number): SparseVector {
  const entries = { columns: new Uint16Array(end - start), values: new Float32Array(end - start) };
  for (let next = start; next < end; ) {
    const { columns, values } = chunks[Math.floor(next / CHUNK_SIZE)] as SparseVector;
    const from = next % CHUNK_SIZE;
    const to = Math.min(CHUNK_SIZE, from + end - next);
    entries.columns.set(columns.subarray(from, to), next - start);
    entries.values.set(values.subarray(from, to), next - start);
    next += to - from;
  }
  return entries;
}

/** The buckets that occur, and their inverse document frequencies. The entries have each bucket of a text once. */
function fitIdf(
  chunks: readonly SparseVector[],
  entries: number,
  examples: number,
  bucketCount: number,
): Pick<LexicalVocabulary, "seenBuckets" | "idf"> {
  const documentCounts = new Uint32Array(bucketCount);
  for (const [i, { columns }] of chunks.entries())
    countEntries(columns.subarray(0, entries - i * CHUNK_SIZE), documentCounts);
  const seenBuckets = Uint16Array.from(
    Array.from(documentCounts.keys()).filter((bucket) => documentCounts[bucket] !== 0),
  );
  const idf = Float32Array.from(
    seenBuckets,
    (bucket) => Math.log((1 + examples) / (1 + (documentCounts[bucket] ?? 0))) + 1,
  );
  return { seenBuckets, idf };
}

function countEntries(buckets: Uint16Array, counts: Uint32Array): void {
  for (let m = 0; m < buckets.length; m++) {
    const bucket = buckets[m] as number;
    counts[bucket] = (counts[bucket] as number) + 1;
  }
}
