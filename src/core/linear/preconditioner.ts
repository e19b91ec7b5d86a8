/**
 * The inverse of (κ G + λ I), where G = Σ_i s_i x_i x_iᵀ (dimensions × dimensions) and κ is the curvature of the loss at
 * its start: 1 / classes for softmax, ¼ for sigmoids, 1 for squares. That is the Hessian at W = 0 (for balanced classes),
 * and its inverse is where L-BFGS starts from. With m the rows' mean, x stands for x − m: the intercept, which is free, is
 * taken out of it (fit.ts).
 */

import { seededRandom, shuffle } from "../random.ts";
import type { Steps } from "../steps.ts";
import type { Matrix, SparseRows, TensorBackend } from "../tensors.ts";
import { cholesky, choleskyOperations, invertLowerTriangular } from "./cholesky.ts";
import { type Design, freeDesign, type SparseDesign, subsetDesign } from "./design.ts";

/**
 * Beyond so many dimensions only G's diagonal is used: G and what its inversion needs would not fit into memory, and
 * inverting it would take longer than the iterations that it saves.
 */
export const MAX_GRAM_DIMENSIONS = 640;

/** Operations of one inversion. */
export function inversionOperations(dimensions: number): number {
  return choleskyOperations(dimensions) + 2 * dimensions ** 3;
}

/** Rows that a Gram matrix is made from, for each dimension, where there are more. */
const GRAM_ROWS_PER_DIMENSION = 24;

/** Rows that G is sampled from at a time, and numbers of rows that its largest eigenvalue is estimated from. */
const GRAM_BATCH_ROWS = 1024;
const MAX_SAMPLE_NUMBERS = 4e5;
const POWER_ITERATIONS = 4;

/** How the rows spread over the dimensions: what preconditioners are made from. G itself is made when it is first needed. */
export interface GramStatistics {
  readonly design: Design;
  readonly weights: Float64Array;
  readonly seed: number;
  /** The rows' mean, where it is not zero (a design is centred, but a fold of it is not), and the sum of their weights. */
  readonly mean: Float64Array | null;
  readonly totalWeight: number;
  /** The diagonal of G, and its largest eigenvalue, both from a sample of the rows. */
  readonly diagonal: Float64Array;
  readonly largestEigenvalue: number;
  gram: Float32Array | null;
  /** The rows' mean in the sparse columns and the diagonal of their G, of the rows less that mean; null without any. */
  readonly sparse: { readonly mean: Float64Array; readonly diagonal: Float64Array } | null;
}

/** Yields floating-point operations. */
export function* computeGramStatistics(
  tensors: TensorBackend,
  design: Design,
  weights: Float64Array,
  seed: number,
): Steps<GramStatistics> {
  const { dimensions } = design;
  const sampleShare = Math.min(1, MAX_SAMPLE_NUMBERS / (design.rows * dimensions));
  const random = seededRandom(seed);
  const isSampled = Array.from({ length: design.rows }, () => sampleShare === 1 || random() < sampleShare);
  const sample = new Float32Array(isSampled.filter(Boolean).length * dimensions);
  const mean = new Float64Array(dimensions);
  let totalWeight = 0;
  let row = 0;
  let at = 0;
  for (const block of design.blocks) {
    const values = tensors.view(block);
    for (let i = 0; i < block.rows; i++, row++) {
      const weight = weights[row] as number;
      const x = values.subarray(i * dimensions, (i + 1) * dimensions);
      addMultiple(mean, x, weight);
      totalWeight += weight;
      if (!isSampled[row]) continue;
      sample.set(scaleVector(x, Math.sqrt(weight / sampleShare)), at);
      at += dimensions;
    }
    yield 2 * values.length;
  }
  for (let j = 0; j < dimensions; j++) mean[j] = (mean[j] as number) / Math.max(totalWeight, 1e-30);
  const isCentred = squaredNorm(mean) < MAX_CENTRED_SQUARE;
  const diagonal = new Float64Array(dimensions);
  addSquares(sample, diagonal);
  const largestEigenvalue = estimateLargestEigenvalue(sample, dimensions);
  yield (2 + 4 * POWER_ITERATIONS) * sample.length;
  const sparse = design.sparse === null ? null : sparseGramStatistics(tensors, design.sparse, weights, totalWeight);
  return {
    design,
    weights,
    seed,
    mean: isCentred ? null : mean,
    totalWeight,
    diagonal,
    largestEigenvalue,
    gram: null,
    sparse,
  };
}

