/**
 * One step of training on one of several threads. They share the memory of the kernels (src/kernels/pretrain.ts) and each
 * has a share of the rows of every array; they wait for each other where one needs what another made, and sums are made
 * in the same order however many there are.
 *
 *   v(word) = Σ_r factor_r · table[r],   x(text) = Σ_words v,   u = x / ‖x‖
 *   pairs:     −½ Σ_i (log softmax_j(20 u_i·u'_j)_i + log softmax_j(20 u_j·u'_i)_i) / n    (InfoNCE both ways; the
 *              negatives are the batch's other pairs that share no text)
 *   labelled:  −Σ_i log softmax(10 H u_i + c)_class / n                    (a head H and intercepts c for each source)
 *
 * Rows that a step touches take a step of Adam; the others wait (lazy Adam).
 */
import { BATCH_SIZE, type Batch, makeBatcher } from "./batch.ts";
import { makeListWriter } from "./batch-lists.ts";
import type { Corpus, TableShape } from "./corpus.ts";
import type { Kernels } from "./kernels.ts";
import { type Layout, paddedClasses } from "./layout.ts";

export interface Hyperparameters {
  readonly steps: number;
  readonly seed: number;
  /** Of the table and of the heads; after the warm-up, a part of the steps, they fall to zero in a line. */
  readonly rate: number;
  readonly headRate: number;
  readonly warmUp: number;
}

const PAIR_SCALE = 20;
const LABEL_SCALE = 10;
const BETA1 = 0.9;
const BETA2 = 0.999;
const EPSILON = 1e-8;
/** The logit of what is out of the question. */
const MASKED_LOGIT = -1e30;

export interface Thread {
  readonly index: number;
  readonly threads: number;
  /** Returns when all threads have called it. */
  readonly wait: () => void;
}

/** The share of `count` things that a thread has, from the first to before the last, in whole multiples of `unit`. */
function threadRange({ index, threads }: Thread, count: number, unit = 1): [number, number] {
  const each = Math.ceil(count / unit / threads) * unit;
  return [Math.min(count, index * each), Math.min(count, (index + 1) * each)];
}

/**
 * Makes the function that does a thread's part of a step, counted from 0, and answers which source was drawn and the
 * whole loss of the batch before the step.
 */
