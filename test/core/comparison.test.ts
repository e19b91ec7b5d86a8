import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Comparison, compare, gainError, isHeldOut, mcNemar } from "../../src/core/evaluation/comparison.ts";
import { mcNemarVectors } from "./vectors/load.ts";

/** What a double no longer holds in full. */
const MIN_P_VALUE = 1e-300;

const splits = fc.tuple(fc.nat(25_000), fc.nat(25_000));

describe("McNemar's exact test", () => {
  it("has the p-values of the binomial distribution, up to 50,000 examples", () => {
    expect(Math.max(...mcNemarVectors.map((vector) => vector.only_first + vector.only_second))).toBe(50_000);
    for (const { only_first, only_second, p_value } of mcNemarVectors) {
      const pValue = mcNemar(only_first, only_second);
      const relativeError = p_value < MIN_P_VALUE ? pValue - p_value : (pValue - p_value) / p_value;
      expect(Math.abs(relativeError), `${only_first} to ${only_second}`).toBeLessThan(
        p_value < MIN_P_VALUE ? MIN_P_VALUE : 1e-9,
      );
    }
  });

  it("is 1 if neither is ahead", () => {
    expect(mcNemar(0, 0)).toBe(1);
    expect(mcNemar(1, 0)).toBe(1);
    expect(mcNemar(25_000, 25_000)).toBe(1);
  });

  it("is symmetric", () => {
    fc.assert(
      fc.property(splits, ([a, b]) => {
        expect(mcNemar(a, b)).toBe(mcNemar(b, a));
      }),
    );
  });

  it("is a probability, and never 0 for up to a thousand examples", () => {
    fc.assert(
      fc.property(splits, ([a, b]) => {
        expect(mcNemar(a, b)).toBeGreaterThanOrEqual(0);
        expect(mcNemar(a, b)).toBeLessThanOrEqual(1);
        expect(mcNemar(a % 500, b % 500)).toBeGreaterThan(0);
      }),
    );
  });

  it("falls as the same number of examples is split more unevenly", () => {
    fc.assert(
      fc.property(splits, ([a, b]) => {
        const [smaller, larger] = [Math.min(a, b), Math.max(a, b)];
        fc.pre(smaller > 0);
        expect(mcNemar(smaller - 1, larger + 1)).toBeLessThanOrEqual(mcNemar(smaller, larger) * (1 + 1e-9));
      }),
    );
  });

  it("falls as the one that is ahead wins more examples", () => {
    fc.assert(
      fc.property(splits, ([a, b]) => {
        const [smaller, larger] = [Math.min(a, b), Math.max(a, b)];
        expect(mcNemar(smaller, larger + 1)).toBeLessThanOrEqual(mcNemar(smaller, larger) * (1 + 1e-9));
      }),
    );
  });
});

const makeComparison = (change: Partial<Comparison>): Comparison => ({
  test_examples: 200,
  head_accuracy: 0.8,
  fine_tuned_accuracy: 0.85,
  only_head: 2,
  only_fine_tuned: 12,
  ...change,
});

