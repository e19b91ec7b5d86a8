/** What a head of trained layers has of embeddings: centroids of each label, for its scope, and a sketch of examples. */
import type { Centroids } from "../../../core/evaluation/centroids.ts";
import { classCentroids, measureDistances } from "../../../core/linear/class-centroids.ts";
import type { Design } from "../../../core/linear/design.ts";
import { sketchRows } from "../../../core/linear/sketch-rows.ts";
import { strataOf } from "../../../core/linear/targets.ts";
import type { RowSketch } from "../../../core/sketch.ts";
import { runSteps } from "../../../core/steps.ts";
import type { TrainingContext } from "../context.ts";
import { groupsOf, targetsOf } from "../training-spec.ts";

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

/** What a head has of the embeddings that it was trained on. */
export interface TrainedEmbeddings {
  /** Null if there is no room for them. */
  readonly centroids: Centroids | null;
  /** Of rows of the data. */
  readonly sketch: RowSketch;
}

/** The centroids of embedded rows, unless `withCentroids` is false, and their sketch; null without rows. */
export function summarise(
  context: TrainingContext,
  { rows, embeddings }: EmbeddedRows,
  labels: readonly string[],
  withCentroids: boolean,
): Promise<TrainedEmbeddings | null> {
  const { targets } = targetsOf(context, rows, labels);
  const { tensors } = context;
  const rowOf = (i: number) => rows[i] as number;
  return withDesign(context, embeddings, function* (design) {
    const own =
      withCentroids && targets.kind === "single"
        ? yield* classCentroids(tensors, design, targets, labels.length)
        : null;
    const choice = { strata: strataOf(targets, labels.length), groups: groupsOf(context, rows) };
    const sketch = yield* sketchRows(tensors, design, choice, own?.centroidRows ?? []);
    return {
      centroids: own?.centroids ?? null,
      sketch: { ...sketch, rows: sketch.rows.map(rowOf), centroidRows: sketch.centroidRows.map(rowOf) },
    };
  });
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
