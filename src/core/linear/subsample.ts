import { seededRandom, shuffle } from "../random.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import type { CrossValidationData } from "./cross-validation.ts";
import { subsetDesign } from "./design-subset.ts";
import { computeGramStatistics } from "./gram.ts";
import { ALWAYS_TRAINED, OPERATIONS_PER_FOLD_ROW, stratifiedFolds } from "./split.ts";
import { pickTargets } from "./targets.ts";

/** The folds of a subsample. The selection of l2 holds out the first alone. */
const SUBSAMPLE_FOLDS = 4;

export interface SubsampleOptions {
  /** Each row's class. */
  readonly strata: Int32Array;
  readonly groups: Int32Array;
  /** About how many rows to take. */
  readonly rows: number;
  readonly seed: number;
}

/** A stratified subsample of the rows that are trained on, divided into folds, to select l2 on. */
export function* subsample(
  tensors: TensorBackend,
  data: CrossValidationData,
  { strata, groups, rows, seed }: SubsampleOptions,
): Steps<CrossValidationData> {
  const slices = Math.ceil(data.weights.length / rows);
  const slice = stratifiedFolds(strata, groups, slices, seed + 1);
  const sampleRows = Array.from(slice.keys()).filter(
    (row) => data.weights[row] !== 0 && (slice[row] === 0 || slice[row] === ALWAYS_TRAINED),
  );
  yield OPERATIONS_PER_FOLD_ROW * slice.length;
  const design = yield* subsetDesign(tensors, data.design, sampleRows, data.outputs);
  const weights = Float64Array.from(sampleRows, (row) => data.weights[row] as number);
  const gramStatistics = yield* computeGramStatistics(tensors, design, weights, seed);
  const pick = (source: Int32Array) => Int32Array.from(sampleRows, (row) => source[row] as number);
  return {
    design,
    gramStatistics,
    outputs: data.outputs,
    weights,
    targets: pickTargets(data.targets, sampleRows),
    repetitions: [stratifiedFolds(pick(strata), pick(groups), SUBSAMPLE_FOLDS, seed)],
    groups: pick(groups),
  };
}

/**
 * All rows in an order whose every prefix is a stratified sample: each class has its share of the rows, and the first
 * row of every class comes before the second of another.
 *
 * @param strata each row's class
 */
export function stratifiedOrder(strata: Int32Array, seed: number): number[] {
  const shuffled = shuffle(Array.from(strata.keys()), seededRandom(seed));
  const rowsByStratum = Map.groupBy(shuffled, (row) => strata[row]);
  const ranked = [...rowsByStratum.values()].flatMap((rows) => rows.map((row, i) => ({ row, rank: i / rows.length })));
  return ranked.sort((a, b) => a.rank - b.rank).map(({ row }) => row);
}
