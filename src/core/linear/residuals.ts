/** The residuals R_i = s_i (p_i − y_i) of a block of rows, and its loss (objective.ts has the formulas). */
import type { Targets } from "./targets.ts";

/** One row block of an evaluation. */
export interface ResidualBlock {
  /** The weights of all rows. */
  readonly weights: Float64Array;
  /** The first row of the block, and its number of rows. */
  readonly first: number;
  readonly rows: number;
  /** rows × outputs: the products X W, which the residuals R replace. */
  readonly logits: Float32Array;
  readonly bias: Float64Array;
  /** The column sums of R are added to it. */
  readonly biasGradient: Float64Array;
}

/** Replaces a block's logits with its residuals and returns Σ s ℓ. */
export function residuals(targets: Targets, block: ResidualBlock): number {
  switch (targets.kind) {
    case "single":
      return softmaxResiduals(targets.indices, block);
    case "multi":
      return sigmoidResiduals(targets.indices, block);
    case "value":
      return squareResiduals(targets.values, block);
  }
}

function softmaxResiduals(
  indices: Int32Array,
  { weights, first, rows, logits, bias, biasGradient }: ResidualBlock,
): number {
  const outputs = bias.length;
  const terms = new Float64Array(outputs);
  let loss = 0;
  for (let i = 0; i < rows; i++) {
    const start = i * outputs;
    const weight = weights[first + i] as number;
    if (weight === 0) {
      logits.fill(0, start, start + outputs);
      continue;
    }
    let maxLogit = Number.NEGATIVE_INFINITY;
    for (let k = 0; k < outputs; k++) {
      const logit = (logits[start + k] as number) + (bias[k] as number);
      terms[k] = logit;
      if (logit > maxLogit) maxLogit = logit;
    }
    const target = indices[first + i] as number;
    const targetLogit = terms[target] as number;
    let sum = 0;
    for (let k = 0; k < outputs; k++) {
      const term = Math.exp((terms[k] as number) - maxLogit);
      terms[k] = term;
      sum += term;
    }
    loss += weight * (maxLogit + Math.log(sum) - targetLogit);
    const factor = weight / sum;
    for (let k = 0; k < outputs; k++) {
      const residual = (terms[k] as number) * factor;
      logits[start + k] = residual;
      biasGradient[k] = (biasGradient[k] as number) + residual;
    }
    logits[start + target] = (terms[target] as number) * factor - weight;
    biasGradient[target] = (biasGradient[target] as number) - weight;
  }
  return loss;
}

function sigmoidResiduals(
  indices: readonly (readonly number[])[],
  { weights, first, rows, logits, bias, biasGradient }: ResidualBlock,
): number {
  const outputs = bias.length;
  let loss = 0;
  for (let i = 0; i < rows; i++) {
    const start = i * outputs;
    const weight = weights[first + i] as number;
    if (weight === 0) {
      logits.fill(0, start, start + outputs);
      continue;
    }
    for (const k of indices[first + i] ?? []) loss -= weight * ((logits[start + k] as number) + (bias[k] as number));
    for (let k = 0; k < outputs; k++) {
      const logit = (logits[start + k] as number) + (bias[k] as number);
      const small = Math.exp(-Math.abs(logit));
      loss += weight * (Math.max(logit, 0) + Math.log1p(small));
      const residual = (weight * (logit >= 0 ? 1 : small)) / (1 + small);
      logits[start + k] = residual;
      biasGradient[k] = (biasGradient[k] as number) + residual;
    }
    for (const k of indices[first + i] ?? []) {
      logits[start + k] = (logits[start + k] as number) - weight;
      biasGradient[k] = (biasGradient[k] as number) - weight;
    }
  }
  return loss;
}

function squareResiduals(
  values: Float64Array,
  { weights, first, rows, logits, bias, biasGradient }: ResidualBlock,
): number {
  let loss = 0;
  for (let i = 0; i < rows; i++) {
    const weight = weights[first + i] as number;
    const error = weight === 0 ? 0 : (logits[i] as number) + (bias[0] as number) - (values[first + i] as number);
    loss += (weight / 2) * error * error;
    logits[i] = weight * error;
    biasGradient[0] = (biasGradient[0] as number) + weight * error;
  }
  return loss;
}
