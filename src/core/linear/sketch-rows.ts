/** Chooses the rows of a training set that its head's sketch has (sketch.ts), and reads their embeddings: x = σ z + μ. */
import { type RowSketch, rowBytes, sketchCapacity, writeCodes } from "../sketch.ts";
import { OPERATIONS_PER_COPIED_NUMBER, type Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import type { Design } from "./design.ts";
import { decodingOperations, visitRows } from "./k-means.ts";
import type { Cost, TrainingRows } from "./types.ts";

/** What writing a number's code takes, in operations of a product. */
const OPERATIONS_PER_CODE = 8;

/** @param centroidRows whose embeddings are centroids of the head's scope */
export function* sketchRows(
  tensors: TensorBackend,
  design: Design,
  trainingRows: Pick<TrainingRows, "strata" | "groups">,
  centroidRows: readonly number[],
): Steps<RowSketch> {
  const { dimensions, scale, mean } = design;
  const rows = chooseRows(trainingRows, sketchCapacity(dimensions));
  const codes = new Uint8Array(rows.length * rowBytes(dimensions));
  const embedding = new Float32Array(dimensions);
  const members = Array.from(rows, (row, i) => ({ row, i }));
  yield* visitRows(tensors, design, members, (values, { i }) => {
    for (let j = 0; j < dimensions; j++) embedding[j] = (values[j] as number) * scale + (mean[j] as number);
    writeCodes(embedding, codes.subarray(i * rowBytes(dimensions), (i + 1) * rowBytes(dimensions)));
    return dimensions * (OPERATIONS_PER_COPIED_NUMBER + OPERATIONS_PER_CODE);
  });
  const chosen = new Set(rows);
  const others = new Set(centroidRows.filter((row) => !chosen.has(row)));
  return { dimensions, rows, codes, centroidRows: Uint32Array.from(others).sort() };
}

/** Operations of `sketchRows` at most, and the bytes that it leaves. */
export function sketchCost(rows: number, dimensions: number): Cost {
  const count = Math.min(rows, sketchCapacity(dimensions));
  return {
    operations:
      count * dimensions * (OPERATIONS_PER_COPIED_NUMBER + OPERATIONS_PER_CODE) + decodingOperations(rows, dimensions),
    bytes: count * rowBytes(dimensions),
  };
}

/**
 * At most so many rows with different inputs, ascending: as many of each class as there is room for, of a small one all,
 * and spread over the class's rows.
 */
export function chooseRows({ strata, groups }: Pick<TrainingRows, "strata" | "groups">, count: number): Uint32Array {
  const seen = new Set<number>();
  const members = new Map<number, number[]>();
  for (const [row, group] of groups.entries()) {
    if (seen.has(group)) continue;
    seen.add(group);
    const stratum = strata[row] as number;
    const own = members.get(stratum);
    if (own === undefined) members.set(stratum, [row]);
    else own.push(row);
  }
  const classes = [...members.values()].sort((a, b) => a.length - b.length);
  const chosen: number[] = [];
  for (const [i, own] of classes.entries()) {
    const share = Math.min(own.length, Math.floor((count - chosen.length) / (classes.length - i)));
    for (let k = 0; k < share; k++) chosen.push(own[Math.floor((k * own.length) / share)] as number);
  }
  return Uint32Array.from(chosen).sort();
}
