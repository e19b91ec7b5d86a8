/**
 * Decides what a dataset needs, from what was measured of it. Each threshold is derived by `npm run bench -- advice`
 * (docs/which-method.md).
 */

import { normalCdf } from "../evaluation/gamma.ts";
import type { AccuracyEstimate } from "../evaluation/power-law.ts";
import type { ExpectedGain } from "./gain.ts";

export type Recommended = "head" | "fine_tune" | "collect_more_data" | "fix_labels";

export interface Reason {
  readonly code: string;
  readonly message: string;
  readonly evidence: Readonly<Record<string, number | string | null>>;
}

/** What the decision rests on. */
export interface Findings {
  readonly examples: number;
  /** Null for values. */
  readonly examplesPerClass: { readonly median: number } | null;
  /** Of a head with 1, 2 and 5 times the examples; null if no example could be held out. */
  readonly accuracy: { readonly "1x": AccuracyEstimate; readonly "2x": AccuracyEstimate } | null;
  /** Of fine-tuning over the head: null if the backbone has no layers to train, or nothing is known of its gains. */
  readonly gain: ExpectedGain | null;
  readonly canFineTune: boolean;
  /** The estimated share of wrong labels; null if it is not known. */
  readonly wrongLabels: number | null;
  readonly cost: { readonly seconds: number; readonly usd: number } | null;
  readonly budget: { readonly seconds?: number | undefined; readonly usd?: number | undefined };
}

export interface Decision {
  readonly recommendation: Recommended | null;
  readonly runner_up: Recommended | null;
  /** The probability that no other would do better. */
  readonly confidence: number;
  readonly reasons: readonly Reason[];
}

/** Fine-tuning is worth its cost from this gain on. */
export const MIN_GAIN = 0.001;
/** More data are worth collecting if twice as many raise the accuracy by this. */
export const MIN_DATA_GAIN = 0.02;
/** Labels are worth checking from this estimated share of wrong ones. */
export const MIN_WRONG_LABELS = 0.02;
/** With fewer examples of the median class nothing of their accuracy can be said. */
export const MIN_EXAMPLES_PER_CLASS = 5;

export function decide(findings: Findings): Decision {
  const { accuracy, wrongLabels, examples, examplesPerClass } = findings;
  // Values have no accuracy, whose growth would count.
  if (examplesPerClass === null) return chooseMethod(findings);
  const { median } = examplesPerClass;
  if (accuracy === null || median < MIN_EXAMPLES_PER_CLASS) return tooFewExamples(median);
  const method = chooseMethod(findings);
  const growth = accuracy["2x"].value - accuracy["1x"].value;
  const first =
    wrongLabels !== null && wrongLabels >= MIN_WRONG_LABELS
      ? { recommendation: "fix_labels" as const, reason: wrongLabelsReason(wrongLabels, examples) }
      : growth >= MIN_DATA_GAIN
        ? { recommendation: "collect_more_data" as const, reason: moreDataReason(accuracy, growth) }
        : null;
  if (first === null) return method;
  const { recommendation, reason } = first;
  return { ...method, recommendation, runner_up: method.recommendation, reasons: [reason, ...method.reasons] };
}

function tooFewExamples(median: number): Decision {
  return {
    recommendation: null,
    runner_up: "collect_more_data",
    confidence: 0,
    reasons: [
      {
        code: "too_few_examples",
        message: `The median label has ${median} examples: too few to hold some out and tell anything from them. Label at least ${MIN_EXAMPLES_PER_CLASS} of each label, or ask with 'measure'.`,
        evidence: { median_examples_per_label: median, needed: MIN_EXAMPLES_PER_CLASS },
      },
    ],
  };
}

/** Decides between the head and fine-tuning. */
function chooseMethod(findings: Findings): Decision {
  const { gain, canFineTune, cost, budget, examples, accuracy, examplesPerClass } = findings;
  if (!canFineTune)
    return {
      recommendation: "head",
      runner_up: "collect_more_data",
      confidence: 1,
      reasons: [
        {
          code: "no_layers",
          message:
            "The embeddings come from a backbone whose layers cannot be trained here, so a head is the one method.",
          evidence: {},
        },
      ],
    };
  if (gain === null)
    return {
      recommendation: null,
      runner_up: "head",
      confidence: 0,
      reasons: [
        {
          code: "not_measured",
          message: `What fine-tuning adds has been measured for one label an example, on the backbones in the box alone. ${
            examplesPerClass === null
              ? "Train both ways, and compare them on a test set."
              : "Ask with 'measure' to have it measured on these data."
          }`,
          evidence: { examples },
        },
      ],
    };
  const chance = 1 - normalCdf((MIN_GAIN - gain.value) / gain.deviation);
  const evidence = {
    expected_gain: gain.value,
    deviation: gain.deviation,
    examples,
    head_accuracy: accuracy?.["1x"].value ?? null,
  };
  const points = toPoints(gain.value);
  if (gain.value < MIN_GAIN)
    return {
      recommendation: "head",
      runner_up: "fine_tune",
      confidence: 1 - chance,
      reasons: [
        {
          code: "no_gain_expected",
          message: `With ${examples} examples and such an accuracy of the head, fine-tuning is expected to change it by ${points} points, which is not worth its cost.`,
          evidence,
        },
      ],
    };
  const overBudget = findOverBudget(cost, budget);
  if (overBudget !== null)
    return { recommendation: "head", runner_up: "fine_tune", confidence: 1 - chance, reasons: [overBudget] };
  return {
    recommendation: "fine_tune",
    runner_up: "head",
    confidence: chance,
    reasons: [
      {
        code: "gain_expected",
        message: `With ${examples} examples and such an accuracy of the head, fine-tuning is expected to add ${points} points. The job promotes its result only if it is better.`,
        evidence,
      },
    ],
  };
}

function findOverBudget(cost: Findings["cost"], budget: Findings["budget"]): Reason | null {
  if (cost === null) return null;
  const { seconds = Number.POSITIVE_INFINITY, usd = Number.POSITIVE_INFINITY } = budget;
  if (cost.seconds <= seconds && cost.usd <= usd) return null;
  return {
    code: "over_budget",
    message: `Fine-tuning is expected to pay, but takes about ${Math.round(cost.seconds)} seconds and ${cost.usd.toPrecision(2)} USD, which is beyond the budget.`,
    evidence: { seconds: cost.seconds, usd: cost.usd },
  };
}

function wrongLabelsReason(share: number, examples: number): Reason {
  return {
    code: "wrong_labels",
    message: `About ${Math.round(share * examples)} of the ${examples} labels look wrong. GET /v1/datasets/{name}/issues lists them, the likeliest first.`,
    evidence: { wrong_labels: share, threshold: MIN_WRONG_LABELS },
  };
}

function moreDataReason(accuracy: NonNullable<Findings["accuracy"]>, growth: number): Reason {
  return {
    code: "accuracy_still_rises",
    message: `Twice as many examples are expected to add ${toPoints(growth)} points: the learning curve has not flattened.`,
    evidence: { accuracy: accuracy["1x"].value, accuracy_2x: accuracy["2x"].value, threshold: MIN_DATA_GAIN },
  };
}

function toPoints(gain: number): string {
  return (100 * gain).toFixed(1);
}
