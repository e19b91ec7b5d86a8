/**
 * A few centroids of each label's rows, by k-means (Lloyd 1982), and the distances of held-out rows to them. They are of
 * the design's dense rows and given back as embeddings: x = σ z + μ, and distances are σ times those of z.
 */
import { type Centroids, quantiseCentroids } from "../evaluation/centroids.ts";
import type { ScopeDistances } from "../evaluation/scope-fit.ts";
import type { Steps } from "../steps.ts";
import type { Matrix, TensorBackend } from "../tensors.ts";
import type { Design } from "./design.ts";
import type { Targets } from "./targets.ts";
import type { Cost, TrainingRows } from "./types.ts";

const CENTROIDS_PER_LABEL = 4;
const CENTROIDS_OUT_OF_SCOPE = 16;
/** k-means reads at most so many rows a centroid, spread over a label's rows, so often. */
const ROWS_PER_CENTROID = 32;
const PASSES = 3;
/** Held-out rows whose distances are computed by one product. */
const ROWS_PER_PRODUCT = 256;
/** Centroids take at most so many bytes, or a quarter of the head if that is more. */
const MAX_BYTES = 256 * 1024 - 16 * 1024;
const MAX_HEAD_SHARE = 0.25;

/** Centroids of each label, and of what is out of scope: each group row by row. */
type CentroidRows = readonly Float32Array[];

interface CentroidCounts {
  readonly perLabel: number;
  readonly outOfScope: number;
}

/** How many centroids a label and what is out of scope have, so that they fit into their bytes. None if not one does. */
function centroidCounts(dimensions: number, labels: number): CentroidCounts {
  const bytes = Math.max(MAX_BYTES, MAX_HEAD_SHARE * 4 * labels * dimensions);
  const affordable = Math.floor(bytes / dimensions);
  const perLabel = Math.min(CENTROIDS_PER_LABEL, Math.floor(affordable / labels));
  return {
    perLabel,
    outOfScope: perLabel === 0 ? 0 : Math.min(CENTROIDS_OUT_OF_SCOPE, affordable - perLabel * labels),
  };
}

/**
 * The centroids of all rows, and the distances of the rows of each fold to the centroids of the other rows. Null where
 * there is not one label a row, nothing held out, or no room for centroids.
 */
export function* measureDistances(
  tensors: TensorBackend,
  design: Design,
  { targets, outputs, folds }: Pick<TrainingRows, "targets" | "outputs" | "folds">,
  foldCount: number,
): Steps<ScopeDistances | null> {
  const counts = centroidCounts(design.dimensions, outputs);
  if (targets.kind !== "single" || foldCount === 0 || counts.perLabel === 0) return null;
  const distances: Float32Array[] = [];
  for (let fold = 0; fold < foldCount; fold++) {
    const isHeldOut = (row: number) => folds[row] === fold;
    const others = yield* clusterRows(tensors, design, outputs, counts, (row) =>
      isHeldOut(row) ? null : groupOf(targets, outputs, row),
    );
    const rows = Array.from(folds.keys()).filter(isHeldOut);
    distances.push(yield* distancesTo(tensors, design, rows, others));
  }
  const centroids = yield* classCentroids(tensors, design, targets, outputs);
  return { centroids, heldOut: concatenate(distances) };
}

/** The centroids of all rows; null if there is no room for them. */
export function* classCentroids(
  tensors: TensorBackend,
  design: Design,
  targets: SingleTargets,
  labels: number,
): Steps<Centroids | null> {
  const { dimensions, scale, mean } = design;
  const counts = centroidCounts(dimensions, labels);
  if (counts.perLabel === 0) return null;
  const rows = yield* clusterRows(tensors, design, labels, counts, (row) => groupOf(targets, labels, row));
  for (const group of rows)
    for (let i = 0; i < group.length; i++) group[i] = (group[i] as number) * scale + (mean[i % dimensions] as number);
  return quantiseCentroids(rows, dimensions);
}

type SingleTargets = Extract<Targets, { kind: "single" }>;

