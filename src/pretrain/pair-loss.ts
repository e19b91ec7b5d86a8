/**
 * The loss of pairs of texts: InfoNCE in both directions (u, u': the unit vectors of the left and right sides). A pair's
 * negatives are the batch's other pairs that share no text with it.
 *
 *   −½ Σ_i (log softmax_j(20 u_i·u'_j)_i + log softmax_j(20 u_j·u'_i)_i) / n
 */
import { BATCH_SIZE, type Batch } from "./batch.ts";
import type { ThreadLayout } from "./layout.ts";
import { MASKED_LOGIT, type TrainerOptions, threadRange } from "./trainer.ts";

const LOGIT_SCALE = 20;

/**
 * Makes the function that writes the gradients of the sums of both sides. It returns the loss of the thread's pairs,
 * times n.
 */
export function makePairLoss(
  { shape, memory, kernels, layout, thread }: TrainerOptions,
  { panel }: ThreadLayout,
): (batch: Batch) => number {
  const n = BATCH_SIZE;
  const { dimensions: d } = shape;
  const { logits, rowSums, columnSums, units, norms, gradients } = layout;
  const view = (offset: number, count: number) => new Float32Array(memory.buffer, offset, count);
  const logitView = view(logits, n * n);
  const rowSumView = view(rowSums, n);
  const columnSumView = view(columnSums, n);
  const [first, last] = threadRange(thread, n, 4);
  const sideBytes = 4 * n * d;
  const rightUnits = units + sideBytes;
  const rightGradients = gradients + sideBytes;

  return ({ maskedPairs }) => {
    kernels.multiply(first, last, n, d, units, d, 1, rightUnits, 1, d, logits, panel, LOGIT_SCALE);
    for (const pair of maskedPairs) if (pair >= first * n && pair < last * n) logitView[pair] = MASKED_LOGIT;
    kernels.logSumRows(first, last, logits, n, rowSums);
    thread.wait();
    kernels.logSumColumns(first, last, n, logits, n, columnSums);
    let loss = 0;
    for (let i = first; i < last; i++)
      loss += ((rowSumView[i] as number) + (columnSumView[i] as number)) / 2 - (logitView[i * n + i] as number);
    thread.wait();
    kernels.contrastiveGradient(first, last, logits, n, rowSums, columnSums, 0.5 / n);
    thread.wait();
    kernels.multiply(first, last, d, n, logits, n, 1, rightUnits, d, 1, gradients, panel, LOGIT_SCALE);
    kernels.multiply(first, last, d, n, logits, 1, n, units, d, 1, rightGradients, panel, LOGIT_SCALE);
    kernels.normaliseBack(first, last, units, d, norms, gradients);
    kernels.normaliseBack(first, last, rightUnits, d, norms + 4 * n, rightGradients);
    return loss;
  };
}
