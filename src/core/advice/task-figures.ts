/** What is measured of a sample of a dataset before a method is recommended. */
import { ok, type Result } from "../failure.ts";
import { stratifiedOrder } from "../linear/subsample.ts";
import { strataOf, type Targets } from "../linear/targets.ts";
import { train } from "../linear/train.ts";
import type { TrainingOptions, TrainingResult, TrainingSet } from "../linear/types.ts";
import { OPERATIONS_PER_COPIED_NUMBER, type Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { measureSimilarity, type Similarity } from "./similarity.ts";

/** A head trained on the sample, evaluated in full, and how near the task is to what the backbone knows. */
export interface TaskFigures {
  readonly trained: TrainingResult;
  /** Null but for one label an example. */
  readonly similarity: Similarity | null;
}

const MAX_ROWS = 2_000;
/** Rows times labels of a sample, so that training on it takes some seconds. */
const MAX_LOGITS = 150_000;
/** What the figures of similarity are computed on. */
const MAX_SIMILARITY_ROWS = 1_000;

/** The rows to measure, ascending: a stratified sample, or null for all of them. */
export function sampleRows(targets: Targets, labels: number, seed: number): number[] | null {
  const strata = strataOf(targets, labels);
  const limit = Math.max(2 * labels, Math.min(MAX_ROWS, Math.floor(MAX_LOGITS / Math.max(1, labels))));
  if (strata.length <= limit) return null;
  return stratifiedOrder(strata, seed)
    .slice(0, limit)
    .sort((a, b) => a - b);
}

/** Trains a head on a sample and measures it. Fails as `train` does. */
export function* measureTask(
  tensors: TensorBackend,
  trainingSet: TrainingSet,
  options: Omit<TrainingOptions, "evaluation">,
): Steps<Result<TaskFigures>> {
  const { targets, labels } = trainingSet;
  let similarity: Similarity | null = null;
  if (targets.kind === "single") {
    const rows = stratifiedOrder(strataOf(targets, labels.length), options.seed)
      .filter((row) => (targets.indices[row] as number) >= 0)
      .slice(0, MAX_SIMILARITY_ROWS);
    const values = copyRows(tensors, trainingSet, rows);
    yield OPERATIONS_PER_COPIED_NUMBER * values.length;
    similarity = yield* measureSimilarity(tensors, {
      values,
      dimensions: trainingSet.dimensions,
      classes: Int32Array.from(rows, (row) => targets.indices[row] as number),
      groups: Int32Array.from(rows, (row) => trainingSet.groups[row] as number),
    });
  }
  const evaluation = { method: "auto", detail: "full" } as const;
  const trained = yield* train(tensors, trainingSet, { ...options, evaluation });
  return trained.ok ? ok({ trained: trained.value, similarity }) : trained;
}

function copyRows(
  tensors: TensorBackend,
  { features, dimensions }: Pick<TrainingSet, "features" | "dimensions">,
  rows: readonly number[],
): Float32Array {
  const placeOf = new Map(rows.map((row, place) => [row, place]));
  const copy = new Float32Array(rows.length * dimensions);
  let first = 0;
  for (const block of features) {
    const values = tensors.values(block);
    for (let i = 0; i < block.rows; i++) {
      const place = placeOf.get(first + i);
      if (place !== undefined) copy.set(values.subarray(i * dimensions, (i + 1) * dimensions), place * dimensions);
    }
    first += block.rows;
  }
  return copy;
}
