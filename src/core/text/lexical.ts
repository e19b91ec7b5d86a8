/**
 * Lexical features: TF-IDF (Salton and Buckley 1988) of a text's words, word pairs and the character 2- to 4-grams of
 * its words, hashed into buckets (buckets.ts) and fitted on a tenant's own examples. They tell a head which words
 * occur, where the embedding tells what the text means.
 *
 *   t = s (ŵ, ĉ),   ŵ = w / ‖w‖,   ĉ = c / ‖c‖
 *   w_j = (1 + ln n_j) · idf_j,    n_j: how often words and pairs of bucket j occur in the text; c likewise for n-grams
 *   idf_j = ln((1 + examples) / (1 + examples with j)) + 1;    buckets that occur in no example are left out
 *
 * A training scales the embeddings beside them to mean square norm 1 (design.ts). s is ½ for few examples, where the
 * embedding should weigh most, and 1 for many.
 */
import type { SparseRows } from "../tensors.ts";
import { countBuckets } from "./buckets.ts";

/** What is fitted to the examples: which buckets occur, and the inverse document frequency of each. */
export interface LexicalVocabulary {
  /** The number of buckets of words and pairs. As many buckets of n-grams follow them. */
  readonly buckets: number;
  /** s */
  readonly scale: number;
  /** The buckets that occur, ascending. Each is a column of the features. */
  readonly seenBuckets: Uint16Array;
  /** One for each column. */
  readonly idf: Float32Array;
}

/** A text's features: distinct columns, and their values. */
export type SparseVector = Pick<SparseRows, "columns" | "values">;

/** Returns a function that computes a text's features. */
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
      values[size++] = bucketCounts[i] ?? 0;
    }
    const features = { columns: columns.subarray(0, size), values: values.subarray(0, size) };
    applyTfidf(features.columns, features.values, lexical);
    return features;
  };
}

/** The index of a value in an ascending array, or −1. */
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

/** Replaces one text's counts with its features, in place. */
export function applyTfidf(
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