/** The mean of sparse rows, and the sum of their squares less it, column by column. */
function sparseGramStatistics(
  tensors: TensorBackend,
  design: SparseDesign,
  weights: Float64Array,
  totalWeight: number,
) {
  const mean = new Float64Array(design.columns);
  const diagonal = new Float64Array(design.columns);
  let first = 0;
  for (const block of design.blocks) {
    addSparseRows(tensors.readSparse(block), weights.subarray(first, first + block.rows), mean, diagonal);
    first += block.rows;
  }
  for (let j = 0; j < mean.length; j++) {
    const average = (mean[j] as number) / Math.max(totalWeight, 1e-30);
    mean[j] = average;
    diagonal[j] = Math.max(0, (diagonal[j] as number) - totalWeight * average * average);
  }
  return { mean, diagonal };
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
const MAX_CENTRED_SQUARE = 1e-8;

function addMultiple(sum: Float64Array, x: Float32Array, factor: number): void {
  for (let j = 0; j < sum.length; j++) sum[j] = (sum[j] as number) + factor * (x[j] as number);
}

function addSquares(sample: Float32Array, squares: Float64Array): void {
  for (let at = 0; at < sample.length; ) {
    for (let j = 0; j < squares.length; j++, at++) squares[j] = (squares[j] as number) + (sample[at] as number) ** 2;
  }
}

/** Of SᵀS, from below, by the power method. */
function estimateLargestEigenvalue(s: Float32Array, dimensions: number): number {
  let vector = Float64Array.from({ length: dimensions }, (_, j) => Math.sin(j + 1));
  let value = 0;
  for (let step = 0; step < POWER_ITERATIONS; step++) {
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
export function* gramMatrix(tensors: TensorBackend, gramStatistics: GramStatistics): Steps<Float32Array> {
  const { design, weights, seed } = gramStatistics;
  if (gramStatistics.gram !== null) return gramStatistics.gram;
  const sampleRows = Math.max(1000, GRAM_ROWS_PER_DIMENSION * design.dimensions);
  if (design.rows <= 1.5 * sampleRows) {
    gramStatistics.gram = centreGram(yield* weightedGram(tensors, design, weights), gramStatistics);
    return gramStatistics.gram;
  }
  const rows = shuffle(Array.from(weights.keys()), seededRandom(seed))
    .slice(0, sampleRows)
    .sort((a, b) => a - b);
  const gram = new Float32Array(design.dimensions ** 2);
  for (let first = 0; first < rows.length; first += GRAM_BATCH_ROWS) {
    const batchRows = rows.slice(first, first + GRAM_BATCH_ROWS);
    const sample = yield* subsetDesign(tensors, design, batchRows, 1, "once");
    const rowWeights = Float64Array.from(batchRows, (row) => ((weights[row] as number) * design.rows) / sampleRows);
    const batchGram = yield* weightedGram(tensors, sample, rowWeights);
    addTo(gram, batchGram);
    freeDesign(tensors, sample);
  }
  gramStatistics.gram = centreGram(gram, gramStatistics);
  return gram;
}

/** G − (Σ s) m mᵀ, in place. */
function centreGram(gram: Float32Array, { mean, totalWeight }: GramStatistics): Float32Array {
  if (mean === null) return gram;
  const d = mean.length;
  for (let i = 0; i < d; i++) {
    for (let j = 0; j < d; j++)
      gram[i * d + j] = (gram[i * d + j] as number) - totalWeight * (mean[i] as number) * (mean[j] as number);
  }
  return gram;
}

/** G = Σ_i s_i x_i x_iᵀ, row-major. Yields floating-point operations. */
function* weightedGram(tensors: TensorBackend, design: Design, weights: Float64Array): Steps<Float32Array> {
  const { dimensions } = design;
  const sum = new Float32Array(dimensions * dimensions);
  let first = 0;
  for (const block of design.blocks) {
    const transposed = tensors.transpose(block);
    scaleColumns(tensors.view(transposed), weights.subarray(first, first + block.rows));
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

function scaleVector(values: Float32Array, factor: number): Float64Array {
  const result = new Float64Array(values.length);
  for (let i = 0; i < values.length; i++) result[i] = factor * (values[i] as number);
  return result;
}

/** Multiplies each row by `factors`, number by number. */
function scaleColumns(rows: Float32Array, factors: Float64Array): void {
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
  tensors: TensorBackend,
  gram: Float32Array,
  dimensions: number,
  curvature: number,
  l2: number,
): Steps<Matrix> {
  let trace = 0;
  for (let j = 0; j < dimensions; j++) trace += gram[j * dimensions + j] as number;
  const damping = Math.max(l2, 1e-6 * curvature * trace, 1e-30);
  const lower = scaleVector(gram, curvature);
  for (let j = 0; j < dimensions; j++) lower[j * dimensions + j] = (lower[j * dimensions + j] as number) + damping;
  // G comes from 32-bit products, and may be a little less than semidefinite.
  yield* cholesky(lower, dimensions, damping / 2);
  const inverse = tensors.matrix(
    dimensions,
    dimensions,
    new Float32Array(yield* invertLowerTriangular(lower, dimensions)),
  );
  const transposed = tensors.transpose(inverse);
  const product = tensors.multiply(transposed, inverse);
  tensors.free(inverse);
  tensors.free(transposed);
  yield 2 * dimensions ** 3;
  return product;
}
