import fc from "fast-check";
import { expect, it } from "vitest";
import { automationOf, type JudgedInput } from "../../src/core/evaluation/automation.ts";
import { mean, wilsonInterval } from "../../src/core/evaluation/metrics.ts";
import { seededRandom } from "../../src/core/random.ts";

const judged = fc.record({
  // Few values, so that there are ties.
  top: fc.integer({ min: 0, max: 20 }).map((step) => step / 20),
  isCorrect: fc.boolean(),
});

it("answers what is at or above the lowest threshold that is accurate enough", () => {
  fc.assert(
    fc.property(fc.array(judged, { maxLength: 400 }), (inputs) => {
      for (const { accuracy, threshold, share, interval } of automationOf(inputs)) {
        const accuracyFrom = (top: number) => {
          const answered = inputs.filter((input) => input.top >= top);
          return wilsonInterval(mean(answered.map(({ isCorrect }) => Number(isCorrect))), answered.length, 1)[0];
        };
        const accurate = inputs.map(({ top }) => top).filter((top) => accuracyFrom(top) >= accuracy);
        expect(threshold).toBe(accurate.length === 0 ? null : Math.min(...accurate));
        const answered = threshold === null ? 0 : inputs.filter(({ top }) => top >= threshold).length;
        expect(share).toBe(inputs.length === 0 ? 0 : answered / inputs.length);
        expect(interval).toEqual(wilsonInterval(share, inputs.length));
      }
    }),
  );
});

it("needs more examples for a higher accuracy, and none of them where all are right", () => {
  const right = (count: number) => Array.from({ length: count }, () => ({ top: 0.8, isCorrect: true }));
  expect(automationOf(right(8)).map(({ threshold }) => threshold)).toEqual([null, null, null]);
  expect(automationOf(right(50)).map(({ threshold }) => threshold)).toEqual([0.8, 0.8, null]);
  expect(automationOf(right(100)).map(({ share }) => share)).toEqual([1, 1, 1]);
});

it.each([300, 2_000])("is not optimistic, at %i held-out inputs", (count) => {
  // Calibrated scores from .4 to 1 with density 2x/.36 at x = p − .4: of those at or above t, the mean is known.
  const probability = (u: number) => 0.4 + 0.6 * Math.sqrt(u);
  const accuracyAbove = (t: number) => {
    const low = t - 0.4;
    return 0.4 + (2 / 3) * ((0.6 ** 3 - low ** 3) / (0.6 ** 2 - low ** 2));
  };
  const random = seededRandom(1);
  const draws = Array.from({ length: 80 }, () =>
    automationOf(
      Array.from({ length: count }, (): JudgedInput => {
        const top = probability(random());
        return { top, isCorrect: random() < top };
      }),
    ),
  );
  for (const [i, accuracy] of [0.9, 0.95].entries()) {
    const thresholds = draws.map((draw) => draw[i]?.threshold).filter((each) => typeof each === "number");
    expect(thresholds.length).toBeGreaterThan(60);
    const accuracies = thresholds.map(accuracyAbove);
    expect(mean(accuracies)).toBeGreaterThan(accuracy);
    expect(accuracies.filter((each) => each < accuracy).length / accuracies.length).toBeLessThan(0.3);
    const covered = draws.filter((draw) => {
      const { threshold = null, interval = [0, 1] } = draw[i] ?? {};
      if (threshold === null) return true;
      const share = 1 - ((threshold - 0.4) / 0.6) ** 2;
      return interval[0] <= share && share <= interval[1];
    });
    expect(covered.length / draws.length).toBeGreaterThan(0.9);
  }
});
