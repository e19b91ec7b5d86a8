/**
 * Where everything lies in the memory that the threads and the kernels share, as byte offsets. The sizes follow from the
 * corpus: no batch of it can have more words or rows.
 */
import { BATCH, mostWords } from "./batch.ts";
import type { Corpus, Shape } from "./corpus.ts";
import { MOST_BYTES, RESERVED } from "./kernels.ts";
import { Problem } from "./problem.ts";

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
  readonly own: readonly OwnLayout[];
  /** The size of the whole. */
  readonly bytes: number;
}

/** Lists as in corpus.ts: `…Starts` says where each one's members begin. */
export interface OwnLayout {
  /** The words of each text, and the texts of each word. */
  readonly textStarts: number;
  readonly textWords: number;
  readonly kindStarts: number;
  readonly kindTexts: number;
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
export function layout(corpus: Corpus, shape: Shape, threads: number): Layout {
  const { dimensions: d } = shape;
  if (d % 32 !== 0) throw new Problem(`A table has a multiple of 32 dimensions, not ${d}.`);
  let bytes = RESERVED;
  /** Room for so many 32-bit numbers. */
  const take = (count: number) => {
    const at = bytes;
    bytes += Math.ceil((4 * count) / 64) * 64;
    return at;
  };
  const rows = shape.vocabulary + shape.buckets;
  const words = mostWords(corpus);
  const factors = mostFactors(corpus, words.distinct);
  const widest = Math.max(...corpus.sources.map(({ classes }) => paddedClasses(classes)));
  const own = (): OwnLayout => ({
    textStarts: take(2 * BATCH + 1),
    textWords: take(words.all),
    kindStarts: take(words.distinct + 1),
    kindTexts: take(words.all),
    factorStarts: take(words.distinct + 1),
    factorRows: take(factors),
    factors: take(factors),
    rowList: take(rows),
    rowStarts: take(rows + 1),
    rowMembers: take(factors),
    rowFactors: take(factors),
    targets: take(BATCH),
    panel: take(8 * Math.max(d, BATCH, widest)),
    scratch: take(Math.max(d, widest)),
  });
  const all: Layout = {
    table: take(rows * d),
    means: take(rows * d),
    squares: take(rows * d),
    heads: corpus.sources.map(({ classes }) => take(3 * paddedClasses(classes) * (d + 1))),
    wordVectors: take(words.distinct * d),
    wordGradients: take(words.distinct * d),
    sums: take(Math.max(2 * BATCH, widest) * d),
    units: take(2 * BATCH * d),
    gradients: take(2 * BATCH * d),
    norms: take(2 * BATCH),
    logits: take(BATCH * Math.max(BATCH, widest)),
    rowSums: take(BATCH),
    columnSums: take(BATCH),
    losses: take(threads),
    own: Array.from({ length: threads }, own),
    bytes,
  };
  if (bytes > MOST_BYTES)
    throw new Problem(`The training would need ${(bytes / 2 ** 30).toFixed(1)} GiB of memory, and can have 4.`);
  return all;
}

/** How many (word, row) pairs so many distinct words have at most. */
function mostFactors({ wordRows: { starts } }: Corpus, distinct: number): number {
  const counts = Int32Array.from(
    { length: starts.length - 1 },
    (_, i) => (starts[i + 1] as number) - (starts[i] as number),
  );
  return counts
    .sort()
    .subarray(counts.length - distinct)
    .reduce((sum, count) => sum + count, 0);
}
