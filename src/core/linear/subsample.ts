import { seededRandom, shuffle } from "../random.ts";
import type { TensorBackend } from "../tensors.ts";
import type { CrossValidationData } from "./cross-validation.ts";
import { subsetDesign } from "./design.ts";
import { computeGramStatistics } from "./preconditioner.ts";
import { ALWAYS_TRAINED, stratifiedFolds } from "./split.ts";

/** About `rows` of the rows that are trained on, of every class alike, cut into four folds, to choose l2 on. Yields floating-point operations. */
export function* subsample(
  tensors: TensorBackend,
  data: CrossValidationData,
  strata: Int32Array,
  groups: Int32Array,
  rows: number,
  seed: number,
): Generator<number, CrossValidationData, void> {
  const slices = Math.ceil(data.weights.length / rows);
  const slice = stratifiedFolds(strata, groups, slices, seed + 1);
  const sampleRows = Array.from(slice.keys()).filter(
    (row) => data.weights[row] !== 0 && (slice[row] === 0 || slice[row] === ALWAYS_TRAINED),
  );
  const design = yield* subsetDesign(tensors, data.design, sampleRows, data.outputs);
  const weights = Float64Array.from(sampleRows, (row) => data.weights[row] as number);
  const gramStatistics = yield* computeGramStatistics(tensors, design, weights, seed);
  const pick = (source: Int32Array) => Int32Array.from(sampleRows, (row) => source[row] as number);
  const { targets } = data;
  return {
    design,
    gramStatistics,
    outputs: data.outputs,
    weights,
    targets:
      targets.kind === "single"
        ? { kind: "single", indices: pick(targets.indices) }
        : targets.kind === "multi"
          ? { kind: "multi", indices: sampleRows.map((row) => targets.indices[row] ?? []) }
          : { kind: "value", values: Float64Array.from(sampleRows, (row) => targets.values[row] as number) },
    folds: stratifiedFolds(pick(strata), pick(groups), 4, seed),
  };
}

/**
 * All rows in an order of which every beginning is a stratified sample: it has of each class in proportion to its rows, and
 * of any class its first before another's second.
 *
 * @param strata each row's class
 */
export function stratifiedOrder(strata: Int32Array, seed: number): number[] {
  const rowsByStratum = new Map<number, number[]>();
  const random = seededRandom(seed);
  for (const row of shuffle(Array.from(strata.keys()), random)) {
    const rows = rowsByStratum.get(strata[row] as number);
    if (rows === undefined) rowsByStratum.set(strata[row] as number, [row]);
    else rows.push(row);
  }
  const ranked = [...rowsByStratum.values()].flatMap((rows) => rows.map((row, i) => ({ row, rank: i / rows.length })));
  return ranked.sort((a, b) => a.rank - b.rank).map(({ row }) => row);
}
