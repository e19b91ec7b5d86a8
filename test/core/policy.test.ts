import fc from "fast-check";
import { describe, expect, it, test } from "vitest";
import { binomialCdf } from "../../src/core/evaluation/beta.ts";
import type { Evaluation } from "../../src/core/evaluation/evaluation.ts";
import type { Task } from "../../src/core/head.ts";
import {
  driftPValue,
  isDrifting,
  isNotWorse,
  retrainingBackoff,
  shouldPromoteTested,
  shouldPromoteVersion,
} from "../../src/core/lifecycle/policy.ts";
import { binomialVectors } from "./vectors/load.ts";

const trials = fc.tuple(fc.integer({ min: 1, max: 300 }), fc.nat(), fc.double({ min: 0, max: 1, noNaN: true }));

describe("the tail of a binomial distribution", () => {
  it("equals scipy's", () => {
    expect(binomialVectors.length).toBeGreaterThan(200);
    for (const { k, n, p, tail } of binomialVectors) {
      const probability = binomialCdf(k, n, p);
      const relativeError = tail < 1e-290 ? probability - tail : (probability - tail) / tail;
      expect(Math.abs(relativeError), `${k} of ${n} at ${p}`).toBeLessThan(1e-9);
    }
  });

  it("rises with k, falls with p, and is a probability", () => {
    fc.assert(
      fc.property(trials, fc.double({ min: 0, max: 1, noNaN: true }), ([n, seed, p], other) => {
        const k = seed % (n + 1);
        const [smaller, larger] = [Math.min(p, other), Math.max(p, other)];
        expect(binomialCdf(k - 1, n, p)).toBeLessThanOrEqual(binomialCdf(k, n, p) * (1 + 1e-9));
        expect(binomialCdf(k, n, larger)).toBeLessThanOrEqual(binomialCdf(k, n, smaller) * (1 + 1e-9));
        expect(binomialCdf(k, n, p)).toBeGreaterThanOrEqual(0);
        expect(binomialCdf(k, n, p)).toBeLessThanOrEqual(1);
      }),
    );
  });

  it("of the mirrored distribution is the complement", () => {
    fc.assert(
      fc.property(trials, ([n, seed, p]) => {
        const k = seed % n;
        expect(binomialCdf(k, n, p) + binomialCdf(n - k - 1, n, 1 - p)).toBeCloseTo(1, 9);
      }),
    );
  });
});

const makeEvaluation = (change: Partial<Evaluation>): Evaluation => ({
  method: "cross_validation",
  detail: "summary",
  examples: 100,
  ...change,
});
const figure = { single_label: "accuracy", multi_label: "micro_f1", regression: "r2" } as const;

describe("a new version", () => {
  it.each<[Task, number, number, boolean]>([
    // One standard error of 0.8 on 100 is 0.04.
    ["single_label", 0.8, 0.761, true],
    ["single_label", 0.8, 0.759, false],
    ["single_label", 1, 1, true],
    ["single_label", 1, 0.99, false],
    ["multi_label", 0.5, 0.451, true],
    ["multi_label", 0.5, 0.449, false],
    ["regression", 0.8, 0.761, true],
    ["regression", 0.8, 0.759, false],
    // An R² below that of the mean has no such error.
    ["regression", -0.5, -0.5, true],
    ["regression", -0.5, -0.51, false],
  ])("%s: of %d to %d is not worse: %s", (task, active, candidateScore, expected) => {
    expect(
      isNotWorse(task, makeEvaluation({ [figure[task]]: candidateScore }), makeEvaluation({ [figure[task]]: active })),
    ).toBe(expected);
  });

  it("is compared by the metric of its task", () => {
    const candidate = makeEvaluation({ accuracy: 0.1, micro_f1: 0.9 });
    expect(isNotWorse("multi_label", candidate, makeEvaluation({ accuracy: 0.9, micro_f1: 0.9 }))).toBe(true);
    expect(isNotWorse("single_label", candidate, makeEvaluation({ accuracy: 0.9, micro_f1: 0.9 }))).toBe(false);
  });

  it("without a metric is worse than one with, and none is worse than one without", () => {
    const unevaluated = { method: "none", detail: "summary", examples: 0 } as const;
    expect(isNotWorse("single_label", unevaluated, makeEvaluation({ accuracy: 0.5 }))).toBe(false);
    expect(isNotWorse("single_label", null, makeEvaluation({ accuracy: 0.5 }))).toBe(false);
    for (const active of [unevaluated, null]) {
      expect(isNotWorse("single_label", makeEvaluation({ accuracy: 0.1 }), active)).toBe(true);
      expect(isNotWorse("single_label", null, active)).toBe(true);
    }
  });

  it("that is as good or better is never worse, and the more examples, the closer it has to be", () => {
    const score = fc.double({ min: 0, max: 1, noNaN: true });
    fc.assert(
      fc.property(score, score, fc.integer({ min: 1, max: 1e6 }), (a, b, examples) => {
        const active = makeEvaluation({ accuracy: a, examples });
        if (b >= a) expect(isNotWorse("single_label", makeEvaluation({ accuracy: b }), active)).toBe(true);
        const fewerExamples = makeEvaluation({ accuracy: a, examples: Math.ceil(examples / 4) });
        if (isNotWorse("single_label", makeEvaluation({ accuracy: b }), active))
          expect(isNotWorse("single_label", makeEvaluation({ accuracy: b }), fewerExamples)).toBe(true);
      }),
    );
  });

  it("is promoted according to the policy", () => {
    const [good, bad] = [makeEvaluation({ accuracy: 0.9 }), makeEvaluation({ accuracy: 0.1 })];
    const active = { evaluation: makeEvaluation({ accuracy: 0.9 }) };
    expect(shouldPromoteVersion("always", "single_label", bad, active)).toBe(true);
    expect(shouldPromoteVersion("never", "single_label", good, active)).toBe(false);
    expect(shouldPromoteVersion("if_not_worse", "single_label", good, active)).toBe(true);
    expect(shouldPromoteVersion("if_not_worse", "single_label", bad, active)).toBe(false);
    expect(shouldPromoteVersion("if_not_worse", "single_label", bad, null)).toBe(true);
  });
});

