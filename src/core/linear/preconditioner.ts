/**
 * The inverse of (κ G + λ I), where G = Σ_i s_i x_i x_iᵀ (dimensions × dimensions) and κ is the curvature of the loss at
 * its start: 1 / classes for softmax, ¼ for sigmoids, 1 for squares. That is the Hessian at W = 0 (for balanced classes),
 * and its inverse is where L-BFGS starts from. With m the rows' mean, x stands for x − m: the intercept, which is free, is
 * taken out of it (fit.ts).
 */
import { factorise, factorOperations, invertLower } from "./cholesky.ts";
import { type Design, freeDesign, type SparseDesign, subsetDesign } from "./design.ts";
import { seededRandom, shuffle } from "../random.ts";
import type { Matrix, SparseRows, Tensors } from "../tensors.ts";

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
const SAMPLE_PER_DIMENSION = 24;

/** Rows that G is sampled from at a time, and numbers of rows that its largest eigenvalue is estimated from. */
const GRAM_ROWS = 1024;
const SPREAD_NUMBERS = 4e5;
const POWER_STEPS = 4;

/** How the rows spread over the dimensions: what preconditioners are made from. G itself is made when it is first needed. */
export interface Spread {
  readonly design: Design;
  readonly weights: Float64Array;
  readonly seed: number;
  /** The rows' mean, where it is not zero (a design is centred, but a fold of it is not), and the sum of their weights. */
  readonly mean: Float64Array | null;
  readonly total: number;
  /** The diagonal of G, and its largest eigenvalue, both from a sample of the rows. */
  readonly squares: Float64Array;
  readonly largest: number;
  gram: Float32Array | null;
  /** The rows' mean in the sparse columns and the diagonal of their G, of the rows less that mean; null without any. */
  readonly sparse: { readonly mean: Float64Array; readonly squares: Float64Array } | null;
}

/** Yields floating-point operations. */
export function* measureSpread(
  tensors: Tensors,
  design: Design,
  weights: Float64Array,
  seed: number,
): Generator<number, Spread, void> {
  const { dimensions } = design;
  const share = Math.min(1, SPREAD_NUMBERS / (design.rows * dimensions));
  const random = seededRandom(seed);
  const chosen = Array.from({ length: design.rows }, () => share === 1 || random() < share);
  const sample = new Float32Array(chosen.filter(Boolean).length * dimensions);
  const mean = new Float64Array(dimensions);
  let total = 0;
  let row = 0;
  let at = 0;
  for (const block of design.blocks) {
    const values = tensors.view(block);
    for (let i = 0; i < block.rows; i++, row++) {
      const weight = weights[row] as number;
      const x = values.subarray(i * dimensions, (i + 1) * dimensions);
      addMultiple(mean, x, weight);
      total += weight;
      if (!chosen[row]) continue;
      sample.set(scaled(x, Math.sqrt(weight / share)), at);
      at += dimensions;
    }
    yield 2 * values.length;
  }
  for (let j = 0; j < dimensions; j++) mean[j] = (mean[j] as number) / Math.max(total, 1e-30);
  const centred = squaredNorm(mean) < CENTRED;
  const squares = new Float64Array(dimensions);
  addSquares(sample, squares);
  const largest = largestEigenvalue(sample, dimensions);
  yield (2 + 4 * POWER_STEPS) * sample.length;
  const sparse = design.sparse === null ? null : sparseSpread(tensors, design.sparse, weights, total);
  return { design, weights, seed, mean: centred ? null : mean, total, squares, largest, gram: null, sparse };
}

/** The mean of sparse rows, and the sum of their squares less it, column by column. */
function sparseSpread(tensors: Tensors, design: SparseDesign, weights: Float64Array, total: number) {
  const mean = new Float64Array(design.columns);
  const squares = new Float64Array(design.columns);
  let first = 0;
  for (const block of design.blocks) {
    addSparseRows(tensors.readSparse(block), weights.subarray(first, first + block.rows), mean, squares);
    first += block.rows;
  }
  for (let j = 0; j < mean.length; j++) {
    const average = (mean[j] as number) / Math.max(total, 1e-30);
    mean[j] = average;
    squares[j] = Math.max(0, (squares[j] as number) - total * average * average);
  }
  return { mean, squares };
}

/** Adds rows, and their squares, each times its weight. */
function addSparseRows(
  { starts, columns, values }: SparseRows,
  weights: Float64Array,
  sum: Float64Array,
  squares: Float64Array,
): void {
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i] as number;
    if (weight === 0) continue;
    for (let m = starts[i] as number; m < (starts[i + 1] as number); m++) {
      const column = columns[m] as number;
      const value = values[m] as number;
      sum[column] = (sum[column] as number) + weight * value;
      squares[column] = (squares[column] as number) + weight * value * value;
    }
  }
}

