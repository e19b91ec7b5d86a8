/** What is recommended, by what was found. */
import { describe, expect, it } from "vitest";
import { decide, type Findings } from "../../../src/core/advice/recommend.ts";

const estimate = (value: number) => ({ value, interval: [value - 0.05, value + 0.05] as const });
const findings: Findings = {
  examples: 500,
  examplesPerClass: { median: 50 },
  accuracy: { "1x": estimate(0.8), "2x": estimate(0.81) },
  gain: { value: 0.02, deviation: 0.01 },
  canFineTune: true,
  wrongLabels: 0,
  cost: { seconds: 100, usd: 0.01 },
  budget: {},
};

function decisionOf(changes: Partial<Findings>) {
  const { recommendation, runner_up, reasons } = decide({ ...findings, ...changes });
  return [recommendation, runner_up, ...reasons.map(({ code }) => code)];
}

const noGain = { value: 0, deviation: 0.01 };
const growing = { "1x": estimate(0.8), "2x": estimate(0.83) };

describe("a recommendation", () => {
  it.each<[string, Partial<Findings>, (string | null)[]]>([
    ["a gain", {}, ["fine_tune", "head", "gain_expected"]],
    ["no gain", { gain: noGain }, ["head", "fine_tune", "no_gain_expected"]],
    ["a gain beyond the seconds", { budget: { seconds: 99 } }, ["head", "fine_tune", "over_budget"]],
    ["a gain beyond the price", { budget: { usd: 0.009 } }, ["head", "fine_tune", "over_budget"]],
    ["a gain within the budget", { budget: { seconds: 100, usd: 0.01 } }, ["fine_tune", "head", "gain_expected"]],
    [
      "accuracy that rises",
      { accuracy: growing },
      ["collect_more_data", "fine_tune", "accuracy_still_rises", "gain_expected"],
    ],
    [
      "wrong labels, before all else",
      { wrongLabels: 0.02, accuracy: growing, gain: noGain },
      ["fix_labels", "head", "wrong_labels", "no_gain_expected"],
    ],
    ["no layers", { canFineTune: false, gain: null }, ["head", "collect_more_data", "no_layers"]],
    ["no known gain", { gain: null }, [null, "head", "not_measured"]],
    ["few examples", { examplesPerClass: { median: 4.5 } }, [null, "collect_more_data", "too_few_examples"]],
    ["nothing held out", { accuracy: null }, [null, "collect_more_data", "too_few_examples"]],
    ["values", { examplesPerClass: null, accuracy: null, gain: null }, [null, "head", "not_measured"]],
    [
      "values without layers",
      { examplesPerClass: null, accuracy: null, gain: null, canFineTune: false },
      ["head", "collect_more_data", "no_layers"],
    ],
  ])("of %s", (_, changes, expected) => {
    expect(decisionOf(changes)).toEqual(expected);
  });

  it("is as confident as the gain is far from what is worth its cost", () => {
    const confidenceOf = (value: number) => decide({ ...findings, gain: { value, deviation: 0.01 } }).confidence;
    expect(confidenceOf(0.001)).toBeCloseTo(0.5, 12);
    expect(confidenceOf(0.011)).toBeCloseTo(0.8413, 4);
    expect(confidenceOf(-0.009)).toBeCloseTo(0.8413, 4);
  });
});
