/**
 * The inverse of (κ G + λ I), where G = Σ_i s_i x_i x_iᵀ (dimensions × dimensions) and κ is the curvature of the loss at
 * its start: 1 / classes for softmax, ¼ for sigmoids, 1 for squares. That is the Hessian at W = 0 (for balanced classes),
 * and its inverse is where L-BFGS starts from.
 */
import type { Design } from "./design.ts";
import type { Matrix, Tensors } from "./tensors.ts";

/** Below this edge, inverting in plain JavaScript is faster than splitting into products. */
const SMALL = 48;

/**
 * Beyond so many dimensions only G's diagonal is used: G and what its inversion needs would not fit into memory, and
 * inverting it would take longer than the iterations that it saves.
 */
export const DENSE_DIMENSIONS = 640;

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

/** (curvature · gram + l2 · I)⁻¹ as a matrix. 32-bit floats bound the condition number that it can have to about 1e6. */
export function* invertDamped(
  tensors: Tensors,
  gram: Float32Array,
  dimensions: number,
  curvature: number,
  l2: number,
): Generator<number, Matrix, void> {
  let largest = 0;
  for (let j = 0; j < dimensions; j++) largest = Math.max(largest, gram[j * dimensions + j] as number);
  const damping = Math.max(l2, 1e-6 * curvature * largest * Math.sqrt(dimensions), 1e-30);
  const damped = new Float32Array(gram.length);
  for (let i = 0; i < gram.length; i++) damped[i] = curvature * (gram[i] as number);
  for (let j = 0; j < dimensions; j++) damped[j * dimensions + j] = (damped[j * dimensions + j] as number) + damping;
  const inverse = yield* invertPositive(tensors, damped, dimensions);
  for (let i = 0; i < dimensions; i++) {
    for (let j = 0; j < i; j++) {
      const mean = ((inverse[i * dimensions + j] as number) + (inverse[j * dimensions + i] as number)) / 2;
      inverse[i * dimensions + j] = mean;
      inverse[j * dimensions + i] = mean;
    }
  }
  return tensors.matrix(dimensions, dimensions, inverse);
}

/**
 * The inverse of a symmetric positive definite matrix, by halves, so that nearly all work is in products:
 * with S = D − Bᵀ A⁻¹ B, the inverse of [A B; Bᵀ D] is [A⁻¹ + T S⁻¹ Tᵀ, −T S⁻¹; −S⁻¹ Tᵀ, S⁻¹] where T = A⁻¹ B.
 */
function* invertPositive(tensors: Tensors, matrix: Float32Array, n: number): Generator<number, Float32Array, void> {
  if (n <= SMALL) return invertSmall(matrix, n);
  const p = n >> 1;
  const q = n - p;
  const inverseA = yield* invertPositive(tensors, part(matrix, n, 0, p, 0, p), p);
  const b = part(matrix, n, 0, p, p, n);
  const a = tensors.matrix(p, p, inverseA);
  const right = tensors.matrix(p, q, b);
  const t = tensors.multiply(a, right);
  const tt = tensors.transpose(t);
  const product = tensors.multiply(tt, right);
  const s = part(matrix, n, p, n, p, n);
  const btab = tensors.view(product);
  for (let i = 0; i < s.length; i++) s[i] = (s[i] as number) - (btab[i] as number);
  for (const each of [a, right, product]) tensors.free(each);
  yield 2 * p * q * n;

  const inverseS = yield* invertPositive(tensors, s, q);
  const si = tensors.matrix(q, q, inverseS);
  const u = tensors.multiply(t, si);
  const v = tensors.multiply(u, tt);
  const offDiagonal = tensors.view(u);
  const update = tensors.view(v);
  const inverse = new Float32Array(n * n);
  for (let i = 0; i < p; i++) {
    for (let j = 0; j < p; j++) inverse[i * n + j] = (inverseA[i * p + j] as number) + (update[i * p + j] as number);
    for (let j = 0; j < q; j++) {
      const value = -(offDiagonal[i * q + j] as number);
      inverse[i * n + p + j] = value;
      inverse[(p + j) * n + i] = value;
    }
  }
  for (let i = 0; i < q; i++) inverse.set(inverseS.subarray(i * q, (i + 1) * q), (p + i) * n + p);
  for (const each of [t, tt, si, u, v]) tensors.free(each);
  yield 2 * p * q * n;
  return inverse;
}

function part(
  matrix: Float32Array,
  columns: number,
  top: number,
  bottom: number,
  left: number,
  right: number,
): Float32Array {
  const width = right - left;
  const copy = new Float32Array((bottom - top) * width);
  for (let i = top; i < bottom; i++)
    copy.set(matrix.subarray(i * columns + left, i * columns + right), (i - top) * width);
  return copy;
}

/** Gauss and Jordan's elimination in place, in 64-bit floats, without pivoting: the matrix is positive definite. */
function invertSmall(matrix: Float32Array, n: number): Float32Array {
  const a = Float64Array.from(matrix);
  for (let k = 0; k < n; k++) {
    const pivot = Math.max(a[k * n + k] as number, 1e-30);
    a[k * n + k] = 1;
    for (let j = 0; j < n; j++) a[k * n + j] = (a[k * n + j] as number) / pivot;
    for (let i = 0; i < n; i++) {
      if (i === k) continue;
      const factor = a[i * n + k] as number;
      a[i * n + k] = 0;
      for (let j = 0; j < n; j++) a[i * n + j] = (a[i * n + j] as number) - factor * (a[k * n + j] as number);
    }
  }
  return Float32Array.from(a);
}
