/**
 * The objective that a head minimises, and its gradient, in closed form.
 *
 *   f(W, b) = Σ_i s_i ℓ(z_i, y_i) + (λ/2) ‖W‖²        Z_logits = X W + b
 *   ∂f/∂W = Xᵀ R + λ W,   ∂f/∂b = Σ_i R_i,            R_i = s_i (p_i − y_i)
 *
 *   X: rows × width, dense columns before sparse ones, W: width × outputs, b: outputs, R and the logits: rows × outputs; s: a weight for each row.
 *   single: ℓ = −log softmax(z)_y, p = softmax(z); multi: ℓ = Σ_k log(1 + eᶻ) − y z, p = sigmoid(z); value: ℓ = ½ (z − y)², p = z.
 *
 * As in scikit-learn's _linear_loss.py, with λ = 1 / C. Parameters are one vector: W row by row, then b, which is not penalised.
 */

import { logSumExp, sigmoid, softplus } from "../evaluation/probability.ts";
import type { Steps } from "../steps.ts";
import type { Matrix, TensorBackend } from "../tensors.ts";
import { addTo, type Design, designWidth } from "./design.ts";
import type { Targets } from "./targets.ts";

export interface FitProblem {
  readonly design: Design;
  readonly targets: Targets;
  readonly outputs: number;
  /** One for each row; rows of weight zero take no part. */
  readonly weights: Float64Array;
  readonly l2: number;
}

export interface LossGradient {
  readonly value: number;
  readonly gradient: Float64Array;
}

/** What a logit costs beside its products (exponential, residual, copies), in operations of a product. */
export const OPERATIONS_PER_LOGIT = 80;

/** What a number of sparse rows costs in an evaluation, for each output: both its products. */
export const OPERATIONS_PER_SPARSE_ENTRY = 4;

/** The weights of the sparse columns, or null where there are none. */
function sparseColumnWeights(
  tensors: TensorBackend,
  design: Design,
  outputs: number,
  parameters: Float64Array,
): Matrix | null {
  if (design.sparse === null) return null;
  const start = design.dimensions * outputs;
  const { columns } = design.sparse;
  return tensors.matrix(columns, outputs, new Float32Array(parameters.subarray(start, start + columns * outputs)));
}

/** f and its gradient at `parameters`. Yields floating-point operations, block by block. */
export function* evaluateObjective(
  tensors: TensorBackend,
  problem: FitProblem,
  parameters: Float64Array,
): Steps<LossGradient> {
  const { design, outputs, l2 } = problem;
  const { sparse } = design;
  const dense = design.dimensions * outputs;
  const size = designWidth(design) * outputs;
  if (sparse === null && parameters.subarray(0, size).every((parameter) => parameter === 0))
    return yield* evaluateAtZeroWeights(tensors, problem, parameters.subarray(size));
  const gradient = new Float64Array(parameters.length);
  const biasGradient = gradient.subarray(size);
  const weights = tensors.matrix(design.dimensions, outputs, new Float32Array(parameters.subarray(0, dense)));
  const sparseWeights = sparseColumnWeights(tensors, design, outputs, parameters);
  const sparseGradient =
    sparse === null ? null : tensors.matrix(sparse.columns, outputs, new Float32Array(sparse.columns * outputs));
  let value = 0;
  let first = 0;
  for (const [index, block] of design.blocks.entries()) {
    const logits = tensors.multiply(block, weights);
    const sparseBlock = sparse?.blocks[index];
    if (sparseBlock !== undefined && sparseWeights !== null)
      tensors.addSparseProduct(sparseBlock, sparseWeights, logits);
    value += residuals(problem, first, block.rows, tensors.view(logits), parameters.subarray(size), biasGradient);
    const cachedTranspose = design.transposed?.[index];
    const transposed = cachedTranspose ?? tensors.transpose(block);
    const product = tensors.multiply(transposed, logits);
    addTo(gradient, tensors.view(product));
    if (sparseBlock !== undefined && sparseGradient !== null)
      tensors.addTransposedProduct(sparseBlock, logits, sparseGradient);
    for (const matrix of [logits, product]) tensors.free(matrix);
    if (cachedTranspose === undefined) tensors.free(transposed);
    first += block.rows;
    yield block.rows * outputs * (4 * design.dimensions + OPERATIONS_PER_LOGIT) +
      outputs * OPERATIONS_PER_SPARSE_ENTRY * (sparseBlock?.entries ?? 0);
  }
  if (sparseGradient !== null) addTo(gradient.subarray(dense), tensors.view(sparseGradient));
  for (const matrix of [weights, sparseWeights, sparseGradient]) if (matrix !== null) tensors.free(matrix);
  return { value: value + addPenalty(gradient, parameters, size, l2), gradient };
}

