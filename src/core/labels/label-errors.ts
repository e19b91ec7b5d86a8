/** Examples whose label is probably wrong, by what models say that were not trained on them. */
import type { HeldOutLogits } from "../evaluation/calibration.ts";
import { sigmoid } from "../evaluation/probability.ts";
import { OPERATIONS_PER_LOGIT } from "../linear/objective.ts";
import type { Targets } from "../linear/targets.ts";
import type { Steps } from "../steps.ts";
import type { Suggestion } from "./issue.ts";
import {
  estimateLabelNoise,
  estimateMultiLabelNoise,
  type LabelNoise,
  labelNoiseOperations,
  wrongProbability,
} from "./label-noise.ts";
import { spreadOf } from "./outliers.ts";

export interface LabelError {
  /** Of the held-out logits. */
  readonly entry: number;
  readonly suggestion: Suggestion;
  /** How likely it is that the present one is wrong, in [0, 1]. */
  readonly score: number;
}

export interface LabelErrors {
  readonly errors: readonly LabelError[];
  /** The estimated share of examples whose label is wrong. */
  readonly noise: number;
  /** How probable each entry's label is, among two labels or alone; null where there are no labels. */
  readonly probability: ((entry: number, label: number) => number) | null;
}

/** At a noise of less, what little there is would be taken for none. */
const MIN_NOISE = 0.005;
const MIN_SCORE = 0.01;
/** From this score on, a label is more likely wrong than right. */
const LIKELY = 0.5;
/** A residual counts from so many robust standard deviations on. */
const MIN_RESIDUAL_Z = 3.5;

/** How many labels are more likely wrong than right. */
export function countLikely({ errors }: LabelErrors): number {
  return errors.filter(({ score }) => score >= LIKELY).length;
}

/** Operations of `findLabelErrors` at most. */
export function labelErrorOperations(logits: number): number {
  return labelNoiseOperations(logits) + 2 * logits * OPERATIONS_PER_LOGIT;
}

/**
 * The examples whose label is probably wrong.
 *
 * - one label: those for which another label is more probable. Ordered by the probability of their own label, which finds
 *   more wrong ones than its margin to the best (docs/labels.md)
 * - any number of labels: those with a label that is improbable, or without one that is probable
 * - a value: those whose residual is far above the others'
 */
export function* findLabelErrors(targets: Targets, heldOut: HeldOutLogits): Steps<LabelErrors> {
  switch (targets.kind) {
    case "single": {
      const noise = yield* estimateLabelNoise(targets.indices, heldOut);
      yield heldOut.logits.length * OPERATIONS_PER_LOGIT;
      return singleLabelErrors(targets.indices, heldOut, noise);
    }
    case "multi": {
      const noise = yield* estimateMultiLabelNoise(targets.indices, heldOut);
      yield heldOut.logits.length * OPERATIONS_PER_LOGIT;
      return multiLabelErrors(targets.indices, heldOut, noise);
    }
    case "value":
      return valueErrors(targets.values, heldOut);
  }
}

function singleLabelErrors(labels: Int32Array, heldOut: HeldOutLogits, noise: LabelNoise): LabelErrors {
  const { rows, outputs, logits } = heldOut;
  const share = Math.max(noise.share, MIN_NOISE);
  const errors: LabelError[] = [];
  const probability = (entry: number, label: number) => {
    const own = logits.subarray(entry * outputs, (entry + 1) * outputs);
    let sum = 0;
    for (const logit of own) sum += Math.exp((logit - (own[label] as number)) / noise.temperature);
    return 1 / sum;
  };
  for (const [entry, row] of rows.entries()) {
    const label = labels[row] as number;
    const best = bestOutput(heldOut, entry);
    if (label < 0 || best === label) continue;
    const score = wrongProbability(probability(entry, label), share, outputs);
    if (score >= MIN_SCORE) errors.push({ entry, suggestion: best, score });
  }
  // One in so many of the labels that were given regardless of the input is right.
  return { errors, noise: noise.share * (1 - 1 / outputs), probability };
}

function bestOutput({ logits, outputs }: HeldOutLogits, entry: number): number {
  const start = entry * outputs;
  let best = 0;
  for (let k = 1; k < outputs; k++) if ((logits[start + k] as number) > (logits[start + best] as number)) best = k;
  return best;
}

/** The noise is the share of examples with a label that is likely wrong, or without one that is likely right. */
function multiLabelErrors(
  indices: readonly (readonly number[])[],
  heldOut: HeldOutLogits,
  noise: LabelNoise,
): LabelErrors {
  const { rows, logits, outputs } = heldOut;
  const share = Math.max(noise.share, MIN_NOISE);
  const errors: LabelError[] = [];
  for (const [entry, row] of rows.entries()) {
    const own = new Set(indices[row]);
    const suggestion = new Set(own);
    let worst = 0;
    for (let k = 0; k < outputs; k++) {
      const p = sigmoid((logits[entry * outputs + k] as number) / noise.temperature);
      const present = own.has(k) ? p : 1 - p;
      const score = wrongProbability(present, share, 2);
      if (present > 0.5 || score < MIN_SCORE) continue;
      worst = Math.max(worst, score);
      if (own.has(k)) suggestion.delete(k);
      else suggestion.add(k);
    }
    if (worst > 0 && suggestion.size > 0)
      errors.push({ entry, suggestion: [...suggestion].sort((a, b) => a - b), score: worst });
  }
  const likely = errors.filter(({ score }) => score >= LIKELY).length;
  return { errors, noise: likely / Math.max(1, rows.length), probability: null };
}

function valueErrors(values: Float64Array, { rows, logits }: HeldOutLogits): LabelErrors {
  const residuals = Array.from(rows, (row, entry) => (values[row] as number) - (logits[entry] as number));
  const { median, deviation } = spreadOf(residuals);
  const errors = residuals.flatMap((residual, entry): LabelError[] => {
    const z = deviation === 0 ? 0 : (0.6745 * Math.abs(residual - median)) / deviation;
    return z < MIN_RESIDUAL_Z
      ? []
      : [{ entry, suggestion: logits[entry] as number, score: 1 - MIN_RESIDUAL_Z / (z + MIN_RESIDUAL_Z) }];
  });
  return { errors, noise: errors.length / Math.max(1, rows.length), probability: null };
}
