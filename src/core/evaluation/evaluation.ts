/**
 * What held-out logits say about a head, in the field names of the HTTP API. Whatever is fitted to held-out examples here
 * (the temperature, the threshold) is fitted on other parts than the one that it is judged on.
 */

import { OPERATIONS_PER_LOGIT } from "../linear/objective.ts";
import type { Targets } from "../linear/targets.ts";
import type { Steps } from "../steps.ts";
import {
  conformalScores,
  fitTemperature,
  type HeldOutLogits,
  heldOutLogLoss,
  heldOutProbabilities,
  outOfScopeThreshold,
  temperatureOperations,
} from "./calibration.ts";
import {
  type ClassMetrics,
  calibrationBins,
  classMetrics,
  confusionMatrix,
  expectedCalibrationError,
  macroF1,
  mean,
  perClassMetrics,
  regressionMetrics,
  wilsonInterval,
} from "./metrics.ts";

/** With more labels a confusion matrix is left out: it grows with their square, and a ledger's row has 2 MB. */
const MAX_CONFUSION_LABELS = 300;

export interface Evaluation {
  readonly method: "cross_validation" | "holdout" | "none";
  readonly folds?: number;
  readonly detail: "summary";
  /** How many examples were held out, out-of-scope ones not counted. */
  readonly examples: number;
  /** multi_label: the share of examples whose labels are all right. */
  readonly accuracy?: number;
  /** Wilson, 95 % */
  readonly accuracy_interval?: readonly [number, number];
  readonly macro_f1?: number;
  readonly micro_f1?: number;
  readonly log_loss?: number;
  readonly ece?: number;
  readonly ece_uncalibrated?: number;
  readonly per_class?: readonly ClassMetrics[];
  readonly confusion?: { readonly labels: readonly string[]; readonly matrix: readonly (readonly number[])[] };
  readonly out_of_scope?: {
    readonly score: "max_probability";
    readonly threshold: number;
    /** null where too few out-of-scope examples were held out to judge a threshold by others than those it was set on. */
    readonly expected_recall: number | null;
  } | null;
  readonly r2?: number;
  readonly mae?: number;
  readonly rmse?: number;
}

/** What the held-out examples teach the head itself, besides its evaluation. */
export interface EvaluationResult {
  readonly evaluation: Evaluation;
  readonly temperature: number;
  readonly outOfScopeThreshold: number | null;
  readonly conformal: Float32Array;
}

export const noEvaluation: EvaluationResult = {
  evaluation: { method: "none", detail: "summary", examples: 0 },
  temperature: 1,
  outOfScopeThreshold: null,
  conformal: new Float32Array(0),
};

/**
 * Yields floating-point operations.
 *
 * @param held logits of held-out rows, out-of-scope ones (target −1) among them
 * @param parts for each entry of `held`, its part of the cross-fitting: its fold, or either half of a holdout
 */
export function* evaluateHeldOut(
  labels: readonly string[],
  targets: Targets,
  heldOut: HeldOutLogits,
  parts: Int32Array,
  settings: Pick<Evaluation, "method" | "folds">,
): Steps<EvaluationResult> {
  if (heldOut.rows.length === 0) return noEvaluation;
  switch (targets.kind) {
    case "single":
      return yield* evaluateSingleLabel(labels, targets, heldOut, parts, settings);
    case "multi":
      return yield* evaluateMultiLabel(labels, targets, heldOut, parts, settings);
    case "value":
      return evaluateRegression(targets.values, heldOut, settings);
  }
}

/** Operations of an assessment of so many held-out logits, in so many parts, at most. */
export function heldOutEvaluationOperations(logits: number, parts: number): number {
  return (parts + 1) * temperatureOperations(logits) + 5 * logits * OPERATIONS_PER_LOGIT;
}

/** For each part, the temperature fitted on the other parts' entries. */
function* crossFitTemperatures(
  targets: Targets,
  heldOut: HeldOutLogits,
  parts: Int32Array,
  entries: readonly number[],
): Steps<Map<number, number>> {
  const temperatures = new Map<number, number>();
  for (const part of new Set(parts)) {
    const others = entries.filter((at) => parts[at] !== part);
    temperatures.set(part, yield* fitTemperature(targets, heldOut, others));
  }
  return temperatures;
}

/** Operations between two yields. */
const OPERATIONS_PER_YIELD = 1e8;

/** The probabilities of each entry, at a temperature of its own, to a callback. Yields floating-point operations. */
function* visitProbabilities(
  kind: "single" | "multi",
  heldOut: HeldOutLogits,
  entries: readonly number[],
  temperatureOf: (entry: number) => number,
  visit: (probabilities: Float64Array, entry: number) => void,
): Steps<void> {
  let operations = 0;
  for (const entry of entries) {
    visit(heldOutProbabilities(kind, heldOut, entry, temperatureOf(entry)), entry);
    operations += heldOut.outputs * OPERATIONS_PER_LOGIT;
    if (operations < OPERATIONS_PER_YIELD) continue;
    yield operations;
    operations = 0;
  }
  yield operations;
}

