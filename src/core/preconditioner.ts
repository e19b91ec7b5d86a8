/**
 * The inverse of (κ G + λ I), where G = Σ_i s_i x_i x_iᵀ (dimensions × dimensions) and κ is the curvature of the loss at
 * its start: 1 / classes for softmax, ¼ for sigmoids, 1 for squares. That is the Hessian at W = 0 (for balanced classes),
 * and its inverse is where L-BFGS starts from.
 */
import type { Design } from "./design.ts";
import type { Matrix, Tensors } from "./tensors.ts";

/**
 * Beyond so many dimensions only G's diagonal is used: G and what its inversion needs would not fit into memory, and
 * inverting it would take longer than the iterations that it saves.
 */
export const DENSE_DIMENSIONS = 640;

/** What an operation of the factorisation, in 64-bit floats and plain JavaScript, costs in operations of a product. */
const PLAIN_OPERATIONS = 12;

/** Operations of one inversion. */
export function inversionOperations(dimensions: number): number {
  return (2 + (2 / 3) * PLAIN_OPERATIONS) * dimensions ** 3;
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
  const lower = Float64Array.from(gram, (value) => curvature * value);
  for (let j = 0; j < dimensions; j++) lower[j * dimensions + j] = (lower[j * dimensions + j] as number) + damping;
  yield* factorise(lower, dimensions, damping);
  const inverse = tensors.matrix(dimensions, dimensions, Float32Array.from(yield* invertLower(lower, dimensions)));
  const transposed = tensors.transpose(inverse);
  const product = tensors.multiply(transposed, inverse);
  tensors.free(inverse);
  tensors.free(transposed);
  yield 2 * dimensions ** 3;
  return product;
}

/**
 * Cholesky's factorisation in place: the lower triangle of a symmetric matrix becomes L. Pivots are kept from falling below
 * half of `least`, which the matrix was damped by: G itself comes from 32-bit products.
 */
function* factorise(a: Float64Array, n: number, least: number): Generator<number, void, void> {
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      const sum = (a[i * n + j] as number) - rowProduct(a, i * n, j * n, j);
      a[i * n + j] = i === j ? Math.sqrt(Math.max(sum, least / 2)) : sum / (a[j * n + j] as number);
    }
    yield PLAIN_OPERATIONS * (i + 1) ** 2;
  }
}

/** Σ a[x + p] a[y + p] over the first `count` p, in four sums, which a processor can add at once. */
function rowProduct(a: Float64Array, x: number, y: number, count: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let p = 0;
  for (; p + 3 < count; p += 4) {
    s0 += (a[x + p] as number) * (a[y + p] as number);
    s1 += (a[x + p + 1] as number) * (a[y + p + 1] as number);
    s2 += (a[x + p + 2] as number) * (a[y + p + 2] as number);
    s3 += (a[x + p + 3] as number) * (a[y + p + 3] as number);
  }
  for (; p < count; p++) s0 += (a[x + p] as number) * (a[y + p] as number);
  return s0 + s1 + s2 + s3;
}

/** L⁻¹, row by row from those above: (L⁻¹)_i = (e_i − Σ_{j<i} L_ij (L⁻¹)_j) / L_ii, four rows j at a time. */
function* invertLower(lower: Float64Array, n: number): Generator<number, Float64Array, void> {
  const inverse = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = inverse.subarray(i * n, i * n + i + 1);
    row[i] = 1;
    // Rows above hold zeros right of their diagonal, so all four may be read as far as the last of them.
    for (let j = 0; j < i; j += 4) {
      const [a, b, c, d] = [0, 1, 2, 3].map((more) => (j + more < i ? (lower[i * n + j + more] as number) : 0)) as [
        number,
        number,
        number,
        number,
      ];
      const first = j * n;
      const second = Math.min(j + 1, i) * n;
      const third = Math.min(j + 2, i) * n;
      const fourth = Math.min(j + 3, i) * n;
      const end = Math.min(j + 4, i);
      for (let p = 0; p < end; p++)
        row[p] =
          (row[p] as number) -
          a * (inverse[first + p] as number) -
          b * (inverse[second + p] as number) -
          c * (inverse[third + p] as number) -
          d * (inverse[fourth + p] as number);
    }
    const pivot = lower[i * n + i] as number;
    for (let p = 0; p <= i; p++) row[p] = (row[p] as number) / pivot;
    yield PLAIN_OPERATIONS * (i + 1) ** 2;
  }
  return inverse;
}
