/** Parts of a training's rows that stand for all of them. */
import { GRAM_SAMPLE_ROWS } from "./cost.ts";
import { type Design, freeDesign, subsetDesign } from "./design.ts";
import type { Splittable } from "./held-out.ts";
import { DENSE_DIMENSIONS, SAMPLE_PER_DIMENSION, weightedGram, weightedSquares } from "./preconditioner.ts";
import { seededRandom, shuffle } from "./random.ts";
import { ALWAYS_TRAINED, stratifiedFolds } from "./split.ts";
import type { Tensors } from "./tensors.ts";

/** G of all rows, or where there are many of a random sample of them in proportion: it only preconditions. */
export function* sampledGram(
  tensors: Tensors,
  design: Design,
  weights: Float64Array,
  seed: number,
): Generator<number, Float32Array, void> {
  if (design.dimensions > DENSE_DIMENSIONS) return yield* weightedSquares(tensors, design, weights);
  const wanted = Math.max(1000, SAMPLE_PER_DIMENSION * design.dimensions);
  if (design.rows <= 1.5 * wanted) return yield* weightedGram(tensors, design, weights);
  const rows = shuffle(Array.from(weights.keys()), seededRandom(seed))
    .slice(0, wanted)
    .sort((a, b) => a - b);
  const gram = new Float32Array(design.dimensions ** 2);
  for (let first = 0; first < rows.length; first += GRAM_SAMPLE_ROWS) {
    const some = rows.slice(first, first + GRAM_SAMPLE_ROWS);
    const sample = yield* subsetDesign(tensors, design, some, 1, "once");
    const share = Float64Array.from(some, (row) => ((weights[row] as number) * design.rows) / wanted);
    const part = yield* weightedGram(tensors, sample, share);
    for (let i = 0; i < gram.length; i++) gram[i] = (gram[i] as number) + (part[i] as number);
    freeDesign(tensors, sample);
  }
  return gram;
}

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
  const gram = yield* sampledGram(tensors, design, weights, seed);
  const pick = (from: Int32Array) => Int32Array.from(chosen, (row) => from[row] as number);
  const { targets } = data;
  return {
    design,
    gram,
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