/** (λ/2) ‖W‖², of which the gradient is added to `gradient`. */
function addPenalty(gradient: Float64Array, parameters: Float64Array, size: number, l2: number): number {
  let squares = 0;
  for (let i = 0; i < size; i++) {
    const parameter = parameters[i] as number;
    squares += parameter * parameter;
    gradient[i] = (gradient[i] as number) + l2 * parameter;
  }
  return (l2 / 2) * squares;
}

/**
 * f and its gradient where W = 0, as fits begin: every row has the same p, so sums over the rows are all that it takes.
 *
 *   ∂f/∂W_k = p_k Σ_i s_i x_i − Σ_i s_i y_ik x_i,   ∂f/∂b likewise with 1 for x
 */
function* evaluateAtZeroWeights(tensors: TensorBackend, problem: FitProblem, bias: Float64Array): Steps<LossGradient> {
  const { design, targets, outputs, weights } = problem;
  const { dimensions } = design;
  const logSum = logSumExp(bias);
  const p = bias.map((b) =>
    targets.kind === "single" ? Math.exp(b - logSum) : targets.kind === "multi" ? sigmoid(b) : b,
  );
  const baseLoss =
    targets.kind === "single" ? logSum : targets.kind === "multi" ? bias.reduce((sum, b) => sum + softplus(b), 0) : 0;
  const rowSum = new Float64Array(dimensions + 1);
  const targetSums = Array.from({ length: outputs }, () => new Float64Array(dimensions + 1));
  let value = 0;
  let row = 0;
  for (const block of design.blocks) {
    const values = tensors.view(block);
    for (let i = 0; i < block.rows; i++, row++) {
      const weight = weights[row] as number;
      if (weight === 0) continue;
      const x = values.subarray(i * dimensions, (i + 1) * dimensions);
      addWeightedRow(rowSum, x, weight);
      value += weight * baseLoss;
      if (targets.kind === "value") {
        const target = targets.values[row] as number;
        value += (weight / 2) * ((bias[0] as number) - target) ** 2;
        addWeightedRow(targetSums[0] as Float64Array, x, weight * target);
        continue;
      }
      for (const k of targets.kind === "single" ? [targets.indices[row] as number] : (targets.indices[row] ?? [])) {
        value -= weight * (bias[k] as number);
        addWeightedRow(targetSums[k] as Float64Array, x, weight);
      }
    }
    yield 4 * block.rows * dimensions;
  }
  const gradient = new Float64Array((dimensions + 1) * outputs);
  for (let k = 0; k < outputs; k++) {
    const targetSum = targetSums[k] as Float64Array;
    for (let j = 0; j <= dimensions; j++)
      gradient[j * outputs + k] = (p[k] as number) * (rowSum[j] as number) - (targetSum[j] as number);
  }
  return { value, gradient };
}

/** Adds weight · (x, 1). */
function addWeightedRow(sum: Float64Array, x: Float32Array, weight: number): void {
  for (let j = 0; j < x.length; j++) sum[j] = (sum[j] as number) + weight * (x[j] as number);
  sum[x.length] = (sum[x.length] as number) + weight;
}

