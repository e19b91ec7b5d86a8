import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Comparison, compare, isHeldOut, mcNemar } from "../../src/core/evaluation/comparison.ts";
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
    ["better", "of few examples, where all speak for it", { only_head: 0, only_fine_tuned: 5 }],
    ["inconclusive", "a higher accuracy that may be chance", { only_head: 8, only_fine_tuned: 12 }],
    ["inconclusive", "of few examples, though all speak for it", { only_head: 0, only_fine_tuned: 4 }],
    ["not_better", "the same accuracy", { fine_tuned_accuracy: 0.8, only_head: 7, only_fine_tuned: 7 }],
    ["not_better", "a lower accuracy", { fine_tuned_accuracy: 0.79, only_head: 9, only_fine_tuned: 7 }],
    ["not_better", "a lower R², though nearer more often", { fine_tuned_accuracy: 0.7, only_fine_tuned: 90 }],
    ["inconclusive", "a higher R², though farther off far more often", { only_head: 90, only_fine_tuned: 10 }],
    ["not_better", "an R² below that of the mean", { head_accuracy: -0.1, fine_tuned_accuracy: -0.2 }],
    [
      "inconclusive",
      "without examples",
      { test_examples: 0, head_accuracy: 0, fine_tuned_accuracy: 0, only_head: 0, only_fine_tuned: 0 },
    ],
  ] as const)("is %s: %s", (verdict, _, change) => {
    expect(compare(makeComparison(change)).verdict).toBe(verdict);
  });

  it("changes at a p-value of a tenth", () => {
    expect(compare(makeComparison({ only_head: 4, only_fine_tuned: 11 }))).toEqual({
      p_value: expect.closeTo(0.11847, 5),
      verdict: "inconclusive",
    });
    expect(compare(makeComparison({ only_head: 4, only_fine_tuned: 12 }))).toEqual({
      p_value: expect.closeTo(0.07681, 5),
      verdict: "better",
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
        const significant = forward.p_value < 0.1;
        expect(forward.verdict === "better").toBe(significant && only_fine_tuned > only_head);
        expect(reversed.verdict === "better").toBe(significant && only_head > only_fine_tuned);
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