describe("drift", () => {
  const evaluation = makeEvaluation({ accuracy: 0.9, examples: 1000 });

  it("needs twenty examples and an accuracy", () => {
    expect(driftPValue({ judged: 19, hits: 0 }, evaluation)).toBeNull();
    expect(driftPValue({ judged: 20, hits: 0 }, evaluation)).toBeLessThan(1e-15);
    for (const without of [null, makeEvaluation({ r2: 0.9 }), makeEvaluation({ accuracy: 0.9, examples: 0 })]) {
      expect(driftPValue({ judged: 100, hits: 0 }, without)).toBeNull();
      expect(isDrifting({ judged: 100, hits: 0 }, without)).toBe(false);
    }
  });

  it("is reported at a p-value below a hundredth", () => {
    // scipy.stats.binom.cdf(81, 100, 901 / 1002) is 0.00499, of 82 0.01081.
    expect(driftPValue({ judged: 100, hits: 81 }, evaluation)).toBeCloseTo(0.00499, 5);
    expect(driftPValue({ judged: 100, hits: 82 }, evaluation)).toBeCloseTo(0.01081, 5);
    expect(isDrifting({ judged: 100, hits: 81 }, evaluation)).toBe(true);
    expect(isDrifting({ judged: 100, hits: 82 }, evaluation)).toBe(false);
  });

  it("of a version that predicted its few held-out examples all correctly needs more than one miss", () => {
    const perfect = makeEvaluation({ accuracy: 1, examples: 18 });
    expect(isDrifting({ judged: 20, hits: 19 }, perfect)).toBe(false);
    expect(isDrifting({ judged: 20, hits: 12 }, perfect)).toBe(true);
  });

  it("is never reported for a version as accurate as evaluated, and the p-value falls with fewer hits", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 20, max: 100 }),
        fc.nat(),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (judged, seed, accuracy) => {
          const correct = seed % (judged + 1);
          const active = makeEvaluation({ accuracy });
          if (correct / judged >= Math.max(accuracy, 0.5))
            expect(isDrifting({ judged, hits: correct }, active)).toBe(false);
          if (correct > 0 && isDrifting({ judged, hits: correct }, active))
            expect(isDrifting({ judged, hits: correct - 1 }, active)).toBe(true);
        },
      ),
    );
  });
});

it("a retraining that fails waits longer each time, five times", () => {
  expect([1, 2, 3, 4, 5, 6].map(retrainingBackoff)).toEqual([10_000, 40_000, 160_000, 640_000, null, null]);
});

describe("a version that was tested on a test set", () => {
  const against = (version: number, chance_of_loss: number) => ({
    comparison: { version, chance_of_loss, expected_gain: 0 },
  });

  test.each([
    ["always", null, 1, true],
    ["never", against(1, 0), 1, false],
    ["if_not_worse", against(1, 0.5), 1, true],
    ["if_not_worse", against(1, 0.51), 1, false],
    // Another version has become active since.
    ["if_not_worse", against(1, 0), 2, false],
    ["if_not_worse", null, 1, false],
    ["if_not_worse", null, null, false],
    ["if_not_worse", { comparison: null }, null, true],
    ["if_not_worse", { comparison: null }, 1, false],
  ] as const)("under %s, with %j and version %s active: %s", (promote, outcome, active, expected) => {
    expect(shouldPromoteTested(promote, outcome, active)).toBe(expected);
  });
});
