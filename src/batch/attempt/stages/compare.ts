/** Stage 4: how both candidates do on the held-out rows, which neither was trained on. */
import { decodeHead } from "../../../core/codec.ts";
import type { Comparison } from "../../../core/evaluation/comparison.ts";
import { evaluateHeldOut } from "../../../core/evaluation/evaluate-held-out.ts";
import { regressionMetrics } from "../../../core/evaluation/metrics.ts";
import type { Head } from "../../../core/head.ts";
import { stratifiedFolds } from "../../../core/linear/split.ts";
import { strataOf, type Target } from "../../../core/linear/targets.ts";
import { runSteps } from "../../../core/steps.ts";
import type { Plan } from "../../../finetune/train.ts";
import type { FineTunedAssessment, TrainedCandidate } from "../checkpoint.ts";
import type { TrainingContext } from "../context.ts";
import { makeModel, type Predictions, predictRows, toLogits } from "../model.ts";
import { groupsOf, targetsOf } from "../training-spec.ts";
import type { TrainedCandidates } from "./train-candidates.ts";

export const emptyComparison: Comparison = {
  test_examples: 0,
  head_accuracy: 0,
  fine_tuned_accuracy: 0,
  only_head: 0,
  only_fine_tuned: 0,
};

/** Compares the candidates, and evaluates and calibrates the fine-tuned one if it has trained layers. */
export async function compareCandidates(
  context: TrainingContext,
  heldOutRows: readonly number[],
  { head, fineTuned }: TrainedCandidates,
): Promise<{ readonly comparison: Comparison; readonly fineTunedAssessment: FineTunedAssessment | null }> {
  const headPredictions = await predictHeldOut(context, heldOutRows, head);
  const fineTunedPredictions =
    fineTuned === head ? headPredictions : await predictHeldOut(context, heldOutRows, fineTuned);
  const plan = fineTuned?.plan ?? null;
  const fineTunedAssessment =
    fineTunedPredictions && plan ? await assessFineTuned(context, heldOutRows, fineTunedPredictions, plan) : null;
  const comparison =
    headPredictions && fineTunedPredictions
      ? compareHeads(context, heldOutRows, headPredictions, fineTunedPredictions)
      : emptyComparison;
  return { comparison, fineTunedAssessment };
}

async function predictHeldOut(
  context: TrainingContext,
  rows: readonly number[],
  candidate: TrainedCandidate | null,
): Promise<Predictions | null> {
  const head = candidate && decodeHead(candidate.head);
  if (!head) return null;
  const model = makeModel(context, context.layers?.base ?? null, head, candidate.delta);
  return { head, outputs: await predictRows(context, rows, model) };
}

/**
 * Compares the outputs of two heads for the held-out rows, without those of the out-of-scope label. A single label is
 * correct if it is the most probable one; a set of labels if exactly these have at least ½. Of two values the nearer wins.
 * If every row has a label that neither head knows, there is nothing to compare.
 */
export function compareHeads(
  { submission, examples }: TrainingContext,
  heldOutRows: readonly number[],
  frozen: Predictions,
  fineTuned: Predictions,
): Comparison {
  const outOfScope = submission.out_of_scope_label;
  const pairs = heldOutRows.flatMap((row, i) => {
    const [target, a, b] = [examples.targets[row], frozen.outputs[i], fineTuned.outputs[i]];
    return target === undefined || target === outOfScope || !a || !b ? [] : [{ target, frozen: a, fineTuned: b }];
  });
  const labels = new Set([...frozen.head.labels, ...fineTuned.head.labels]);
  const isKnown = ({ target }: (typeof pairs)[number]) =>
    typeof target === "number" || [target].flat().every((label) => labels.has(label));
  if (!pairs.some(isKnown)) return emptyComparison;
  const score = submission.task === "regression" ? nearness : correctness;
  const scores = pairs.map(
    (pair) =>
      [score(frozen.head, pair.frozen, pair.target), score(fineTuned.head, pair.fineTuned, pair.target)] as const,
  );
  const accuracy = (outputsOf: (pair: (typeof pairs)[number]) => Float64Array, scores: readonly number[]) =>
    submission.task === "regression"
      ? regressionMetrics(
          pairs.map(({ target }) => Number(target)),
          pairs.map((pair) => outputsOf(pair)[0] ?? 0),
        ).r2
      : scores.reduce((sum, each) => sum + each, 0) / pairs.length;
  return {
    test_examples: pairs.length,
    head_accuracy: accuracy(
      (pair) => pair.frozen,
      scores.map(([a]) => a),
    ),
    fine_tuned_accuracy: accuracy(
      (pair) => pair.fineTuned,
      scores.map(([, b]) => b),
    ),
    only_head: scores.filter(([a, b]) => a > b).length,
    only_fine_tuned: scores.filter(([a, b]) => b > a).length,
  };
}

/** Minus the distance from the target. */
function nearness(_: Head, [value = 0]: Float64Array, target: Target): number {
  return -Math.abs(value - Number(target));
}

/** 1 if the predicted labels are the target's, else 0. */
function correctness({ task, labels }: Head, outputs: Float64Array, target: Target): number {
  if (task === "single_label") return Number(labels[outputs.indexOf(Math.max(...outputs))] === target);
  const expected = new Set(target as readonly string[]);
  const predicted = labels.filter((_, k) => (outputs[k] ?? 0) >= 0.5);
  return Number(predicted.length === expected.size && predicted.every((label) => expected.has(label)));
}

/**
 * Evaluates and calibrates the fine-tuned candidate on the held-out rows; the model that is trained on all rows takes these
 * results over. The candidate's head is one that `composeModel` made, at temperature 1.
 */
async function assessFineTuned(
  context: TrainingContext,
  rows: readonly number[],
  { head, outputs }: Predictions,
  plan: Plan,
): Promise<FineTunedAssessment> {
  const { targets } = targetsOf(context, rows, head.labels);
  const heldOut = { rows: Int32Array.from(rows.keys()), logits: toLogits(head, outputs), outputs: head.bias.length };
  const strata = strataOf(targets, head.labels.length);
  const halves = stratifiedFolds(strata, groupsOf(context, rows), 2, context.submission.hyperparameters.seed);
  const steps = evaluateHeldOut(head.labels, targets, heldOut, halves, { method: "holdout" });
  const { value: assessment } = await runSteps(steps, 0, context.yieldToEventLoop);
  return { plan, assessment: { ...assessment, conformal: Array.from(assessment.conformal) } };
}
