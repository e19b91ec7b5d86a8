/** How near a task is to what a backbone knows: figures of its embeddings and classes, before anything is trained. */
import { seededRandom } from "../random.ts";
import { OPERATIONS_PER_COPIED_NUMBER, type Steps } from "../steps.ts";
import type { Matrix, TensorBackend } from "../tensors.ts";
import { logMe } from "./log-me.ts";

export interface Similarity {
  readonly examples: number;
  /** LogME (log-me.ts) of the embeddings in random directions: 128, or a quarter of the examples. */
  readonly logme: number;
  /** The share of examples whose label has most of the five nearest others, by cosine. */
  readonly knn_accuracy: number;
  /** The share of examples that are nearer to the centre of another class than to that of the others of their own. */
  readonly class_overlap: number;
}

export interface LabelledRows {
  /** Embeddings: rows × dimensions. */
  readonly values: Float32Array;
  readonly dimensions: number;
  /** Each row's class, from 0. */
  readonly classes: Int32Array;
  /** Rows of a group have the same input: none is a neighbour of another. */
  readonly groups: Int32Array;
}

const NEIGHBOURS = 5;
const DIRECTIONS = 128;
const ROWS_PER_DIRECTION = 4;
const DIRECTION_SEED = 17;
/** Rows whose similarities to all others are computed by one product. */
const CHUNK_ROWS = 128;
/** Of an eigendecomposition, a number in n³. */
const EIGEN_OPERATIONS = 40;

/** Computes the figures. The rows are centred and scaled to unit length first. */
export function* measureSimilarity(tensors: TensorBackend, labelled: LabelledRows): Steps<Similarity> {
  const { dimensions, classes } = labelled;
  const rows = unitRows(labelled.values, dimensions);
  yield OPERATIONS_PER_COPIED_NUMBER * rows.length;
  const matrix = tensors.matrix(classes.length, dimensions, rows);
  const knn_accuracy = yield* nearestAccuracy(tensors, matrix, rows, labelled);
  const logme = yield* projectedLogMe(tensors, matrix, classes);
  tensors.free(matrix);
  yield OPERATIONS_PER_COPIED_NUMBER * rows.length;
  return { examples: classes.length, logme, knn_accuracy, class_overlap: overlapOf(rows, labelled) };
}

/** The rows less their mean, each of length 1. */
function unitRows(values: Float32Array, dimensions: number): Float32Array {
  const count = values.length / dimensions;
  const mean = new Float64Array(dimensions);
  for (let i = 0; i < values.length; i++)
    mean[i % dimensions] = (mean[i % dimensions] as number) + (values[i] as number) / count;
  const rows = values.map((value, i) => value - (mean[i % dimensions] as number));
  for (let start = 0; start < rows.length; start += dimensions) {
    const row = rows.subarray(start, start + dimensions);
    const length = Math.sqrt(dot(row, row));
    if (length > 0) for (let j = 0; j < dimensions; j++) row[j] = (row[j] as number) / length;
  }
  return rows;
}

function dot(a: Float32Array | Float64Array, b: Float32Array | Float64Array): number {
  let sum = 0;
  for (let j = 0; j < a.length; j++) sum += (a[j] as number) * (b[j] as number);
  return sum;
}

function* nearestAccuracy(
  tensors: TensorBackend,
  matrix: Matrix,
  rows: Float32Array,
  { dimensions, classes, groups }: LabelledRows,
): Steps<number> {
  const transposed = tensors.transpose(matrix);
  let correct = 0;
  for (let first = 0; first < classes.length; first += CHUNK_ROWS) {
    const chunk = rows.subarray(first * dimensions, (first + CHUNK_ROWS) * dimensions);
    const left = tensors.matrix(chunk.length / dimensions, dimensions, chunk);
    const product = tensors.multiply(left, transposed);
    correct += countNearest(tensors.values(product), first, classes, groups);
    tensors.free(left);
    tensors.free(product);
    yield (2 * chunk.length + CHUNK_ROWS * NEIGHBOURS) * classes.length;
  }
  tensors.free(transposed);
  return correct / classes.length;
}

