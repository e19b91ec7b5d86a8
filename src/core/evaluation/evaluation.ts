/** What held-out examples say about a head. The keys are those of the HTTP API. */
import type { Automation } from "./automation.ts";
import type { ConfusedExamples, ConfusedPair } from "./confused.ts";
import type { InputCounts } from "./input-counts.ts";
import type { ClassMetrics, ReliabilityBin } from "./metrics.ts";
import type { AccuracyEstimate } from "./power-law.ts";
import type { RegressionIntervals } from "./regression-intervals.ts";
import type { Scope } from "./scope.ts";
import type { ScopeEvaluation } from "./scope-fit.ts";

export interface LearningCurvePoint {
  readonly examples: number;
  readonly accuracy: number;
  /** Wilson's, 95 %. */
  readonly interval: readonly [number, number];
}

export interface MoreExamples {
  readonly label: string;
  readonly examples: number;
}

export interface Evaluation extends RegressionIntervals {
  readonly method: "cross_validation" | "holdout" | "test_set" | "none";
  readonly folds?: number;
  /** Why there are no figures although some were asked for. */
  readonly reason?: string;
  readonly detail: "summary" | "full";
  /** How many examples were held out, without out-of-scope ones. */
  readonly examples: number;
  /** multi_label: the share of examples whose labels are all correct. */
  readonly accuracy?: number;
  /** Wilson's interval, 95 %. */
  readonly accuracy_interval?: readonly [number, number];
  /** Of the folds' models, on the examples that each was trained on. */
  readonly train_accuracy?: number;
  /** `train_accuracy` − `accuracy` */
  readonly generalization_gap?: number;
  /** The accuracy corrected for the examples that the evaluated models lacked, which the head is trained on. */
  readonly accuracy_estimate?: AccuracyEstimate;
  readonly learning_curve?: readonly LearningCurvePoint[];
  /** At two and five times as many examples. */
  readonly expected_accuracy?: { readonly "2x": AccuracyEstimate; readonly "5x": AccuracyEstimate };
  /** Of as many examples more as there are, how many of each label raise the accuracy most: most first. */
  readonly more_examples?: readonly MoreExamples[];
  /** How many of the held-out examples have a label that is more likely wrong than right. */
  readonly issue_count?: number;
  /** The share of examples whose label was given regardless of the input (core/labels/label-noise.ts). */
  readonly label_noise?: number;
  readonly automation?: readonly Automation[];
  readonly macro_f1?: number;
  readonly micro_f1?: number;
  readonly log_loss?: number;
  readonly ece?: number;
  readonly ece_uncalibrated?: number;
  /** The bins of `ece` that are not empty, by rising confidence. */
  readonly reliability?: readonly ReliabilityBin[];
  readonly per_class?: readonly ClassMetrics[];
  readonly confusion?: { readonly labels: readonly string[]; readonly matrix: readonly (readonly number[])[] };
  /** The pairs of labels that are confused most often, with the ids of at most 3 examples each. */
  readonly confused?: readonly ConfusedExamples[];
  readonly out_of_scope?: ScopeEvaluation | null;
  readonly r2?: number;
  readonly mae?: number;
  readonly rmse?: number;
  /** What live inputs are compared with: out-of-scope examples count as well. */
  readonly held_out_inputs?: InputCounts;
}

/** The evaluation of a head, and what it takes over from the held-out examples: its calibration. */
export interface EvaluationResult {
  readonly evaluation: Evaluation;
  readonly temperature: number;
  readonly outOfScopeThreshold: number | null;
  /** How it tells what is in scope; null if it cannot. */
  readonly scope: Scope | null;
  /** Of each label of a multi-label head; empty if none are fitted. */
  readonly thresholds: readonly number[];
  readonly conformal: Float32Array;
  /** For one label an example. The caller knows the examples of the rows. */
  readonly confused: readonly ConfusedPair[];
}

export const noEvaluation: EvaluationResult = {
  evaluation: { method: "none", detail: "summary", examples: 0 },
  temperature: 1,
  outOfScopeThreshold: null,
  scope: null,
  thresholds: [],
  conformal: new Float32Array(0),
  confused: [],
};
