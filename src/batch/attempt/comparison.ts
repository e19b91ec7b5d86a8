/** How two heads do on examples that neither was trained on. */

import type { Comparison } from "../../core/evaluation/comparison.ts";
import { regressionMetrics } from "../../core/evaluation/metrics.ts";
import { type Head, predict } from "../../core/head.ts";
import { createLexicalVectorizer } from "../../core/text/lexical.ts";
import type { TrainingContext } from "./candidates.ts";

const OPERATIONS_PER_YIELD = 50_000_000;
/** Trained layers have a product for each word that they see for the first time. */
const OPERATIONS_PER_CHARACTER = 10_000;

export const emptyComparison: Comparison = {
  test_examples: 0,
  head_accuracy: 0,
  fine_tuned_accuracy: 0,
  only_head: 0,
  only_fine_tuned: 0,
};

/**
 * Compares what two heads said of the held-out rows, those of the out-of-scope label left out. One label is right where it
 * is the most probable, labels where exactly those have at least ½; of two values the nearer one is.
 */
export function compareHeads(
  { submission, examples }: TrainingContext,
  heldOut: readonly number[],
  frozen: Predictions,
  fineTuned: Predictions,
): Comparison {
  const outOfScope = submission.out_of_scope_label ?? undefined;
  const inScope = <T>(list: readonly T[]) =>
    list.filter((_, i) => examples.targets[heldOut[i] as number] !== outOfScope);
  const rows = inScope(heldOut);
  if (rows.length === 0) return emptyComparison;
  const [headOutputs, fineTunedOutputs] = [inScope(frozen.outputs), inScope(fineTuned.outputs)];
  let onlyHead = 0;
  let onlyFineTuned = 0;
  const countWin = (headScore: number, fineTunedScore: number) => {
    if (headScore > fineTunedScore) onlyHead++;
    if (fineTunedScore > headScore) onlyFineTuned++;
  };
  const makeComparison = (headAccuracy: number, fineTunedAccuracy: number): Comparison => ({
    test_examples: rows.length,
    head_accuracy: headAccuracy,
    fine_tuned_accuracy: fineTunedAccuracy,
    only_head: onlyHead,
    only_fine_tuned: onlyFineTuned,
  });
  if (submission.task === "regression") {
    const truth = rows.map((row) => examples.targets[row] as number);
    const values = (outputs: readonly Float64Array[]) => outputs.map((each) => each[0] as number);
    const [a, b] = [values(headOutputs), values(fineTunedOutputs)];
    truth.forEach((value, i) => {
      countWin(-Math.abs((a[i] as number) - value), -Math.abs((b[i] as number) - value));
    });
    return makeComparison(regressionMetrics(truth, a).r2, regressionMetrics(truth, b).r2);
  }
  const scoreRow = (head: Head, outputs: Float64Array | undefined, row: number) =>
    Number(isCorrect(head, outputs as Float64Array, examples.targets[row] as string | readonly string[]));
  let [headCorrect, fineTunedCorrect] = [0, 0];
  rows.forEach((row, i) => {
    const [a, b] = [scoreRow(frozen.head, headOutputs[i], row), scoreRow(fineTuned.head, fineTunedOutputs[i], row)];
    headCorrect += a;
    fineTunedCorrect += b;
    countWin(a, b);
  });
  return makeComparison(headCorrect / rows.length, fineTunedCorrect / rows.length);
}

/** A head, and what gives it the embedding of a row. */
export interface Model {
  readonly head: Head;
  readonly embed: TrainingContext["embed"];
}

/** A head, and what it said of some rows. */
export interface Predictions {
  readonly head: Head;
  readonly outputs: readonly Float64Array[];
}

/** What a model says of rows: the outputs of `predict`. */
export async function predictRows(
  context: TrainingContext,
  rows: readonly number[],
  { head, embed }: Model,
): Promise<Float64Array[]> {
  const extractFeatures = head.lexical === null ? null : createLexicalVectorizer(head.lexical);
  const outputs: Float64Array[] = [];
  let operations = 0;
  for (const row of rows) {
    const text = context.examples.texts[row] ?? "";
    outputs.push(predict(head, await embed(row), extractFeatures === null ? null : extractFeatures(text)));
    operations += head.weights.length + OPERATIONS_PER_CHARACTER * text.length;
    if (operations < OPERATIONS_PER_YIELD) continue;
    operations = 0;
    await context.yieldToEventLoop();
  }
  return outputs;
}

function isCorrect({ task, labels }: Head, outputs: Float64Array, target: string | readonly string[]): boolean {
  if (task === "single_label") return labels[outputs.indexOf(Math.max(...outputs))] === target;
  const expectedLabels = new Set(target);
  const predictedLabels = labels.filter((_, k) => (outputs[k] as number) >= 0.5);
  return predictedLabels.length === expectedLabels.size && predictedLabels.every((label) => expectedLabels.has(label));
}
