import { expect, test } from "vitest";
import { confusedPairs, withConfusedPairs } from "../../src/core/evaluation/confused.ts";
import { binConfidences, expectedCalibrationError } from "../../src/core/evaluation/metrics.ts";

const labels = ["a", "b", "c"];

test("the most confused pairs come first, each with its three most confident rows", () => {
  const predictions = [
    { row: 9, target: 0, label: 0, top: 0.99 },
    { row: 4, target: 2, label: 0, top: 0.5 },
    ...[0.6, 0.9, 0.7, 0.9].map((top, i) => ({ row: 20 - i, target: 1, label: 2, top })),
    { row: 5, target: 0, label: 2, top: 0.8 },
  ];
  const pairs = [
    { label: "b", predicted: "c", count: 4, rows: [17, 19, 18] },
    { label: "a", predicted: "c", count: 1, rows: [5] },
    { label: "c", predicted: "a", count: 1, rows: [4] },
  ];
  expect(confusedPairs(labels, predictions)).toEqual(pairs);
  expect(confusedPairs(labels, predictions.toReversed())).toEqual(pairs);
});

test("of many pairs, ten are kept", () => {
  const many = Array.from({ length: 30 }, (_, i) => `${i}`);
  const predictions = many.flatMap((_, i) =>
    Array.from({ length: i }, (_, n) => ({ row: n, target: i, label: 0, top: 0.5 })),
  );
  expect(confusedPairs(many, predictions).map(({ count }) => count)).toEqual([29, 28, 27, 26, 25, 24, 23, 22, 21, 20]);
});

test("rows are shown by the ids of their examples, where they have any", () => {
  const pairs = [{ label: "b", predicted: "c", count: 4, rows: [2, 7] }];
  const ids = new Map([[7, "ex_7"]]);
  expect(withConfusedPairs({ ece: 1 }, pairs, (row) => ids.get(row))).toEqual({
    ece: 1,
    confused: [{ label: "b", predicted: "c", count: 4, examples: ["ex_7"] }],
  });
  expect(withConfusedPairs({ ece: 1 }, [], () => "ex_7")).toEqual({ ece: 1 });
});

test("the bins of a calibration add up to its error", () => {
  const confidences = Array.from({ length: 200 }, (_, i) => 0.3 + (0.7 * ((i * 37) % 200)) / 199);
  const isCorrect = confidences.map((confidence, i) => (i * 13) % 17 < 17 * confidence - 2);
  const bins = binConfidences(confidences, isCorrect).reliability();
  expect(bins.length).toBeGreaterThan(8);
  expect(bins.length).toBeLessThanOrEqual(15);
  expect(bins.reduce((sum, { examples }) => sum + examples, 0)).toBe(200);
  const error = bins.reduce((sum, bin) => sum + (Math.abs(bin.confidence - bin.accuracy) * bin.examples) / 200, 0);
  expect(error).toBeCloseTo(expectedCalibrationError(confidences, isCorrect), 12);
  expect(binConfidences([], []).reliability()).toEqual([]);
});
