/** Measurements: which samples are taken within a budget, and what they decide. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { chooseSamples, smallestSample } from "../../../src/core/advice/samples.ts";
import { type Advice, type Measurement, settle, toPoint } from "../../../src/core/advice/settle.ts";
import { wilsonInterval } from "../../../src/core/evaluation/metrics.ts";

describe("samples", () => {
  /** A second for each ten examples. */
  const secondsOf = (examples: number) => examples / 10;

  it("are all examples, a half and a quarter, where the budget has room for them", () => {
    expect(chooseSamples(800, 4, 1000, secondsOf)).toEqual([200, 400, 800]);
    expect(chooseSamples(800, 4, 140, secondsOf)).toEqual([200, 400, 800]);
  });

  it("are the largest ones that fit together", () => {
    expect(chooseSamples(800, 4, 139, secondsOf)).toEqual([100, 400, 800]);
    expect(chooseSamples(800, 4, 79, secondsOf)).toEqual([100, 200, 400]);
    expect(chooseSamples(800, 4, 6, secondsOf)).toEqual([50]);
  });

  it("have 50 examples at least, and two a label", () => {
    expect(smallestSample(3)).toBe(50);
    expect(smallestSample(77)).toBe(154);
    expect(chooseSamples(120, 3, 1000, secondsOf)).toEqual([50, 60, 120]);
    expect(chooseSamples(300, 77, 1000, secondsOf)).toEqual([154, 300]);
    expect(chooseSamples(50, 3, 1000, secondsOf)).toEqual([50]);
    expect(chooseSamples(49, 3, 1000, secondsOf)).toEqual([]);
    expect(chooseSamples(800, 4, 4.9, secondsOf)).toEqual([]);
  });

  it("are within the budget, ascending, whatever it is", () => {
    fc.assert(
      fc.property(fc.nat(100_000), fc.nat(200), fc.double({ min: 0, max: 1e5, noNaN: true }), (n, labels, budget) => {
        const sizes = chooseSamples(n, labels, budget, secondsOf);
        expect(sizes.length).toBeLessThanOrEqual(3);
        expect(sizes).toEqual([...new Set(sizes)].toSorted((a, b) => a - b));
        expect(sizes.every((size) => size <= n && size >= smallestSample(labels))).toBe(true);
        const total = sizes.reduce((sum, size) => sum + secondsOf(size), 0);
        expect(total).toBeLessThanOrEqual(budget + 1e-9);
        const isMeasurable = n >= smallestSample(labels) && secondsOf(smallestSample(labels)) <= budget;
        expect(sizes.length > 0).toBe(isMeasurable);
      }),
    );
  });
});

describe("a measurement", () => {
  const measured = (examples: number, onlyHead: number, onlyFineTuned: number): Measurement => ({
    examples,
    trained: examples / 2,
    comparison: {
      test_examples: examples,
      head_accuracy: 0.8,
      fine_tuned_accuracy: 0.8 + (onlyFineTuned - onlyHead) / examples,
      only_head: onlyHead,
      only_fine_tuned: onlyFineTuned,
    },
    operations: 1e9 * examples,
    seconds: examples / 10,
    usd: examples / 1e6,
  });
  const accuracy = { accuracy: 0.7, interval: [0.6, 0.8] } as const;
  const expected: Advice = {
    recommendation: null,
    runner_up: null,
    confidence: 0.5,
    reasons: [{ code: "unknown", message: "These data cannot tell.", evidence: {} }],
    comparison: {
      data_requirements: { head: { learning_curve: [] }, fine_tune: { learning_curve: [] } },
      compute_cost: { head: {}, fine_tune: { measured: null } },
    },
    expected: { head: accuracy, fine_tune: accuracy },
  };

  it("recommends fine-tuning where it is better on the largest sample", () => {
    const settled = settle(expected, [measured(400, 5, 45), measured(200, 20, 5)]);
    expect(settled).toMatchObject({ recommendation: "fine_tune", runner_up: "head" });
    expect(settled.confidence).toBeGreaterThan(0.999);
    expect(settled.reasons.map(({ code }) => code)).toEqual(["measured", "unknown"]);
    expect(settled.reasons[0]?.message).toBe(
      "Measured on a sample of 400 examples, fine-tuning is right on 90.0 % of 400 held-out ones and the head on 80.0 %, so fine-tuning is worth it.",
    );
    expect(settled.reasons[0]?.evidence).toMatchObject({ examples: 400, test_examples: 400, seconds: 40, usd: 4e-4 });
  });

  it("recommends the head where fine-tuning gains nothing, or too little to be sure of", () => {
    const worse = settle(expected, [measured(400, 30, 10)]);
    expect(worse).toMatchObject({ recommendation: "head", runner_up: "fine_tune" });
    expect(worse.confidence).toBeGreaterThan(0.99);
    const unsure = settle(expected, [measured(100, 9, 10)]);
    expect(unsure.recommendation).toBe("head");
    // The gain is more likely than not.
    expect(unsure.confidence).toBeLessThan(0.5);
    expect(unsure.reasons[0]?.message).toMatch(/too small a gain to be sure of/);
    expect(settle(expected, [measured(100, 0, 0)]).confidence).toBeCloseTo(0.5, 10);
  });

  it("puts what was measured in the place of what was expected", () => {
    const settled = settle(expected, [measured(1000, 50, 100), measured(250, 10, 20)]);
    expect(settled.expected).toEqual({
      head: { accuracy: 0.8, interval: wilsonInterval(0.8, 1000) },
      fine_tune: { accuracy: 0.8500000000000001, interval: wilsonInterval(0.8500000000000001, 1000) },
    });
    const { data_requirements, compute_cost } = settled.comparison;
    expect(data_requirements.head.learning_curve.map(({ examples }) => examples)).toEqual([125, 500]);
    expect(data_requirements.fine_tune?.learning_curve).toMatchObject([
      { examples: 125, accuracy: 0.8400000000000001, interval: wilsonInterval(0.8400000000000001, 250) },
      { examples: 500 },
    ]);
    expect(compute_cost.fine_tune?.measured).toEqual({ operations: 1e12, seconds: 100, usd: 1e-3 });
  });

  it("changes nothing where nothing was measured, and no fine-tuning that there is none of", () => {
    expect(settle(expected, [])).toBe(expected);
    const { head } = expected.comparison.data_requirements;
    const frozen: Advice = {
      ...expected,
      comparison: { data_requirements: { head, fine_tune: null }, compute_cost: { head: {}, fine_tune: null } },
    };
    const { data_requirements, compute_cost } = settle(frozen, [measured(400, 30, 10)]).comparison;
    expect([data_requirements.fine_tune, compute_cost.fine_tune]).toEqual([null, null]);
  });

  it("is a point of the recommendation", () => {
    expect(toPoint(measured(400, 5, 45))).toEqual({
      examples: 400,
      head_accuracy: 0.8,
      fine_tuned_accuracy: 0.9,
      expected_gain: expect.closeTo(0.1, 10),
      chance_of_loss: expect.closeTo(0, 6),
      test_examples: 400,
      seconds: 40,
    });
  });
});
