/**
 * One step of training on one of several threads. They share the memory of the kernels (src/kernels/pretrain.ts) and each
 * has a share of the rows of every array; they wait for each other where one needs what another made, and sums are made in
 * the same order however many there are.
 *
 *   v(word) = Σ_r factor_r · table[r],   x(text) = Σ_words v,   u = x / ‖x‖
 *   pairs:     −½ Σ_i (log softmax_j(20 u_i·u'_j)_i + log softmax_j(20 u_j·u'_i)_i) / n    (symmetric InfoNCE, in-batch negatives)
 *   labelled:  −Σ_i log softmax(10 H u_i + c)_class / n                                     (a head H for each source)
 *
 * Rows that a step touches take a step of Adam; the others wait (lazy Adam).
 */
import { BATCH, type Batch, batches } from "./batch.ts";
import type { Corpus, Shape } from "./corpus.ts";
import type { Kernels } from "./kernels.ts";

export interface Hyperparameters {
  readonly steps: number;
  readonly seed: number;
  readonly rate: number;
  readonly headRate: number;
  readonly warmUp: number;
}

const PAIR_SCALE = 20;
const LABEL_SCALE = 10;
const BETA1 = 0.9;
const BETA2 = 0.999;
const EPSILON = 1e-8;
/** Most words, and most (word, row) pairs, of a batch. */
const MOST_WORDS = 1 << 17;
const MOST_FACTORS = 1 << 21;

/** Byte offsets into the shared memory. */
export interface Layout {
  readonly table: number;
  readonly means: number;
  readonly squares: number;
  /** For each source its head (classes, a multiple of 8, × dimensions), with Adam's means and squares after it. */
  readonly heads: readonly number[];
  readonly wordVectors: number;
  readonly wordGradients: number;
  readonly sums: number;
  readonly units: number;
  readonly norms: number;
  readonly gradients: number;
  readonly logits: number;
  readonly rowSums: number;
  readonly columnSums: number;
  readonly losses: number;
  readonly own: readonly number[];
  readonly bytes: number;
}

/** Bytes of each thread's own lists. */
const OWN = 4 * (4 * MOST_WORDS + 3 * MOST_FACTORS + 8 * BATCH + 8 * 1024 + 64);

export function paddedClasses(classes: number): number {
  return Math.ceil(classes / 8) * 8;
}

export function layout(corpus: Corpus, shape: Shape, threads: number): Layout {
  // The kernels' own tables come first.
  let bytes = 65_536;
  const take = (count: number) => {
    const at = bytes;
    bytes += Math.ceil(count / 64) * 64;
    return at;
  };
  const d = 4 * shape.dimensions;
  const rows = shape.vocabulary + shape.buckets;
  const widest = Math.max(BATCH, ...corpus.sources.map(({ classes }) => paddedClasses(classes)));
  return {
    table: take(rows * d),
    means: take(rows * d),
    squares: take(rows * d),
    heads: corpus.sources.map(({ classes }) => take(3 * paddedClasses(classes) * (d + 4))),
    wordVectors: take(MOST_WORDS * d),
    wordGradients: take(MOST_WORDS * d),
    sums: take(2 * BATCH * d),
    units: take(2 * BATCH * d),
    norms: take(8 * BATCH),
    gradients: take(2 * BATCH * d),
    logits: take(4 * BATCH * widest),
    rowSums: take(4 * BATCH),
    columnSums: take(4 * BATCH),
    losses: take(4 * threads),
    own: Array.from({ length: threads }, () => take(OWN)),
    bytes,
  };
}

export interface Thread {
  readonly index: number;
  readonly threads: number;
  /** Returns when all threads have called it. */
  readonly wait: () => void;
}

/** The share of `count` things that a thread has, in whole multiples of `unit`. */
function shareOf({ index, threads }: Thread, count: number, unit = 1): [number, number] {
  const each = Math.ceil(count / unit / threads) * unit;
  return [Math.min(count, index * each), Math.min(count, (index + 1) * each)];
}

