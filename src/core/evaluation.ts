/**
 * What held-out logits say about a head, in the field names of the HTTP API. Whatever is fitted to held-out examples here
 * (the temperature, the threshold) is fitted on other parts than the one that it is judged on.
 */
import {
  conformalScores,
  fitTemperature,
  type HeldOut,
  heldOutLogLoss,
  heldOutProbabilities,
  outOfScopeThreshold,
} from "./calibration.ts";
import {
  type ClassFigures,
  calibrationBins,
  classFigures,
  confusionMatrix,
  expectedCalibrationError,
  macroF1,
  mean,
  perClass,
  regressionFigures,
  wilsonInterval,
} from "./metrics.ts";
import type { Targets } from "./objective.ts";

/** With more labels a confusion matrix is left out: it grows with their square, and a ledger's row has 2 MB. */
const CONFUSION_LABELS = 300;

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
  readonly per_class?: readonly ClassFigures[];
  readonly confusion?: { readonly labels: readonly string[]; readonly matrix: readonly (readonly number[])[] };
  readonly out_of_scope?: {
    readonly score: "max_probability";
    readonly threshold: number;
    readonly expected_recall: number;
  } | null;
  readonly r2?: number;
  readonly mae?: number;
  readonly rmse?: number;
}

/** What the held-out examples teach the head itself, besides its evaluation. */
export interface Assessment {
  readonly evaluation: Evaluation;
  readonly temperature: number;
  readonly outOfScopeThreshold: number | null;
  readonly conformal: Float32Array;
}

export const notEvaluated: Assessment = {
  evaluation: { method: "none", detail: "summary", examples: 0 },
  temperature: 1,
  outOfScopeThreshold: null,
  conformal: new Float32Array(0),
};

/**
 * @param held logits of held-out rows, out-of-scope ones (target −1) among them
 * @param parts for each entry of `held`, its part of the cross-fitting: its fold, or either half of a holdout
 */
export function assess(
  labels: readonly string[],
  targets: Targets,
  held: HeldOut,
  parts: Int32Array,
  how: Pick<Evaluation, "method" | "folds">,
): Assessment {
  if (held.rows.length === 0) return notEvaluated;
  switch (targets.kind) {
    case "single":
      return assessSingle(labels, targets, held, parts, how);
    case "multi":
      return assessMulti(labels, targets, held, parts, how);
    case "value":
      return assessValue(targets.values, held, how);
  }
}

/** For each part, the temperature fitted on the other parts' entries; with one part alone, on all. */
function crossFitTemperatures(
  targets: Targets,
  held: HeldOut,
  parts: Int32Array,
  entries: readonly number[],
): Map<number, number> {
  const temperatures = new Map<number, number>();
  for (const part of new Set(parts)) {
    temperatures.set(
      part,
      fitTemperature(
        targets,
        held,
        entries.filter((at) => parts[at] !== part),
      ),
    );
  }
  return temperatures;
}

function assessSingle(
  labels: readonly string[],
  targets: Extract<Targets, { kind: "single" }>,
  held: HeldOut,
  parts: Int32Array,
  how: Pick<Evaluation, "method" | "folds">,
): Assessment {
  const all = Array.from(held.rows.keys());
  const inScope = all.filter((at) => (targets.indices[held.rows[at] as number] as number) >= 0);
  const outside = all.filter((at) => (targets.indices[held.rows[at] as number] as number) < 0);
  const temperature = fitTemperature(targets, held, inScope);
  const crossFitted = crossFitTemperatures(targets, held, parts, inScope);
  const crossFit = (at: number) =>
    heldOutProbabilities("single", held, at, crossFitted.get(parts[at] as number) as number);
  const final = (at: number) => heldOutProbabilities("single", held, at, temperature);

  const truth = inScope.map((at) => targets.indices[held.rows[at] as number] as number);
  const judged = inScope.map((at) => {
    const probabilities = crossFit(at);
    const label = topIndex(probabilities);
    return { label, confidence: probabilities[label] as number };
  });
  const predicted = judged.map(({ label }) => label);
  const hits = predicted.map((label, i) => label === truth[i]);
  const confidences = judged.map(({ confidence }) => confidence);
  const accuracy = mean(hits.map(Number));

  let outOfScope: Evaluation["out_of_scope"] = null;
  if (outside.length > 0) {
    const tops = (entries: readonly number[], probabilitiesOf: (at: number) => Float64Array) =>
      entries.map((at) => Math.max(...probabilitiesOf(at)));
    const scored = (probabilitiesOf: (at: number) => Float64Array) => {
      const top = tops(inScope, probabilitiesOf);
      return inScope.map((at, i) => ({ at, top: top[i] as number, right: hits[i] as boolean }));
    };
    const threshold = outOfScopeThreshold(scored(final), tops(outside, final));
    const inside = scored(crossFit);
    const outsideTops = tops(outside, crossFit);
    let refused = 0;
    for (const part of new Set(parts)) {
      const others = outsideTops.filter((_, i) => parts[outside[i] as number] !== part);
      const limit =
        others.length === 0
          ? threshold
          : outOfScopeThreshold(
              inside.filter(({ at }) => parts[at] !== part),
              others,
            );
      refused += outsideTops.filter((top, i) => parts[outside[i] as number] === part && top < limit).length;
    }
    outOfScope = { score: "max_probability", threshold, expected_recall: refused / outside.length };
  }

  return {
    evaluation: {
      ...how,
      detail: "summary",
      examples: inScope.length,
      accuracy,
      accuracy_interval: wilsonInterval(accuracy, inScope.length),
      macro_f1: macroF1(labels, truth, predicted),
      log_loss: crossFitLogLoss(targets, held, parts, inScope, crossFitted),
      ece: expectedCalibrationError(confidences, hits),
      ece_uncalibrated: expectedCalibrationError(
        inScope.map((at) => Math.max(...heldOutProbabilities("single", held, at, 1))),
        hits,
      ),
      per_class: perClass(labels, truth, predicted),
      ...(labels.length > CONFUSION_LABELS
        ? {}
        : { confusion: { labels, matrix: confusionMatrix(truth, predicted, labels.length) } }),
      out_of_scope: outOfScope,
    },
    temperature,
    outOfScopeThreshold: outOfScope?.threshold ?? null,
    conformal: conformalScores(inScope.map((at, i) => 1 - (final(at)[truth[i] as number] as number))),
  };
}

