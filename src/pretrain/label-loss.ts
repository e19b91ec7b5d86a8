/**
 * The loss of labelled texts, with a head H and intercepts c for each source (u: the texts' unit vectors):
 *
 *   −Σ_i log softmax(10 H u_i + c)_class / n
 */
import { BATCH_SIZE, type Batch } from "./batch.ts";
import { paddedClasses, type ThreadLayout } from "./layout.ts";
import { ADAM, MASKED_LOGIT, type TrainerOptions, threadRange } from "./trainer.ts";

const LOGIT_SCALE = 10;

/**
 * Makes the function that writes the gradients of the texts' sums and updates the head. It returns the loss of the
 * thread's texts, times n.
 */
export function makeLabelLoss(
  { shape, memory, kernels, layout, thread }: TrainerOptions,
  { targets, panel, scratch }: ThreadLayout,
): (batch: Batch, headRate: number) => number {
  const { dimensions: d } = shape;
  const { logits, rowSums, units, norms, gradients, sums } = layout;
  const view = (offset: number, count?: number) => new Float32Array(memory.buffer, offset, count);
  const logitView = view(logits);
  const [first, last] = threadRange(thread, BATCH_SIZE, 4);
  const targetView = new Int32Array(memory.buffer, targets, BATCH_SIZE);
  const ownTargets = targetView.subarray(first, last);
  const ownRowSums = view(rowSums).subarray(first, last);

  const ownLogits = (classes: number) => logitView.subarray(first * classes, last * classes);
  const ownLoss = (classes: number) => {
    let loss = 0;
    for (const [n, target] of ownTargets.entries())
      loss += (ownRowSums[n] as number) - (logitView[(first + n) * classes + target] as number);
    return loss;
  };
  /** The gradients of the intercepts of the classes from `firstClass` to before `lastClass`, into `scratch`. */
  const sumColumns = (firstClass: number, lastClass: number, classes: number) => {
    const columnSums = view(scratch, lastClass - firstClass);
    for (let c = firstClass; c < lastClass; c++) {
      let sum = 0;
      for (let i = 0; i < BATCH_SIZE; i++) sum += logitView[i * classes + c] as number;
      columnSums[c - firstClass] = sum;
    }
  };

  return ({ source, sourceIndex, ...batch }, headRate) => {
    const classes = paddedClasses(source.classes);
    const head = layout.heads[sourceIndex] as number;
    const headBytes = 4 * classes * (d + 1);
    const adamStep = (offset: number, gradient: number, count: number) => {
      const parameters = head + offset;
      kernels.adam(parameters, parameters + headBytes, parameters + 2 * headBytes, gradient, count, headRate, ...ADAM);
    };
    targetView.set(batch.targets);
    kernels.multiply(first, last, classes, d, units, d, 1, head, 1, d, logits, panel, LOGIT_SCALE);
    addIntercepts(ownLogits(classes), view(head + 4 * classes * d, classes), source.classes);
    kernels.logSumRows(first, last, logits, classes, rowSums);
    const loss = ownLoss(classes);
    kernels.softmaxGradient(first, last, logits, classes, rowSums, targets, 1 / BATCH_SIZE);
    kernels.multiply(first, last, d, classes, logits, classes, 1, head, d, 1, gradients, panel, LOGIT_SCALE);
    thread.wait();
    kernels.normaliseBack(first, last, units, d, norms, gradients);
    const [firstClass, lastClass] = threadRange(thread, classes, 4);
    const toHead = [sums, panel, LOGIT_SCALE] as const;
    kernels.multiply(firstClass, lastClass, d, BATCH_SIZE, logits, 1, classes, units, d, 1, ...toHead);
    adamStep(4 * firstClass * d, sums + 4 * firstClass * d, (lastClass - firstClass) * d);
    sumColumns(firstClass, lastClass, classes);
    adamStep(4 * (classes * d + firstClass), scratch, lastClass - firstClass);
    return loss;
  };
}

/** Adds the intercepts to rows of logits, and masks the classes that only pad the head. */
function addIntercepts(logits: Float32Array, intercepts: Float32Array, classes: number): void {
  for (let start = 0; start < logits.length; start += intercepts.length) {
    const row = logits.subarray(start, start + intercepts.length);
    for (let c = 0; c < classes; c++) row[c] = (row[c] as number) + (intercepts[c] as number);
    row.fill(MASKED_LOGIT, classes);
  }
}
