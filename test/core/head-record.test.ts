import { expect, it } from "vitest";
import { head } from "../../src/api/heads.ts";

/** The record of a version that was trained before evaluations had estimates and trainings their cost. */
const stored = {
  object: "head",
  id: "support",
  version: 3,
  active_version: 3,
  task: "single_label",
  modality: "text",
  labels: ["a", "b"],
  dimensions: 256,
  backbone: { id: "text-static-1", revision: "1" },
  dataset: { name: "tickets", revision: 4, examples: 9 },
  training: {
    method: "head",
    examples: 9,
    iterations: 12,
    converged: true,
    objective: 1.5,
    l2: 1,
    temperature: 1.1,
    milliseconds: 80,
  },
  evaluation: {
    method: "cross_validation",
    folds: 4,
    detail: "summary",
    examples: 8,
    accuracy: 0.75,
    accuracy_interval: [0.4, 0.93],
    macro_f1: 0.7,
    log_loss: 0.5,
    ece: 0.1,
    ece_uncalibrated: 0.2,
    per_class: [
      { label: "a", precision: 0.75, recall: 0.75, f1: 0.75, support: 8 },
      { label: "b", precision: 0, recall: 0, f1: 0, support: 0 },
    ],
    confusion: {
      labels: ["a", "b"],
      matrix: [
        [6, 2],
        [0, 0],
      ],
    },
    out_of_scope: null,
  },
  sha256: "0".repeat(64),
  bytes: 2_000,
  created_at: 1_790_000_000,
};

it("reads a version that was stored before its newest figures", () => {
  expect(head.parse(stored)).toEqual(stored);
});