describe("the chance of a loss", () => {
  const chanceOf = (only_head: number, only_fine_tuned: number, test_examples: number) =>
    compare(makeComparison({ only_head, only_fine_tuned, test_examples })).chance_of_loss;

  /** P(q − p < −0.005) of the density p^a q^b (1 − p − q)^(n − a − b), by sums over a grid of p and q. */
  function integrate(a: number, b: number, n: number): number {
    const cells = 200;
    const widthOf = (count: number) => {
      const mean = (count + 1) / (n + 3);
      return Math.min(1, mean + 12 * Math.sqrt((mean * (1 - mean)) / (n + 4))) / cells;
    };
    const [p, q] = [a, b].map((count) => Float64Array.from({ length: cells }, (_, i) => (i + 0.5) * widthOf(count)));
    const peak = (k: number) => (k === 0 ? 0 : k * Math.log(k / n));
    const scale = n === 0 ? 0 : peak(a) + peak(b) + peak(n - a - b);
    const boundaryWidth = widthOf(a) + widthOf(b);
    let [all, losses] = [0, 0];
    for (const x of p ?? [])
      for (const y of q ?? []) {
        if (x + y >= 1) break;
        const density = Math.exp(a * Math.log(x) + b * Math.log(y) + (n - a - b) * Math.log(1 - x - y) - scale);
        all += density;
        // A cell on the boundary counts in part.
        losses += density * Math.min(1, Math.max(0, 0.5 + (x - 0.005 - y) / boundaryWidth));
      }
    return losses / all;
  }

  it("is that of the posterior with a uniform prior, by numerical integration", () => {
    fc.assert(
      fc.property(fc.nat(40), fc.nat(40), fc.nat(600), (a, b, same) => {
        expect(Math.abs(chanceOf(a, b, a + b + same) - integrate(a, b, a + b + same))).toBeLessThan(0.002);
      }),
      { numRuns: 60 },
    );
  });

  it("is that of the normal approximation, of many examples", () => {
    // (−0.005 − gain) / √(((a + b) / n − gain²) / n) is the 5 %, 10 % and 50 % point of the normal distribution.
    for (const [a, b, expected] of [
      [102_132, 97_868, 0.05],
      [102_213, 97_787, 0.1],
      [102_500, 97_500, 0.5],
    ] as const)
      expect(chanceOf(a, b, 1_000_000)).toBeCloseTo(expected, 3);
  });

  it("is that of the prior without examples, and a probability always", () => {
    // The difference of two of three uniform shares has the density 1 − |d|.
    expect(chanceOf(0, 0, 0)).toBeCloseTo((1 - 0.005) ** 2 / 2, 6);
    fc.assert(
      fc.property(splits, fc.nat(1_000_000), ([a, b], same) => {
        expect(chanceOf(a, b, a + b + same)).toBeGreaterThanOrEqual(0);
        expect(chanceOf(a, b, a + b + same)).toBeLessThanOrEqual(1);
      }),
    );
  });

  it("falls as the fine-tuned model wins more examples of as many", () => {
    fc.assert(
      fc.property(fc.nat(60), fc.nat(60), fc.nat(500), (a, b, same) => {
        const n = a + b + same + 1;
        expect(chanceOf(a, b + 1, n)).toBeLessThan(chanceOf(a, b, n) + 1e-6);
        expect(chanceOf(a + 1, b, n)).toBeGreaterThan(chanceOf(a, b, n) - 1e-6);
      }),
    );
  });

  it("of values follows the standard error of the difference of R², by Student's t", () => {
    const chanceOfValues = (gain: number, gain_error: number, test_examples: number) =>
      compare(makeComparison({ head_accuracy: 0.5, fine_tuned_accuracy: 0.5 + gain, gain_error, test_examples }))
        .chance_of_loss;
    expect(chanceOfValues(-0.005, 0.02, 50)).toBeCloseTo(0.5, 9);
    // The 95 % points of t with 1, 4 and 30 degrees of freedom.
    expect(chanceOfValues(6.3138 * 0.01 - 0.005, 0.01, 2)).toBeCloseTo(0.05, 5);
    expect(chanceOfValues(2.1318 * 0.01 - 0.005, 0.01, 5)).toBeCloseTo(0.05, 5);
    expect(chanceOfValues(1.6973 * 0.01 - 0.005, 0.01, 31)).toBeCloseTo(0.05, 5);
    expect([chanceOfValues(0.1, 0, 9), chanceOfValues(-0.1, 0, 9)]).toEqual([0, 1]);
  });
});

describe("the standard error of a difference of R²", () => {
  it("is that of the mean of the paired differences of squared errors, over the variance", () => {
    const values = [1, 2, 3, 6];
    const [first, second] = [
      [0, 2, 4, 6],
      [1, 2, 2, 3],
    ];
    // Squared errors 1 0 1 0 and 0 0 1 9: the differences 1 0 0 −9 have the mean −2 and the squares 9 4 4 49 around it.
    expect(gainError(values, first ?? [], second ?? [])).toBeCloseTo(Math.sqrt(66 / 3 / 4) / 3.5, 12);
  });

  it("is 0 without two values that differ", () => {
    expect(gainError([], [], [])).toBe(0);
    expect(gainError([1], [2], [3])).toBe(0);
    expect(gainError([1, 1], [2, 3], [3, 3])).toBe(0);
  });
});

/** A comparison of classifiers. Their accuracies follow from what only one of them predicted correctly. */
const comparisons = fc.record({
  both: fc.nat(500),
  only_head: fc.nat(60),
  only_fine_tuned: fc.nat(60),
  neither: fc.nat(500),
});