/** The most probable label of each entry, and its probability. */
function* topPredictions(
  heldOut: HeldOutLogits,
  entries: readonly number[],
  temperatureOf: (entry: number) => number,
): Steps<{ label: number; top: number }[]> {
  const tops: { label: number; top: number }[] = [];
  yield* visitProbabilities("single", heldOut, entries, temperatureOf, (probabilities) => {
    const label = argmax(probabilities);
    tops.push({ label, top: probabilities[label] as number });
  });
  return tops;
}

function* evaluateSingleLabel(
  labels: readonly string[],
  targets: Extract<Targets, { kind: "single" }>,
  heldOut: HeldOutLogits,
  parts: Int32Array,
  settings: Pick<Evaluation, "method" | "folds">,
): Steps<EvaluationResult> {
  const targetOf = (entry: number) => targets.indices[heldOut.rows[entry] as number] as number;
  const entries = Array.from(heldOut.rows.keys());
  const inScopeEntries = entries.filter((entry) => targetOf(entry) >= 0);
  const outOfScopeEntries = entries.filter((entry) => targetOf(entry) < 0);
  const temperature = yield* fitTemperature(targets, heldOut, inScopeEntries);
  const partTemperatures = yield* crossFitTemperatures(targets, heldOut, parts, inScopeEntries);
  const crossFitTemperatureOf = (entry: number) => partTemperatures.get(parts[entry] as number) as number;

  const truth = inScopeEntries.map(targetOf);
  const predictions = yield* topPredictions(heldOut, inScopeEntries, crossFitTemperatureOf);
  const predicted = predictions.map(({ label }) => label);
  const hits = predicted.map((label, i) => label === truth[i]);
  const accuracy = mean(hits.map(Number));
  const uncalibratedPredictions = yield* topPredictions(heldOut, inScopeEntries, () => 1);
  const nonconformity: number[] = [];
  const finalTops: number[] = [];
  yield* visitProbabilities(
    "single",
    heldOut,
    inScopeEntries,
    () => temperature,
    (probabilities, entry) => {
      nonconformity.push(1 - (probabilities[targetOf(entry)] as number));
      finalTops.push(probabilities[argmax(probabilities)] as number);
    },
  );

  let outOfScope: Evaluation["out_of_scope"] = null;
  if (outOfScopeEntries.length > 0) {
    const finalOutOfScope = (yield* topPredictions(heldOut, outOfScopeEntries, () => temperature)).map(
      ({ top }) => top,
    );
    const crossFitOutOfScope = (yield* topPredictions(heldOut, outOfScopeEntries, crossFitTemperatureOf)).map(
      ({ top }) => top,
    );
    const threshold = outOfScopeThreshold(
      finalTops.map((top, i) => ({ top, right: hits[i] as boolean })),
      finalOutOfScope,
    );
    const inScopePredictions = predictions.map(({ top }, i) => ({
      at: inScopeEntries[i] as number,
      top,
      right: hits[i] as boolean,
    }));
    let rejectedCount = 0;
    let outOfScopeCount = 0;
    for (const part of new Set(parts)) {
      const others = crossFitOutOfScope.filter((_, i) => parts[outOfScopeEntries[i] as number] !== part);
      // A threshold that these rows themselves were needed for says nothing of them.
      if (others.length === 0) continue;
      const partThreshold = outOfScopeThreshold(
        inScopePredictions.filter(({ at }) => parts[at] !== part),
        others,
      );
      const partOutOfScope = crossFitOutOfScope.filter((_, i) => parts[outOfScopeEntries[i] as number] === part);
      outOfScopeCount += partOutOfScope.length;
      rejectedCount += partOutOfScope.filter((top) => top < partThreshold).length;
    }
    const recall = outOfScopeCount === 0 ? null : rejectedCount / outOfScopeCount;
    outOfScope = { score: "max_probability", threshold, expected_recall: recall };
  }

  return {
    evaluation: {
      ...settings,
      detail: "summary",
      examples: inScopeEntries.length,
      accuracy,
      accuracy_interval: wilsonInterval(accuracy, inScopeEntries.length),
      macro_f1: macroF1(labels, truth, predicted),
      log_loss: crossFitLogLoss(targets, heldOut, parts, inScopeEntries, partTemperatures),
      ece: expectedCalibrationError(
        predictions.map(({ top }) => top),
        hits,
      ),
      ece_uncalibrated: expectedCalibrationError(
        uncalibratedPredictions.map(({ top }) => top),
        hits,
      ),
      per_class: perClassMetrics(labels, truth, predicted),
      ...(labels.length > MAX_CONFUSION_LABELS
        ? {}
        : { confusion: { labels, matrix: confusionMatrix(truth, predicted, labels.length) } }),
      out_of_scope: outOfScope,
    },
    temperature,
    outOfScopeThreshold: outOfScope?.threshold ?? null,
    conformal: conformalScores(nonconformity),
  };
}