function assessMulti(
  labels: readonly string[],
  targets: Extract<Targets, { kind: "multi" }>,
  held: HeldOut,
  parts: Int32Array,
  how: Pick<Evaluation, "method" | "folds">,
): Assessment {
  const entries = Array.from(held.rows.keys());
  const temperature = fitTemperature(targets, held, entries);
  const crossFitted = crossFitTemperatures(targets, held, parts, entries);
  const counts = labels.map(() => ({ hits: 0, predicted: 0, support: 0 }));
  const calibrated = calibrationBins();
  const uncalibrated = calibrationBins();
  const scores: number[] = [];
  let right = 0;
  for (const at of entries) {
    const truth = new Set(targets.indices[held.rows[at] as number]);
    const probabilities = heldOutProbabilities("multi", held, at, crossFitted.get(parts[at] as number) as number);
    const raw = heldOutProbabilities("multi", held, at, 1);
    const final = heldOutProbabilities("multi", held, at, temperature);
    scores.push(Math.max(0, ...[...truth].map((k) => 1 - (final[k] as number))));
    let wrong = false;
    counts.forEach((count, k) => {
      const positive = truth.has(k);
      const chosen = (probabilities[k] as number) >= 0.5;
      calibrated.add(probabilities[k] as number, positive);
      uncalibrated.add(raw[k] as number, positive);
      if (positive && chosen) count.hits++;
      if (chosen) count.predicted++;
      if (positive) count.support++;
      if (positive !== chosen) wrong = true;
    });
    if (!wrong) right++;
  }
  const figures = counts.map(({ hits, predicted, support }, k) =>
    classFigures(labels[k] as string, hits, predicted, support),
  );
  const sum = (pick: (count: { hits: number; predicted: number; support: number }) => number) =>
    counts.reduce((total, count) => total + pick(count), 0);
  const accuracy = right / entries.length;
  return {
    evaluation: {
      ...how,
      detail: "summary",
      examples: entries.length,
      accuracy,
      accuracy_interval: wilsonInterval(accuracy, entries.length),
      macro_f1: mean(figures.map(({ f1 }) => f1)),
      micro_f1: classFigures(
        "",
        sum((c) => c.hits),
        sum((c) => c.predicted),
        sum((c) => c.support),
      ).f1,
      log_loss: crossFitLogLoss(targets, held, parts, entries, crossFitted),
      ece: calibrated.error(),
      ece_uncalibrated: uncalibrated.error(),
      per_class: figures,
    },
    temperature,
    outOfScopeThreshold: null,
    conformal: conformalScores(scores),
  };
}

function assessValue(values: Float64Array, held: HeldOut, how: Pick<Evaluation, "method" | "folds">): Assessment {
  const truth = Array.from(held.rows, (row) => values[row] as number);
  const predicted = Array.from(held.logits);
  return {
    evaluation: { ...how, detail: "summary", examples: truth.length, ...regressionFigures(truth, predicted) },
    temperature: 1,
    outOfScopeThreshold: null,
    conformal: conformalScores(truth.map((value, i) => Math.abs(value - (predicted[i] as number)))),
  };
}

function crossFitLogLoss(
  targets: Targets,
  held: HeldOut,
  parts: Int32Array,
  entries: readonly number[],
  temperatures: ReadonlyMap<number, number>,
): number {
  let sum = 0;
  for (const [part, temperature] of temperatures) {
    const own = entries.filter((at) => parts[at] === part);
    sum += heldOutLogLoss(targets, held, own, temperature) * own.length;
  }
  return sum / Math.max(1, entries.length);
}

function topIndex(row: Float64Array): number {
  let top = 0;
  for (let k = 1; k < row.length; k++) if ((row[k] as number) > (row[top] as number)) top = k;
  return top;
}
