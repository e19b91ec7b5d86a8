import { expect, it } from "vitest";
import type { Evaluation } from "../../src/core/evaluation/evaluation.ts";
import { withLearningCurve } from "../../src/core/evaluation/learning-curve.ts";
import { affordableCurve, estimateCost } from "../../src/core/linear/cost.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { makeClusters, options, trainOn, unwrapTrained } from "../contract/training-data.ts";

const wasm = await nodeTensorBackend();

it.each(["cross_validation", "holdout"] as const)(
  "rises with the examples, by %s, and corrects the accuracy",
  (method) => {
    const data = makeClusters(160, 12, 4, 2.2);
    const { matrices } = wasm.memory();
    const { evaluation, head } = unwrapTrained(trainOn(wasm, data, { evaluation: { method, detail: "full" } }));
    const curve = evaluation.learning_curve ?? [];
    expect(curve.map(({ examples }) => examples)).toEqual([16, 32, 64, 128]);
    expect(curve.at(-1)?.accuracy).toBeCloseTo(evaluation.accuracy ?? 0, 6);
    expect(curve.at(-1)?.accuracy).toBeGreaterThan(curve[0]?.accuracy ?? 1);
    expect(evaluation.accuracy_estimate?.value).toBeGreaterThanOrEqual(evaluation.accuracy ?? 1);
    const { "2x": twice, "5x": five } = evaluation.expected_accuracy ?? {};
    expect(twice?.value).toBeGreaterThanOrEqual(evaluation.accuracy_estimate?.value ?? 1);
    expect(five?.value).toBeGreaterThanOrEqual(twice?.value ?? 1);
    const summary = unwrapTrained(trainOn(wasm, data, { evaluation: { method } }));
    expect(summary.head).toEqual(head);
    expect(summary.evaluation.accuracy).toBe(evaluation.accuracy);
    expect(summary.evaluation.learning_curve).toBeUndefined();
    expect(wasm.memory().matrices).toBe(matrices);
  },
);

it("has none where the budget has no room, where a class has two examples, and for values", () => {
  const data = makeClusters(60, 9, 3, 1);
  const shape = { task: "single_label" as const, examples: 60, dimensions: 9, outputs: 3, lexical: null };
  const full = { ...options, evaluation: { method: "cross_validation" as const, detail: "full" as const } };
  const budget = estimateCost(shape, full);
  expect(affordableCurve(shape, full, budget, "float32")).toBeNull();
  const { evaluation } = unwrapTrained(trainOn(wasm, data, { ...full, budget }));
  expect(evaluation.accuracy).toBeDefined();
  expect(evaluation.accuracy_estimate).toBeUndefined();
  const pairs = unwrapTrained(trainOn(wasm, makeClusters(8, 3, 4, 0.5), full));
  expect(pairs.evaluation.accuracy_estimate).toBeUndefined();
  const values = { kind: "value" as const, values: Float64Array.from({ length: 60 }, (_, i) => i) };
  const regression = unwrapTrained(trainOn(wasm, { ...data, labels: [], targets: values }, full));
  expect(regression.evaluation.learning_curve).toBeUndefined();
});

it("asks for more examples of the labels that are missed most, in proportion to their inputs", () => {
  const figures = (label: string, recall: number | null, support: number) => {
    return { label, precision: recall, recall, f1: recall, support };
  };
  const perClass = [
    figures("good", 1, 100),
    figures("poor", 0.5, 100),
    figures("rare", 0.5, 20),
    figures("none", null, 0),
  ];
  const evaluation: Evaluation = {
    method: "cross_validation",
    detail: "summary",
    examples: 220,
    accuracy: 0.7,
    per_class: perClass,
  };
  const point = (examples: number, error: number) => {
    return { examples, correct: Float32Array.from({ length: 220 }, (_, i) => Number(i >= error * 220)) };
  };
  const points = [point(88, 0.4), point(176, 0.3)];
  const { more_examples = [] } = withLearningCurve(evaluation, points, 220, "full");
  expect(more_examples.map(({ label }) => label)).toEqual(["poor", "rare"]);
  expect(more_examples.reduce((sum, { examples }) => sum + examples, 0)).toBeCloseTo(220, -1);
  expect((more_examples[0]?.examples ?? 0) / (more_examples[1]?.examples ?? 1)).toBeCloseTo(5, 0);
});
