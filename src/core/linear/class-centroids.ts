/**
 * A few centroids of each label's rows (k-means.ts), and the distances of held-out rows to them. They are of the design's
 * dense rows and given back as embeddings: x = σ z + μ, and distances are σ times those of z.
 */
import { type Centroids, quantiseCentroids, squaredNormOf } from "../evaluation/centroids.ts";
import type { ScopeDistances } from "../evaluation/scope-fit.ts";
import { OPERATIONS_PER_COPIED_NUMBER, type Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import type { Design } from "./design.ts";
import {
  type Clusters,
  clusterOperations,
  clusterRows,
  createRowReader,
  OPERATIONS_PER_DIFFERENCE,
} from "./k-means.ts";
import type { Targets } from "./targets.ts";
import type { Cost, TrainingRows } from "./types.ts";

const CENTROIDS_PER_LABEL = 4;
const CENTROIDS_OUT_OF_SCOPE = 16;
/** Held-out rows whose distances are computed by one product. */
const ROWS_PER_PRODUCT = 256;
/** Centroids take at most so many bytes, or a quarter of the head if that is more. */
const MAX_BYTES = 256 * 1024 - 16 * 1024;
const MAX_HEAD_SHARE = 0.25;

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

/** How many centroids each label has, and after the labels what is out of scope. */
function centroidsOfGroups({ perLabel, outOfScope }: CentroidCounts, labels: number): readonly number[] {
  return [...new Array<number>(labels).fill(perLabel), outOfScope];
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
): Steps<(ScopeDistances & Pick<Clusters, "centroidRows">) | null> {
  const counts = centroidCounts(design.dimensions, outputs);
  if (targets.kind !== "single" || foldCount === 0 || counts.perLabel === 0) return null;
  const heldOutCount = folds.filter((fold) => fold >= 0 && fold < foldCount).length;
  const heldOut = new Float32Array(heldOutCount * (outputs + 1)).fill(Number.POSITIVE_INFINITY);
  let offset = 0;
  for (let fold = 0; fold < foldCount; fold++) {
    const isHeldOut = (row: number) => folds[row] === fold;
    const { centroids: others } = yield* clusterRows(tensors, design, centroidsOfGroups(counts, outputs), (row) =>
      isHeldOut(row) ? null : groupOf(targets, outputs, row),
    );
    const rows = Array.from(folds.keys()).filter(isHeldOut);
    yield* measureRows(tensors, design, rows, others, heldOut.subarray(offset));
    offset += rows.length * (outputs + 1);
  }
  const own = yield* classCentroids(tensors, design, targets, outputs);
  return { centroids: own?.centroids ?? null, centroidRows: own?.centroidRows ?? [], heldOut };
}

/** The centroids of all rows, and which rows are one; null if there is no room for them. */
export function* classCentroids(
  tensors: TensorBackend,
  design: Design,
  targets: SingleTargets,
  labels: number,
): Steps<({ readonly centroids: Centroids } & Pick<Clusters, "centroidRows">) | null> {
  const { dimensions, scale, mean } = design;
  const counts = centroidCounts(dimensions, labels);
  if (counts.perLabel === 0) return null;
  const { centroids: rows, centroidRows } = yield* clusterRows(
    tensors,
    design,
    centroidsOfGroups(counts, labels),
    (row) => groupOf(targets, labels, row),
  );
  for (const group of rows)
    for (let i = 0; i < group.length; i++) group[i] = (group[i] as number) * scale + (mean[i % dimensions] as number);
  return { centroids: quantiseCentroids(rows, dimensions), centroidRows };
}

type SingleTargets = Extract<Targets, { kind: "single" }>;

/** A row's label, or the number of labels if it is out of scope. */
function groupOf({ indices }: SingleTargets, labels: number, row: number): number {
  const label = indices[row] as number;
  return label < 0 ? labels : label;
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
  return {
    operations:
      (folds + 1) * clusterOperations(rows, dimensions, centroids, Math.max(perLabel, outOfScope)) +
      folds * centroids * dimensions * OPERATIONS_PER_COPIED_NUMBER +
      heldOut * centroids * (2 * dimensions + OPERATIONS_PER_DIFFERENCE),
    bytes: 4 * heldOut * (labels + 1) + centroids * dimensions,
  };
}

/**
 * Writes the distance of each row to the nearest centroid of each group, row by row, where `distances` has larger ones.
 * Those to a group without centroids stay as they are.
 */
function* measureRows(
  tensors: TensorBackend,
  design: Design,
  rows: readonly number[],
  centroids: readonly Float32Array[],
  distances: Float32Array,
): Steps<void> {
  const { dimensions, scale } = design;
  const groups = centroids.length;
  const groupOfCentroid = centroids.flatMap((group, k) => new Array<number>(group.length / dimensions).fill(k));
  const count = groupOfCentroid.length;
  const transposed = new Float32Array(dimensions * count);
  const squaredNorms = new Float64Array(count);
  let centroid = 0;
  for (const group of centroids) {
    for (let first = 0; first < group.length; first += dimensions, centroid++) {
      const own = group.subarray(first, first + dimensions);
      for (let j = 0; j < dimensions; j++) transposed[j * count + centroid] = own[j] as number;
      squaredNorms[centroid] = squaredNormOf(own, design);
    }
  }
  yield transposed.length * OPERATIONS_PER_COPIED_NUMBER;
  const right = tensors.matrix(dimensions, count, transposed);
  for (let first = 0; first < rows.length; first += ROWS_PER_PRODUCT) {
    const chunk = rows.slice(first, first + ROWS_PER_PRODUCT);
    const readRow = createRowReader(tensors, design);
    const values = new Float32Array(chunk.length * dimensions);
    for (const [i, row] of chunk.entries()) values.set(readRow(row), i * dimensions);
    const left = tensors.matrix(chunk.length, dimensions, values);
    const product = tensors.multiply(left, right);
    const products = tensors.values(product);
    for (let i = 0; i < chunk.length; i++) {
      const norm = squaredNormOf(values.subarray(i * dimensions, (i + 1) * dimensions), design);
      for (let c = 0; c < count; c++) {
        const square = norm + (squaredNorms[c] as number) - 2 * (products[i * count + c] as number);
        const at = (first + i) * groups + (groupOfCentroid[c] as number);
        distances[at] = Math.min(distances[at] as number, scale * Math.sqrt(Math.max(0, square)));
      }
    }
    tensors.free(left);
    tensors.free(product);
    yield chunk.length * count * (2 * dimensions + OPERATIONS_PER_DIFFERENCE);
  }
  tensors.free(right);
}
