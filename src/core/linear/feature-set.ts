/** The feature sets that a training selects from: the embeddings alone, or with lexical features beside them. */
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { type Design, freeDesign, freeSparseDesign } from "./design.ts";
import { computeGramStatistics, type GramStatistics } from "./gram.ts";
import { freeRowSpaceBasis, type RowSpaceBasis, reduceToRowSpace } from "./row-space.ts";

export interface FeatureSet {
  readonly lexical: boolean;
  /** The design itself, or its reduction to the row space. */
  readonly design: Design;
  /** Null if the design is not reduced. */
  readonly basis: RowSpaceBasis | null;
  readonly gramStatistics: GramStatistics;
}

/** The feature set with or without the lexical features of `design`, which stays as it is. */
export function* buildFeatureSet(
  tensors: TensorBackend,
  design: Design,
  weights: Float64Array,
  lexical: boolean,
  seed: number,
): Steps<FeatureSet> {
  const fullDesign = lexical ? design : { ...design, sparse: null };
  const reduced = yield* reduceToRowSpace(tensors, fullDesign, weights);
  const ownDesign = reduced?.design ?? fullDesign;
  const gramStatistics = yield* computeGramStatistics(tensors, ownDesign, weights, seed);
  return { lexical, design: ownDesign, basis: reduced?.basis ?? null, gramStatistics };
}

/**
 * One feature set for each of `choices` (whether it has lexical features). Frees what none of them needs of `design`.
 */
export function* buildFeatureSets(
  tensors: TensorBackend,
  design: Design,
  weights: Float64Array,
  choices: readonly boolean[],
  seed: number,
): Steps<FeatureSet[]> {
  const featureSets: FeatureSet[] = [];
  for (const lexical of choices) featureSets.push(yield* buildFeatureSet(tensors, design, weights, lexical, seed));
  if (featureSets.every(({ basis }) => basis !== null)) freeDesign(tensors, design);
  else if (design.sparse !== null && featureSets.every((each) => each.design.sparse === null))
    freeSparseDesign(tensors, design.sparse);
  return featureSets;
}

/** Frees what `featureSet` does not share with `best`. */
export function freeUnshared(tensors: TensorBackend, featureSet: FeatureSet, best: FeatureSet): void {
  if (featureSet.design.blocks !== best.design.blocks) freeDesign(tensors, featureSet.design);
  else if (featureSet.design.sparse !== null) freeSparseDesign(tensors, featureSet.design.sparse);
  if (featureSet.basis !== null) freeRowSpaceBasis(tensors, featureSet.basis);
}