/** How many of the rows from `first` on have the class that most of their nearest neighbours have. */
function countNearest(similarities: Float32Array, first: number, classes: Int32Array, groups: Int32Array): number {
  const count = classes.length;
  let correct = 0;
  for (let start = 0, row = first; start < similarities.length; start += count, row++) {
    const best: { similarity: number; label: number }[] = [];
    for (let other = 0; other < count; other++) {
      if (groups[other] === groups[row]) continue;
      const similarity = similarities[start + other] as number;
      if (best.length === NEIGHBOURS && similarity <= (best[NEIGHBOURS - 1]?.similarity ?? 0)) continue;
      const place = best.findIndex((neighbour) => neighbour.similarity < similarity);
      best.splice(place === -1 ? best.length : place, 0, { similarity, label: classes[other] as number });
      best.length = Math.min(best.length, NEIGHBOURS);
    }
    if (mostFrequent(best.map(({ label }) => label)) === classes[row]) correct++;
  }
  return correct;
}

/** Of labels that are equally frequent the one that comes first, which is the nearest. */
function mostFrequent(labels: readonly number[]): number | undefined {
  const counts = new Map<number, number>();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0];
}

function* projectedLogMe(tensors: TensorBackend, matrix: Matrix, classes: Int32Array): Steps<number> {
  // With as many directions as rows the features would tell any classes.
  const directions = Math.max(1, Math.min(DIRECTIONS, matrix.columns, Math.floor(matrix.rows / ROWS_PER_DIRECTION)));
  const random = seededRandom(DIRECTION_SEED);
  const scale = 1 / Math.sqrt(directions);
  const signs = Float32Array.from({ length: matrix.columns * directions }, () => (random() < 0.5 ? -scale : scale));
  const right = tensors.matrix(matrix.columns, directions, signs);
  const projection = tensors.multiply(matrix, right);
  const gram = tensors.multiplyTransposed(projection, projection);
  const grams = Float64Array.from(tensors.values(gram));
  const products = classSums(tensors.values(projection), classes);
  for (const each of [right, projection, gram]) tensors.free(each);
  yield 2 * matrix.rows * directions * (matrix.columns + directions);
  yield EIGEN_OPERATIONS * directions ** 3;
  return logMe(grams, directions, products.sums, products.counts);
}

/** The sum of each class's rows: classes × dimensions. */
function classSums(rows: Float32Array, classes: Int32Array): { sums: Float64Array; counts: number[] } {
  const dimensions = rows.length / classes.length;
  const counts = new Array<number>(classes.reduce((most, label) => Math.max(most, label + 1), 0)).fill(0);
  const sums = new Float64Array(counts.length * dimensions);
  for (const [row, label] of classes.entries()) {
    counts[label] = (counts[label] ?? 0) + 1;
    for (let j = 0; j < dimensions; j++)
      sums[label * dimensions + j] = (sums[label * dimensions + j] as number) + (rows[row * dimensions + j] as number);
  }
  return { sums, counts };
}

/** The share of rows that are nearer to the centre of another class than to that of the others of their own. */
function overlapOf(rows: Float32Array, { dimensions, classes }: LabelledRows): number {
  const { sums, counts } = classSums(rows, classes);
  const squares = counts.map((_, k) => {
    const sum = sums.subarray(k * dimensions, (k + 1) * dimensions);
    return dot(sum, sum);
  });
  let overlapping = 0;
  for (const [row, label] of classes.entries()) {
    const x = rows.subarray(row * dimensions, (row + 1) * dimensions);
    const square = dot(x, x);
    const distances = counts.map((count, k) => {
      const sum = sums.subarray(k * dimensions, (k + 1) * dimensions);
      const product = dot(sum, x);
      const isOwn = k === label;
      const others = isOwn ? count - 1 : count;
      if (others === 0) return Number.POSITIVE_INFINITY;
      const sumSquare = isOwn ? (squares[k] as number) - 2 * product + square : (squares[k] as number);
      const sumProduct = isOwn ? product - square : product;
      return sumSquare / others ** 2 - (2 * sumProduct) / others;
    });
    const own = distances[label] as number;
    if (distances.some((distance) => distance < own)) overlapping++;
  }
  return overlapping / classes.length;
}
