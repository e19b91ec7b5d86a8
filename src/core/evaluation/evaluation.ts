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
  temperatureOperations,
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
import { ELEMENTWISE_OPERATIONS, type Targets } from "../linear/objective.ts";

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
    /** null where too few out-of-scope examples were held out to judge a threshold by others than those it was set on. */
    readonly expected_recall: number | null;
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
 * Yields floating-point operations.
 *
 * @param held logits of held-out rows, out-of-scope ones (target −1) among them
 * @param parts for each entry of `held`, its part of the cross-fitting: its fold, or either half of a holdout
 */
export function* assess(
  labels: readonly string[],
  targets: Targets,
  held: HeldOut,
  parts: Int32Array,
  how: Pick<Evaluation, "method" | "folds">,
): Generator<number, Assessment, void> {
  if (held.rows.length === 0) return notEvaluated;
  switch (targets.kind) {
    case "single":
      return yield* assessSingle(labels, targets, held, parts, how);
    case "multi":
      return yield* assessMulti(labels, targets, held, parts, how);
    case "value":
      return assessValue(targets.values, held, how);
  }
}

/** Operations of an assessment of so many held-out logits, in so many parts, at most. */
export function assessmentOperations(logits: number, parts: number): number {
  return (parts + 1) * temperatureOperations(logits) + 5 * logits * ELEMENTWISE_OPERATIONS;
}

/** For each part, the temperature fitted on the other parts' entries. */
function* crossFitTemperatures(
  targets: Targets,
  held: HeldOut,
  parts: Int32Array,
  entries: readonly number[],
): Generator<number, Map<number, number>, void> {
  const temperatures = new Map<number, number>();
  for (const part of new Set(parts)) {
    const others = entries.filter((at) => parts[at] !== part);
    temperatures.set(part, yield* fitTemperature(targets, held, others));
  }
  return temperatures;
}

/** Operations between two yields. */
const STEP = 1e8;

/** The probabilities of each entry, at a temperature of its own, to a callback. Yields floating-point operations. */
function* eachProbabilities(
  kind: "single" | "multi",
  held: HeldOut,
  entries: readonly number[],
  temperatureOf: (at: number) => number,
  visit: (probabilities: Float64Array, at: number) => void,
): Generator<number, void, void> {
  let operations = 0;
  for (const at of entries) {
    visit(heldOutProbabilities(kind, held, at, temperatureOf(at)), at);
    operations += held.outputs * ELEMENTWISE_OPERATIONS;
    if (operations < STEP) continue;
    yield operations;
    operations = 0;
  }
  yield operations;
}

/** The most probable label of each entry, and its probability. */
function* topsOf(
  held: HeldOut,
  entries: readonly number[],
  temperatureOf: (at: number) => number,
): Generator<number, { label: number; top: number }[], void> {
  const tops: { label: number; top: number }[] = [];
  yield* eachProbabilities("single", held, entries, temperatureOf, (probabilities) => {
    const label = topIndex(probabilities);
    tops.push({ label, top: probabilities[label] as number });
  });
  return tops;
}

