import { subsetDesign } from "./design.ts";
import type { Splittable } from "./cross-validation.ts";
import { measureSpread } from "./preconditioner.ts";
import { seededRandom, shuffle } from "../random.ts";
import { ALWAYS_TRAINED, stratifiedFolds } from "./split.ts";
import type { Tensors } from "../tensors.ts";

/** About `rows` of the rows that are trained on, of every class alike, cut into four folds, to choose l2 on. Yields floating-point operations. */
export function* subsample(
  tensors: Tensors,
  data: Splittable,
  strata: Int32Array,
  groups: Int32Array,
  rows: number,
  seed: number,
): Generator<number, Splittable, void> {
  const slices = Math.ceil(data.weights.length / rows);
  const slice = stratifiedFolds(strata, groups, slices, seed + 1);
  const chosen = Array.from(slice.keys()).filter(
    (row) => data.weights[row] !== 0 && (slice[row] === 0 || slice[row] === ALWAYS_TRAINED),
  );
  const design = yield* subsetDesign(tensors, data.design, chosen, data.outputs);
  const weights = Float64Array.from(chosen, (row) => data.weights[row] as number);
  const spread = yield* measureSpread(tensors, design, weights, seed);
  const pick = (from: Int32Array) => Int32Array.from(chosen, (row) => from[row] as number);
  const { targets } = data;
  return {
    design,
    spread,
    outputs: data.outputs,
    weights,
    targets:
      targets.kind === "single"
        ? { kind: "single", indices: pick(targets.indices) }
        : targets.kind === "multi"
          ? { kind: "multi", indices: chosen.map((row) => targets.indices[row] ?? []) }
          : { kind: "value", values: Float64Array.from(chosen, (row) => targets.values[row] as number) },
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
  const rowsOf = new Map<number, number[]>();
  const random = seededRandom(seed);
  for (const row of shuffle(Array.from(strata.keys()), random)) {
    const rows = rowsOf.get(strata[row] as number);
    if (rows === undefined) rowsOf.set(strata[row] as number, [row]);
    else rows.push(row);
  }
  const ranked = [...rowsOf.values()].flatMap((rows) => rows.map((row, i) => ({ row, rank: i / rows.length })));
  return ranked.sort((a, b) => a.rank - b.rank).map(({ row }) => row);
}