/** Rows have mean square 1, so a mean whose square is smaller is rounding. */
const CENTRED = 1e-8;

function addMultiple(sum: Float64Array, x: Float32Array, factor: number): void {
  for (let j = 0; j < sum.length; j++) sum[j] = (sum[j] as number) + factor * (x[j] as number);
}

function addSquares(sample: Float32Array, squares: Float64Array): void {
  for (let at = 0; at < sample.length; ) {
    for (let j = 0; j < squares.length; j++, at++) squares[j] = (squares[j] as number) + (sample[at] as number) ** 2;
  }
}

/** Of SᵀS, from below, by the power method. */
function largestEigenvalue(s: Float32Array, dimensions: number): number {
  let vector = Float64Array.from({ length: dimensions }, (_, j) => Math.sin(j + 1));
  let value = 0;
  for (let step = 0; step < POWER_STEPS; step++) {
    const next = new Float64Array(dimensions);
    for (let start = 0; start < s.length; start += dimensions) {
      let product = 0;
      for (let j = 0; j < dimensions; j++) product += (s[start + j] as number) * (vector[j] as number);
      for (let j = 0; j < dimensions; j++) next[j] = (next[j] as number) + product * (s[start + j] as number);
    }
    value = Math.sqrt(squaredNorm(next) / squaredNorm(vector)) || 0;
    vector = next;
  }
  return value;
}

function squaredNorm(vector: Float64Array): number {
  let sum = 0;
  for (const value of vector) sum += value * value;
  return sum;
}

/** G of the rows less their mean; of all rows, or where there are many of a random sample of them in proportion: it only preconditions. */
export function* gramOf(tensors: Tensors, spread: Spread): Generator<number, Float32Array, void> {
  const { design, weights, seed } = spread;
  if (spread.gram !== null) return spread.gram;
  const wanted = Math.max(1000, SAMPLE_PER_DIMENSION * design.dimensions);
  if (design.rows <= 1.5 * wanted) {
    spread.gram = centre(yield* weightedGram(tensors, design, weights), spread);
    return spread.gram;
  }
  const rows = shuffle(Array.from(weights.keys()), seededRandom(seed))
    .slice(0, wanted)
    .sort((a, b) => a - b);
  const gram = new Float32Array(design.dimensions ** 2);
  for (let first = 0; first < rows.length; first += GRAM_ROWS) {
    const some = rows.slice(first, first + GRAM_ROWS);
    const sample = yield* subsetDesign(tensors, design, some, 1, "once");
    const share = Float64Array.from(some, (row) => ((weights[row] as number) * design.rows) / wanted);
    const part = yield* weightedGram(tensors, sample, share);
    addTo(gram, part);
    freeDesign(tensors, sample);
  }
  spread.gram = centre(gram, spread);
  return gram;
}

/** G − (Σ s) m mᵀ, in place. */
function centre(gram: Float32Array, { mean, total }: Spread): Float32Array {
  if (mean === null) return gram;
  const d = mean.length;
  for (let i = 0; i < d; i++) {
    for (let j = 0; j < d; j++)
      gram[i * d + j] = (gram[i * d + j] as number) - total * (mean[i] as number) * (mean[j] as number);
  }
  return gram;
}

/** G = Σ_i s_i x_i x_iᵀ, row-major. Yields floating-point operations. */
function* weightedGram(tensors: Tensors, design: Design, weights: Float64Array): Generator<number, Float32Array, void> {
  const { dimensions } = design;
  const sum = new Float32Array(dimensions * dimensions);
  let first = 0;
  for (const block of design.blocks) {
    const transposed = tensors.transpose(block);
    scaleRows(tensors.view(transposed), weights.subarray(first, first + block.rows));
    // A copy on the right: the backend would keep a packed second copy of the block as long as the block lives.
    const right = tensors.matrix(block.rows, dimensions, tensors.read(block));
    const product = tensors.multiply(transposed, right);
    addTo(sum, tensors.view(product));
    for (const matrix of [transposed, right, product]) tensors.free(matrix);
    first += block.rows;
    yield 2 * block.rows * dimensions * dimensions;
  }
  return sum;
}

// Loops stand in functions of their own, since those inside of generators run at a fraction of the speed.
function addTo(sum: Float32Array, part: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (part[i] as number);
}

function scaled(values: Float32Array, factor: number): Float64Array {
  const result = new Float64Array(values.length);
  for (let i = 0; i < values.length; i++) result[i] = factor * (values[i] as number);
  return result;
}

/** Multiplies each row by `factors`, number by number. */
function scaleRows(rows: Float32Array, factors: Float64Array): void {
  for (let at = 0; at < rows.length; ) {
    for (let i = 0; i < factors.length; i++, at++) rows[at] = (rows[at] as number) * (factors[i] as number);
  }
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
  const lower = scaled(gram, curvature);
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