/** Makes the function that does a thread's part of a step; it answers the step's loss and source. */
export function trainer(
  corpus: Corpus,
  shape: Shape,
  hyperparameters: Hyperparameters,
  memory: WebAssembly.Memory,
  kernels: Kernels,
  at: Layout,
  thread: Thread,
): (step: number) => { source: number; loss: number } {
  const { dimensions } = shape;
  const d = dimensions;
  const make = batches(corpus, hyperparameters.seed);
  const ints = new Int32Array(memory.buffer);
  const floats = new Float32Array(memory.buffer);
  const start = at.own[thread.index] as number;
  let next = start;
  const own = (count: number) => {
    const offset = next;
    next += 4 * Math.ceil(count / 16) * 16;
    return offset;
  };
  const textStarts = own(2 * BATCH + 1);
  const textWords = own(MOST_WORDS);
  const kindStarts = own(MOST_WORDS);
  const kindTexts = own(MOST_WORDS);
  const rowList = own(MOST_FACTORS / 8);
  const rowStarts = own(MOST_FACTORS / 8);
  const factorStarts = own(MOST_WORDS);
  const factorRows = own(MOST_FACTORS / 2);
  const factors = own(MOST_FACTORS / 2);
  const rowMembers = own(MOST_FACTORS / 2);
  const rowFactors = own(MOST_FACTORS / 2);
  const targets = own(BATCH);
  const panel = own(8 * 1024);
  const scratch = own(2048);
  const rows = shape.vocabulary + shape.buckets;
  const rowPlace = new Int32Array(rows);
  const rowCount = new Int32Array(rows);
  const word = (offset: number) => offset >> 2;

  /** Which texts each word of the batch is in, for words first…last. */
  const invertWords = (batch: Batch) => {
    const counts = ints.subarray(word(kindStarts), word(kindStarts) + batch.kindCount + 1).fill(0);
    const length = batch.textStarts[batch.texts] as number;
    for (let i = 0; i < length; i++) counts[(batch.textWords[i] as number) + 1]!++;
    for (let i = 1; i <= batch.kindCount; i++) counts[i]! += counts[i - 1] as number;
    const fill = counts.slice();
    const to = word(kindTexts);
    for (let text = 0; text < batch.texts; text++) {
      for (let i = batch.textStarts[text] as number; i < (batch.textStarts[text + 1] as number); i++)
        ints[to + fill[batch.textWords[i] as number]!++] = text;
    }
  };

  /** The rows that each word of the batch is made of, and which words each of the thread's own rows is in. */
  const listRows = (batch: Batch): number => {
    const { starts, members } = corpus.wordRows;
    const mine = (row: number) => row % thread.threads === thread.index;
    let at = 0;
    let distinct = 0;
    for (let kind = 0; kind < batch.kindCount; kind++) {
      ints[word(factorStarts) + kind] = at;
      const w = batch.kinds[kind] as number;
      for (let i = starts[w] as number; i < (starts[w + 1] as number); i++, at++) {
        const row = members[i] as number;
        ints[word(factorRows) + at] = row;
        floats[word(factors) + at] = corpus.wordFactors[i] as number;
        if (!mine(row)) continue;
        if (rowCount[row]! === 0) {
          rowPlace[row] = distinct;
          ints[word(rowList) + distinct++] = row;
        }
        rowCount[row]!++;
      }
    }
    ints[word(factorStarts) + batch.kindCount] = at;
    let sum = 0;
    for (let i = 0; i < distinct; i++) {
      ints[word(rowStarts) + i] = sum;
      const row = ints[word(rowList) + i] as number;
      sum += rowCount[row] as number;
      rowCount[row] = 0;
    }
    ints[word(rowStarts) + distinct] = sum;
    for (let kind = 0; kind < batch.kindCount; kind++) {
      const last = ints[word(factorStarts) + kind + 1] as number;
      for (let i = ints[word(factorStarts) + kind] as number; i < last; i++) {
        const row = ints[word(factorRows) + i] as number;
        if (!mine(row)) continue;
        const to = (ints[word(rowStarts) + (rowPlace[row] as number)] as number) + rowCount[row]!++;
        ints[word(rowMembers) + to] = kind;
        floats[word(rowFactors) + to] = floats[word(factors) + i] as number;
      }
    }
    for (let i = 0; i < distinct; i++) rowCount[ints[word(rowList) + i] as number] = 0;
    return distinct;
  };

  return (step) => {
    const batch = make(step);
    const { texts, kindCount, source } = batch;
    ints.set(batch.textStarts.subarray(0, texts + 1), word(textStarts));
    ints.set(batch.textWords.subarray(0, batch.textStarts[texts]), word(textWords));
    invertWords(batch);
    const distinct = listRows(batch);

    const progress = step / hyperparameters.steps;
    const shapeOfRate =
      progress < hyperparameters.warmUp
        ? (progress + 1 / hyperparameters.steps) / hyperparameters.warmUp
        : (1 - progress) / (1 - hyperparameters.warmUp);
    const correction = Math.sqrt(1 - BETA2 ** (step + 1)) / (1 - BETA1 ** (step + 1));
    const rate = hyperparameters.rate * shapeOfRate * correction;
    const headRate = hyperparameters.headRate * shapeOfRate * correction;

    const [firstKind, lastKind] = shareOf(thread, kindCount);
    kernels.sumRows(firstKind, lastKind, factorStarts, factorRows, factors, at.table, d, at.wordVectors);
    thread.wait();
    const [firstText, lastText] = shareOf(thread, texts, 4);
    kernels.sumRows(firstText, lastText, textStarts, textWords, 0, at.wordVectors, d, at.sums);
    kernels.normalise(firstText, lastText, at.sums, d, at.norms, at.units);
    thread.wait();

    let loss = 0;
    if (source.kind === "labelled") {
      const classes = paddedClasses(source.classes);
      const head = at.heads[batch.sourceIndex] as number;
      const bias = head + 4 * classes * d;
      const headSize = 4 * classes * (d + 1);
      ints.set(batch.targets, word(targets));
      kernels.multiply(firstText, lastText, classes, d, at.units, d, 1, head, 1, d, at.logits, panel, LABEL_SCALE);
      for (let i = firstText; i < lastText; i++) {
        const row = word(at.logits) + i * classes;
        for (let c = 0; c < classes; c++)
          floats[row + c] = c < source.classes ? (floats[row + c] as number) + (floats[word(bias) + c] as number) : -1e30;
      }
      kernels.logSumRows(firstText, lastText, at.logits, classes, at.rowSums);
      for (let i = firstText; i < lastText; i++)
        loss +=
          (floats[word(at.rowSums) + i] as number) -
          (floats[word(at.logits) + i * classes + (batch.targets[i] as number)] as number);
      kernels.softmaxGradient(firstText, lastText, at.logits, classes, at.rowSums, targets, 1 / BATCH);
      kernels.multiply(firstText, lastText, d, classes, at.logits, classes, 1, head, d, 1, at.gradients, panel, LABEL_SCALE);
      thread.wait();
      kernels.normaliseBack(firstText, lastText, at.units, d, at.norms, at.gradients);
      const [firstClass, lastClass] = shareOf(thread, classes, 4);
      // Where the sums are no longer needed, the head's gradient is made.
      kernels.multiply(firstClass, lastClass, d, BATCH, at.logits, 1, classes, at.units, d, 1, at.sums, panel, LABEL_SCALE);
      const count = (lastClass - firstClass) * d;
      const offset = 4 * firstClass * d;
      kernels.adam(
        head + offset,
        head + headSize + offset,
        head + 2 * headSize + offset,
        at.sums + offset,
        count,
        headRate,
        BETA1,
        BETA2,
        EPSILON,
      );
      for (let c = firstClass; c < lastClass; c++) {
        let sum = 0;
        for (let i = 0; i < BATCH; i++) sum += floats[word(at.logits) + i * classes + c] as number;
        floats[word(scratch) + c - firstClass] = sum;
      }
      const b = 4 * (classes * d + firstClass);
      kernels.adam(
        head + b,
        head + headSize + b,
        head + 2 * headSize + b,
        scratch,
        lastClass - firstClass,
        headRate,
        BETA1,
        BETA2,
        EPSILON,
      );
    } else {
      const right = at.units + 4 * BATCH * d;
      const [first, last] = shareOf(thread, BATCH, 4);
      kernels.multiply(first, last, BATCH, d, at.units, d, 1, right, 1, d, at.logits, panel, PAIR_SCALE);
      for (const place of batch.masked) {
        const row = Math.floor(place / BATCH);
        if (row >= first && row < last) floats[word(at.logits) + place] = -1e30;
      }
      kernels.logSumRows(first, last, at.logits, BATCH, at.rowSums);
      for (let i = first; i < last; i++)
        loss += (floats[word(at.rowSums) + i] as number) - (floats[word(at.logits) + i * BATCH + i] as number);
      thread.wait();
      kernels.logSumColumns(first, last, BATCH, at.logits, BATCH, at.columnSums);
      thread.wait();
      kernels.contrastiveGradient(first, last, at.logits, BATCH, at.rowSums, at.columnSums, 0.5 / BATCH);
      thread.wait();
      kernels.multiply(first, last, d, BATCH, at.logits, BATCH, 1, right, d, 1, at.gradients, panel, PAIR_SCALE);
      const rightGradients = at.gradients + 4 * BATCH * d;
      kernels.multiply(first, last, d, BATCH, at.logits, 1, BATCH, at.units, d, 1, rightGradients, panel, PAIR_SCALE);
      kernels.normaliseBack(first, last, at.units, d, at.norms, at.gradients);
      kernels.normaliseBack(first, last, right, d, at.norms + 4 * BATCH, rightGradients);
    }
    floats[word(at.losses) + thread.index] = loss / BATCH;
    thread.wait();
    kernels.sumRows(firstKind, lastKind, kindStarts, kindTexts, 0, at.gradients, d, at.wordGradients);
    thread.wait();
    kernels.adamRows(
      0,
      distinct,
      rowList,
      rowStarts,
      rowMembers,
      rowFactors,
      at.wordGradients,
      d,
      at.table,
      at.means,
      at.squares,
      scratch,
      rate,
      BETA1,
      BETA2,
      EPSILON,
    );
    let whole = 0;
    for (let i = 0; i < thread.threads; i++) whole += floats[word(at.losses) + i] as number;
    thread.wait();
    return { source: batch.sourceIndex, loss: whole };
  };
}
