/**
 * The Gram matrix G = Σ_i s_i x_i x_iᵀ of a design's rows (dimensions × dimensions), and statistics of it. The rows are
 * centred: x stands for x − m, where m is their mean. That removes the intercept (preconditioner.ts).
 */

import { seededRandom, shuffle } from "../random.ts";
import { OPERATIONS_PER_COPIED_NUMBER, type Steps } from "../steps.ts";
import type { SparseRows, TensorBackend } from "../tensors.ts";
import { type Design, freeDesign, type SparseDesign } from "./design.ts";
import { subsetDesign } from "./design-subset.ts";

/**
 * With more dimensions only the diagonal of G is used: G and the arrays of its inversion would not fit into memory, and
 * inverting it would take longer than the iterations that it saves.
 */
export const MAX_GRAM_DIMENSIONS = 768;

/** G is computed from at most about so many rows per dimension. */
const GRAM_ROWS_PER_DIMENSION = 24;

/** Rows of that sample that are copied at a time. */
const GRAM_BATCH_ROWS = 1024;
/** Operations of a product for G that no other work interrupts: some ten milliseconds. */
const GRAM_STEP_OPERATIONS = 2e8;
/** The diagonal and the largest eigenvalue are estimated from a sample of so many numbers. */
const MAX_SAMPLE_NUMBERS = 4e5;
const POWER_ITERATIONS = 4;

/** What preconditioners are made from. */
export interface GramStatistics {
  readonly design: Design;
  readonly weights: Float64Array;
  readonly seed: number;
  /** The rows' mean m. Null if it is zero: a design is centred, but a fold of it is not. */
  readonly mean: Float64Array | null;
  /** The sum of the weights. */
  readonly totalWeight: number;
  /** The diagonal of G and its largest eigenvalue, both estimated from a sample of the rows. */
  readonly diagonal: Float64Array;
  readonly largestEigenvalue: number;
  /** G, once `gramMatrix` has computed it. */
  gram: Float32Array | null;
  /** The mean of the sparse columns, and the diagonal of their centred G. Null without sparse columns. */
  readonly sparse: { readonly mean: Float64Array; readonly diagonal: Float64Array } | null;
}

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
    const values = tensors.values(block);
    for (let i = 0; i < block.rows; i++, row++) {
      const weight = weights[row] as number;
      const x = values.subarray(i * dimensions, (i + 1) * dimensions);
      addMultiple(mean, x, weight);
      totalWeight += weight;
      if (!isSampled[row]) continue;
      sample.set(scaleVector(x, Math.sqrt(weight / sampleShare)), at);
      at += dimensions;
    }
    yield OPERATIONS_PER_COPIED_NUMBER * values.length;
  }
  for (let j = 0; j < dimensions; j++) mean[j] = (mean[j] as number) / Math.max(totalWeight, 1e-30);
  const isCentred = squaredNorm(mean) < MAX_CENTRED_SQUARE;
  const diagonal = new Float64Array(dimensions);
  addSquares(sample, diagonal);
  yield OPERATIONS_PER_COPIED_NUMBER * sample.length;
  const largestEigenvalue = yield* estimateLargestEigenvalue(sample, dimensions);
  const sparse =
    design.sparse === null ? null : yield* sparseGramStatistics(tensors, design.sparse, weights, totalWeight);
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

/** The mean of each sparse column, and the sum of the squared deviations from it. */
function* sparseGramStatistics(
  tensors: TensorBackend,
  design: SparseDesign,
  weights: Float64Array,
  totalWeight: number,
): Steps<GramStatistics["sparse"]> {
  const mean = new Float64Array(design.columns);
  const diagonal = new Float64Array(design.columns);
  let first = 0;
  for (const block of design.blocks) {
    addSparseRows(tensors.readSparse(block), weights.subarray(first, first + block.rows), mean, diagonal);
    first += block.rows;
    yield OPERATIONS_PER_COPIED_NUMBER * block.entries;
  }
  for (let j = 0; j < mean.length; j++) {
    const average = (mean[j] as number) / Math.max(totalWeight, 1e-30);
    mean[j] = average;
    diagonal[j] = Math.max(0, (diagonal[j] as number) - totalWeight * average * average);
  }
  return { mean, diagonal };
}

