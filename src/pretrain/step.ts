/**
 * A training step on one of several threads. They share the kernels' memory (src/kernels/pretrain.ts), and each works on
 * its share of the rows of every array. They wait for each other where one needs what another has written. The order of
 * every sum is the same for any number of threads.
 *
 *   v(word) = Σ_r factor_r · table[r],   x(text) = Σ_words v,   u = x / ‖x‖,   loss of u: pair-loss.ts, label-loss.ts
 *
 * Adam updates only the rows that the step uses; the other rows stay as they are (lazy Adam).
 */
import { BATCH_SIZE, type Batch, makeBatcher } from "./batch.ts";
import { makeListWriter } from "./batch-lists.ts";
import { makeLabelLoss } from "./label-loss.ts";
import type { ThreadLayout } from "./layout.ts";
import { makePairLoss } from "./pair-loss.ts";
import { ADAM, BETA1, BETA2, type Hyperparameters, type TrainerOptions, threadRange } from "./trainer.ts";

export interface StepResult {
  /** The index of the source that was drawn. */
  readonly source: number;
  /** The mean loss of the whole batch, before the step. */
  readonly loss: number;
}

/** Makes the function that does the thread's part of a step; steps count from 0. */
export function makeTrainer(options: TrainerOptions): (step: number) => StepResult {
  const { corpus, shape, hyperparameters, memory, layout, thread } = options;
  const threadLayout = layout.threads[thread.index];
  if (threadLayout === undefined) throw new Error(`There is no room for thread ${thread.index}.`);
  const makeBatch = makeBatcher(corpus, hyperparameters.seed);
  const writeLists = makeListWriter({
    corpus,
    shape,
    buffer: memory.buffer,
    layout: threadLayout,
    index: thread.index,
    threads: thread.threads,
  });
  const labelLoss = makeLabelLoss(options, threadLayout);
  const pairLoss = makePairLoss(options, threadLayout);
  const losses = new Float32Array(memory.buffer, layout.losses, thread.threads);

  return (step) => {
    const batch = makeBatch(step);
    const rowCount = writeLists(batch);
    const { rate, headRate } = learningRates(hyperparameters, step);
    embedTexts(options, threadLayout, batch);
    const loss = batch.source.kind === "labelled" ? labelLoss(batch, headRate) : pairLoss(batch);
    losses[thread.index] = loss / BATCH_SIZE;
    thread.wait();
    updateRows(options, threadLayout, batch, rowCount, rate);
    let totalLoss = 0;
    for (const part of losses) totalLoss += part;
    thread.wait();
    return { source: batch.sourceIndex, loss: totalLoss };
  };
}

/** The thread's word vectors, then its texts' sums and unit vectors. */
function embedTexts({ kernels, layout, thread, shape }: TrainerOptions, lists: ThreadLayout, batch: Batch): void {
  const { dimensions: d } = shape;
  const { table, wordVectors, sums, norms, units } = layout;
  const [firstWord, lastWord] = threadRange(thread, batch.distinctCount);
  const { factorStarts, factorRows, factors, textStarts, textWords } = lists;
  kernels.sumRows(firstWord, lastWord, factorStarts, factorRows, factors, table, d, wordVectors);
  thread.wait();
  const [firstText, lastText] = threadRange(thread, batch.textCount, 4);
  kernels.sumRows(firstText, lastText, textStarts, textWords, 0, wordVectors, d, sums);
  kernels.normalise(firstText, lastText, sums, d, norms, units);
  thread.wait();
}

/** The gradients of the thread's words, then Adam's step on its rows of the table. */
function updateRows(
  { kernels, layout, thread, shape }: TrainerOptions,
  lists: ThreadLayout,
  batch: Batch,
  rowCount: number,
  rate: number,
): void {
  const { dimensions: d } = shape;
  const { table, means, squares, gradients, wordGradients } = layout;
  const [firstWord, lastWord] = threadRange(thread, batch.distinctCount);
  const { wordTextStarts, wordTexts, rowList, rowStarts, rowMembers, rowFactors, scratch } = lists;
  kernels.sumRows(firstWord, lastWord, wordTextStarts, wordTexts, 0, gradients, d, wordGradients);
  thread.wait();
  const rowGradients = [rowList, rowStarts, rowMembers, rowFactors, wordGradients, d] as const;
  kernels.adamRows(0, rowCount, ...rowGradients, table, means, squares, scratch, rate, ...ADAM);
}

/** The learning rates of a step, with Adam's bias corrections. */
function learningRates({ steps, rate, headRate, warmUp }: Hyperparameters, step: number) {
  const progress = step / steps;
  const scheduleFactor = progress < warmUp ? (progress + 1 / steps) / warmUp : (1 - progress) / (1 - warmUp);
  const correction = Math.sqrt(1 - BETA2 ** (step + 1)) / (1 - BETA1 ** (step + 1));
  return { rate: rate * scheduleFactor * correction, headRate: headRate * scheduleFactor * correction };
}
