/** What is wrong with the examples of a data set: wrong labels, equal and nearly equal inputs, outliers, and their cost. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { findGroupIssues } from "../../src/core/labels/equal-inputs.ts";
import { findDatasetIssues, issueOptions, planIssues } from "../../src/core/labels/find-issues.ts";
import type { RowIssue } from "../../src/core/labels/issue.ts";
import { countLikely, findLabelErrors } from "../../src/core/labels/label-errors.ts";
import { estimateLabelNoise, wrongProbability } from "../../src/core/labels/label-noise.ts";
import { findOutliers } from "../../src/core/labels/outliers.ts";
import { edgeBudget } from "../../src/core/limits.ts";
import type { TrainingSet } from "../../src/core/linear/types.ts";
import { seededRandom } from "../../src/core/random.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import { runToEnd } from "../contract/training-data.ts";

/** Logits of rows whose label is the most probable one, but for a share that has another label. */
function noisyLogits(rows: number, outputs: number, share: number) {
  const random = seededRandom(5);
  const labels = new Int32Array(rows);
  const logits = Float32Array.from({ length: rows * outputs }, () => random());
  for (let row = 0; row < rows; row++) {
    const truth = Math.floor(random() * outputs);
    logits[row * outputs + truth] = 6 + 2 * random();
    labels[row] = row < share * rows ? (truth + 1 + Math.floor(random() * (outputs - 1))) % outputs : truth;
  }
  return { labels, heldOut: { rows: Int32Array.from(labels.keys()), logits, outputs } };
}

describe("the share of labels that were given regardless of the input", () => {
  it.each([0, 0.02, 0.05, 0.1])("is %d where so many are wrong", (share) => {
    const { labels, heldOut } = noisyLogits(2_000, 8, share);
    const noise = runToEnd(estimateLabelNoise(labels, heldOut));
    // A label that is drawn is right in one of eight cases.
    expect(Math.abs(noise.share - (share * 8) / 7)).toBeLessThan(0.02);
    const errors = runToEnd(findLabelErrors({ kind: "single", indices: labels }, heldOut));
    expect(countLikely(errors)).toBe(share * 2_000);
    expect(errors.errors.every(({ entry }) => entry < share * 2_000)).toBe(true);
  });

  it("is none where a model is uncertain, and its errors no surprise", () => {
    const random = seededRandom(3);
    // Each label has the probability that its logit says.
    const skewed = Int32Array.from({ length: 2_000 }, () => (random() < 0.75 ? 0 : 1));
    const odds = Float32Array.from({ length: 2 * 2_000 }, (_, i) => (i % 2 === 0 ? Math.log(3) : 0));
    const heldOut = { rows: Int32Array.from(skewed.keys()), logits: odds, outputs: 2 };
    expect(countLikely(runToEnd(findLabelErrors({ kind: "single", indices: skewed }, heldOut)))).toBe(0);
  });

  it("leaves out what is out of scope, and is 0 without examples", () => {
    const { heldOut } = noisyLogits(4, 2, 0);
    expect(runToEnd(estimateLabelNoise(new Int32Array(4).fill(-1), heldOut)).share).toBe(0);
  });

  it("makes a label the more likely wrong the less probable it is", () => {
    const share = fc.double({ min: 0.001, max: 0.9, noNaN: true });
    const probability = fc.double({ min: 0, max: 1, noNaN: true });
    fc.assert(
      fc.property(probability, probability, share, fc.integer({ min: 2, max: 200 }), (a, b, eta, outputs) => {
        const [low, high] = a < b ? [a, b] : [b, a];
        const [more, less] = [wrongProbability(low, eta, outputs), wrongProbability(high, eta, outputs)];
        expect(more).toBeGreaterThanOrEqual(less);
        expect(less).toBeGreaterThanOrEqual(0);
        expect(more).toBeLessThanOrEqual(1);
      }),
    );
    expect(wrongProbability(0, 0, 2)).toBe(0);
  });
});

