/**
 * Byte offsets of all arrays in the memory that the threads and the kernels share. The sizes follow from the corpus: no
 * batch can have more words or rows.
 */

import { UsageError } from "../lib/usage-error.ts";
import { BATCH_SIZE, maxWords } from "./batch.ts";
import type { Corpus, TableShape } from "./corpus.ts";
import { MAX_BYTES, RESERVED_BYTES } from "./kernels.ts";

export interface Layout {
  /** rows × dimensions, then Adam's means and squares. From here to before `wordVectors` is all that training changes. */
  readonly table: number;
  readonly means: number;
  readonly squares: number;
  /** Each source's head: padded classes × dimensions, then an intercept a class; then Adam's means and squares. */
  readonly heads: readonly number[];
  /** Distinct words of the batch × dimensions. */
  readonly wordVectors: number;
  readonly wordGradients: number;
  /** Texts of the batch × dimensions. A head's gradient (padded classes × dimensions) overwrites the sums. */
  readonly sums: number;
  readonly units: number;
  readonly gradients: number;
  /** A number a text. */
  readonly norms: number;
  /** BATCH_SIZE × BATCH_SIZE or BATCH_SIZE × padded classes, and a number for each row and column. */
  readonly logits: number;
  readonly rowSums: number;
  readonly columnSums: number;
  /** A number a thread. */
  readonly losses: number;
  /** Each thread's own arrays. */
  readonly threads: readonly ThreadLayout[];
  /** The total size. */
  readonly bytes: number;
}

/** Ragged arrays as in corpus.ts: `…Starts` are the starts of the lists in the next array. */
export interface ThreadLayout {
  /** The words of each text, and the texts of each word. */
  readonly textStarts: number;
  readonly textWords: number;
  readonly wordTextStarts: number;
  readonly wordTexts: number;
  /** The table rows of each word, with their factors. */
  readonly factorStarts: number;
  readonly factorRows: number;
  readonly factors: number;
  /** The table rows that the thread updates, and the words of each row with their factors. */
  readonly rowList: number;
  readonly rowStarts: number;
  readonly rowMembers: number;
  readonly rowFactors: number;
  readonly targets: number;
  /** The kernels' scratch space. */
  readonly panel: number;
  readonly scratch: number;
}

/** The number of rows of a head: the kernels need a multiple of 8. The rows beyond the classes stay zero. */
export function paddedClasses(classes: number): number {
  return Math.ceil(classes / 8) * 8;
}

/** Throws a UsageError if the kernels cannot work on the shape, or cannot address so much memory. */
export function makeLayout(corpus: Corpus, shape: TableShape, threads: number): Layout {
  const { dimensions: d } = shape;
  if (d % 32 !== 0) throw new UsageError(`A table has a multiple of 32 dimensions, not ${d}.`);
  let bytes = RESERVED_BYTES;
  /** Reserves `count` 32-bit numbers, and returns their offset. */
  const reserve = (count: number) => {
    const offset = bytes;
    bytes += Math.ceil((4 * count) / 64) * 64;
    return offset;
  };
  const rows = shape.vocabulary + shape.buckets;
  const words = maxWords(corpus);
  const factors = maxFactors(corpus, words.distinct);
  const maxClasses = Math.max(...corpus.sources.map(({ classes }) => paddedClasses(classes)));
  const makeThreadLayout = (): ThreadLayout => ({
    textStarts: reserve(2 * BATCH_SIZE + 1),
    textWords: reserve(words.all),
    wordTextStarts: reserve(words.distinct + 1),
    wordTexts: reserve(words.all),
    factorStarts: reserve(words.distinct + 1),
    factorRows: reserve(factors),
    factors: reserve(factors),
    rowList: reserve(rows),
    rowStarts: reserve(rows + 1),
    rowMembers: reserve(factors),
    rowFactors: reserve(factors),
    targets: reserve(BATCH_SIZE),
    panel: reserve(8 * Math.max(d, BATCH_SIZE, maxClasses)),
    scratch: reserve(Math.max(d, maxClasses)),
  });
  const layout: Layout = {
    table: reserve(rows * d),
    means: reserve(rows * d),
    squares: reserve(rows * d),
    heads: corpus.sources.map(({ classes }) => reserve(3 * paddedClasses(classes) * (d + 1))),
    wordVectors: reserve(words.distinct * d),
    wordGradients: reserve(words.distinct * d),
    sums: reserve(Math.max(2 * BATCH_SIZE, maxClasses) * d),
    units: reserve(2 * BATCH_SIZE * d),
    gradients: reserve(2 * BATCH_SIZE * d),
    norms: reserve(2 * BATCH_SIZE),
    logits: reserve(BATCH_SIZE * Math.max(BATCH_SIZE, maxClasses)),
    rowSums: reserve(BATCH_SIZE),
    columnSums: reserve(BATCH_SIZE),
    losses: reserve(threads),
    threads: Array.from({ length: threads }, makeThreadLayout),
    bytes,
  };
  if (bytes > MAX_BYTES)
    throw new UsageError(`The training would need ${(bytes / 2 ** 30).toFixed(1)} GiB of memory, and can have 4.`);
  return layout;
}

/** The largest possible number of (word, row) pairs of `distinct` words. */
function maxFactors({ wordRows: { starts } }: Corpus, distinct: number): number {
  let start = 0;
  const counts = starts.subarray(1).map((end) => {
    const count = end - start;
    start = end;
    return count;
  });
  return counts
    .sort()
    .subarray(counts.length - distinct)
    .reduce((sum, count) => sum + count, 0);
}
