/** Whether an input is in scope: the centroids, the score, its p-value, and what is fitted to held-out examples. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { distanceToGroup, quantiseCentroids, squaredNormOf } from "../../src/core/evaluation/centroids.ts";
import { fitLogistic } from "../../src/core/evaluation/logistic.ts";
import { softplus } from "../../src/core/evaluation/probability.ts";
import { figuresOf, isInScope, pValue, type Scope, scopeScore } from "../../src/core/evaluation/scope.ts";
import { areaUnderCurve, fitScope } from "../../src/core/evaluation/scope-fit.ts";
import { limits } from "../../src/core/limits.ts";
import { measureDistances } from "../../src/core/linear/class-centroids.ts";
import type { Design } from "../../src/core/linear/design.ts";
import { seededRandom } from "../../src/core/random.ts";
import { decodeScope, encodeScope } from "../../src/core/scope-codec.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import { runToEnd } from "../contract/training-data.ts";

const number = fc.double({ min: -3, max: 3, noNaN: true });
const vectors = (length: number) =>
  fc.array(fc.array(number, { minLength: 4, maxLength: 4 }), { minLength: length, maxLength: length });

describe("centroids in 8 bits", () => {
  it("are about as far from an embedding as the rows that they are made of", () => {
    fc.assert(
      fc.property(vectors(3), vectors(1), (rows, [x]) => {
        const groups = [rows.slice(0, 2), rows.slice(2), []].map((group) => Float32Array.from(group.flat()));
        const centroids = quantiseCentroids(groups, 4);
        const embedding = Float32Array.from(x as number[]);
        const distanceTo = (group: number) =>
          distanceToGroup(centroids, embedding, squaredNormOf(embedding, centroids), group);
        const exact = rows.map((row) => Math.hypot(...row.map((value, j) => value - (embedding[j] as number))));
        // Each number is off by half a step at most.
        const error = (Math.sqrt(4) * 3) / 127 / 2 + 1e-3;
        expect(Math.abs(distanceTo(0) - Math.min(exact[0] as number, exact[1] as number))).toBeLessThan(error);
        expect(Math.abs(distanceTo(1) - (exact[2] as number))).toBeLessThan(error);
        expect(distanceTo(2)).toBe(Number.POSITIVE_INFINITY);
      }),
    );
  });
});

describe("a logistic regression of figures", () => {
  it("has no slope at its minimum, which counts both kinds alike", () => {
    fc.assert(
      fc.property(vectors(12), fc.integer({ min: 1, max: 11 }), (rows, split) => {
        const [positives, negatives] = [rows.slice(0, split), rows.slice(split)];
        const weights = runToEnd(fitLogistic(positives, negatives));
        const rarer = Math.min(positives.length, negatives.length);
        const lossAt = (w: readonly number[], b: number) => {
          const sum = (list: readonly number[][], sign: number) =>
            list.reduce(
              (total, x) => total + softplus(-sign * (b + x.reduce((s, v, j) => s + v * (w[j] as number), 0))),
              0,
            );
          return (
            (rarer / positives.length) * sum(positives, 1) +
            (rarer / negatives.length) * sum(negatives, -1) +
            w.reduce((s, v) => s + v * v, 0) / 2
          );
        };
        // The least over the intercept, by golden section: the loss is convex in it.
        const least = (w: readonly number[]) => {
          let [low, high] = [-40, 40];
          for (let i = 0; i < 90; i++) {
            const [a, b] = [high - 0.618 * (high - low), low + 0.618 * (high - low)];
            if (lossAt(w, a) < lossAt(w, b)) high = b;
            else low = a;
          }
          return lossAt(w, (low + high) / 2);
        };
        const best = least(weights);
        for (const [j] of weights.entries())
          for (const step of [1e-2, -1e-2])
            expect(least(weights.map((weight, i) => (i === j ? weight + step : weight)))).toBeGreaterThan(best - 1e-7);
      }),
      { numRuns: 20 },
    );
  });
});

it("the distance is to the nearest label of all, where the most probable ones have no centroids", () => {
  const distances = [
    Number.POSITIVE_INFINITY,
    Number.POSITIVE_INFINITY,
    Number.POSITIVE_INFINITY,
    5,
    4,
    Number.POSITIVE_INFINITY,
  ];
  const figures = (logits: number[]) => figuresOf(Float64Array.from(logits), (group) => distances[group] as number);
  expect(figures([9, 8, 7, 1, 0])[0]).toBe(4);
  expect(figures([9, 8, 1, 7, 0])[0]).toBe(5);
});

describe("a p-value", () => {
  const scope = (scores: readonly number[]) => ({ scores: Float32Array.from(scores).sort(), examples: scores.length });

  it("is the rank among the held-out scores", () => {
    fc.assert(
      fc.property(fc.array(number, { minLength: 50, maxLength: 90 }), number, (scores, score) => {
        const model = scope(scores);
        const rank = [...model.scores].filter((each) => each <= score).length;
        expect(pValue(model, score)).toBeCloseTo((1 + rank) / (scores.length + 1), 12);
      }),
    );
  });

  it("refuses about the threshold's share of new inputs that are like those held out", () => {
    const random = seededRandom(4);
    const model = scope(Array.from({ length: 400 }, random));
    const refused = Array.from({ length: 4000 }, random).filter(
      (score) => isInScope(model, pValue(model, score), 0.1) === false,
    );
    expect(refused.length / 4000).toBeGreaterThan(0.06);
    expect(refused.length / 4000).toBeLessThan(0.14);
  });

  it("says nothing if too few were held out, and everything is in scope at 0", () => {
    const few = scope([1, 2, 3]);
    expect(isInScope(few, 0.25, 0.03)).toBeNull();
    expect(isInScope(few, 0.25, 0)).toBe(true);
    const ranked = scope(Array.from({ length: 60 }, (_, i) => i));
    expect(isInScope(ranked, 1 / 61, 0.01)).toBeNull();
    expect(isInScope(ranked, 1 / 61, 0.03)).toBe(false);
    expect(isInScope(ranked, 2 / 61, 0.03)).toBe(true);
    expect(isInScope(ranked, 1, 1)).toBe(false);
  });

  it("refuses about the share of few normal scores, too", () => {
    const random = seededRandom(6);
    const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    let refused = 0;
    for (let draw = 0; draw < 2000; draw++) {
      const model = scope(Array.from({ length: 12 }, normal));
      if (isInScope(model, pValue(model, normal()), 0.05) === false) refused++;
    }
    expect(Math.abs(refused / 2000 - 0.05)).toBeLessThan(0.015);
  });
});

describe("the area under the curve", () => {
  it("is the share of pairs in order", () => {
    const values = fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(values, values, (higher, lower) => {
        let sum = 0;
        for (const a of higher) for (const b of lower) sum += a > b ? 1 : a === b ? 0.5 : 0;
        expect(areaUnderCurve(higher, lower)).toBeCloseTo(sum / (higher.length * lower.length), 12);
      }),
    );
  });
});

/** Rows around a point for each of three labels, and rows around others that are out of scope (−1). */
function makeRows(perLabel: number, outOfScope: number, seed: number) {
  const random = seededRandom(seed);
  const noise = () => random() + random() + random() - 1.5;
  const centres = [0, 1, 2].map((k) => Array.from({ length: 6 }, (_, j) => (j === k ? 4 : 0)));
  const indices = [
    ...Array.from({ length: 3 * perLabel }, (_, i) => i % 3),
    ...Array.from({ length: outOfScope }, () => -1),
  ];
  const values = indices.flatMap((label) =>
    Array.from(
      { length: 6 },
      (_, j) => (label < 0 ? (j > 2 ? 2 : 0) : (centres[label]?.[j] as number)) + 0.5 * noise(),
    ),
  );
  return { indices: Int32Array.from(indices), values: Float32Array.from(values) };
}

