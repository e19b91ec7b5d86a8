import type { Targets } from "../linear/targets.ts";
import type { Steps } from "../steps.ts";
import { conformalScores, fitTemperature, type HeldOutLogits } from "./calibration.ts";
import {
  crossFitLogLoss,
  crossFitTemperatures,
  type HeldOutEntry,
  indicesOf,
  visitProbabilities,
} from "./cross-fit.ts";
import type { Evaluation, EvaluationResult } from "./evaluation.ts";
import { countPredictions as countInputs } from "./input-counts.ts";
import {
  type CalibrationBins,
  type ClassCounts,
  calibrationBins,
  classMetrics,
  macroF1,
  wilsonInterval,
} from "./metrics.ts";
import { argmax } from "./probability.ts";
import { DEFAULT_THRESHOLD, fitThresholds } from "./thresholds.ts";

interface Entry extends HeldOutEntry {
  /** The indices of its labels. */
  readonly targets: ReadonlySet<number>;
}

export function* evaluateMultiLabel(
  labels: readonly string[],
  targets: Extract<Targets, { kind: "multi" }>,
  heldOut: HeldOutLogits,
  parts: Int32Array,
  settings: Pick<Evaluation, "method" | "folds">,
): Steps<EvaluationResult> {
  const entries = Array.from(heldOut.rows, (row, index): Entry => {
    return { index, part: parts[index] as number, targets: new Set(targets.indices[row]) };
  });
  const temperature = yield* fitTemperature(targets, heldOut, indicesOf(entries));
  const temperatures = yield* crossFitTemperatures(targets, heldOut, parts, entries);
  const crossFitTemperature = ({ part }: HeldOutEntry) => temperatures.get(part) ?? 1;
  const thresholds = yield* thresholdsOf(labels.length, heldOut, entries, temperature);
  const crossFitThresholds = new Map<number, readonly number[]>();
  for (const [part, partTemperature] of temperatures) {
    const others = entries.filter((entry) => entry.part !== part);
    crossFitThresholds.set(part, yield* thresholdsOf(labels.length, heldOut, others, partTemperature));
  }
  const calibrated = yield* countPredictions(heldOut, entries, crossFitTemperature, crossFitThresholds);
  const uncalibratedError = yield* calibrationError(heldOut, entries, () => 1);
  const { nonconformity, tops } = yield* finalScores(heldOut, entries, temperature);
  const figures = multiLabelFigures(labels, thresholds, {
    ...calibrated,
    examples: entries.length,
    uncalibratedError,
    logLoss: crossFitLogLoss(targets, heldOut, entries, temperatures),
  });
  return {
    evaluation: { ...settings, detail: "summary", ...figures, held_out_inputs: countInputs(tops) },
    temperature,
    outOfScopeThreshold: null,
    scope: null,
    thresholds,
    conformal: conformalScores(nonconformity),
    confused: [],
  };
}

/** What is counted of predictions of any number of labels, whatever made them. */
export interface MultiLabelPredictions extends PredictionCounts {
  readonly examples: number;
  /** The expected calibration error before calibration. */
  readonly uncalibratedError: number;
  readonly logLoss: number;
}

/** The figures of such predictions. */
export function multiLabelFigures(
  labels: readonly string[],
  thresholds: readonly (number | undefined)[],
  { counts, exactMatches, bins, examples, uncalibratedError, logLoss }: MultiLabelPredictions,
) {
  const perClass = labels.map((label, k) => {
    const threshold = thresholds[k];
    return { ...classMetrics(label, counts[k] as ClassCounts), ...(threshold === undefined ? {} : { threshold }) };
  });
  const sum = (key: keyof ClassCounts) => counts.reduce((total, label) => total + label[key], 0);
  const micro = classMetrics("", { hits: sum("hits"), predicted: sum("predicted"), support: sum("support") });
  const accuracy = examples === 0 ? 0 : exactMatches / examples;
  return {
    examples,
    accuracy,
    accuracy_interval: wilsonInterval(accuracy, examples),
    macro_f1: macroF1(perClass),
    micro_f1: micro.f1 ?? 0,
    log_loss: logLoss,
    ece: bins.error(),
    ece_uncalibrated: uncalibratedError,
    reliability: bins.reliability(),
    per_class: perClass,
  } satisfies Partial<Evaluation>;
}

interface PredictionCounts {
  /** For each label. */
  readonly counts: readonly ClassCounts[];
  /** Examples whose labels are all predicted correctly. */
  readonly exactMatches: number;
  /** Of the probabilities of all labels. */
  readonly bins: Pick<CalibrationBins, "error" | "reliability">;
}

/** The thresholds of all labels that are best for these entries. */
function* thresholdsOf(
  labels: number,
  heldOut: HeldOutLogits,
  entries: readonly Entry[],
  temperature: number,
): Steps<readonly number[]> {
  const fit = fitThresholds(labels);
  const temperatureOf = () => temperature;
  yield* visitProbabilities("multi", heldOut, entries, temperatureOf, (probabilities, { targets }) => {
    for (const [k, probability] of probabilities.entries()) fit.add(k, probability, targets.has(k));
  });
  return fit.thresholds();
}

/** @param thresholds for each part, the threshold of each label */
function* countPredictions(
  heldOut: HeldOutLogits,
  entries: readonly Entry[],
  temperatureOf: (entry: Entry) => number,
  thresholds: ReadonlyMap<number, readonly number[]>,
): Steps<PredictionCounts> {
  const counts = Array.from({ length: heldOut.outputs }, () => ({ hits: 0, predicted: 0, support: 0 }));
  const bins = calibrationBins();
  let exactMatches = 0;
  yield* visitProbabilities("multi", heldOut, entries, temperatureOf, (probabilities, { part, targets }) => {
    const partThresholds = thresholds.get(part);
    let hasError = false;
    for (const [k, count] of counts.entries()) {
      const probability = probabilities[k] as number;
      const isPositive = targets.has(k);
      const isPredicted = probability >= (partThresholds?.[k] ?? DEFAULT_THRESHOLD);
      bins.add(probability, isPositive);
      if (isPositive && isPredicted) count.hits++;
      if (isPredicted) count.predicted++;
      if (isPositive) count.support++;
      if (isPositive !== isPredicted) hasError = true;
    }
    if (!hasError) exactMatches++;
  });
  return { counts, exactMatches, bins };
}

/** The expected calibration error over all labels of all entries. */
function* calibrationError(
  heldOut: HeldOutLogits,
  entries: readonly Entry[],
  temperatureOf: (entry: Entry) => number,
): Steps<number> {
  const bins = calibrationBins();
  yield* visitProbabilities("multi", heldOut, entries, temperatureOf, (probabilities, { targets }) => {
    for (const [k, probability] of probabilities.entries()) bins.add(probability, targets.has(k));
  });
  return bins.error();
}

/** At the head's own temperature: each entry's most probable label, and 1 − the least probability of its labels. */
function* finalScores(
  heldOut: HeldOutLogits,
  entries: readonly Entry[],
  temperature: number,
): Steps<{ readonly nonconformity: readonly number[]; readonly tops: readonly { label: number; top: number }[] }> {
  const nonconformity: number[] = [];
  const tops: { label: number; top: number }[] = [];
  const temperatureOf = () => temperature;
  yield* visitProbabilities("multi", heldOut, entries, temperatureOf, (probabilities, { targets }) => {
    let score = 0;
    for (const k of targets) score = Math.max(score, 1 - (probabilities[k] as number));
    nonconformity.push(score);
    const label = argmax(probabilities);
    tops.push({ label, top: probabilities[label] as number });
  });
  return { nonconformity, tops };
}
