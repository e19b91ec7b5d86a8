/**
 * Where everything lies in the memory that the threads and the kernels share, as byte offsets. The sizes follow from the
 * corpus: no batch of it can have more words or rows.
 */
import { BATCH_SIZE, maxWords } from "./batch.ts";
import type { Corpus, TableShape } from "./corpus.ts";
import { MAX_BYTES, RESERVED_BYTES } from "./kernels.ts";
import { UsageError } from "./usage-error.ts";

export interface Layout {
  /** rows × dimensions, and Adam's means and squares of it. From here up to `wordVectors` is all that training changes. */
  readonly table: number;
  readonly means: number;
  readonly squares: number;
  /** Each source's head (padded classes × dimensions, then an intercept a class), with Adam's means and squares after it. */
  readonly heads: readonly number[];
  /** A batch's distinct words × dimensions. */
  readonly wordVectors: number;
  readonly wordGradients: number;
  /** A batch's texts × dimensions; where the sums were, the heads' gradients are made (padded classes × dimensions). */
  readonly sums: number;
  readonly units: number;
  readonly gradients: number;
  /** One number a text. */
  readonly norms: number;
  /** BATCH × BATCH, or BATCH × padded classes, and one number a row or column of it. */
  readonly logits: number;
  readonly rowSums: number;
  readonly columnSums: number;
  /** One number a thread. */
  readonly losses: number;
  /** What each thread has for itself. */
  readonly threads: readonly ThreadLayout[];
  /** The size of the whole. */
  readonly bytes: number;
}

/** Lists as in corpus.ts: `…Starts` says where each one's members begin. */
export interface ThreadLayout {
  /** The words of each text, and the texts of each word. */
  readonly textStarts: number;
  readonly textWords: number;
  readonly wordTextStarts: number;
  readonly wordTexts: number;
  /** The rows of each word, with their factors. */
  readonly factorStarts: number;
  readonly factorRows: number;
  readonly factors: number;
  /** The rows whose Adam step the thread takes, and the words of each, with their factors. */
  readonly rowList: number;
  readonly rowStarts: number;
  readonly rowMembers: number;
  readonly rowFactors: number;
  readonly targets: number;
  /** The kernels' working space. */
  readonly panel: number;
  readonly scratch: number;
}

/** Heads have as many rows as the kernels can work on, a multiple of 8; those beyond the classes stay zero. */
export function paddedClasses(classes: number): number {
  return Math.ceil(classes / 8) * 8;
}

/** Throws a Problem where the shape is none that the kernels can work on, or the whole is beyond what they can address. */
export function makeLayout(corpus: Corpus, shape: TableShape, threads: number): Layout {
  const { dimensions: d } = shape;
  if (d % 32 !== 0) throw new UsageError(`A table has a multiple of 32 dimensions, not ${d}.`);
  let bytes = RESERVED_BYTES;
  /** Room for so many 32-bit numbers. */
  const reserve = (count: number) => {
    const at = bytes;
    bytes += Math.ceil((4 * count) / 64) * 64;
    return at;
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

/** How many (word, row) pairs so many distinct words have at most. */
function maxFactors({ wordRows: { starts } }: Corpus, distinct: number): number {
  const counts = Int32Array.from(
    { length: starts.length - 1 },
    (_, i) => (starts[i + 1] as number) - (starts[i] as number),
  );
  return counts
    .sort()
    .subarray(counts.length - distinct)
    .reduce((sum, count) => sum + count, 0);
}
