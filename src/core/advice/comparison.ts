/** The five ways in which training a head and fine-tuning differ, with the figures of both. The keys are those of the API. */
import type { Evaluation } from "../evaluation/evaluation.ts";
import type { AccuracyEstimate } from "../evaluation/power-law.ts";
import type { Cost } from "../linear/types.ts";
import { OPERATIONS_PER_SECOND, type Prices, trainingPrice } from "../prices.ts";
import { estimateAt } from "./accuracy-curve.ts";
import type { DatasetCounts } from "./counts.ts";
import { type ExpectedGain, expectGain, expectGap } from "./gain.ts";

/** What a method trains and costs on a dataset. */
export interface MethodShape {
  readonly trainedParameters: number;
  readonly totalParameters: number;
  readonly cost: Cost;
  /** Floating-point operations of a prediction, embedding included. */
  readonly predictionOperations: number;
}

export interface ComparisonInput {
  readonly counts: DatasetCounts;
  readonly labels: number;
  /** How many examples the evaluated head was trained on. */
  readonly sample: number;
  readonly evaluation: Evaluation;
  readonly wrongLabels: number | null;
  /** The id of the backbone by which gains are known. */
  readonly backbone: string;
  readonly head: MethodShape;
  /** Null where there are no layers to train. */
  readonly fineTune: MethodShape | null;
  /** Whether gains are known for such a task. */
  readonly hasGains: boolean;
  readonly prices: Prices;
}

export type Multiple = "1x" | "2x" | "5x";
const multiples = { "1x": 1, "2x": 2, "5x": 5 } as const;

function eachMultiple<T>(of: (factor: number) => T): Record<Multiple, T> {
  return { "1x": of(multiples["1x"]), "2x": of(multiples["2x"]), "5x": of(multiples["5x"]) };
}

/**
 * The accuracy expected of a head with 1, 2 and 5 times the dataset's examples; null if nothing was held out. `tested` is
 * what the sample's head does on a test set, in place of the examples held out.
 */
export function expectHeadAccuracy(
  { counts, sample, evaluation }: Pick<ComparisonInput, "counts" | "sample" | "evaluation">,
  tested: AccuracyEstimate | null,
): Record<Multiple, AccuracyEstimate> | null {
  const { accuracy_estimate, expected_accuracy } = evaluation;
  if (accuracy_estimate === undefined || expected_accuracy === undefined) return null;
  const estimates = { "1x": accuracy_estimate, ...expected_accuracy };
  const atMultiple = (factor: number) => estimateAt(estimates, (factor * counts.examples) / sample);
  if (tested === null) return eachMultiple(atMultiple);
  // The test set says where the curve lies, and the examples held out how it goes on.
  return eachMultiple((factor) => {
    const growth = atMultiple(factor).value - accuracy_estimate.value;
    const move = (accuracy: number) => Math.min(1, Math.max(0, accuracy + growth));
    const [low, high] = tested.interval;
    return { value: move(tested.value), interval: [move(low), move(high)] };
  });
}

/** What fine-tuning is expected to add with 1, 2 and 5 times the examples; null if it is not known. */
export function expectGains(
  input: ComparisonInput,
  accuracy: Record<Multiple, AccuracyEstimate> | null,
): Record<Multiple, ExpectedGain> | null {
  if (accuracy === null || !input.hasGains || input.fineTune === null) return null;
  const gainAt = (multiple: Multiple) =>
    expectGain(input.backbone, "all", {
      examples: multiples[multiple] * input.counts.examples,
      labels: input.labels,
      headAccuracy: accuracy[multiple].value,
    });
  const [one, two, five] = [gainAt("1x"), gainAt("2x"), gainAt("5x")];
  return one === null || two === null || five === null ? null : { "1x": one, "2x": two, "5x": five };
}

export function toGain({ value, deviation }: ExpectedGain) {
  return { gain: value, interval: [value - 1.96 * deviation, value + 1.96 * deviation] as [number, number] };
}

export function toAccuracy({ value, interval: [low, high] }: AccuracyEstimate) {
  return { accuracy: value, interval: [low, high] as [number, number] };
}

