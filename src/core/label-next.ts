/**
 * Which inputs to label next: those that stand for most of what a head is uncertain of (facility-location.ts). The weight
 * of an input is its uncertainty,
 *
 *   one label               1 − (p₁ − p₂), of the two most probable labels (margin sampling: Scheffer et al. 2001)
 *   any number of labels    1 − |p − t| / (p < t ? t : 1 − t), the largest over the labels, each with its threshold t
 *
 * and at least MIN_UNCERTAINTY, so that a head that is certain of all gets inputs that stand for many. A head is uncertain of
 * most that is out of scope, so the gain of an input whose scope score is below FULL_SCOPE is multiplied by its share of that,
 * and at least by MIN_SCOPE: the inputs of a label that the head does not know yet are out of scope to it as well.
 */
import { chooseRepresentatives } from "./facility-location.ts";
import type { Steps } from "./steps.ts";
import type { TensorBackend } from "./tensors.ts";

const MIN_UNCERTAINTY = 0.01;
const FULL_SCOPE = 0.2;
const MIN_SCOPE = 0.1;
/** Labels and shares of this length and size are shown in a reason. */
const MAX_LABEL_CHARACTERS = 60;
/** Up to this distance of two probabilities they are said to be alike. */
const CLOSE_MARGIN = 0.25;

/** What a head predicts of an input of the pool. */
export interface PoolPrediction {
  /** In falling order of the scores: the two most probable for one label, else all. */
  readonly scores: readonly { readonly label: string; readonly score: number; readonly threshold: number }[];
  readonly inScope: boolean | null;
  /** The share of inputs in scope that are less like the training examples; null where it is not known. */
  readonly scopeScore: number | null;
}

export interface Choice {
  readonly index: number;
  /** The share of the pool's uncertainty that it stands for, and none chosen before it does; less where it is out of scope. */
  readonly score: number;
  readonly reason: string;
}

interface Uncertainty {
  readonly value: number;
  readonly reason: string;
}

/** Chooses at most `count` inputs, the most useful first. `embeddings` and `predictions` are of the same inputs. */
export function* chooseInputs(
  tensors: TensorBackend,
  task: "single_label" | "multi_label",
  embeddings: readonly Float32Array[],
  predictions: readonly PoolPrediction[],
  count: number,
): Steps<readonly Choice[]> {
  const uncertainties = predictions.map(({ scores }) =>
    task === "single_label" ? marginUncertainty(scores) : thresholdUncertainty(scores),
  );
  const weights = Float64Array.from(uncertainties, ({ value }) => Math.max(MIN_UNCERTAINTY, value));
  const factors = Float64Array.from(predictions, ({ scopeScore }) =>
    Math.max(MIN_SCOPE, Math.min(1, (scopeScore ?? 1) / FULL_SCOPE)),
  );
  const chosen = yield* chooseRepresentatives(tensors, { rows: embeddings, weights, factors }, count);
  return chosen.map(({ index, gain, share }) => {
    const alike = Math.round(share * embeddings.length);
    const scope =
      predictions[index]?.inScope === false
        ? " It is unlike the training examples: a label is missing, or it belongs to none."
        : "";
    const stands =
      alike > 1 ? `it stands for ${alike} of the ${embeddings.length} inputs` : "few other inputs are like it";
    return { index, score: gain, reason: `${uncertainties[index]?.reason ?? ""}, and ${stands}.${scope}` };
  });
}

function marginUncertainty([first, second]: PoolPrediction["scores"]): Uncertainty {
  if (first === undefined) return { value: 1, reason: "The head predicts no label" };
  const margin = first.score - (second?.score ?? 0);
  const reason =
    second !== undefined && margin < CLOSE_MARGIN
      ? `The head wavers between ${show(first)} and ${show(second)}`
      : `The head predicts ${show(first)}`;
  return { value: 1 - margin, reason };
}

function thresholdUncertainty(scores: PoolPrediction["scores"]): Uncertainty {
  let value = 0;
  let reason = "The head predicts no label";
  for (const each of scores) {
    const { score, threshold } = each;
    const room = score < threshold ? threshold : 1 - threshold;
    const own = room === 0 ? 0 : 1 - Math.abs(score - threshold) / room;
    if (own <= value) continue;
    value = own;
    reason = `The head is least certain of ${show(each)}, which it predicts from ${threshold.toFixed(2)} on`;
  }
  return { value, reason };
}

function show({ label, score }: { readonly label: string; readonly score: number }): string {
  const shown = label.length <= MAX_LABEL_CHARACTERS ? label : `${label.slice(0, MAX_LABEL_CHARACTERS)}…`;
  return `'${shown.toWellFormed()}' (${score.toFixed(2)})`;
}
