/** A recommendation as the ledger stores it, of figures that are made up. */
import type { NewRecommendationRecord } from "../../src/tenant/data/recommendations.ts";

const accuracy = { accuracy: 0.7, interval: [0.6, 0.8] as [number, number] };
const gain = { gain: 0.02, interval: [-0.01, 0.05] as [number, number] };
const scope = { trained_parameters: 1_000, total_parameters: 10_000, share: 0.1 };
const cost = {
  operations: 1e9,
  seconds: 1,
  bytes: 1e6,
  usd: 1e-5,
  measured: null,
  predictions_1000: { operations: 1e6, usd: 1e-6 },
};
const fit = { train_accuracy: 0.9, held_out_accuracy: 0.7, gap: 0.2, parameters_per_example: 10 };

export function makeRecommendation(
  id: string,
  dataset: NewRecommendationRecord["dataset"],
): NewRecommendationRecord & { readonly status: "complete" } {
  return {
    id,
    status: "complete",
    dataset,
    backbone: { id: "text-static-1", revision: "1" },
    recommendation: null,
    runner_up: null,
    confidence: 0.5,
    reasons: [{ code: "unknown", message: "These data cannot tell.", evidence: {} }],
    comparison: {
      training_scope: { head: scope, fine_tune: scope },
      data_requirements: {
        head: {
          learning_curve: [],
          expected_accuracy: { "1x": accuracy, "2x": accuracy, "5x": accuracy },
          examples_per_class: { min: 1, median: 2, max: 3 },
          imbalance: 3,
          duplicates: 0,
          conflicts: 0,
          wrong_labels: null,
          more_examples: [],
        },
        fine_tune: { learning_curve: [], expected_gain: { "1x": gain, "2x": gain, "5x": gain } },
      },
      compute_cost: { head: cost, fine_tune: cost },
      adaptability: { head: { all: gain }, fine_tune: { last_layers: gain, all: gain } },
      overfitting_risk: { head: fit, fine_tune: fit },
    },
    task_similarity: {
      examples: 60,
      logme: 0.1,
      knn_accuracy: 0.7,
      linear_separability: 0.9,
      class_overlap: 0.2,
      unknown_words: 0,
      subwords_per_word: null,
    },
    expected: { head: accuracy, fine_tune: accuracy },
  };
}
