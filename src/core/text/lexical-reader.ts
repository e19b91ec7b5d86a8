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
  /** Hands over the rows, one for each text. It keeps no reference, because a training needs their memory. */
  takeRows(): SparseRows;
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

function joinChunks(chunks: readonly SparseVector[], entries: number): SparseVector {
  const joined = { columns: new Uint16Array(entries), values: new Float32Array(entries) };
  chunks.forEach(({ columns, values }, i) => {
    const size = Math.min(CHUNK_SIZE, entries - i * CHUNK_SIZE);
    joined.columns.set(columns.subarray(0, size), i * CHUNK_SIZE);
    joined.values.set(values.subarray(0, size), i * CHUNK_SIZE);
  });
  return joined;
}

/** The buckets that occur, and their inverse document frequencies. `buckets` has each bucket of a text once. */
function fitIdf(
  buckets: Uint16Array,
  examples: number,
  bucketCount: number,
): Pick<LexicalVocabulary, "seenBuckets" | "idf"> {
  const documentCounts = new Uint32Array(bucketCount);
  for (const bucket of buckets) documentCounts[bucket] = (documentCounts[bucket] ?? 0) + 1;
  const seenBuckets = Uint16Array.from(
    Array.from(documentCounts.keys()).filter((bucket) => documentCounts[bucket] !== 0),
  );
  const idf = Float32Array.from(
    seenBuckets,
    (bucket) => Math.log((1 + examples) / (1 + (documentCounts[bucket] ?? 0))) + 1,
  );
  return { seenBuckets, idf };
}

/** Replaces buckets with their columns, in place. */
function bucketsToColumns(buckets: Uint16Array, seenBuckets: Uint16Array): void {
  const columns = new Uint16Array((seenBuckets.at(-1) ?? 0) + 1);
  for (const [column, bucket] of seenBuckets.entries()) columns[bucket] = column;
  for (let m = 0; m < buckets.length; m++) buckets[m] = columns[buckets[m] as number] as number;
}
