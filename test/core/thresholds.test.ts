import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { clampHeldOut } from "../../src/core/evaluation/evaluate-held-out.ts";
import { fitThresholds } from "../../src/core/evaluation/thresholds.ts";
import { predict, predictionInterval } from "../../src/core/head.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { type TrainingData, trainOn, unwrapTrained } from "../contract/training-data.ts";

const wasm = await nodeTensorBackend();
type Scored = readonly (readonly [probability: number, isPositive: boolean])[];

/** F1 of a label that is predicted from a threshold on, by its definition. */
function f1(scored: Scored, threshold: number): number {
  const predicted = scored.filter(([probability]) => probability >= threshold);
  const hits = predicted.filter(([, isPositive]) => isPositive).length;
  const support = scored.filter(([, isPositive]) => isPositive).length;
  return (2 * hits) / (predicted.length + support);
}

function thresholdOf(scored: Scored): number {
  const fit = fitThresholds(2);
  for (const [probability, isPositive] of scored) {
    fit.add(0, 1 - probability, !isPositive);
    fit.add(1, probability, isPositive);
  }
  return fit.thresholds()[1] as number;
}

describe("the threshold of a label", () => {
  const steps = Array.from({ length: 99 }, (_, i) => (i + 1) / 100);
  // Half of the probabilities are thresholds themselves.
  const probability = fc.oneof(fc.double({ min: 0, max: 1, noNaN: true }), fc.constantFrom(0, ...steps, 1));

  it("has the largest F1 of all steps, and of equal ones is the nearest to one half", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(probability, fc.boolean()), { minLength: 25, maxLength: 80 }), (scored) => {
        fc.pre(scored.filter(([, isPositive]) => isPositive).length >= 10);
        const threshold = thresholdOf(scored);
        const largest = Math.max(...steps.map((step) => f1(scored, step)));
        expect(f1(scored, threshold)).toBe(largest);
        const best = steps.filter((step) => f1(scored, step) === largest);
        expect(Math.abs(threshold - 0.5)).toBe(Math.min(...best.map((step) => Math.abs(step - 0.5))));
      }),
    );
  });

  it("stays one half with fewer than ten examples of the label", () => {
    const scored = (count: number): Scored => [
      ...Array.from({ length: count }, () => [0.2, true] as const),
      ...Array.from({ length: 30 }, () => [0.1, false] as const),
    ];
    expect(thresholdOf(scored(9))).toBe(0.5);
    expect(thresholdOf(scored(10))).toBe(0.2);
  });
});

/** Labels of which the second is rare and never sure. */
function makeRareLabel(): TrainingData {
  const rows = 200;
  const features = Float32Array.from({ length: rows * 2 }, (_, i) => {
    const row = Math.floor(i / 2);
    return i % 2 === 0 ? Math.sin(row) : row % 8 === 0 ? 0.3 + Math.cos(row) : Math.cos(3 * row) - 0.3;
  });
  const indices = Array.from({ length: rows }, (_, row) => [
    ...(Math.sin(row) > 0 ? [0] : []),
    ...(row % 8 === 0 ? [1] : []),
  ]);
  return {
    dimensions: 2,
    labels: ["often", "rare"],
    features,
    targets: { kind: "multi", indices },
    groups: Int32Array.from({ length: rows }, (_, row) => row),
  };
}

describe("a trained head", () => {
  it("has the threshold of each label, at which the evaluation is", () => {
    const data = makeRareLabel();
    const { head, evaluation } = unwrapTrained(trainOn(wasm, data));
    expect(evaluation.per_class?.map(({ threshold }) => threshold)).toEqual(head.thresholds);
    const scored = Array.from({ length: 200 }, (_, row): Scored[number] => {
      const probability = predict(head, data.features.subarray(2 * row, 2 * row + 2))[1] as number;
      return [probability, row % 8 === 0];
    });
    expect(f1(scored, head.thresholds[1] as number)).toBeGreaterThan(f1(scored, 0.5) + 0.1);
    expect(evaluation.per_class?.[1]?.recall).toBeGreaterThan(0);
    expect(unwrapTrained(trainOn(wasm, makeRareLabel(), { evaluation: { method: "none" } })).head.thresholds).toEqual(
      [],
    );
  });

  it("clamps its values to those it was trained on, if asked to", () => {
    const rows = 60;
    const values = Float64Array.from({ length: rows }, (_, row) => 1_000 + Math.min(20, row));
    const data: TrainingData = {
      dimensions: 1,
      labels: [],
      features: Float32Array.from({ length: rows }, (_, row) => row),
      targets: { kind: "value", values },
      groups: Int32Array.from({ length: rows }, (_, row) => row),
    };
    const free = unwrapTrained(trainOn(wasm, data));
    const clamped = unwrapTrained(trainOn(wasm, data, { clamp: true }));
    expect(free.head.valueRange).toBeNull();
    expect(clamped.head.valueRange).toEqual([1_000, 1_020]);
    expect(predict(free.head, Float32Array.of(1e4))[0]).toBeGreaterThan(1_020);
    for (const [x, expected] of [
      [1e4, 1_020],
      [-1e4, 1_000],
    ] as const) {
      const value = predict(clamped.head, Float32Array.of(x))[0] as number;
      expect(value).toBe(expected);
      const [low, high] = predictionInterval(clamped.head, value, 0.9);
      expect([low >= 1_000, high <= 1_020, low <= value, high >= value]).toEqual([true, true, true, true]);
    }
    expect(clamped.evaluation.mae).toBeLessThan(free.evaluation.mae as number);
    const labelled = trainOn(wasm, makeRareLabel(), { clamp: true });
    expect(labelled).toMatchObject({ ok: false, failure: { code: "task_mismatch", param: "clamp" } });
  });

  it("is evaluated with outputs clamped to the values of other rows", () => {
    const heldOut = { rows: Int32Array.of(0, 1, 2), logits: Float32Array.of(9, 9, -9), outputs: 1 };
    const { logits } = clampHeldOut(Float64Array.of(5, 1, 0, 2), heldOut, Int32Array.of(0, 1, 1));
    expect([...logits]).toEqual([2, 5, 2]);
  });
});
