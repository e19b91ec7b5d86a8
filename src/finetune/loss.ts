/** The losses that fine-tuning minimises. */
import { logSumExp, sigmoid } from "../core/evaluation/probability.ts";
import type { Targets } from "../core/linear/targets.ts";

const LABEL_SMOOTHING = 0.1;

/** The mean and the standard deviation of a regression's targets; 0 and 1 of labels. */
export interface TargetScale {
  readonly mean: number;
  readonly deviation: number;
}

/**
 * Makes the loss of rows: a function that turns their logits into the gradient of the mean loss, in place, and answers the
 * sum of the losses. The loss is cross-entropy with label smoothing (Szegedy et al. 2016), binary cross-entropies, or half
 * the squared error in units of the deviation.
 */
export function makeLoss(
  targets: Targets,
  weights: Float64Array,
  outputs: number,
  { mean, deviation }: TargetScale,
): (logits: Float32Array, stride: number, rows: readonly number[]) => number {
  const smoothed = LABEL_SMOOTHING / outputs;
  return (logits, stride, rows) => {
    let total = 0;
    rows.forEach((row, i) => {
      const z = logits.subarray(i * stride, i * stride + outputs);
      const weight = weights[row] as number;
      const factor = weight / rows.length;
      if (targets.kind === "value") {
        const error = (z[0] as number) - ((targets.values[row] as number) - mean) / deviation;
        total += (weight * error * error) / 2;
        z[0] = factor * error;
      } else if (targets.kind === "single") {
        total += weight * crossEntropy(z, targets.indices[row] as number, smoothed, factor);
      } else {
        total += weight * binaryCrossEntropies(z, new Set(targets.indices[row]), factor);
      }
    });
    return total;
  };
}

function crossEntropy(z: Float32Array, target: number, smoothed: number, factor: number): number {
  const sum = logSumExp(z);
  let value = 0;
  for (let k = 0; k < z.length; k++) {
    const log = (z[k] as number) - sum;
    const truth = smoothed + (k === target ? 1 - smoothed * z.length : 0);
    value -= truth * log;
    z[k] = factor * (Math.exp(log) - truth);
  }
  return value;
}

function binaryCrossEntropies(z: Float32Array, positive: ReadonlySet<number>, factor: number): number {
  let value = 0;
  for (let k = 0; k < z.length; k++) {
    const logit = z[k] as number;
    const truth = positive.has(k) ? 1 : 0;
    value += Math.max(logit, 0) - truth * logit + Math.log1p(Math.exp(-Math.abs(logit)));
    z[k] = factor * (sigmoid(logit) - truth);
  }
  return value;
}
