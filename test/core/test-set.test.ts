/** Test sets: the figures of a head to which nothing is fitted, and the comparison of two heads. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { mcNemar } from "../../src/core/evaluation/comparison.ts";
import { compareTests } from "../../src/core/evaluation/test-comparison.ts";
import { estimateTestCost } from "../../src/core/evaluation/test-cost.ts";
import { encodeTestTargets, testHead } from "../../src/core/evaluation/test-set.ts";
import type { Head } from "../../src/core/head.ts";
import { edgeBudget } from "../../src/core/limits.ts";
import type { Target } from "../../src/core/linear/targets.ts";

/** A head whose logits are the input. */
function identityHead(head: Partial<Head>): Head {
  const labels = head.labels ?? ["a", "b", "c"];
  const size = Math.max(1, labels.length);
  const weights = new Float32Array(size * size);
  for (let k = 0; k < size; k++) weights[k * size + k] = 1;
  return {
    task: "single_label",
    labels,
    dimensions: size,
    weights,
    bias: new Float32Array(size),
    lexical: null,
    visibleText: true,
    offset: 0,
    temperature: 1,
    outOfScopeThreshold: null,
    scope: null,
    thresholds: [],
    valueRange: null,
    conformal: new Float32Array(0),
    sections: [],
    ...head,
  };
}

function run(
  head: Head,
  targets: readonly Target[],
  logits: readonly number[][],
  outOfScopeLabel: string | null = null,
) {
  const encoded = encodeTestTargets(head, targets, outOfScopeLabel);
  const tested = testHead(head, encoded);
  for (const [row, values] of logits.entries()) tested.add(row, Float64Array.from(values), Float32Array.from(values));
  return { ...encoded, ...tested.result() };
}

test("one label: unknown labels are wrong, and out-of-scope rows count for the scope alone", () => {
  const head = identityHead({ outOfScopeThreshold: 0.6, temperature: 2 });
  const logits = [
    [6, 0, 0],
    [0, 6, 0],
    [0, 6, 0],
    [0, 0, 0],
    [9, 0, 0],
    [0, 0, 9],
  ];
  const { labels, evaluation, prediction } = run(head, ["a", "b", "x", "none", "none", "a"], logits, "none");
  expect(labels).toEqual(["a", "b", "c", "x"]);
  expect(evaluation).toMatchObject({ method: "test_set", examples: 4, accuracy: 0.5 });
  expect(evaluation.out_of_scope).toMatchObject({
    score: "max_probability",
    threshold: 0.6,
    in_scope_kept: 1,
    expected_recall: 0.5,
  });
  expect(evaluation.confusion?.matrix).toEqual([
    [1, 0, 1, 0],
    [0, 1, 0, 0],
    [0, 0, 0, 0],
    [0, 1, 0, 0],
  ]);
  // Of the three rows whose label is known, at the head's temperature.
  const right = Math.log(1 + 2 * Math.exp(-3));
  const wrong = 4.5 + Math.log(1 + 2 * Math.exp(-4.5));
  expect(evaluation.log_loss).toBeCloseTo((2 * right + wrong) / 3, 10);
  expect([0, 1, 2, 3, 4, 5].map((row) => prediction(row).isCorrect)).toEqual([true, true, false, null, null, false]);
  expect([3, 4].map((row) => prediction(row).inScope)).toEqual([false, true]);
});

test("a label that is the head's own is predicted, also where the test set says that it is out of scope", () => {
  const { labels, evaluation } = run(
    identityHead({}),
    ["a", "c"],
    [
      [1, 0, 0],
      [0, 0, 1],
    ],
    "c",
  );
  expect(labels).toEqual(["a", "b", "c"]);
  expect(evaluation).toMatchObject({ examples: 2, accuracy: 1, out_of_scope: null });
});