function* assessSingle(
  labels: readonly string[],
  targets: Extract<Targets, { kind: "single" }>,
  held: HeldOut,
  parts: Int32Array,
  how: Pick<Evaluation, "method" | "folds">,
): Generator<number, Assessment, void> {
  const targetOf = (at: number) => targets.indices[held.rows[at] as number] as number;
  const all = Array.from(held.rows.keys());
  const inScope = all.filter((at) => targetOf(at) >= 0);
  const outside = all.filter((at) => targetOf(at) < 0);
  const temperature = yield* fitTemperature(targets, held, inScope);
  const crossFitted = yield* crossFitTemperatures(targets, held, parts, inScope);
  const crossFit = (at: number) => crossFitted.get(parts[at] as number) as number;

  const truth = inScope.map(targetOf);
  const judged = yield* topsOf(held, inScope, crossFit);
  const predicted = judged.map(({ label }) => label);
  const hits = predicted.map((label, i) => label === truth[i]);
  const accuracy = mean(hits.map(Number));
  const uncalibrated = yield* topsOf(held, inScope, () => 1);
  const nonconformity: number[] = [];
  const finalTops: number[] = [];
  yield* eachProbabilities(
    "single",
    held,
    inScope,
    () => temperature,
    (probabilities, at) => {
      nonconformity.push(1 - (probabilities[targetOf(at)] as number));
      finalTops.push(probabilities[topIndex(probabilities)] as number);
    },
  );

  let outOfScope: Evaluation["out_of_scope"] = null;
  if (outside.length > 0) {
    const finalOutside = (yield* topsOf(held, outside, () => temperature)).map(({ top }) => top);
    const crossOutside = (yield* topsOf(held, outside, crossFit)).map(({ top }) => top);
    const threshold = outOfScopeThreshold(
      finalTops.map((top, i) => ({ top, right: hits[i] as boolean })),
      finalOutside,
    );
    const inside = judged.map(({ top }, i) => ({ at: inScope[i] as number, top, right: hits[i] as boolean }));
    let refused = 0;
    let judgedOutside = 0;
    for (const part of new Set(parts)) {
      const others = crossOutside.filter((_, i) => parts[outside[i] as number] !== part);
      // A threshold that these rows themselves were needed for says nothing of them.
      if (others.length === 0) continue;
      const limit = outOfScopeThreshold(
        inside.filter(({ at }) => parts[at] !== part),
        others,
      );
      const own = crossOutside.filter((_, i) => parts[outside[i] as number] === part);
      judgedOutside += own.length;
      refused += own.filter((top) => top < limit).length;
    }
    const recall = judgedOutside === 0 ? null : refused / judgedOutside;
    outOfScope = { score: "max_probability", threshold, expected_recall: recall };
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
      ece: expectedCalibrationError(
        judged.map(({ top }) => top),
        hits,
      ),
      ece_uncalibrated: expectedCalibrationError(
        uncalibrated.map(({ top }) => top),
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
    conformal: conformalScores(nonconformity),
  };
}

function* assessMulti(
  labels: readonly string[],
  targets: Extract<Targets, { kind: "multi" }>,
  held: HeldOut,
  parts: Int32Array,
  how: Pick<Evaluation, "method" | "folds">,
): Generator<number, Assessment, void> {
  const entries = Array.from(held.rows.keys());
  const truths = entries.map((at) => new Set(targets.indices[held.rows[at] as number]));
  const temperature = yield* fitTemperature(targets, held, entries);
  const crossFitted = yield* crossFitTemperatures(targets, held, parts, entries);
  const crossFit = (at: number) => crossFitted.get(parts[at] as number) as number;
  const counts = labels.map(() => ({ hits: 0, predicted: 0, support: 0 }));
  const calibrated = calibrationBins();
  const uncalibrated = calibrationBins();
  const nonconformity: number[] = [];
  let right = 0;
  yield* eachProbabilities("multi", held, entries, crossFit, (probabilities, at) => {
    let wrong = false;
    counts.forEach((count, k) => {
      const positive = truths[at]?.has(k) ?? false;
      const chosen = (probabilities[k] as number) >= 0.5;
      calibrated.add(probabilities[k] as number, positive);
      if (positive && chosen) count.hits++;
      if (chosen) count.predicted++;
      if (positive) count.support++;
      if (positive !== chosen) wrong = true;
    });
    if (!wrong) right++;
  });
  yield* eachProbabilities(
    "multi",
    held,
    entries,
    () => 1,
    (probabilities, at) => {
      probabilities.forEach((p, k) => {
        uncalibrated.add(p, truths[at]?.has(k) ?? false);
      });
    },
  );
  yield* eachProbabilities(
    "multi",
    held,
    entries,
    () => temperature,
    (probabilities, at) => {
      let largest = 0;
      for (const k of truths[at] ?? []) largest = Math.max(largest, 1 - (probabilities[k] as number));
      nonconformity.push(largest);
    },
  );
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
    conformal: conformalScores(nonconformity),
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
