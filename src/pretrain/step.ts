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
import { BATCH, type Batch, batches } from "./batch.ts";
import type { Corpus, Shape } from "./corpus.ts";
import type { Kernels } from "./kernels.ts";
import { type Layout, paddedClasses } from "./layout.ts";
import { listWriter } from "./lists.ts";

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
const NEVER = -1e30;

export interface Thread {
  readonly index: number;
  readonly threads: number;
  /** Returns when all threads have called it. */
  readonly wait: () => void;
}

/** The share of `count` things that a thread has, from the first to before the last, in whole multiples of `unit`. */
function shareOf({ index, threads }: Thread, count: number, unit = 1): [number, number] {
  const each = Math.ceil(count / unit / threads) * unit;
  return [Math.min(count, index * each), Math.min(count, (index + 1) * each)];
}

/**
 * Makes the function that does a thread's part of a step, counted from 0, and answers which source was drawn and the
 * whole loss of the batch before the step.
 */
export function trainer(
  corpus: Corpus,
  shape: Shape,
  hyperparameters: Hyperparameters,
  memory: WebAssembly.Memory,
  kernels: Kernels,
  at: Layout,
  thread: Thread,
): (step: number) => { source: number; loss: number } {
  const { dimensions: d } = shape;
  const own = at.own[thread.index];
  if (own === undefined) throw new Error(`There is no room for thread ${thread.index}.`);
  const { panel, scratch } = own;
  const make = batches(corpus, hyperparameters.seed);
  const writeLists = listWriter(corpus, shape, memory.buffer, own, thread.index, thread.threads);
  const view = (offset: number) => new Float32Array(memory.buffer, offset);
  const logits = view(at.logits);
  const rowSums = view(at.rowSums);
  const columnSums = view(at.columnSums);
  const losses = view(at.losses);
  const targets = new Int32Array(memory.buffer, own.targets, BATCH);
  const adam = [BETA1, BETA2, EPSILON] as const;

  /** Makes the gradients of the texts' sums and takes the head's step; answers the loss of the thread's texts. */
  const labelled = ({ source, sourceIndex, ...batch }: Batch, headRate: number): number => {
    const classes = paddedClasses(source.classes);
    const head = at.heads[sourceIndex] as number;
    const headBytes = 4 * classes * (d + 1);
    const intercepts = view(head + 4 * classes * d);
    const step = (offset: number, gradient: number, count: number) => {
      const [means, squares] = [head + headBytes + offset, head + 2 * headBytes + offset];
      kernels.adam(head + offset, means, squares, gradient, count, headRate, ...adam);
    };
    const [first, last] = shareOf(thread, BATCH, 4);
    targets.set(batch.targets);
    kernels.multiply(first, last, classes, d, at.units, d, 1, head, 1, d, at.logits, panel, LABEL_SCALE);
    for (let i = first; i < last; i++) {
      for (let c = 0; c < classes; c++) {
        const place = i * classes + c;
        logits[place] = c < source.classes ? (logits[place] as number) + (intercepts[c] as number) : NEVER;
      }
    }
    kernels.logSumRows(first, last, at.logits, classes, at.rowSums);
    let loss = 0;
    for (let i = first; i < last; i++)
      loss += (rowSums[i] as number) - (logits[i * classes + (targets[i] as number)] as number);
    kernels.softmaxGradient(first, last, at.logits, classes, at.rowSums, own.targets, 1 / BATCH);
    const toTexts = [at.gradients, panel, LABEL_SCALE] as const;
    kernels.multiply(first, last, d, classes, at.logits, classes, 1, head, d, 1, ...toTexts);
    thread.wait();
    kernels.normaliseBack(first, last, at.units, d, at.norms, at.gradients);
    const [firstClass, lastClass] = shareOf(thread, classes, 4);
    const toHead = [at.sums, panel, LABEL_SCALE] as const;
    kernels.multiply(firstClass, lastClass, d, BATCH, at.logits, 1, classes, at.units, d, 1, ...toHead);
    step(4 * firstClass * d, at.sums + 4 * firstClass * d, (lastClass - firstClass) * d);
    const sums = view(scratch);
    for (let c = firstClass; c < lastClass; c++) {
      let sum = 0;
      for (let i = 0; i < BATCH; i++) sum += logits[i * classes + c] as number;
      sums[c - firstClass] = sum;
    }
    step(4 * (classes * d + firstClass), scratch, lastClass - firstClass);
    return loss;
  };

  /** Makes the gradients of both sides' sums; answers the loss of the thread's pairs. */
  const pairs = ({ masked }: Batch): number => {
    const [first, last] = shareOf(thread, BATCH, 4);
    const side = 4 * BATCH * d;
    const right = at.units + side;
    kernels.multiply(first, last, BATCH, d, at.units, d, 1, right, 1, d, at.logits, panel, PAIR_SCALE);
    for (const place of masked) if (place >= first * BATCH && place < last * BATCH) logits[place] = NEVER;
    kernels.logSumRows(first, last, at.logits, BATCH, at.rowSums);
    thread.wait();
    kernels.logSumColumns(first, last, BATCH, at.logits, BATCH, at.columnSums);
    let loss = 0;
    for (let i = first; i < last; i++)
      loss += ((rowSums[i] as number) + (columnSums[i] as number)) / 2 - (logits[i * BATCH + i] as number);
    thread.wait();
    kernels.contrastiveGradient(first, last, at.logits, BATCH, at.rowSums, at.columnSums, 0.5 / BATCH);
    thread.wait();
    const toLeft = [at.gradients, panel, PAIR_SCALE] as const;
    const toRight = [at.gradients + side, panel, PAIR_SCALE] as const;
    kernels.multiply(first, last, d, BATCH, at.logits, BATCH, 1, right, d, 1, ...toLeft);
    kernels.multiply(first, last, d, BATCH, at.logits, 1, BATCH, at.units, d, 1, ...toRight);
    kernels.normaliseBack(first, last, at.units, d, at.norms, at.gradients);
    kernels.normaliseBack(first, last, right, d, at.norms + 4 * BATCH, at.gradients + side);
    return loss;
  };

  return (step) => {
    const batch = make(step);
    const rows = writeLists(batch);
    const { rate, headRate } = ratesOf(hyperparameters, step);

    const [firstKind, lastKind] = shareOf(thread, batch.kindCount);
    const ofRows = [own.factorStarts, own.factorRows, own.factors] as const;
    kernels.sumRows(firstKind, lastKind, ...ofRows, at.table, d, at.wordVectors);
    thread.wait();
    const [firstText, lastText] = shareOf(thread, batch.texts, 4);
    kernels.sumRows(firstText, lastText, own.textStarts, own.textWords, 0, at.wordVectors, d, at.sums);
    kernels.normalise(firstText, lastText, at.sums, d, at.norms, at.units);
    thread.wait();
    const loss = batch.source.kind === "labelled" ? labelled(batch, headRate) : pairs(batch);
    losses[thread.index] = loss / BATCH;
    thread.wait();
    kernels.sumRows(firstKind, lastKind, own.kindStarts, own.kindTexts, 0, at.gradients, d, at.wordGradients);
    thread.wait();
    const ofWords = [own.rowList, own.rowStarts, own.rowMembers, own.rowFactors, at.wordGradients, d] as const;
    kernels.adamRows(0, rows, ...ofWords, at.table, at.means, at.squares, scratch, rate, ...adam);
    let whole = 0;
    for (let i = 0; i < thread.threads; i++) whole += losses[i] as number;
    thread.wait();
    return { source: batch.sourceIndex, loss: whole };
  };
}

/** The learning rates of a step, with Adam's corrections for its first steps' means. */
function ratesOf({ steps, rate, headRate, warmUp }: Hyperparameters, step: number) {
  const progress = step / steps;
  const part = progress < warmUp ? (progress + 1 / steps) / warmUp : (1 - progress) / (1 - warmUp);
  const correction = Math.sqrt(1 - BETA2 ** (step + 1)) / (1 - BETA1 ** (step + 1));
  return { rate: rate * part * correction, headRate: headRate * part * correction };
}