function addToEachRow(rows: Float32Array, row: Float64Array): void {
  for (let at = 0; at < rows.length; ) {
    for (let k = 0; k < row.length; k++, at++) rows[at] = (rows[at] as number) + (row[k] as number);
  }
}

/** The logits of every block in turn, with the bias, to a callback. Yields floating-point operations. */
export function* visitLogits(
  tensors: TensorBackend,
  design: Design,
  outputs: number,
  parameters: Float64Array,
  visit: (firstRow: number, rows: number, logits: Float32Array) => void,
): Steps<void> {
  const dense = design.dimensions * outputs;
  const size = designWidth(design) * outputs;
  const weights = tensors.matrix(design.dimensions, outputs, new Float32Array(parameters.subarray(0, dense)));
  const sparseWeights = sparseColumnWeights(tensors, design, outputs, parameters);
  let first = 0;
  for (const [index, block] of design.blocks.entries()) {
    const product = tensors.multiply(block, weights);
    const sparseBlock = design.sparse?.blocks[index];
    if (sparseBlock !== undefined && sparseWeights !== null)
      tensors.addSparseProduct(sparseBlock, sparseWeights, product);
    const logits = tensors.view(product);
    addToEachRow(logits, parameters.subarray(size));
    visit(first, block.rows, logits);
    tensors.free(product);
    first += block.rows;
    yield block.rows * outputs * (2 * design.dimensions + OPERATIONS_PER_LOGIT) +
      (outputs * OPERATIONS_PER_SPARSE_ENTRY * (sparseBlock?.entries ?? 0)) / 2;
  }
  for (const matrix of [weights, sparseWeights]) if (matrix !== null) tensors.free(matrix);
}

/** Turns a block's products X W into residuals R in place, adds their column sums to `sums`, and returns Σ s ℓ. */
function residuals(
  problem: FitProblem,
  first: number,
  rows: number,
  logits: Float32Array,
  bias: Float64Array,
  sums: Float64Array,
): number {
  switch (problem.targets.kind) {
    case "single":
      return softmaxResiduals(problem.targets.indices, problem.weights, first, rows, logits, bias, sums);
    case "multi":
      return sigmoidResiduals(problem.targets.indices, problem.weights, first, rows, logits, bias, sums);
    case "value":
      return squareResiduals(problem.targets.values, problem.weights, first, rows, logits, bias, sums);
  }
}

function softmaxResiduals(
  indices: Int32Array,
  weights: Float64Array,
  first: number,
  rows: number,
  logits: Float32Array,
  bias: Float64Array,
  sums: Float64Array,
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
      sums[k] = (sums[k] as number) + residual;
    }
    logits[start + target] = (terms[target] as number) * factor - weight;
    sums[target] = (sums[target] as number) - weight;
  }
  return loss;
}

function sigmoidResiduals(
  indices: readonly (readonly number[])[],
  weights: Float64Array,
  first: number,
  rows: number,
  logits: Float32Array,
  bias: Float64Array,
  sums: Float64Array,
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
      sums[k] = (sums[k] as number) + residual;
    }
    for (const k of indices[first + i] ?? []) {
      logits[start + k] = (logits[start + k] as number) - weight;
      sums[k] = (sums[k] as number) - weight;
    }
  }
  return loss;
}

function squareResiduals(
  values: Float64Array,
  weights: Float64Array,
  first: number,
  rows: number,
  logits: Float32Array,
  bias: Float64Array,
  sums: Float64Array,
): number {
  let loss = 0;
  for (let i = 0; i < rows; i++) {
    const weight = weights[first + i] as number;
    const error = weight === 0 ? 0 : (logits[i] as number) + (bias[0] as number) - (values[first + i] as number);
    loss += (weight / 2) * error * error;
    logits[i] = weight * error;
    sums[0] = (sums[0] as number) + weight * error;
  }
  return loss;
}
