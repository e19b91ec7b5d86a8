/**
 * Stage 3: both candidates, trained on a part of the rows and compared on others. With folds, each is predicted by models
 * that are trained on the others, so every example judges once. A validation file judges alone.
 */
import type { Candidate } from "../../../core/evaluation/comparison.ts";
import { ok, type Result } from "../../../core/failure.ts";
import { ALWAYS_TRAINED, comparisonFoldCount, quantileFolds } from "../../../core/linear/split.ts";
import { strataOf } from "../../../core/linear/targets.ts";
import type { FoldCandidates, TrainedCandidate } from "../checkpoint.ts";
import type { TrainingContext } from "../context.ts";
import { groupsOf, targetsOf } from "../training-spec.ts";
import {
  type CandidateComparison,
  compareCandidates,
  type FoldPredictions,
  predictFold,
  type Split,
} from "./compare.ts";
import { trainCandidates } from "./train-candidates.ts";

/** The splits to compare the candidates on: the folds, or the rows that are held out. None if one lacks rows. */
export function splitRows(
  { submission, examples }: Pick<TrainingContext, "submission" | "examples">,
  rows: readonly number[],
): Split[] {
  const split = (isTest: (row: number) => boolean): Split => ({
    trainingRows: rows.filter((row) => !isTest(row)),
    testRows: rows.filter(isTest),
  });
  let splits: Split[];
  if (submission.comparison === "cross_fit") {
    const { labels, targets } = targetsOf({ submission, examples }, rows);
    const strata = strataOf(targets, labels.length);
    const count = comparisonFoldCount(rows.length);
    const folds = quantileFolds(strata, groupsOf({ examples }, rows), examples.groupPositions, count);
    const used = [...new Set(folds)].filter((fold) => fold !== ALWAYS_TRAINED).sort((a, b) => a - b);
    splits = used.length < 2 ? [] : used.map((fold) => split((row) => folds[row] === fold));
  } else splits = [split((row) => examples.heldOut[row] === true)];
  const isEnough = splits.every(({ trainingRows, testRows }) => trainingRows.length >= 2 && testRows.length > 0);
  return isEnough ? splits : [];
}

/**
 * Trains both candidates on each split's training rows, and compares them on the test rows of all.
 *
 * @param trained the candidates of each split that earlier attempts trained
 * @param onTrained is awaited after each training
 */
export async function crossFit(
  context: TrainingContext,
  splits: readonly Split[],
  trained: readonly FoldCandidates[],
  onTrained: (fold: number, candidate: Candidate, result: TrainedCandidate | null) => Promise<void>,
): Promise<Result<CandidateComparison>> {
  const allRows = [...context.examples.targets.keys()];
  const { labels } = targetsOf(context, allRows);
  const predictions: FoldPredictions[] = [];
  for (const [fold, split] of splits.entries()) {
    const { trainingRows, testRows } = split;
    if (splits.length > 1) {
      const message = `Fold ${fold + 1} of ${splits.length}: ${trainingRows.length} examples to train on, ${testRows.length} to compare on.`;
      context.report(message, { examples: trainingRows.length, held_out: testRows.length });
    }
    const candidates = await trainCandidates(context, trainingRows, fold, trained[fold] ?? {}, (candidate, result) =>
      onTrained(fold, candidate, result),
    );
    if (!candidates.ok) return candidates;
    predictions.push(await predictFold(context, split, candidates.value, labels));
  }
  return ok(await compareCandidates(context, predictions, labels));
}
