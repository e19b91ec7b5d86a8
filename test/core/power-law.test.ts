import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { mean } from "../../src/core/evaluation/metrics.ts";
import { type CurvePoint, fitPowerLaw as fitMeasured } from "../../src/core/evaluation/power-law.ts";
import { seededRandom } from "../../src/core/random.ts";

/**
 * A point whose every tenth example is wrong at `error` .1, and so on: which of them is told by the examples' difficulty,
 * so that what a larger training predicts, a smaller one may not, and never the other way round.
 */
function point(examples: number, error: number, count = 1_000): CurvePoint {
  return { examples, correct: Float32Array.from({ length: count }, (_, i) => Number((i + 0.5) / count > error)) };
}

const fitPowerLaw = (points: readonly CurvePoint[]) => {
  const correct = points.at(-1)?.correct ?? new Float32Array();
  return fitMeasured(points, { accuracy: mean([...correct]), heldOut: correct.length });
};

const law = (a: number, b: number, c: number) => (examples: number) => a + b * examples ** -c;

describe("the power law", () => {
  it("finds the error at the training's own size, whatever the exponent", () => {
    for (const c of [0.2, 0.5, 0.9]) {
      const error = law(0.05, 0.3 * 40 ** c, c);
      const accuracyAt = fitPowerLaw([point(40, error(40)), point(80, error(80))]);
      expect(Math.abs((accuracyAt?.(100).value ?? 0) - (1 - error(100)))).toBeLessThan(0.015);
    }
  });

  it("finds the error of twice as many examples from a longer curve", () => {
    for (const c of [0.3, 0.6, 1]) {
      const error = law(0.02, 0.4 * 10 ** c, c);
      const accuracyAt = fitPowerLaw([10, 20, 40, 80].map((size) => point(size, error(size))));
      expect(Math.abs((accuracyAt?.(200).value ?? 0) - (1 - error(200)))).toBeLessThan(0.02);
    }
  });

  it("says of the largest point what was measured, and nothing of one point", () => {
    const accuracyAt = fitPowerLaw([point(40, 0.3), point(80, 0.2)]);
    expect(accuracyAt?.(80).value).toBeCloseTo(0.8, 6);
    expect(fitPowerLaw([point(40, 0.3)])).toBeNull();
    expect(fitPowerLaw([])).toBeNull();
  });

  it("never falls with more examples, stays a share, and is within its interval", () => {
    const correct = fc.array(fc.boolean(), { minLength: 6, maxLength: 6 });
    fc.assert(
      fc.property(fc.array(correct, { minLength: 2, maxLength: 5 }), (curve) => {
        const points = curve.map((each, i) => ({ examples: 5 * 2 ** i, correct: Float32Array.from(each, Number) }));
        const last = points.at(-1) as CurvePoint;
        const accuracyAt = fitPowerLaw(points);
        const accuracies = [1, 1.25, 2, 5, 100].map((factor) => accuracyAt?.(factor * last.examples));
        expect(accuracies[0]?.value).toBeCloseTo(mean([...last.correct]), 6);
        for (const [i, { value, interval }] of accuracies.filter((each) => each !== undefined).entries()) {
          expect(value).toBeGreaterThanOrEqual((accuracies[i - 1]?.value ?? 0) - 1e-9);
          expect(value).toBeLessThanOrEqual(1);
          expect(interval[0]).toBeLessThanOrEqual(value + 1e-9);
          expect(interval[1]).toBeGreaterThanOrEqual(value - 1e-9);
        }
      }),
    );
  });

  it("covers the true error in nearly all samples of held-out examples", () => {
    const random = seededRandom(2);
    const error = law(0.05, 0.25 * 40 ** 0.5, 0.5);
    const draws = 200;
    let covered = 0;
    for (let draw = 0; draw < draws; draw++) {
      const difficulties = Array.from({ length: 100 }, random);
      const points = [40, 80].map((examples) => ({
        examples,
        correct: Float32Array.from(difficulties, (difficulty) => Number(difficulty > error(examples))),
      }));
      const [low, high] = fitPowerLaw(points)?.(100).interval ?? [0, 0];
      if (low <= 1 - error(100) && 1 - error(100) <= high) covered++;
    }
    expect(covered / draws).toBeGreaterThan(0.94);
  });
});
