/**
 * What models say of rows that they were not trained on: one of the embeddings, and for texts another of the lexical
 * features alone. They see different things of a text and so make different errors. Their log probabilities are averaged,
 * each at its own temperature.
 *
 * The penalty is fixed: wrong labels mislead a selection by held-out loss, and a fixed one finds as many of them
 * (docs/labels.md).
 */
import { fitTemperature, type HeldOutLogits } from "../evaluation/calibration.ts";
import { logSumExp } from "../evaluation/probability.ts";
import { fitFolds, needsFoldPreconditioners } from "../linear/cross-validation.ts";
import type { Design } from "../linear/design.ts";
import { buildFeatureSet, freeUnshared } from "../linear/feature-set.ts";
import { OPERATIONS_PER_LOGIT } from "../linear/objective.ts";
import { crossValidationData } from "../linear/penalty.ts";
import { freePreconditioner, makePreconditioner } from "../linear/preconditioner.ts";
import type { TrainingRows } from "../linear/types.ts";
import { fitEvaluationLimits, workload } from "../linear/workload.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";

/** In the design's scale. */
export const MEMBER_L2 = 0.3;
const TOLERANCE = 1e-2;

/**
 * Logits of the rows of every fold, by models of the other rows: for labels the mean over the members, for values their
 * mean outputs. Rows that are in no fold are left out.
 */
export function* outOfFoldLogits(
  tensors: TensorBackend,
  design: Design,
  rows: TrainingRows,
  seed: number,
): Steps<HeldOutLogits> {
  const embeddings = yield* fitMember(tensors, { ...design, sparse: null }, rows, seed);
  yield* calibrate(rows, embeddings);
  if (design.sparse === null) return embeddings;
  const words = yield* fitMember(tensors, withoutEmbeddings(tensors, design), rows, seed);
  yield* calibrate(rows, words);
  addMean(embeddings.logits, words.logits);
  yield embeddings.logits.length * OPERATIONS_PER_LOGIT;
  return embeddings;
}

function* fitMember(tensors: TensorBackend, design: Design, rows: TrainingRows, seed: number): Steps<HeldOutLogits> {
  const { targets, outputs, weights, foldCount } = rows;
  const featureSet = yield* buildFeatureSet(tensors, design, weights, design.sparse !== null, seed);
  const { design: own, gramStatistics } = featureSet;
  const preconditioner = needsFoldPreconditioners(weights.length, own.dimensions)
    ? "own"
    : yield* makePreconditioner(tensors, { design: own, targets, outputs, weights, l2: MEMBER_L2 }, gramStatistics);
  const { heldOut } = yield* fitFolds(tensors, crossValidationData(featureSet, rows, [rows.folds]), {
    foldCount,
    l2: MEMBER_L2,
    preconditioner,
    warmStarts: null,
    criteria: { tolerance: TOLERANCE, maxEvaluations: fitEvaluationLimits(workload(own, outputs)).evaluation },
  });
  if (preconditioner !== "own") freePreconditioner(tensors, preconditioner);
  if (featureSet.basis !== null) freeUnshared(tensors, featureSet, { ...featureSet, design, basis: null });
  return heldOut;
}

/** The design with a column of zeros in the place of its embeddings. */
function withoutEmbeddings(tensors: TensorBackend, design: Design): Design {
  const blocks = design.blocks.map(({ rows }) => tensors.matrix(rows, 1, new Float32Array(rows)));
  return { ...design, blocks, dimensions: 1, precision: "float32", mean: new Float64Array(1), scale: 1 };
}

/** Divides the logits by their temperature, and makes those of one label a row log probabilities. */
function* calibrate({ targets }: TrainingRows, heldOut: HeldOutLogits): Steps<void> {
  if (targets.kind === "value") return;
  const { rows, logits, outputs } = heldOut;
  const inScope = Array.from(rows.keys()).filter(
    (entry) => targets.kind === "multi" || (targets.indices[rows[entry] as number] as number) >= 0,
  );
  const temperature = yield* fitTemperature(targets, heldOut, inScope);
  for (let entry = 0; entry < rows.length; entry++) {
    const own = logits.subarray(entry * outputs, (entry + 1) * outputs);
    for (let k = 0; k < outputs; k++) own[k] = (own[k] as number) / temperature;
    const total = targets.kind === "single" ? logSumExp(own) : 0;
    for (let k = 0; k < outputs; k++) own[k] = (own[k] as number) - total;
  }
  yield logits.length * OPERATIONS_PER_LOGIT;
}

function addMean(sum: Float32Array, other: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] = ((sum[i] as number) + (other[i] as number)) / 2;
}