function* evaluateMultiLabel(
  labels: readonly string[],
  targets: Extract<Targets, { kind: "multi" }>,
  heldOut: HeldOutLogits,
  parts: Int32Array,
  settings: Pick<Evaluation, "method" | "folds">,
): Steps<EvaluationResult> {
  const entries = Array.from(heldOut.rows.keys());
  const truths = entries.map((entry) => new Set(targets.indices[heldOut.rows[entry] as number]));
  const temperature = yield* fitTemperature(targets, heldOut, entries);
  const partTemperatures = yield* crossFitTemperatures(targets, heldOut, parts, entries);
  const crossFitTemperatureOf = (entry: number) => partTemperatures.get(parts[entry] as number) as number;
  const counts = labels.map(() => ({ hits: 0, predicted: 0, support: 0 }));
  const calibratedBins = calibrationBins();
  const uncalibratedBins = calibrationBins();
  const nonconformity: number[] = [];
  let exactMatches = 0;
  yield* visitProbabilities("multi", heldOut, entries, crossFitTemperatureOf, (probabilities, entry) => {
    let hasError = false;
    counts.forEach((count, k) => {
      const isPositive = truths[entry]?.has(k) ?? false;
      const isPredicted = (probabilities[k] as number) >= 0.5;
      calibratedBins.add(probabilities[k] as number, isPositive);
      if (isPositive && isPredicted) count.hits++;
      if (isPredicted) count.predicted++;
      if (isPositive) count.support++;
      if (isPositive !== isPredicted) hasError = true;
    });
    if (!hasError) exactMatches++;
  });
  yield* visitProbabilities(
    "multi",
    heldOut,
    entries,
    () => 1,
    (probabilities, entry) => {
      probabilities.forEach((p, k) => {
        uncalibratedBins.add(p, truths[entry]?.has(k) ?? false);
      });
    },
  );
  yield* visitProbabilities(
    "multi",
    heldOut,
    entries,
    () => temperature,
    (probabilities, entry) => {
      let score = 0;
      for (const k of truths[entry] ?? []) score = Math.max(score, 1 - (probabilities[k] as number));
      nonconformity.push(score);
    },
  );
  const labelMetrics = counts.map(({ hits, predicted, support }, k) =>
    classMetrics(labels[k] as string, hits, predicted, support),
  );
  const sum = (pick: (count: { hits: number; predicted: number; support: number }) => number) =>
    counts.reduce((total, count) => total + pick(count), 0);
  const accuracy = exactMatches / entries.length;
  return {
    evaluation: {
      ...settings,
      detail: "summary",
      examples: entries.length,
      accuracy,
      accuracy_interval: wilsonInterval(accuracy, entries.length),
      macro_f1: mean(labelMetrics.map(({ f1 }) => f1)),
      micro_f1: classMetrics(
        "",
        sum((c) => c.hits),
        sum((c) => c.predicted),
        sum((c) => c.support),
      ).f1,
      log_loss: crossFitLogLoss(targets, heldOut, parts, entries, partTemperatures),
      ece: calibratedBins.error(),
      ece_uncalibrated: uncalibratedBins.error(),
      per_class: labelMetrics,
    },
    temperature,
    outOfScopeThreshold: null,
    conformal: conformalScores(nonconformity),
  };
}

function evaluateRegression(
  values: Float64Array,
  heldOut: HeldOutLogits,
  settings: Pick<Evaluation, "method" | "folds">,
): EvaluationResult {
  const truth = Array.from(heldOut.rows, (row) => values[row] as number);
  const predicted = Array.from(heldOut.logits);
  return {
    evaluation: { ...settings, detail: "summary", examples: truth.length, ...regressionMetrics(truth, predicted) },
    temperature: 1,
    outOfScopeThreshold: null,
    conformal: conformalScores(truth.map((value, i) => Math.abs(value - (predicted[i] as number)))),
  };
}

function crossFitLogLoss(
  targets: Targets,
  heldOut: HeldOutLogits,
  parts: Int32Array,
  entries: readonly number[],
  temperatures: ReadonlyMap<number, number>,
): number {
  let sum = 0;
  for (const [part, temperature] of temperatures) {
    const partEntries = entries.filter((at) => parts[at] === part);
    sum += heldOutLogLoss(targets, heldOut, partEntries, temperature) * partEntries.length;
  }
  return sum / Math.max(1, entries.length);
}

function argmax(row: Float64Array): number {
  let top = 0;
  for (let k = 1; k < row.length; k++) if ((row[k] as number) > (row[top] as number)) top = k;
  return top;
}