/** The accuracy expected of fine-tuning: the head's and the gain, whose errors are independent. */
export function expectFineTuned({ value, interval: [low, high] }: AccuracyEstimate, gain: ExpectedGain) {
  const extra = 1.96 * gain.deviation;
  const clamp = (accuracy: number) => Math.min(1, Math.max(0, accuracy));
  const centre = value + gain.value;
  const interval = [centre - Math.hypot(value - low, extra), centre + Math.hypot(high - value, extra)] as const;
  return { accuracy: clamp(centre), interval: interval.map(clamp) as [number, number] };
}

const noGain = { gain: 0, interval: [0, 0] as [number, number] };

/** The comparison, from what is expected of both methods. */
export function compareMethods(
  input: ComparisonInput,
  accuracy: Record<Multiple, AccuracyEstimate> | null,
  gains: Record<Multiple, ExpectedGain> | null,
) {
  const { counts, evaluation, head, fineTune, wrongLabels, prices } = input;
  const { learning_curve = [], train_accuracy = null, more_examples = [] } = evaluation;
  const heldOut = evaluation.accuracy ?? null;
  const task = accuracy && { examples: counts.examples, labels: input.labels, headAccuracy: accuracy["1x"].value };
  const lastLayers = gains && task && expectGain(input.backbone, "last_layers", task);
  const gain = gains?.["1x"].value ?? null;
  const extraGap = gains && task && expectGap(input.backbone, task);
  const { imbalance, duplicates, conflicts, examples_per_class } = counts;
  return {
    training_scope: { head: scopeOf(head), fine_tune: fineTune && scopeOf(fineTune) },
    data_requirements: {
      head: {
        learning_curve: learning_curve.map(({ examples, accuracy: at, interval: [low, high] }) => ({
          examples,
          accuracy: at,
          interval: [low, high] as [number, number],
        })),
        expected_accuracy: accuracy && eachMultiple((factor) => toAccuracy(accuracy[keyOf(factor)])),
        examples_per_class,
        imbalance,
        duplicates,
        conflicts,
        wrong_labels: wrongLabels,
        more_examples: [...more_examples],
      },
      fine_tune: fineTune && {
        learning_curve: [],
        expected_gain: gains && eachMultiple((factor) => toGain(gains[keyOf(factor)])),
      },
    },
    compute_cost: { head: costOf(head, "edge", prices), fine_tune: fineTune && costOf(fineTune, "batch", prices) },
    adaptability: {
      head: { all: noGain },
      fine_tune: fineTune && {
        last_layers: lastLayers && toGain(lastLayers),
        all: gains && toGain(gains["1x"]),
      },
    },
    overfitting_risk: {
      head: overfittingOf(head, counts.examples, train_accuracy, heldOut),
      fine_tune:
        fineTune &&
        overfittingOf(
          fineTune,
          counts.examples,
          // More than all is not possible.
          addTo(train_accuracy, addTo(extraGap, gain), 1),
          addTo(heldOut, gain, 1),
        ),
    },
  };
}

const keyOf = (factor: number) => `${factor}x` as Multiple;

function scopeOf({ trainedParameters, totalParameters }: MethodShape) {
  return {
    trained_parameters: trainedParameters,
    total_parameters: totalParameters,
    share: trainedParameters / totalParameters,
  };
}

function costOf({ cost, predictionOperations }: MethodShape, place: "edge" | "batch", prices: Prices) {
  const operations = Math.round(1_000 * predictionOperations);
  return {
    operations: Math.round(cost.operations),
    seconds: cost.operations / OPERATIONS_PER_SECOND,
    bytes: Math.round(cost.bytes),
    usd: trainingPrice(place, cost.operations, prices),
    measured: null,
    predictions_1000: { operations, usd: trainingPrice("edge", operations, prices) },
  };
}

function overfittingOf(
  { trainedParameters }: MethodShape,
  examples: number,
  trainAccuracy: number | null,
  heldOutAccuracy: number | null,
) {
  const gap = trainAccuracy === null || heldOutAccuracy === null ? null : trainAccuracy - heldOutAccuracy;
  return {
    train_accuracy: trainAccuracy,
    held_out_accuracy: heldOutAccuracy,
    gap,
    parameters_per_example: trainedParameters / Math.max(1, examples),
  };
}

function addTo(value: number | null, change: number | null, limit = Number.POSITIVE_INFINITY): number | null {
  return value === null || change === null ? null : Math.min(limit, value + change);
}