export function makeTrainer(
  corpus: Corpus,
  shape: TableShape,
  hyperparameters: Hyperparameters,
  memory: WebAssembly.Memory,
  kernels: Kernels,
  layout: Layout,
  thread: Thread,
): (step: number) => { source: number; loss: number } {
  const { dimensions: d } = shape;
  const threadLayout = layout.threads[thread.index];
  if (threadLayout === undefined) throw new Error(`There is no room for thread ${thread.index}.`);
  const { panel, scratch } = threadLayout;
  const makeBatch = makeBatcher(corpus, hyperparameters.seed);
  const writeLists = makeListWriter(corpus, shape, memory.buffer, threadLayout, thread.index, thread.threads);
  const view = (offset: number) => new Float32Array(memory.buffer, offset);
  const logits = view(layout.logits);
  const rowSums = view(layout.rowSums);
  const columnSums = view(layout.columnSums);
  const losses = view(layout.losses);
  const targets = new Int32Array(memory.buffer, threadLayout.targets, BATCH_SIZE);
  const adam = [BETA1, BETA2, EPSILON] as const;

  /** Makes the gradients of the texts' sums and takes the head's step; answers the loss of the thread's texts. */
  const trainLabelled = ({ source, sourceIndex, ...batch }: Batch, headRate: number): number => {
    const classes = paddedClasses(source.classes);
    const head = layout.heads[sourceIndex] as number;
    const headBytes = 4 * classes * (d + 1);
    const intercepts = view(head + 4 * classes * d);
    const adamStep = (offset: number, gradient: number, count: number) => {
      const [means, squares] = [head + headBytes + offset, head + 2 * headBytes + offset];
      kernels.adam(head + offset, means, squares, gradient, count, headRate, ...adam);
    };
    const [first, last] = threadRange(thread, BATCH_SIZE, 4);
    targets.set(batch.targets);
    kernels.multiply(first, last, classes, d, layout.units, d, 1, head, 1, d, layout.logits, panel, LABEL_SCALE);
    for (let i = first; i < last; i++) {
      for (let c = 0; c < classes; c++) {
        const place = i * classes + c;
        logits[place] = c < source.classes ? (logits[place] as number) + (intercepts[c] as number) : MASKED_LOGIT;
      }
    }
    kernels.logSumRows(first, last, layout.logits, classes, layout.rowSums);
    let loss = 0;
    for (let i = first; i < last; i++)
      loss += (rowSums[i] as number) - (logits[i * classes + (targets[i] as number)] as number);
    kernels.softmaxGradient(first, last, layout.logits, classes, layout.rowSums, threadLayout.targets, 1 / BATCH_SIZE);
    const toTexts = [layout.gradients, panel, LABEL_SCALE] as const;
    kernels.multiply(first, last, d, classes, layout.logits, classes, 1, head, d, 1, ...toTexts);
    thread.wait();
    kernels.normaliseBack(first, last, layout.units, d, layout.norms, layout.gradients);
    const [firstClass, lastClass] = threadRange(thread, classes, 4);
    const toHead = [layout.sums, panel, LABEL_SCALE] as const;
    kernels.multiply(firstClass, lastClass, d, BATCH_SIZE, layout.logits, 1, classes, layout.units, d, 1, ...toHead);
    adamStep(4 * firstClass * d, layout.sums + 4 * firstClass * d, (lastClass - firstClass) * d);
    const sums = view(scratch);
    for (let c = firstClass; c < lastClass; c++) {
      let sum = 0;
      for (let i = 0; i < BATCH_SIZE; i++) sum += logits[i * classes + c] as number;
      sums[c - firstClass] = sum;
    }
    adamStep(4 * (classes * d + firstClass), scratch, lastClass - firstClass);
    return loss;
  };

  /** Makes the gradients of both sides' sums; answers the loss of the thread's pairs. */
  const trainPairs = ({ maskedPairs }: Batch): number => {
    const [first, last] = threadRange(thread, BATCH_SIZE, 4);
    const side = 4 * BATCH_SIZE * d;
    const right = layout.units + side;
    kernels.multiply(first, last, BATCH_SIZE, d, layout.units, d, 1, right, 1, d, layout.logits, panel, PAIR_SCALE);
    for (const place of maskedPairs)
      if (place >= first * BATCH_SIZE && place < last * BATCH_SIZE) logits[place] = MASKED_LOGIT;
    kernels.logSumRows(first, last, layout.logits, BATCH_SIZE, layout.rowSums);
    thread.wait();
    kernels.logSumColumns(first, last, BATCH_SIZE, layout.logits, BATCH_SIZE, layout.columnSums);
    let loss = 0;
    for (let i = first; i < last; i++)
      loss += ((rowSums[i] as number) + (columnSums[i] as number)) / 2 - (logits[i * BATCH_SIZE + i] as number);
    thread.wait();
    kernels.contrastiveGradient(
      first,
      last,
      layout.logits,
      BATCH_SIZE,
      layout.rowSums,
      layout.columnSums,
      0.5 / BATCH_SIZE,
    );
    thread.wait();
    const toLeft = [layout.gradients, panel, PAIR_SCALE] as const;
    const toRight = [layout.gradients + side, panel, PAIR_SCALE] as const;
    kernels.multiply(first, last, d, BATCH_SIZE, layout.logits, BATCH_SIZE, 1, right, d, 1, ...toLeft);
    kernels.multiply(first, last, d, BATCH_SIZE, layout.logits, 1, BATCH_SIZE, layout.units, d, 1, ...toRight);
    kernels.normaliseBack(first, last, layout.units, d, layout.norms, layout.gradients);
    kernels.normaliseBack(first, last, right, d, layout.norms + 4 * BATCH_SIZE, layout.gradients + side);
    return loss;
  };

  return (step) => {
    const batch = makeBatch(step);
    const rowCount = writeLists(batch);
    const { rate, headRate } = learningRates(hyperparameters, step);

    const [firstWord, lastWord] = threadRange(thread, batch.distinctCount);
    const rowArguments = [threadLayout.factorStarts, threadLayout.factorRows, threadLayout.factors] as const;
    kernels.sumRows(firstWord, lastWord, ...rowArguments, layout.table, d, layout.wordVectors);
    thread.wait();
    const [firstText, lastText] = threadRange(thread, batch.textCount, 4);
    kernels.sumRows(
      firstText,
      lastText,
      threadLayout.textStarts,
      threadLayout.textWords,
      0,
      layout.wordVectors,
      d,
      layout.sums,
    );
    kernels.normalise(firstText, lastText, layout.sums, d, layout.norms, layout.units);
    thread.wait();
    const loss = batch.source.kind === "labelled" ? trainLabelled(batch, headRate) : trainPairs(batch);
    losses[thread.index] = loss / BATCH_SIZE;
    thread.wait();
    kernels.sumRows(
      firstWord,
      lastWord,
      threadLayout.wordTextStarts,
      threadLayout.wordTexts,
      0,
      layout.gradients,
      d,
      layout.wordGradients,
    );
    thread.wait();
    const wordArguments = [
      threadLayout.rowList,
      threadLayout.rowStarts,
      threadLayout.rowMembers,
      threadLayout.rowFactors,
      layout.wordGradients,
      d,
    ] as const;
    kernels.adamRows(0, rowCount, ...wordArguments, layout.table, layout.means, layout.squares, scratch, rate, ...adam);
    let totalLoss = 0;
    for (let i = 0; i < thread.threads; i++) totalLoss += losses[i] as number;
    thread.wait();
    return { source: batch.sourceIndex, loss: totalLoss };
  };
}

/** The learning rates of a step, with Adam's corrections for its first steps' means. */
function learningRates({ steps, rate, headRate, warmUp }: Hyperparameters, step: number) {
  const progress = step / steps;
  const scheduleFactor = progress < warmUp ? (progress + 1 / steps) / warmUp : (1 - progress) / (1 - warmUp);
  const correction = Math.sqrt(1 - BETA2 ** (step + 1)) / (1 - BETA1 ** (step + 1));
  return { rate: rate * scheduleFactor * correction, headRate: headRate * scheduleFactor * correction };
}