describe("equal inputs", () => {
  const single = (indices: readonly number[]) => ({ kind: "single" as const, indices: Int32Array.from(indices) });
  const find = (groups: readonly number[], indices: readonly number[], judge: Parameters<typeof findGroupIssues>[2]) =>
    findGroupIssues(Int32Array.from(groups), single(indices), judge);

  it("are in conflict with the most frequent label, and duplicates of its first row", () => {
    const issues = find([0, 0, 0, 1], [5, 2, 2, 7], () => 0.5);
    expect(issues).toEqual([
      { type: "duplicate", row: 2, other: 1, suggestion: null, score: expect.any(Number) },
      { type: "conflict", row: 0, other: 1, suggestion: 2, score: 0.5 },
    ] satisfies RowIssue[]);
  });

  it("are in conflict with the most probable one of equally frequent labels", () => {
    const judge = (_row: number, label: number) => (label === 2 ? 0.9 : 0.1);
    expect(find([0, 0], [5, 2], judge)).toEqual([{ type: "conflict", row: 0, other: 1, suggestion: 2, score: 0.9 }]);
  });

  it("have one issue each, but for one row of the group", () => {
    const rows = fc.array(fc.tuple(fc.integer({ min: 0, max: 3 }), fc.integer({ min: -1, max: 3 })), { maxLength: 20 });
    fc.assert(
      fc.property(rows, (pairs) => {
        const groups = pairs.map(([group]) => group);
        const issues = find(
          groups,
          pairs.map(([, label]) => label),
          () => 0.5,
        );
        expect(new Set(issues.map(({ row }) => row)).size).toBe(issues.length);
        expect(issues.length).toBe(groups.length - new Set(groups).size);
      }),
    );
  });
});

it("finds outliers by their distance among those of their label", () => {
  const labels = Array.from({ length: 60 }, (_, i) => i % 2);
  // The examples of the label 1 are all far, and 8 is as far as they.
  const distances = Float64Array.from(labels, (label, i) =>
    i === 8 ? 40 : (label === 0 ? 1 : 40) * (1 + (i % 7) / 20),
  );
  expect(findOutliers(labels, distances).map(({ entry }) => entry)).toEqual([8]);
  expect(findOutliers([0, 0, -1], Float64Array.of(1, 1, 9))).toEqual([]);
});

describe("the issues of a data set", () => {
  const tensors = plainTensorBackend();
  const rows = 80;
  const random = seededRandom(2);
  const labelOf = (row: number) => row % 4;
  const values = Float32Array.from({ length: rows * 6 }, (_, at) => {
    const [row, j] = [Math.floor(at / 6), at % 6];
    return (labelOf(row) === j ? 1 : 0) + 0.2 * (random() - 0.5);
  });
  // Row 41 is nearly row 40, whose label it does not have.
  for (let j = 0; j < 6; j++) values[41 * 6 + j] = (values[40 * 6 + j] as number) + 0.001;
  // Row 12 is like none of the others.
  for (let j = 0; j < 6; j++) values[12 * 6 + j] = j === 5 ? 3 : 0;
  const indices = Int32Array.from({ length: rows }, (_, row) => (row === 30 ? 1 : labelOf(row)));
  const makeSet = (): TrainingSet => ({
    task: "single_label",
    dimensions: 6,
    labels: ["a", "b", "c", "d"],
    features: [tensors.matrix(rows, 6, values)],
    targets: { kind: "single", indices },
    groups: Int32Array.from({ length: rows }, (_, row) => row),
    lexical: null,
  });
  const find = (budget = edgeBudget as { operations: number; bytes: number }) =>
    runToEnd(findDatasetIssues(tensors, makeSet(), issueOptions(5), budget));

  it("are found, the same each time, and nothing stays allocated", () => {
    const found = find();
    if (!found.ok) throw new Error(found.failure.message);
    const { issues } = found.value;
    const first = (type: string) => issues.find((issue) => issue.type === type);
    const errors = issues.filter(({ type }) => type === "label_error").slice(0, 2);
    expect(errors.map(({ row, suggestion }) => [row, suggestion]).sort()).toEqual([
      [30, 2],
      [41, 0],
    ]);
    expect(first("near_duplicate")).toMatchObject({ row: 41, other: 40, suggestion: 0 });
    expect(first("outlier")).toMatchObject({ row: 12, other: null, suggestion: null });
    expect(issues.map(({ score }) => score)).toEqual(issues.map(({ score }) => score).sort((a, b) => b - a));
    expect(find()).toEqual(found);
  });

  it("end at the budget", () => {
    const beyond = find({ operations: 1_000, bytes: 1e9 });
    expect(beyond.ok ? null : beyond.failure.code).toBe("edge_budget_exceeded");
  });

  it("take fewer folds where more are beyond the budget, and none beyond two", () => {
    const shape = { task: "single_label" as const, dimensions: 512, outputs: 150, lexical: null };
    const foldsOf = (examples: number) => {
      const plan = planIssues({ ...shape, examples }, edgeBudget);
      return "cost" in plan ? plan.cost.operations : plan.options.evaluation.folds;
    };
    expect([foldsOf(1_000), foldsOf(15_000)]).toEqual([5, 2]);
    expect(foldsOf(60_000)).toBeGreaterThan(edgeBudget.operations);
  });
});