const tensors = plainTensorBackend();

function toDesign(values: Float32Array): Design {
  const rows = values.length / 6;
  const shape = { rows, dimensions: 6, precision: "float32", sparse: null } as const;
  return { ...shape, blocks: [tensors.matrix(rows, 6, values)], mean: new Float64Array(6), scale: 1 };
}

function fitRows(perLabel: number, outOfScope: number) {
  const { indices, values } = makeRows(perLabel, outOfScope, 5);
  const folds = indices.map((_, row) => Math.floor(row / 3) % 2);
  const targets = { kind: "single", indices } as const;
  const distances = runToEnd(measureDistances(tensors, toDesign(values), { targets, outputs: 3, folds }, 2));
  const order = [0, 1].flatMap((fold) => Array.from(folds.keys()).filter((row) => folds[row] === fold));
  const logits = Float32Array.from(order.flatMap((row) => [0, 1, 2].map((k) => values[row * 6 + k] as number)));
  const heldOut = { rows: Int32Array.from(order), logits, outputs: 3 };
  const entries = order.map((row, index) => ({ index, part: folds[row] as number, target: indices[row] as number }));
  const options = { distances: distances?.heldOut ?? null, recall: 0.9 };
  const fitted = runToEnd(fitScope(heldOut, entries, options));
  if (fitted === null || distances?.centroids == null) throw new Error("Nothing was fitted.");
  return { ...fitted, scope: { ...fitted.model, centroids: distances.centroids } satisfies Scope };
}

