/** Which inputs are chosen to be labelled: facility location against its definition, and what the weights do. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { chooseRepresentatives } from "../../src/core/facility-location.ts";
import { chooseInputs, type PoolPrediction } from "../../src/core/label-next.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { Steps } from "../../src/core/steps.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";

const tensors = plainTensorBackend();

function run<T>(steps: Steps<T>): T {
  for (let step = steps.next(); ; step = steps.next()) if (step.done) return step.value;
}

/** Similarities as they are kept, by the formula. */
function similarity(x: Float32Array, y: Float32Array): number {
  const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, j) => sum + value * (b[j] as number), 0);
  const norms = Math.sqrt(dot(x, x)) * Math.sqrt(dot(y, y)) || 1;
  return Math.min(1, Math.max(0, dot(x, y) / norms) ** 2);
}

/** f of the definition. */
function coverage(rows: readonly Float32Array[], weights: Float64Array, chosen: readonly number[]): number {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const sum = rows.reduce((sum, row, i) => {
    const nearest = Math.max(0, ...chosen.map((j) => similarity(row, rows[j] as Float32Array)));
    return sum + (weights[i] as number) * nearest;
  }, 0);
  return total === 0 ? 0 : sum / total;
}

const ones = (length: number) => new Float64Array(length).fill(1);
const points = fc
  .array(
    fc.tuple(
      fc.array(fc.integer({ min: -9, max: 9 }), { minLength: 3, maxLength: 3 }),
      fc.integer({ min: 0, max: 10 }),
      fc.integer({ min: 1, max: 10 }),
    ),
    { minLength: 1, maxLength: 25 },
  )
  .map((list) => ({
    rows: list.map(([row]) => Float32Array.from(row)),
    weights: Float64Array.from(list, ([, weight]) => weight),
    factors: Float64Array.from(list, ([, , factor]) => factor / 10),
  }));
/** Of a similarity that is kept in 8 bits. */
const ROUNDING = 1 / 255;

describe("chooseRepresentatives", () => {
  test("takes what adds most at every step, each once, and its gains fall", () => {
    fc.assert(
      fc.property(points, fc.integer({ min: 1, max: 30 }), ({ rows, weights, factors }, count) => {
        const chosen = run(chooseRepresentatives(tensors, { rows, weights, factors }, count));
        expect(chosen).toHaveLength(Math.min(count, rows.length));
        expect(new Set(chosen.map(({ index }) => index)).size).toBe(chosen.length);
        const before: number[] = [];
        let last = Number.POSITIVE_INFINITY;
        for (const { index, gain } of chosen) {
          const covered = coverage(rows, weights, before);
          const gains = rows.map(
            (_, j) => (factors[j] as number) * (coverage(rows, weights, [...before, j]) - covered),
          );
          expect(Math.abs((gains[index] as number) - gain)).toBeLessThanOrEqual(ROUNDING);
          expect(gains[index] as number).toBeGreaterThanOrEqual(Math.max(...gains) - 2 * ROUNDING);
          expect(gain).toBeLessThanOrEqual(last);
          last = gain;
          before.push(index);
        }
        const shares = chosen.reduce((sum, { share }) => sum + share, 0);
        expect(shares).toBeLessThanOrEqual(1 + 1e-9);
      }),
      { numRuns: 60 },
    );
  });

  /** So many points near each of some directions, and one on its own. */
  function clusters(sizes: readonly number[]): Float32Array[] {
    const random = seededRandom(1);
    return sizes.flatMap((size, axis) =>
      Array.from({ length: size }, () =>
        Float32Array.from({ length: sizes.length }, (_, j) => (j === axis ? 1 : 0) + 0.1 * random()),
      ),
    );
  }

  test("takes one of each group, the largest group first, and what is alone last", () => {
    const rows = clusters([1, 40, 20, 10]);
    const weights = new Float64Array(rows.length).fill(1);
    const chosen = run(chooseRepresentatives(tensors, { rows, weights, factors: ones(rows.length) }, 4));
    const groupOf = (index: number) => (index < 1 ? 0 : index < 41 ? 1 : index < 61 ? 2 : 3);
    expect(chosen.map(({ index }) => groupOf(index))).toEqual([1, 2, 3, 0]);
    expect(chosen.map(({ share }) => Math.round(share * rows.length))).toEqual([40, 20, 10, 1]);
  });

  test("takes a group that counts more before a larger one", () => {
    const rows = clusters([40, 10]);
    const weights = Float64Array.from(rows, (_, i) => (i < 40 ? 0.01 : 1));
    expect(
      run(chooseRepresentatives(tensors, { rows, weights, factors: ones(rows.length) }, 1))[0]?.index,
    ).toBeGreaterThanOrEqual(40);
  });

  test("leaves nothing in the backend, also when it is stopped", () => {
    const steps = chooseRepresentatives(
      tensors,
      { rows: clusters([200, 200]), weights: new Float64Array(400), factors: ones(400) },
      3,
    );
    steps.next();
    expect(tensors.memory().matrices).toBe(0);
    steps.return([]);
    expect(tensors.memory().matrices).toBe(0);
  });

  test("sums over a part of many points, and answers the same again", () => {
    const rows = clusters([1_500, 900, 600]);
    const weights = new Float64Array(rows.length).fill(1);
    const choose = () => run(chooseRepresentatives(tensors, { rows, weights, factors: ones(rows.length) }, 3));
    expect(choose()).toEqual(choose());
    expect(choose().map(({ share }) => share.toFixed(1))).toEqual(["0.5", "0.3", "0.2"]);
  });

  test("takes points of no length and no weight as well, if all are asked for", () => {
    const rows = [new Float32Array(2), Float32Array.of(1, 0), new Float32Array(2)];
    const chosen = run(chooseRepresentatives(tensors, { rows, weights: new Float64Array(3), factors: ones(3) }, 9));
    expect(chosen).toEqual([0, 1, 2].map((index) => expect.objectContaining({ index, gain: 0 })));
  });
});

