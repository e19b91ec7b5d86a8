import { correctnessOf } from "../evaluation/correctness.ts";
import type { EvaluationResult } from "../evaluation/evaluation.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import type { FoldModel } from "./cross-validation.ts";
import type { Design } from "./design.ts";
import { visitLogits } from "./objective.ts";
import type { TrainingRows } from "./types.ts";

/**
 * The accuracy of each fold's model on the examples that it was trained on, all folds together: the same models whose
 * accuracy on held-out rows is the evaluation's. Null for values.
 */
export function* trainAccuracy(
  tensors: TensorBackend,
  design: Design,
  {
    targets,
    outputs,
    weights,
    folds,
    labelTexts,
  }: Pick<TrainingRows, "targets" | "outputs" | "weights" | "folds" | "labelTexts">,
  models: readonly FoldModel[],
  calibration: Pick<EvaluationResult, "temperature" | "thresholds">,
): Steps<number | null> {
  if (targets.kind === "value") return null;
  const isCorrect = correctnessOf(targets, outputs, calibration);
  let [correct, count] = [0, 0];
  for (const [fold, { parameters }] of models.entries()) {
    yield* visitLogits(tensors, design, outputs, parameters, (first, rows, logits) => {
      for (let i = 0; i < rows; i++) {
        const row = first + i;
        if (folds[row] === fold || weights[row] === 0 || row >= weights.length - labelTexts) continue;
        const judged = isCorrect(row, logits, i * outputs);
        if (judged === null) continue;
        count++;
        if (judged) correct++;
      }
    });
  }
  return count === 0 ? null : correct / count;
}
