/**
 * The objective that a head minimises, and its gradient, in closed form.
 *
 *   f(W, b) = Σ_i s_i ℓ(z_i, y_i) + (λ/2) ‖W‖²        logits Z = X W + b
 *   ∂f/∂W = Xᵀ R + λ W,   ∂f/∂b = Σ_i R_i,            residuals R_i = s_i (p_i − y_i)
 *
 *   X: rows × width, dense columns before sparse ones; W: width × outputs; b: outputs; Z and R: rows × outputs;
 *   s: a weight per row
 *   single: ℓ = −log softmax(z)_y,          p = softmax(z)
 *   multi:  ℓ = Σ_k log(1 + eᶻ) − y z,      p = sigmoid(z)
 *   value:  ℓ = ½ (z − y)²,                 p = z
 *
 * The same as scikit-learn's _linear_loss.py, with λ = 1 / C. The parameters are one vector: W row by row, then b,
 * which is not penalised.
 */

import { logSumExp, sigmoid, softplus } from "../evaluation/probability.ts";
import { OPERATIONS_PER_COPIED_NUMBER, type Steps } from "../steps.ts";
import type { Matrix, TensorBackend } from "../tensors.ts";
import { addTo, type Design, designWidth } from "./design.ts";
import { residuals } from "./residuals.ts";
import type { Targets } from "./targets.ts";

export interface FitProblem {
  readonly design: Design;
  readonly targets: Targets;
  readonly outputs: number;
  /** One for each row. Rows of weight zero are ignored. */
  readonly weights: Float64Array;
  readonly l2: number;
}

export interface LossGradient {
  readonly value: number;
  readonly gradient: Float64Array;
}

/** f and its gradient at some l2. */
export interface ObjectiveAtL2 {
  readonly l2: number;
  readonly value: number;
  readonly gradient: Float32Array;
}

/** What a logit costs apart from its products (exponential, residual, copies), in operations of a product. */
export const OPERATIONS_PER_LOGIT = 80;

/** What an entry of sparse rows costs in an evaluation, for each output: its two products. */
export const OPERATIONS_PER_SPARSE_ENTRY = 4;

/** The weights of the sparse columns, or null if there are none. */
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

/** f and its gradient at `parameters`. */
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
    value += residuals(problem.targets, {
      weights: problem.weights,
      first,
      rows: block.rows,
      logits: tensors.view(logits),
      bias: parameters.subarray(size),
      biasGradient,
    });
    const product = tensors.multiplyTransposed(block, logits);
    addTo(gradient, tensors.view(product));
    if (sparseBlock !== undefined && sparseGradient !== null)
      tensors.addTransposedProduct(sparseBlock, logits, sparseGradient);
    for (const matrix of [logits, product]) tensors.free(matrix);
    first += block.rows;
    yield block.rows * outputs * (4 * design.dimensions + OPERATIONS_PER_LOGIT) +
      outputs * OPERATIONS_PER_SPARSE_ENTRY * (sparseBlock?.entries ?? 0);
  }
  if (sparseGradient !== null) addTo(gradient.subarray(dense), tensors.view(sparseGradient));
  for (const matrix of [weights, sparseWeights, sparseGradient]) if (matrix !== null) tensors.free(matrix);
  return { value: value + addPenalty(gradient, parameters, size, l2), gradient };
}

/** f and its gradient at the same parameters and another l2. */
export function atOtherL2(
  objective: ObjectiveAtL2,
  parameters: Float64Array,
  outputs: number,
  l2: number,
): LossGradient {
  const gradient = new Float64Array(objective.gradient);
  const added = addPenalty(gradient, parameters, parameters.length - outputs, l2 - objective.l2);
  return { value: objective.value + added, gradient };
}

/** (λ/2) ‖W‖². Adds its gradient to `gradient`. */
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
 * f and its gradient at W = 0, where fits start. Every row has the same p there, so sums over the rows are enough.
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
    const values = tensors.values(block);
    for (let i = 0; i < block.rows; i++, row++) {
      const weight = weights[row] as number;
      if (weight === 0) continue;
      const x = values.subarray(i * dimensions, (i + 1) * dimensions);
      value += weight * baseLoss;
      if (targets.kind !== "single") addWeightedRow(rowSum, x, weight);
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
    yield (targets.kind === "single" ? 1 : 2) * OPERATIONS_PER_COPIED_NUMBER * block.rows * dimensions;
  }
  // Each row has one of the labels.
  if (targets.kind === "single")
    for (const targetSum of targetSums)
      targetSum.forEach((sum, j) => {
        rowSum[j] = (rowSum[j] as number) + sum;
      });
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

/** Calls `visit` with the logits of each block in turn, bias included. They are valid only during the call. */
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