describe("chooseInputs", () => {
  const predicted = (...scores: readonly [string, number, number][]): PoolPrediction => ({
    scores: scores.map(([label, score, threshold]) => ({ label, score, threshold })),
    inScope: null,
    scopeScore: null,
  });
  const apart = (count: number) =>
    Array.from({ length: count }, (_, i) => Float32Array.from({ length: count }, (_, j) => Number(i === j)));

  test("one label: takes the smallest margin first, and says why", () => {
    const pool = [
      predicted(["a", 0.95, 0.5], ["b", 0.03, 0.5]),
      predicted(["a", 0.48, 0.5], ["b", 0.46, 0.5]),
      { ...predicted(["b", 0.6, 0.5], ["c", 0.3, 0.5]), inScope: false, scopeScore: 0.15 },
    ];
    const chosen = run(chooseInputs(tensors, "single_label", apart(3), pool, 2));
    expect(chosen.map(({ index }) => index)).toEqual([1, 2]);
    expect(chosen[0]?.reason).toBe(
      "The head wavers between 'a' (0.48) and 'b' (0.46), and few other inputs are like it.",
    );
    expect(chosen[1]?.reason).toMatch(/^The head predicts 'b' \(0\.60\), .* unlike the training examples/);
    expect(chosen[0]?.score).toBeCloseTo(0.98 / (0.08 + 0.98 + 0.7), 9);
    expect(chosen[1]?.score).toBeCloseTo((0.75 * 0.7) / (0.08 + 0.98 + 0.7), 9);
  });

  test("any number of labels: takes what is nearest to a threshold, on either side of it", () => {
    const pool = [
      predicted(["a", 0.9, 0.5], ["b", 0.02, 0.5]),
      predicted(["a", 0.78, 0.8], ["b", 0.01, 0.5]),
      predicted(["a", 0.1, 0.5], ["b", 0.01, 0.5]),
      predicted(["a", 1, 1], ["b", 0, 0.5]),
    ];
    const chosen = run(chooseInputs(tensors, "multi_label", apart(4), pool, 4));
    expect(chosen.map(({ index }) => index)).toEqual([1, 0, 2, 3]);
    expect(chosen[0]?.reason).toContain("least certain of 'a' (0.78), which it predicts from 0.80 on");
  });

  test("says how many inputs it stands for, and cuts long labels", () => {
    const rows = [...apart(2), ...apart(2)];
    const pool = rows.map(() => predicted(["x".repeat(200), 0.5, 0.5], ["b", 0.5, 0.5]));
    const [first] = run(chooseInputs(tensors, "single_label", rows, pool, 2));
    expect(first?.reason).toContain("it stands for 2 of the 4 inputs");
    expect(first?.reason.length).toBeLessThan(200);
  });
});