describe("a scope that is fitted to held-out rows", () => {
  const scoreOf = (scope: Scope, x: readonly number[]) =>
    scopeScore(scope, Float64Array.from(x.slice(0, 3)), Float32Array.from(x));

  it("keeps the wanted share, and refuses what is far from every label, without an example of it", () => {
    const { evaluation, scope } = fitRows(60, 0);
    expect(evaluation).toMatchObject({ threshold: expect.closeTo(0.1), expected_recall: null, auroc: null, curve: [] });
    expect(Math.abs((evaluation.in_scope_kept ?? 0) - 0.9)).toBeLessThan(0.06);
    expect(scope.examples).toBe(180);
    expect(isInScope(scope, scoreOf(scope, [0, 4, 0, 0, 0, 0]), 0.1)).toBe(true);
    expect(isInScope(scope, scoreOf(scope, [0, 0, 0, 2, 2, 2]), 0.1)).toBe(false);
    expect(isInScope(scope, scoreOf(scope, [0, 4, 0, 4, 0, 0]), 0.1)).toBe(false);
  });

  it("fits its weights to enough examples out of scope, and says how many of them it refuses", () => {
    const { evaluation, scope } = fitRows(60, 60);
    expect(scope.figures.map(({ name }) => name)).toEqual(["distance", "max_logit", "out_of_scope_distance"]);
    const [distance, , outOfScope] = scope.figures.map(({ weight }) => weight);
    expect(distance).toBeLessThan(0);
    expect(outOfScope).toBeGreaterThan(0);
    expect(evaluation.expected_recall).toBeGreaterThan(0.95);
    expect(evaluation.auroc).toBeGreaterThan(0.98);
    const kept = evaluation.curve.map((point) => point.kept);
    const recalls = evaluation.curve.map((point) => point.recall);
    expect(kept).toEqual(kept.toSorted((a, b) => a - b));
    expect(recalls).toEqual(recalls.toSorted((a, b) => b - a));
    // Few examples only evaluate.
    expect(fitRows(60, 8).scope.figures[2]).toMatchObject({ weight: 0 });
  });

  it("is fitted to as many examples as a dataset may have", () => {
    const count = limits.examples_per_dataset;
    const logits = Float32Array.from({ length: 2 * count }, (_, i) => (i * 7) % 11);
    const entries = Array.from({ length: count }, (_, index) => ({
      index,
      part: index % 2,
      target: index % 3 ? 0 : -1,
    }));
    const heldOut = { rows: Int32Array.from(entries.keys()), logits, outputs: 2 };
    expect(runToEnd(fitScope(heldOut, entries, { distances: null, recall: 0.9 }))?.pValues).toHaveLength(count);
  });

  it("measures held-out rows by centroids of the other rows alone", () => {
    const { indices, values } = makeRows(20, 6, 8);
    const folds = indices.map((_, row) => Math.floor(row / 3) % 2);
    const targets = { kind: "single", indices } as const;
    const distancesOf = (rows: Float32Array) =>
      runToEnd(measureDistances(tensors, toDesign(rows), { targets, outputs: 3, folds }, 1))?.heldOut;
    // Another row of fold 0 changes its own distances and no others.
    const changed = values.slice();
    changed.fill(9, 0, 6);
    const [before, after] = [distancesOf(values), distancesOf(changed)];
    expect(after?.slice(4)).toEqual(before?.slice(4));
    expect(after?.slice(0, 4)).not.toEqual(before?.slice(0, 4));
  });

  it("is the same after it was stored, and missing if its bytes are damaged", () => {
    const { scope } = fitRows(30, 30);
    const bytes = encodeScope(scope);
    const decoded = decodeScope(bytes, 3, 6);
    expect(decoded).toEqual(scope);
    expect(decodeScope(bytes.slice(0, -4), 3, 6)).toBeNull();
    expect(decodeScope(bytes, 4, 6)).toBeNull();
    expect(decodeScope(bytes, 3, 5)).toBeNull();
    expect(decodeScope(Uint8Array.from([...bytes.slice(0, 3), 0x39, ...bytes.slice(4)]), 3, 6)).toBeNull();
    const plain = { ...scope, centroids: null };
    expect(decodeScope(encodeScope(plain), 3, 6)).toEqual(plain);
  });
});
