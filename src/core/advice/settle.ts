/** What a measurement of both methods on samples of a data set decides. */

import type { Comparison } from "../evaluation/comparison.ts";
import { compare, isBetter } from "../evaluation/comparison.ts";
import { normalCdf } from "../evaluation/gamma.ts";
import { wilsonInterval } from "../evaluation/metrics.ts";
import type { Reason } from "./recommend.ts";

/** How both methods did on a sample. */
export interface Measurement {
  /** The size of the sample. */
  readonly examples: number;
  /** How many of these a model was trained on. */
  readonly trained: number;
  /** On examples that the models had not been trained on. */
  readonly comparison: Comparison;
  /** Floating-point operations of all trainings. */
  readonly operations: number;
  readonly seconds: number;
  readonly usd: number;
}

export interface MeasuredPoint {
  readonly examples: number;
  readonly head_accuracy: number;
  readonly fine_tuned_accuracy: number;
  readonly expected_gain: number;
  readonly chance_of_loss: number;
  readonly test_examples: number;
  readonly seconds: number;
}

interface CurvePoint {
  readonly examples: number;
  readonly accuracy: number;
  readonly interval?: readonly [number, number] | undefined;
}

interface MeasuredCost {
  readonly operations: number;
  readonly seconds: number;
  readonly usd: number;
}

interface ExpectedAccuracy {
  readonly accuracy: number;
  readonly interval: readonly [number, number];
}

/** What a measurement changes of a recommendation. */
export interface Advice {
  readonly recommendation: string | null;
  readonly runner_up: string | null;
  readonly confidence: number;
  readonly reasons: readonly Reason[];
  readonly comparison: {
    readonly data_requirements: {
      readonly head: { readonly learning_curve: readonly CurvePoint[] };
      readonly fine_tune: { readonly learning_curve: readonly CurvePoint[] } | null;
    };
    readonly compute_cost: {
      readonly head: unknown;
      readonly fine_tune: { readonly measured: MeasuredCost | null } | null;
    };
  };
  readonly expected: { readonly head: ExpectedAccuracy | null; readonly fine_tune: ExpectedAccuracy | null };
}

/** A measurement as a recommendation shows it. */
export function toPoint({ examples, comparison, seconds }: Measurement): MeasuredPoint {
  const { head_accuracy, fine_tuned_accuracy, test_examples } = comparison;
  const { expected_gain, chance_of_loss } = compare(comparison);
  return { examples, head_accuracy, fine_tuned_accuracy, expected_gain, chance_of_loss, test_examples, seconds };
}

/**
 * The recommendation after its measurements, of which there is at least one. The largest sample decides: fine-tuning, if
 * it is better there as `compare` says it (comparison.ts), else the head. Its accuracies take the place of the expected
 * ones, with Wilson's intervals, and those of all samples are the learning curves.
 */
export function settle<T extends Advice>(advice: T, measurements: readonly Measurement[]): T {
  const ascending = measurements.toSorted((a, b) => a.examples - b.examples);
  const last = ascending.at(-1);
  if (last === undefined) return advice;
  const { comparison } = last;
  const decision = compare(comparison);
  const isFineTuned = isBetter(decision);
  const { data_requirements, compute_cost } = advice.comparison;
  const { fine_tune: fineTuneData } = data_requirements;
  const { operations, seconds, usd } = last;
  return {
    ...advice,
    recommendation: isFineTuned ? "fine_tune" : "head",
    runner_up: isFineTuned ? "head" : "fine_tune",
    confidence: isFineTuned ? chanceOfGain(comparison) : 1 - chanceOfGain(comparison),
    reasons: [describe(last, decision, isFineTuned), ...advice.reasons],
    comparison: {
      ...advice.comparison,
      data_requirements: {
        ...data_requirements,
        head: { ...data_requirements.head, learning_curve: ascending.map(curvePoint("head_accuracy")) },
        fine_tune: fineTuneData && {
          ...fineTuneData,
          learning_curve: ascending.map(curvePoint("fine_tuned_accuracy")),
        },
      },
      compute_cost: {
        ...compute_cost,
        fine_tune: compute_cost.fine_tune && { ...compute_cost.fine_tune, measured: { operations, seconds, usd } },
      },
    },
    expected: { ...advice.expected, ...measuredAccuracies(comparison) },
  };
}

type Accuracy = "head_accuracy" | "fine_tuned_accuracy";

function withInterval(comparison: Comparison, which: Accuracy) {
  const accuracy = comparison[which];
  return { accuracy, interval: wilsonInterval(accuracy, comparison.test_examples) };
}

function measuredAccuracies(comparison: Comparison) {
  return {
    head: withInterval(comparison, "head_accuracy"),
    fine_tune: withInterval(comparison, "fine_tuned_accuracy"),
  };
}

function curvePoint(which: Accuracy) {
  return ({ trained, comparison }: Measurement): CurvePoint => ({
    examples: trained,
    ...withInterval(comparison, which),
  });
}

/**
 * The probability that the fine-tuned model's true accuracy is the higher one, by the normal approximation. With a
 * uniform prior of the shares of examples that only one of two models gets right (Dirichlet(1, 1, 1), as in `compare`),
 * the difference d of these has, after n examples with a for the one and b for the other,
 *
 *   E d = (b − a) / (n + 3)    Var d = ((a + b + 2) / (n + 3) − (E d)²) / (n + 4)
 */
function chanceOfGain({ only_head, only_fine_tuned, test_examples }: Comparison): number {
  const total = test_examples + 3;
  const gain = (only_fine_tuned - only_head) / total;
  const variance = ((only_head + only_fine_tuned + 2) / total - gain * gain) / (total + 1);
  return normalCdf(gain / Math.sqrt(variance));
}

function describe(
  { examples, comparison, seconds, usd }: Measurement,
  { expected_gain, chance_of_loss }: Pick<MeasuredPoint, "expected_gain" | "chance_of_loss">,
  isFineTuned: boolean,
): Reason {
  const { head_accuracy, fine_tuned_accuracy, test_examples } = comparison;
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  const outcome = isFineTuned
    ? "so fine-tuning is worth it"
    : expected_gain > 0
      ? `too small a gain to be sure of (chance of a loss ${percent(chance_of_loss)})`
      : "so fine-tuning gains nothing";
  return {
    code: "measured",
    message: `Measured on a sample of ${examples} examples, fine-tuning is right on ${percent(fine_tuned_accuracy)} of ${test_examples} held-out ones and the head on ${percent(head_accuracy)}, ${outcome}.`,
    evidence: {
      examples,
      test_examples,
      head_accuracy,
      fine_tuned_accuracy,
      expected_gain,
      chance_of_loss,
      seconds,
      usd,
    },
  };
}
