/** k-means (Lloyd 1982) of the dense rows of a design, of each of several groups of rows apart. */
import { OPERATIONS_PER_COPIED_NUMBER, type Steps } from "../steps.ts";
import type { Matrix, TensorBackend } from "../tensors.ts";
import type { Design } from "./design.ts";

/** At most so many rows a centroid are read, spread over a group's rows, so often. */
const ROWS_PER_CENTROID = 32;
const PASSES = 3;
/** Rows that are read between two yields. */
const ROWS_PER_STEP = 256;

/** What JavaScript takes for a difference of numbers, squared and summed, in operations of a product. */
export const OPERATIONS_PER_DIFFERENCE = 24;

/** Operations of `clusterRows` at most, with so many centroids in all, and so many in the group that has most. */
export function clusterOperations(rows: number, dimensions: number, centroids: number, most: number): number {
  const sampled = Math.min(rows, ROWS_PER_CENTROID * centroids);
  const decoded = (1 + PASSES) * decodingOperations(rows, dimensions);
  const copied = dimensions * centroids * OPERATIONS_PER_COPIED_NUMBER;
  return copied + PASSES * sampled * most * dimensions * OPERATIONS_PER_DIFFERENCE + decoded;
}

/** Operations of decoding all rows of a quantised design once. */
export function decodingOperations(rows: number, dimensions: number): number {
  return OPERATIONS_PER_COPIED_NUMBER * rows * dimensions;
}

/**
 * Reads rows of a design, best in ascending order: a quantised block is decoded when a row of it is first read. Valid until
 * the next matrix is made, and so no longer than until the next yield.
 */
export function createRowReader(tensors: TensorBackend, { blocks, dimensions }: Design): (row: number) => Float32Array {
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

/** The centroids of groups of rows. */
export interface Clusters {
  /** Of each group, row by row. */
  readonly centroids: readonly Float32Array[];
  /** Rows that are a centroid: no other is nearest to it. */
  readonly centroidRows: readonly number[];
}

/**
 * Visits rows, which ascend. `visit` answers the operations that it took. A step decodes one quantised block at most: the
 * copies would otherwise fill the memory before they are collected.
 */
export function* visitRows<T extends { readonly row: number }>(
  tensors: TensorBackend,
  design: Design,
  members: readonly T[],
  visit: (values: Float32Array, member: T) => number,
): Steps<void> {
  const height = design.blocks[0]?.rows ?? 1;
  const blockOf = (member: T) => Math.floor(member.row / height);
  const isDecoded = design.precision === "int8";
  for (let first = 0; first < members.length; ) {
    const readRow = createRowReader(tensors, design);
    const block = blockOf(members[first] as T);
    const isOfStep = (member: T, end: number) => (isDecoded ? blockOf(member) === block : end < first + ROWS_PER_STEP);
    let operations = isDecoded ? decodingOperations(design.blocks[block]?.rows ?? 0, design.dimensions) : 0;
    let end = first;
    for (let member = members[end]; member !== undefined && isOfStep(member, end); member = members[++end])
      operations += visit(readRow(member.row), member);
    yield operations;
    first = end;
  }
}

function byRow(a: { readonly row: number }, b: { readonly row: number }): number {
  return a.row - b.row;
}

/**
 * The centroids of each group.
 *
 * @param centroidsOf how many a group has at most: it has no more than rows
 * @param groupOf each row's group; null if it is left out
 */
export function* clusterRows(
  tensors: TensorBackend,
  design: Design,
  centroidsOf: readonly number[],
  groupOf: (row: number) => number | null,
): Steps<Clusters> {
  const { dimensions } = design;
  const samples = sampleGroups(design.rows, groupOf, centroidsOf);
  const centroids = centroidsOf.map((limit, group) => {
    const count = Math.min(samples.get(group)?.length ?? 0, limit);
    return new Float32Array(count * dimensions);
  });
  /** For each centroid the one row that it is, or −1. */
  const onlyRows = centroids.map((own) => new Int32Array(own.length / dimensions).fill(-1));
  const starts = [...samples].flatMap(([group, rows]) => {
    const own = centroids[group] as Float32Array;
    const count = own.length / dimensions;
    return Array.from({ length: count }, (_, i) => {
      const start = own.subarray(i * dimensions, (i + 1) * dimensions);
      const row = rows[Math.floor((i * rows.length) / count)] as number;
      (onlyRows[group] as Int32Array)[i] = row;
      return { row, start };
    });
  });
  yield* visitRows(tensors, design, starts.sort(byRow), (values, { start }) => {
    start.set(values);
    return dimensions * OPERATIONS_PER_COPIED_NUMBER;
  });
  const members = [...samples].flatMap(([group, rows]) => rows.map((row) => ({ row, group })));
  members.sort(byRow);
  for (let pass = 0; pass < PASSES; pass++) {
    const sums = centroids.map((group) => new Float64Array(group.length));
    const counts = centroids.map((group) => new Uint32Array(group.length / dimensions));
    yield* visitRows(tensors, design, members, (values, { row, group }) => {
      const own = centroids[group] as Float32Array;
      const nearest = addToNearest(values, own, sums[group] as Float64Array);
      const groupCounts = counts[group] as Uint32Array;
      groupCounts[nearest] = (groupCounts[nearest] as number) + 1;
      (onlyRows[group] as Int32Array)[nearest] = groupCounts[nearest] === 1 ? row : -1;
      return own.length * OPERATIONS_PER_DIFFERENCE;
    });
    for (const [group, own] of centroids.entries())
      moveToMeans(own, sums[group] as Float64Array, counts[group] as Uint32Array);
  }
  return { centroids, centroidRows: onlyRows.flatMap((own) => Array.from(own).filter((row) => row >= 0)) };
}

/** For each group up to so many of its rows, in ascending order. */
function sampleGroups(
  rows: number,
  groupOf: (row: number) => number | null,
  centroidsOf: readonly number[],
): ReadonlyMap<number, readonly number[]> {
  const samples = new Map<number, readonly number[]>();
  const members = Map.groupBy(Array(rows).keys(), groupOf);
  for (const [group, own] of members) {
    if (group === null) continue;
    const limit = ROWS_PER_CENTROID * (centroidsOf[group] as number);
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
