/** How far embeddings of trained layers are from the centroids of each label, for their head's scope. */
import type { Centroids } from "../../../core/evaluation/centroids.ts";
import { classCentroids, measureDistances } from "../../../core/linear/class-centroids.ts";
import type { Design } from "../../../core/linear/design.ts";
import { runSteps } from "../../../core/steps.ts";
import type { TrainingContext } from "../context.ts";
import { targetsOf } from "../training-spec.ts";

/** Centroids are of so many rows at most: more would cost time and change them little. */
const MAX_CENTROID_ROWS = 1_000;

/** Rows, and their embeddings in this order. */
export interface EmbeddedRows {
  readonly rows: readonly number[];
  readonly embeddings: readonly Float32Array[];
}

/** As many of the rows as centroids are made of, spread over all. */
export function centroidRows(rows: readonly number[]): readonly number[] {
  const stride = Math.ceil(rows.length / MAX_CENTROID_ROWS);
  return rows.filter((_, i) => i % stride === 0);
}

/** The distances of each of the test rows to the labels' centroids and to those out of scope; null without centroids. */
export async function distancesToTraining(
  context: TrainingContext,
  trained: EmbeddedRows,
  test: EmbeddedRows,
  labels: readonly string[],
): Promise<Float32Array | null> {
  const { targets } = targetsOf(context, [...trained.rows, ...test.rows], labels);
  if (targets.kind !== "single") return null;
  const folds = Int32Array.from([...trained.rows.map(() => -1), ...test.rows.map(() => 0)]);
  const distances = await withDesign(context, [...trained.embeddings, ...test.embeddings], (design) =>
    measureDistances(context.tensors, design, { targets, outputs: labels.length, folds }, 1),
  );
  return distances?.heldOut ?? null;
}

/** The centroids of embedded rows; null if there is no room for them. */
export async function centroidsOf(
  context: TrainingContext,
  { rows, embeddings }: EmbeddedRows,
  labels: readonly string[],
): Promise<Centroids | null> {
  const { targets } = targetsOf(context, rows, labels);
  if (targets.kind !== "single") return null;
  return withDesign(context, embeddings, (design) => classCentroids(context.tensors, design, targets, labels.length));
}

async function withDesign<T>(
  { tensors, yieldToEventLoop }: TrainingContext,
  embeddings: readonly Float32Array[],
  makeSteps: (design: Design) => Generator<number, T | null, void>,
): Promise<T | null> {
  const dimensions = embeddings[0]?.length ?? 0;
  if (dimensions === 0) return null;
  const values = new Float32Array(embeddings.length * dimensions);
  for (const [i, embedding] of embeddings.entries()) values.set(embedding, i * dimensions);
  const block = tensors.matrix(embeddings.length, dimensions, values);
  const shape = { rows: embeddings.length, dimensions, precision: "float32", sparse: null } as const;
  const design: Design = { ...shape, blocks: [block], mean: new Float64Array(dimensions), scale: 1 };
  const { value } = await runSteps(makeSteps(design), 0, yieldToEventLoop);
  tensors.free(block);
  return value;
}