/** A row's label, or the number of labels if it is out of scope. */
function groupOf({ indices }: SingleTargets, labels: number, row: number): number {
  const label = indices[row] as number;
  return label < 0 ? labels : label;
}

function concatenate(parts: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

/** Operations of `measureDistances` at most, and the bytes that it leaves until the evaluation. */
export function distanceCost({
  rows,
  dimensions,
  labels,
  folds,
  heldOut,
}: {
  readonly rows: number;
  readonly dimensions: number;
  readonly labels: number;
  readonly folds: number;
  readonly heldOut: number;
}): Cost {
  const { perLabel, outOfScope } = centroidCounts(dimensions, labels);
  const centroids = perLabel * labels + outOfScope;
  const clustered = PASSES * Math.min(rows, ROWS_PER_CENTROID * centroids) * Math.max(perLabel, outOfScope);
  return {
    operations:
      (folds + 1) * clustered * dimensions * OPERATIONS_PER_DIFFERENCE +
      heldOut * centroids * (2 * dimensions + OPERATIONS_PER_DIFFERENCE),
    bytes: 4 * heldOut * (labels + 1) + centroids * dimensions,
  };
}

/** What JavaScript takes for a difference of numbers, squared and summed, in operations of a product. */
const OPERATIONS_PER_DIFFERENCE = 24;

type RowReader = (row: number) => Float32Array;

/**
 * Reads rows of a design, best in ascending order: a quantised block is decoded when a row of it is first read. Valid until
 * the next matrix is made.
 */
function createRowReader(tensors: TensorBackend, { blocks, dimensions }: Design): RowReader {
  const height = blocks[0]?.rows ?? 1;
  let current = -1;
  let values: Float32Array = new Float32Array(0);
  return (row) => {
    const block = Math.floor(row / height);
    if (block !== current) values = tensors.values(blocks[block] as Matrix);
    current = block;
    const first = (row - block * height) * dimensions;
    return values.subarray(first, first + dimensions);
  };
}

/** @param groupOf each row's label, the number of labels if it is out of scope, null if it is left out */
function* clusterRows(
  tensors: TensorBackend,
  design: Design,
  labels: number,
  { perLabel, outOfScope }: CentroidCounts,
  groupOf: (row: number) => number | null,
): Steps<CentroidRows> {
  const { dimensions } = design;
  const readRow = createRowReader(tensors, design);
  const samples = sampleGroups(design.rows, groupOf, (group) => (group === labels ? outOfScope : perLabel));
  const centroids = Array.from({ length: labels + 1 }, (_, group) => {
    const rows = samples.get(group) ?? [];
    const count = Math.min(rows.length, group === labels ? outOfScope : perLabel);
    const start = new Float32Array(count * dimensions);
    for (let i = 0; i < count; i++)
      start.set(readRow(rows[Math.floor((i * rows.length) / count)] as number), i * dimensions);
    return start;
  });
  const ordered = [...samples].flatMap(([group, rows]) => rows.map((row) => ({ row, group })));
  ordered.sort((a, b) => a.row - b.row);
  for (let pass = 0; pass < PASSES; pass++) {
    const sums = centroids.map((group) => new Float64Array(group.length));
    const counts = centroids.map((group) => new Uint32Array(group.length / dimensions));
    for (const { row, group } of ordered) {
      const own = centroids[group] as Float32Array;
      const nearest = addToNearest(readRow(row), own, sums[group] as Float64Array);
      const groupCounts = counts[group] as Uint32Array;
      groupCounts[nearest] = (groupCounts[nearest] as number) + 1;
      yield own.length * OPERATIONS_PER_DIFFERENCE;
    }
    for (const [group, own] of centroids.entries())
      moveToMeans(own, sums[group] as Float64Array, counts[group] as Uint32Array);
  }
  return centroids;
}

/** For each group up to so many of its rows, in ascending order. */
function sampleGroups(
  rows: number,
  groupOf: (row: number) => number | null,
  centroidsOf: (group: number) => number,
): ReadonlyMap<number, readonly number[]> {
  const samples = new Map<number, readonly number[]>();
  const members = Map.groupBy(Array(rows).keys(), groupOf);
  for (const [group, own] of members) {
    if (group === null) continue;
    const limit = ROWS_PER_CENTROID * centroidsOf(group);
    const stride = Math.max(1, own.length / Math.max(1, limit));
    samples.set(
      group,
      Array.from({ length: Math.min(own.length, limit) }, (_, i) => own[Math.floor(i * stride)] as number),
    );
  }
  return samples;
}

/** Adds a row to the sum of the centroid that is nearest to it, and returns which one that is. */
function addToNearest(row: Float32Array, centroids: Float32Array, sums: Float64Array): number {
  const dimensions = row.length;
  let nearest = 0;
  let least = Number.POSITIVE_INFINITY;
  for (let first = 0; first < centroids.length; first += dimensions) {
    let distance = 0;
    for (let j = 0; j < dimensions; j++) distance += ((row[j] as number) - (centroids[first + j] as number)) ** 2;
    if (distance >= least) continue;
    least = distance;
    nearest = first;
  }
  for (let j = 0; j < dimensions; j++) sums[nearest + j] = (sums[nearest + j] as number) + (row[j] as number);
  return nearest / dimensions;
}

/** A centroid without rows stays where it is. */
function moveToMeans(centroids: Float32Array, sums: Float64Array, counts: Uint32Array): void {
  const dimensions = centroids.length / Math.max(1, counts.length);
  for (const [i, count] of counts.entries()) {
    if (count === 0) continue;
    for (let j = i * dimensions; j < (i + 1) * dimensions; j++) centroids[j] = (sums[j] as number) / count;
  }
}

/** The distance of each row to the nearest centroid of each group, row by row; infinite to a group without any. */
function* distancesTo(
  tensors: TensorBackend,
  design: Design,
  rows: readonly number[],
  centroids: CentroidRows,
): Steps<Float32Array> {
  const { dimensions, scale } = design;
  const groups = centroids.length;
  const groupOfCentroid = centroids.flatMap((group, k) => new Array<number>(group.length / dimensions).fill(k));
  const count = groupOfCentroid.length;
  const transposed = new Float32Array(dimensions * count);
  const squaredNorms = new Float64Array(count);
  for (const [i, k] of groupOfCentroid.entries()) {
    const own = centroids[k] as Float32Array;
    const first = (i - groupOfCentroid.indexOf(k)) * dimensions;
    for (let j = 0; j < dimensions; j++) {
      const value = own[first + j] as number;
      transposed[j * count + i] = value;
      squaredNorms[i] = (squaredNorms[i] as number) + value ** 2;
    }
  }
  const right = tensors.matrix(dimensions, count, transposed);
  const distances = new Float32Array(rows.length * groups).fill(Number.POSITIVE_INFINITY);
  for (let first = 0; first < rows.length; first += ROWS_PER_PRODUCT) {
    const chunk = rows.slice(first, first + ROWS_PER_PRODUCT);
    const readRow = createRowReader(tensors, design);
    const values = new Float32Array(chunk.length * dimensions);
    for (const [i, row] of chunk.entries()) values.set(readRow(row), i * dimensions);
    const left = tensors.matrix(chunk.length, dimensions, values);
    const product = tensors.multiply(left, right);
    const products = tensors.values(product);
    for (let i = 0; i < chunk.length; i++) {
      const squaredNorm = sumOfSquares(values.subarray(i * dimensions, (i + 1) * dimensions));
      for (let c = 0; c < count; c++) {
        const square = squaredNorm + (squaredNorms[c] as number) - 2 * (products[i * count + c] as number);
        const at = (first + i) * groups + (groupOfCentroid[c] as number);
        distances[at] = Math.min(distances[at] as number, scale * Math.sqrt(Math.max(0, square)));
      }
    }
    tensors.free(left);
    tensors.free(product);
    yield chunk.length * count * (2 * dimensions + OPERATIONS_PER_DIFFERENCE);
  }
  tensors.free(right);
  return distances;
}

function sumOfSquares(values: Float32Array): number {
  let sum = 0;
  for (let j = 0; j < values.length; j++) sum += (values[j] as number) ** 2;
  return sum;
}