test("any number of labels: an example is right if all labels are, at the head's own thresholds", () => {
  const head = identityHead({ task: "multi_label", labels: ["a", "b"], thresholds: [0.5, 0.9] });
  const { evaluation, prediction } = run(
    head,
    [["a"], ["a", "b"], [], ["a", "x"]],
    [
      [2, 2],
      [2, 3],
      [-1, -1],
      [2, -2],
    ],
  );
  expect([0, 1, 2, 3].map((row) => prediction(row).isCorrect)).toEqual([true, true, true, false]);
  expect(evaluation).toMatchObject({ examples: 4, accuracy: 0.75 });
  expect(evaluation.per_class?.map(({ label, support }) => [label, support])).toEqual([
    ["a", 3],
    ["b", 1],
    ["x", 1],
  ]);
  expect(evaluation.micro_f1).toBeCloseTo((2 * 4) / (4 + 5), 12);
});

const labelled = fc.array(
  fc.record({
    target: fc.constantFrom("a", "b", "c", "x", "none"),
    first: fc.array(fc.double({ min: -5, max: 5, noNaN: true }), { minLength: 3, maxLength: 3 }),
    second: fc.array(fc.double({ min: -5, max: 5, noNaN: true }), { minLength: 3, maxLength: 3 }),
  }),
  { minLength: 1, maxLength: 40 },
);

test("fixed and broken rows are those that one head alone predicts right, and explain the gain", () => {
  fc.assert(
    fc.property(labelled, (rows) => {
      const targets = rows.map(({ target }) => target);
      const own = run(
        identityHead({}),
        targets,
        rows.map(({ first }) => first),
        "none",
      );
      const other = run(
        identityHead({ labels: ["c", "b", "a"] }),
        targets,
        rows.map(({ second }) => second),
        "none",
      );
      const { fixed, broken, accuracy, otherAccuracy, decision } = compareTests(own.targets, own, other);
      const { examples } = own.evaluation;
      expect(accuracy * examples - otherAccuracy * examples).toBeCloseTo(fixed.length - broken.length, 9);
      expect(decision.p_value).toBe(mcNemar(broken.length, fixed.length));
      for (const row of fixed)
        expect([own, other].map((each) => each.prediction(row).isCorrect)).toEqual([true, false]);
      for (const row of broken)
        expect([own, other].map((each) => each.prediction(row).isCorrect)).toEqual([false, true]);
      const swapped = compareTests(own.targets, other, own);
      expect(swapped.fixed).toEqual(broken);
      expect(swapped.broken).toEqual(fixed);
    }),
  );
});

test("values: the nearer head has fixed a row, and equally near ones neither", () => {
  const head = identityHead({ task: "regression", labels: [], dimensions: 1, valueRange: [0, 4] });
  const own = run(head, [1, 2, 3, 4], [[1], [2.5], [3], [9]]);
  const other = run(head, [1, 2, 3, 4], [[2], [2], [3], [4]]);
  const { fixed, broken, accuracy, otherAccuracy } = compareTests(own.targets, own, other);
  expect([fixed, broken]).toEqual([[0], [1]]);
  expect([accuracy, otherAccuracy]).toEqual([own.evaluation.r2, other.evaluation.r2]);
  expect(own.prediction(3).values).toEqual([4]);
  expect([0, 1].map((row) => own.prediction(row).isCorrect)).toEqual([true, false]);
});

test("the estimate grows with the rows, the heads and the texts, and a full dataset on one head is affordable", () => {
  const heads = [{ dimensions: 512, outputs: 150, lexical: false }];
  const shape = { examples: 200_000, textBytes: 0, inputBytes: 1e7, heads };
  const cost = estimateTestCost([shape]);
  expect(cost.operations).toBeLessThan(edgeBudget.operations);
  expect(cost.bytes).toBeLessThan(edgeBudget.bytes);
  for (const larger of [
    { ...shape, examples: 400_000 },
    { ...shape, textBytes: 1e8 },
    { ...shape, heads: [...heads, ...heads] },
    { ...shape, heads: heads.map((head) => ({ ...head, lexical: true })) },
  ])
    expect(estimateTestCost([larger]).operations).toBeGreaterThan(cost.operations);
});