describe("the verdict", () => {
  it.each([
    ["better", "a higher accuracy that is hardly chance", {}],
    ["better", "of few examples, where all speak for it", { test_examples: 40, only_head: 0, only_fine_tuned: 3 }],
    ["better", "a gain that may be chance, but hardly a loss", { only_head: 2, only_fine_tuned: 5 }],
    ["inconclusive", "a higher accuracy that may be a loss", { only_head: 8, only_fine_tuned: 12 }],
    [
      "inconclusive",
      "of few examples, though all speak for it",
      { test_examples: 40, only_head: 0, only_fine_tuned: 2 },
    ],
    ["not_better", "the same accuracy", { fine_tuned_accuracy: 0.8, only_head: 7, only_fine_tuned: 7 }],
    ["not_better", "a lower accuracy", { fine_tuned_accuracy: 0.79, only_head: 9, only_fine_tuned: 7 }],
    ["better", "a higher R², by more than chance", { gain_error: 0.03, only_head: 90, only_fine_tuned: 10 }],
    ["inconclusive", "a higher R², perhaps by chance", { gain_error: 0.05 }],
    ["not_better", "a lower R², though nearer more often", { fine_tuned_accuracy: 0.7, only_fine_tuned: 90 }],
    ["inconclusive", "a higher R² without its error, farther off more often", { only_head: 90, only_fine_tuned: 10 }],
    ["not_better", "an R² below that of the mean", { head_accuracy: -0.1, fine_tuned_accuracy: -0.2 }],
    [
      "inconclusive",
      "without examples",
      { test_examples: 0, head_accuracy: 0, fine_tuned_accuracy: 0, only_head: 0, only_fine_tuned: 0 },
    ],
  ] as const)("is %s: %s", (verdict, _, change) => {
    expect(compare(makeComparison(change)).verdict).toBe(verdict);
  });

  it("changes at a chance of a tenth, and says both figures", () => {
    const twelveTo = (only_head: number) =>
      makeComparison({
        only_head,
        only_fine_tuned: 12,
        head_accuracy: 0.8,
        fine_tuned_accuracy: 0.8 + (12 - only_head) / 200,
      });
    expect(compare(twelveTo(7))).toEqual({
      p_value: expect.closeTo(0.359, 3),
      expected_gain: expect.closeTo(0.025, 9),
      chance_of_loss: expect.closeTo(0.0893, 3),
      verdict: "better",
    });
    expect(compare(twelveTo(8))).toEqual({
      p_value: expect.closeTo(0.503, 3),
      expected_gain: expect.closeTo(0.02, 9),
      chance_of_loss: expect.closeTo(0.1371, 3),
      verdict: "inconclusive",
    });
  });

  it("is never better for both classifiers, and only for the one with more correct predictions of its own", () => {
    fc.assert(
      fc.property(comparisons, ({ both, only_head, only_fine_tuned, neither }) => {
        const test_examples = both + only_head + only_fine_tuned + neither;
        const head_accuracy = (both + only_head) / test_examples || 0;
        const fine_tuned_accuracy = (both + only_fine_tuned) / test_examples || 0;
        const forward = compare({ test_examples, head_accuracy, fine_tuned_accuracy, only_head, only_fine_tuned });
        const reversed = compare({
          test_examples,
          head_accuracy: fine_tuned_accuracy,
          fine_tuned_accuracy: head_accuracy,
          only_head: only_fine_tuned,
          only_fine_tuned: only_head,
        });
        expect(reversed.p_value).toBe(forward.p_value);
        expect(forward.verdict === "better").toBe(only_fine_tuned > only_head && forward.chance_of_loss < 0.1);
        expect(reversed.verdict === "better").toBe(only_head > only_fine_tuned && reversed.chance_of_loss < 0.1);
      }),
    );
  });
});

const hashes = fc.uint8Array({ minLength: 32, maxLength: 32 });

describe("the held-out part", () => {
  it("is a fifth of inputs' hashes", () => {
    // By Hoeffding's bound a share is farther off with a probability of 10^-9.
    const count = 20_000;
    const bound = Math.sqrt(Math.log(2e9) / (2 * count));
    fc.assert(
      fc.property(fc.string(), (prefix) => {
        const inputs = Array.from({ length: count }, (_, i) => `${prefix} ${i}`);
        const heldOutInputs = inputs.filter((input) => isHeldOut(createHash("sha256").update(input).digest()));
        expect(Math.abs(heldOutInputs.length / count - 0.2)).toBeLessThan(bound);
      }),
      { numRuns: 10 },
    );
  });

  it("depends only on the first four bytes", () => {
    fc.assert(
      fc.property(hashes, hashes, (hash, other) => {
        const otherHash = Uint8Array.of(...hash.subarray(0, 4), ...other.subarray(4));
        expect(isHeldOut(otherHash)).toBe(isHeldOut(hash));
        expect(isHeldOut(hash.slice(0, 4))).toBe(isHeldOut(hash));
      }),
    );
  });

  it("is what lies below a fifth of their range", () => {
    fc.assert(
      fc.property(hashes, (hash) => {
        expect(isHeldOut(hash)).toBe(Buffer.from(hash).readUInt32BE() / 2 ** 32 < 0.2);
      }),
    );
    // A fifth of 2^32 is 858,993,459.2, slightly more than 0x33333333.
    expect(isHeldOut(Uint8Array.of(0x33, 0x33, 0x33, 0x33))).toBe(true);
    expect(isHeldOut(Uint8Array.of(0x33, 0x33, 0x33, 0x34))).toBe(false);
  });
});