/** Adds the weighted rows to `sum` and their weighted squares to `squares`. */
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

/** Rows have mean square 1, so a mean with a smaller square is rounding. */
const MAX_CENTRED_SQUARE = 1e-8;

function addMultiple(sum: Float64Array, x: Float32Array, factor: number): void {
  for (let j = 0; j < sum.length; j++) sum[j] = (sum[j] as number) + factor * (x[j] as number);
}

function addSquares(sample: Float32Array, squares: Float64Array): void {
  for (let at = 0; at < sample.length; ) {
    for (let j = 0; j < squares.length; j++, at++) squares[j] = (squares[j] as number) + (sample[at] as number) ** 2;
  }
}

/** A lower bound of the largest eigenvalue of SᵀS, by the power method. */
function* estimateLargestEigenvalue(s: Float32Array, dimensions: number): Steps<number> {
  let vector = Float64Array.from({ length: dimensions }, (_, j) => Math.sin(j + 1));
  let value = 0;
  for (let step = 0; step < POWER_ITERATIONS; step++) {
    const next = multiplyByGram(s, vector);
    value = Math.sqrt(squaredNorm(next) / squaredNorm(vector)) || 0;
    vector = next;
    yield 2 * OPERATIONS_PER_COPIED_NUMBER * s.length;
  }
  return value;
}

/** SᵀS v, of rows S as long as v. */
function multiplyByGram(s: Float32Array, vector: Float64Array): Float64Array<ArrayBuffer> {
  const dimensions = vector.length;
  const result = new Float64Array(dimensions);
  for (let start = 0; start < s.length; start += dimensions) {
    let product = 0;
    for (let j = 0; j < dimensions; j++) product += (s[start + j] as number) * (vector[j] as number);
    for (let j = 0; j < dimensions; j++) result[j] = (result[j] as number) + product * (s[start + j] as number);
  }
  return result;
}

function squaredNorm(vector: Float64Array): number {
  let sum = 0;
  for (const value of vector) sum += value * value;
  return sum;
}

/**
 * G, of all rows, or if there are many, of a random sample scaled up to them. The sample is enough because G only
 * preconditions.
 */
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

/** Σ_i s_i x_i x_iᵀ of rows that are not centred, row-major. */
function* weightedGram(tensors: TensorBackend, design: Design, weights: Float64Array): Steps<Float32Array> {
  const { dimensions } = design;
  const sum = new Float32Array(dimensions * dimensions);
  const maxRows = Math.max(1, Math.floor(GRAM_STEP_OPERATIONS / (2 * dimensions ** 2)));
  let first = 0;
  for (const block of design.blocks) {
    const values = tensors.read(block);
    scaleRows(values, weights.subarray(first, first + block.rows));
    for (let row = 0; row < block.rows; row += maxRows) {
      const part = values.subarray(row * dimensions, (row + maxRows) * dimensions);
      const rows = tensors.matrix(part.length / dimensions, dimensions, part);
      const product = tensors.multiplyTransposed(rows, rows);
      addTo(sum, tensors.view(product));
      for (const matrix of [rows, product]) tensors.free(matrix);
      yield 2 * rows.rows * dimensions ** 2;
    }
    first += block.rows;
  }
  return sum;
}

// Loops have functions of their own because loops in generators run at a fraction of the speed.
function addTo(sum: Float32Array, part: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (part[i] as number);
}

function scaleVector(values: Float32Array, factor: number): Float64Array {
  const result = new Float64Array(values.length);
  for (let i = 0; i < values.length; i++) result[i] = factor * (values[i] as number);
  return result;
}

/** Multiplies row i of a row-major matrix by the square root of `weights[i]`, in place. */
function scaleRows(rows: Float32Array, weights: Float64Array): void {
  const width = rows.length / weights.length;
  for (let i = 0, at = 0; i < weights.length; i++) {
    const factor = Math.sqrt(weights[i] as number);
    for (let j = 0; j < width; j++, at++) rows[at] = (rows[at] as number) * factor;
  }
}
