/** What a dataset needs and what both methods would reach and cost, from the figures of a sample. */
import type { AccuracyEstimate } from "../evaluation/power-law.ts";
import {
  type ComparisonInput,
  compareMethods,
  expectFineTuned,
  expectGains,
  expectHeadAccuracy,
  toAccuracy,
} from "./comparison.ts";
import { decide, type Findings } from "./recommend.ts";

/**
 * @param tested what the sample's head does on a test set; null without one
 * @param budget what fine-tuning may take
 */
export function advise(input: ComparisonInput, tested: AccuracyEstimate | null, budget: Findings["budget"]) {
  const { counts, wrongLabels, fineTune } = input;
  const accuracy = expectHeadAccuracy(input, tested);
  const gains = expectGains(input, accuracy);
  const comparison = compareMethods(input, accuracy, gains);
  const decision = decide({
    examples: counts.examples,
    examplesPerClass: input.labels === 0 ? null : counts.examples_per_class,
    accuracy,
    gain: gains?.["1x"] ?? null,
    canFineTune: fineTune !== null,
    wrongLabels,
    cost: comparison.compute_cost.fine_tune,
    budget,
  });
  return {
    ...decision,
    comparison,
    expected: {
      head: accuracy && toAccuracy(accuracy["1x"]),
      fine_tune: accuracy && gains && expectFineTuned(accuracy["1x"], gains["1x"]),
    },
  };
}
