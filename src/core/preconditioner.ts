/**
 * The inverse of (κ G + λ I), where G = Σ_i s_i x_i x_iᵀ (dimensions × dimensions) and κ is the curvature of the loss at
 * its start: 1 / classes for softmax, ¼ for sigmoids, 1 for squares. That is the Hessian at W = 0 (for balanced classes),
 * and its inverse is where L-BFGS starts from.
 */
import { factorise, factorOperations, invertLower } from "./cholesky.ts";
import type { Design } from "./design.ts";
import type { Matrix, Tensors } from "./tensors.ts";

/**
 * Beyond so many dimensions only G's diagonal is used: G and what its inversion needs would not fit into memory, and
 * inverting it would take longer than the iterations that it saves.
 */
export const DENSE_DIMENSIONS = 640;

/** Operations of one inversion. */
export function inversionOperations(dimensions: number): number {
  return factorOperations(dimensions) + 2 * dimensions ** 3;
}

/** Rows that a Gram matrix is made from, for each dimension, where there are more. */
export const SAMPLE_PER_DIMENSION = 24;

/** The diagonal of G. Yields floating-point operations. */
export function* weightedSquares(
  tensors: Tensors,
  design: Design,
  weights: Float64Array,
): Generator<number, Float32Array, void> {
  const { dimensions } = design;
  const sums = new Float64Array(dimensions);
  let first = 0;
  for (const block of design.blocks) {
    const values = tensors.view(block);
    for (let at = 0; at < values.length; at++) {
      const column = at % dimensions;
      const value = values[at] as number;
      const weight = weights[first + (at - column) / dimensions] as number;
      sums[column] = (sums[column] as number) + weight * value * value;
    }
    first += block.rows;
    yield 3 * values.length;
  }
  return Float32Array.from(sums);
}

/** G = Σ_i s_i x_i x_iᵀ, row-major. Yields floating-point operations. */
export function* weightedGram(
  tensors: Tensors,
  design: Design,
  weights: Float64Array,
): Generator<number, Float32Array, void> {
  const { dimensions } = design;
  const sum = new Float32Array(dimensions * dimensions);
  let first = 0;
  for (const block of design.blocks) {
    const transposed = tensors.transpose(block);
    const scaled = tensors.view(transposed);
    for (let j = 0; j < dimensions; j++) {
      for (let i = 0; i < block.rows; i++)
        scaled[j * block.rows + i] = (scaled[j * block.rows + i] as number) * (weights[first + i] as number);
    }
    // A copy on the right: the backend would keep a packed second copy of the block as long as the block lives.
    const right = tensors.matrix(block.rows, dimensions, tensors.read(block));
    const product = tensors.multiply(transposed, right);
    const partial = tensors.view(product);
    for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (partial[i] as number);
    for (const matrix of [transposed, right, product]) tensors.free(matrix);
    first += block.rows;
    yield 2 * block.rows * dimensions * dimensions;
  }
  return sum;
}

/**
 * (κ G + max(λ, δ) I)⁻¹ as a matrix, by Cholesky's factorisation in 64-bit floats: with L Lᵀ the matrix, its inverse is
 * L⁻ᵀ L⁻¹, which stays positive definite when that last product is made in 32-bit floats. δ, a millionth of the trace,
 * is what they can still tell from zero. Yields floating-point operations.
 */
export function* invertDamped(
  tensors: Tensors,
  gram: Float32Array,
  dimensions: number,
  curvature: number,
  l2: number,
): Generator<number, Matrix, void> {
  let trace = 0;
  for (let j = 0; j < dimensions; j++) trace += gram[j * dimensions + j] as number;
  const damping = Math.max(l2, 1e-6 * curvature * trace, 1e-30);
  const lower = new Float64Array(gram.length);
  for (let i = 0; i < gram.length; i++) lower[i] = curvature * (gram[i] as number);
  for (let j = 0; j < dimensions; j++) lower[j * dimensions + j] = (lower[j * dimensions + j] as number) + damping;
  // G comes from 32-bit products, and may be a little less than semidefinite.
  yield* factorise(lower, dimensions, damping / 2);
  const inverse = tensors.matrix(dimensions, dimensions, new Float32Array(yield* invertLower(lower, dimensions)));
  const transposed = tensors.transpose(inverse);
  const product = tensors.multiply(transposed, inverse);
  tensors.free(inverse);
  tensors.free(transposed);
  yield 2 * dimensions ** 3;
  return product;
}
