import type { Targets } from "../linear/targets.ts";
import type { Steps } from "../steps.ts";
import { automationOf } from "./automation.ts";
import { conformalScores, fitTemperature, type HeldOutLogits } from "./calibration.ts";
import { confusedPairs } from "./confused.ts";
import {
  crossFitLogLoss,
  crossFitTemperatures,
  type HeldOutEntry,
  indicesOf,
  visitProbabilities,
} from "./cross-fit.ts";
import type { Evaluation, EvaluationResult } from "./evaluation.ts";
import { binScores, countPredictions } from "./input-counts.ts";
import {
  binConfidences,
  confusionMatrix,
  expectedCalibrationError,
  macroF1,
  mean,
  perClassMetrics,
  wilsonInterval,
} from "./metrics.ts";
import { argmax } from "./probability.ts";
import { DEFAULT_IN_SCOPE_RECALL, fitScope, type ScopeOptions } from "./scope-fit.ts";

/**
 * With more labels the confusion matrix is left out: its size is their square, and a row of the ledger has at most 2
 * MB.
 */
const MAX_CONFUSION_LABELS = 300;

interface Entry extends HeldOutEntry {
  /** The index of the label, or −1 for an out-of-scope example. */
  readonly target: number;
}

interface Prediction {
  /** The most probable label, and its probability. */
  readonly label: number;
  readonly top: number;
  readonly isCorrect: boolean;
}

export function* evaluateSingleLabel(
  labels: readonly string[],
  targets: Extract<Targets, { kind: "single" }>,
  heldOut: HeldOutLogits,
  parts: Int32Array,
  settings: Pick<Evaluation, "method" | "folds">,
  { distances = null, recall = DEFAULT_IN_SCOPE_RECALL }: ScopeOptions,
): Steps<EvaluationResult> {
  const entries = Array.from(heldOut.rows, (row, index): Entry => {
    return { index, part: parts[index] as number, target: targets.indices[row] as number };
  });
  const inScope = entries.filter(({ target }) => target >= 0);
  const outOfScope = entries.filter(({ target }) => target < 0);
  const temperature = yield* fitTemperature(targets, heldOut, indicesOf(inScope));
  const temperatures = yield* crossFitTemperatures(targets, heldOut, parts, inScope);
  const crossFitTemperature = ({ part }: HeldOutEntry) => temperatures.get(part) ?? 1;
  const predictions = yield* predictEntries(heldOut, inScope, crossFitTemperature);
  const uncalibrated = yield* predictEntries(heldOut, inScope, () => 1);
  const final = yield* finalScores(heldOut, inScope, temperature);
  const finalOutOfScope = yield* predictEntries(heldOut, outOfScope, () => temperature);
  const scope = yield* fitScope(heldOut, entries, { distances: distances?.heldOut ?? null, recall });
  const figures = singleLabelFigures(labels, {
    truth: inScope.map(({ target }) => target),
    predicted: predictions.map(({ label }) => label),
    tops: topsOf(predictions),
    servedTops: final.tops,
    uncalibratedTops: topsOf(uncalibrated),
    logLoss: crossFitLogLoss(targets, heldOut, inScope, temperatures),
  });
  return {
    evaluation: {
      ...settings,
      detail: "summary",
      ...figures,
      out_of_scope: scope?.evaluation ?? null,
      held_out_inputs: {
        ...countPredictions([
          ...predictions.map(({ label }, i) => ({ label, top: final.tops[i] as number })),
          ...finalOutOfScope,
        ]),
        ...(scope === null ? {} : { scope: binScores(scope.pValues) }),
      },
    },
    temperature,
    outOfScopeThreshold: scope?.evaluation.threshold ?? null,
    scope: scope && { ...scope.model, centroids: distances?.centroids ?? null },
    thresholds: [],
    conformal: conformalScores(final.nonconformity),
    confused: confusedPairs(
      labels,
      predictions.map(({ label, top }, i) => {
        const { index, target } = inScope[i] as Entry;
        return { row: heldOut.rows[index] as number, target, label, top };
      }),
    ),
  };
}

/** Predictions of in-scope examples, whatever made them. */
export interface SingleLabelPredictions {
  /** The index of each example's label. */
  readonly truth: readonly number[];
  /** The index of the most probable label. */
  readonly predicted: readonly number[];
  /** The probability of that label, and that before calibration. */
  readonly tops: readonly number[];
  readonly uncalibratedTops: readonly number[];
  /** That at the head's own temperature, if `tops` are at others. */
  readonly servedTops?: readonly number[];
  readonly logLoss: number;
}

/** The figures of such predictions. */
export function singleLabelFigures(
  labels: readonly string[],
  { truth, predicted, tops, uncalibratedTops, servedTops = tops, logLoss }: SingleLabelPredictions,
) {
  const isCorrect = truth.map((label, i) => label === predicted[i]);
  const bins = binConfidences(tops, isCorrect);
  const accuracy = mean(isCorrect.map(Number));
  const perClass = perClassMetrics(labels, truth, predicted);
  return {
    examples: truth.length,
    accuracy,
    accuracy_interval: wilsonInterval(accuracy, truth.length),
    automation: automationOf(isCorrect.map((correct, i) => ({ top: servedTops[i] as number, isCorrect: correct }))),
    macro_f1: macroF1(perClass),
    log_loss: logLoss,
    ece: bins.error(),
    ece_uncalibrated: expectedCalibrationError(uncalibratedTops, isCorrect),
    reliability: bins.reliability(),
    per_class: perClass,
    ...(labels.length > MAX_CONFUSION_LABELS
      ? {}
      : { confusion: { labels, matrix: confusionMatrix(truth, predicted, labels.length) } }),
  } satisfies Partial<Evaluation>;
}

function* predictEntries(
  heldOut: HeldOutLogits,
  entries: readonly Entry[],
  temperatureOf: (entry: Entry) => number,
): Steps<Prediction[]> {
  const predictions: Prediction[] = [];
  yield* visitProbabilities("single", heldOut, entries, temperatureOf, (probabilities, { target }) => {
    const label = argmax(probabilities);
    predictions.push({ label, top: probabilities[label] as number, isCorrect: label === target });
  });
  return predictions;
}

/** At the head's own temperature: each entry's top probability, and 1 − the probability of its label. */
function* finalScores(
  heldOut: HeldOutLogits,
  entries: readonly Entry[],
  temperature: number,
): Steps<{ readonly tops: readonly number[]; readonly nonconformity: readonly number[] }> {
  const tops: number[] = [];
  const nonconformity: number[] = [];
  const temperatureOf = () => temperature;
  yield* visitProbabilities("single", heldOut, entries, temperatureOf, (probabilities, { target }) => {
    nonconformity.push(1 - (probabilities[target] as number));
    tops.push(probabilities[argmax(probabilities)] as number);
  });
  return { tops, nonconformity };
}

function topsOf(predictions: readonly Prediction[]): number[] {
  return predictions.map(({ top }) => top);
}
