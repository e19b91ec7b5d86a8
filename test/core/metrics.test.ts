import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  conformalScores,
  fitTemperature,
  heldOutLogLoss,
  heldOutProbabilities,
  labelSmoothing,
} from "../../src/core/evaluation/calibration.ts";
import { evaluateHeldOut } from "../../src/core/evaluation/evaluate-held-out.ts";
import {
  confusionMatrix,
  equalMassCalibrationError,
  expectedCalibrationError,
  macroF1,
  mean,
  perClassMetrics,
  regressionMetrics,
  wilsonInterval,
} from "../../src/core/evaluation/metrics.ts";
import { ALWAYS_TRAINED, holdoutFolds, stratifiedFolds } from "../../src/core/linear/split.ts";
import type { Targets } from "../../src/core/linear/targets.ts";
import { runToEnd } from "../contract/training-data.ts";
import { metricVectors as v } from "./vectors/load.ts";

const labels = Array.from({ length: v.outputs }, (_, k) => `label ${k}`);
const heldOut = { rows: Int32Array.from(v.truth.keys()), logits: Float32Array.from(v.logits), outputs: v.outputs };
const targets = { kind: "single", indices: Int32Array.from(v.truth) } as const;
const all = [...v.truth.keys()];

describe("metrics", () => {
  it("equal scikit-learn's for single labels", () => {
    const matrix = confusionMatrix(v.truth, v.predicted, v.outputs);
    expect(matrix).toEqual(v.confusion);
    const classes = perClassMetrics(labels, v.truth, v.predicted);
    expect(macroF1(classes)).toBeCloseTo(v.macro_f1, 12);
    classes.forEach(({ precision, recall, f1, support }, k) => {
      expect(precision).toBeCloseTo(v.precision[k] as number, 12);
      expect(recall).toBeCloseTo(v.recall[k] as number, 12);
      expect(f1).toBeCloseTo(v.f1[k] as number, 12);
      expect(support).toBe(v.support[k]);
    });
    expect(mean(v.truth.map((label, i) => Number(label === v.predicted[i])))).toBeCloseTo(v.accuracy, 12);
    expect(heldOutLogLoss(targets, heldOut, all, 1)).toBeCloseTo(v.log_loss, 6);
    const confidences = all.map((row) => Math.max(...heldOutProbabilities("single", heldOut, row, 1)));
    const isCorrect = v.truth.map((label, i) => label === v.predicted[i]);
    expect(expectedCalibrationError(confidences, isCorrect)).toBeCloseTo(v.ece, 6);
  });

  it("equal scikit-learn's for several labels", () => {
    const { truth, predicted } = v.multi;
    const multiLabel = {
      rows: Int32Array.from(truth.keys()),
      logits: Float32Array.from(predicted.flatMap((row) => [0, 1, 2].map((k) => (row.includes(k) ? 0.3 : -0.3)))),
      outputs: 3,
    };
    const parts = multiLabel.rows.map((row) => row % 5);
    const options = { method: "cross_validation", folds: 5 } as const;
    const { evaluation } = runToEnd(
      evaluateHeldOut(["a", "b", "c"], { kind: "multi", indices: truth }, multiLabel, parts, options),
    );
    expect(evaluation.macro_f1).toBeCloseTo(v.multi.macro_f1, 12);
    expect(evaluation.micro_f1).toBeCloseTo(v.multi.micro_f1, 12);
    expect(evaluation.accuracy).toBeCloseTo(v.multi.accuracy, 12);
    expect(evaluation.per_class?.map(({ support }) => support)).toEqual(
      [0, 1, 2].map((k) => truth.filter((row) => row.includes(k)).length),
    );
  });

  it("equal scikit-learn's for values", () => {
    const { r2, mae, rmse } = regressionMetrics(v.regression.truth, v.regression.predicted);
    expect(r2).toBeCloseTo(v.regression.r2, 8);
    expect(mae).toBeCloseTo(v.regression.mae, 8);
    expect(rmse).toBeCloseTo(v.regression.rmse, 8);
  });

  it("bound a share by Wilson's interval", () => {
    // Brown, Cai and DasGupta 2001: the bounds p solve (p − share)² = z² p (1 − p) / n.
    for (const [fraction, count] of [
      [0.5, 10],
      [0, 20],
      [1, 7],
      [0.93, 400],
    ] as const) {
      for (const bound of wilsonInterval(fraction, count)) {
        expect(Math.abs((bound - fraction) ** 2 - (1.959963984540054 ** 2 * bound * (1 - bound)) / count)).toBeLessThan(
          1e-9,
        );
      }
    }
  });
});

it("knows nothing of a class without examples, and leaves it out of macro-F1", () => {
  const classes = perClassMetrics(["a", "b", "c"], [0, 0, 1], [0, 2, 1]);
  expect(classes[2]).toEqual({ label: "c", precision: null, recall: null, f1: null, support: 0 });
  expect(macroF1(classes)).toBeCloseTo((2 / 3 + 1) / 2, 12);
});

describe("expected calibration error by mass", () => {
  it("is the mean gap of bins of equal size, whose ties stay together", () => {
    const confidences = [0.9, 0.5, 0.9, 0.7, 0.6, 0.9];
    const isCorrect = [true, false, true, true, true, false];
    // .5 and .6; .7; the three of .9, which begin in the second of three bins.
    const expected = (Math.abs(0.5 + 0.6 - 1) + Math.abs(0.7 - 1 + 3 * 0.9 - 2)) / 6;
    expect(equalMassCalibrationError(confidences, isCorrect, 3)).toBeCloseTo(expected, 12);
    expect(equalMassCalibrationError([], [], 3)).toBe(0);
  });

  it("is the gap of the means with one bin, and never less with more", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.boolean()), { minLength: 1, maxLength: 60 }),
        fc.integer({ min: 1, max: 15 }),
        (pairs, bins) => {
          const confidences = pairs.map(([confidence]) => confidence);
          const isCorrect = pairs.map(([, correct]) => correct);
          const single = equalMassCalibrationError(confidences, isCorrect, 1);
          expect(single).toBeCloseTo(Math.abs(mean(confidences) - mean(isCorrect.map(Number))), 12);
          expect(equalMassCalibrationError(confidences, isCorrect, bins)).toBeGreaterThanOrEqual(single - 1e-12);
        },
      ),
    );
  });
});

describe("calibration", () => {
  it("finds the temperature with the least log loss of smoothed labels", () => {
    const uncertainty = labelSmoothing(all.length);
    const best = runToEnd(fitTemperature(targets, heldOut, all));
    const loss = (temperature: number) =>
      all.length * heldOutLogLoss(targets, heldOut, all, temperature, uncertainty) + Math.log(temperature) ** 2 / 2;
    for (const factor of [0.9, 0.99, 1.01, 1.1]) expect(loss(best * factor)).toBeGreaterThan(loss(best));
    const sharpened = { ...heldOut, logits: heldOut.logits.map((logit) => logit * 3) };
    const sharpenedBest = runToEnd(fitTemperature(targets, sharpened, all));
    expect(sharpenedBest).toBeGreaterThan(2.5 * best);
    expect(sharpenedBest).toBeLessThan(3 * best);
  });

  it("stays near 1 if a few examples say nothing of the temperature, or are all predicted wrongly", () => {
    for (const count of [4, 16]) {
      const rows = Int32Array.from({ length: count }, (_, row) => row);
      const wrong: Targets = { kind: "single", indices: rows.map((row) => (row + 1) % 8) };
      const logits = Float32Array.from({ length: 8 * count }, (_, index) => (index % 8 === (index >> 3) % 8 ? 4 : 0));
      const entries = [...rows];
      expect(runToEnd(fitTemperature(wrong, { rows, logits, outputs: 8 }, entries))).toBeLessThan(12);
      const alike = { rows, logits: new Float32Array(8 * count), outputs: 8 };
      expect(runToEnd(fitTemperature(wrong, alike, entries))).toBe(1);
    }
  });

  it.each(["single", "multi"] as const)(
    "is never fully confident because a few examples are all predicted correctly: %s",
    (kind) => {
      const smallSet = {
        rows: Int32Array.from({ length: 12 }, (_, row) => row),
        logits: Float32Array.from({ length: 36 }, (_, index) => (index % 3 === Math.floor(index / 3) % 3 ? 9 : -9)),
        outputs: 3,
      };
      const correct = Array.from(smallSet.rows, (row) => row % 3);
      const truth: Targets =
        kind === "single" ? { kind, indices: Int32Array.from(correct) } : { kind, indices: correct.map((k) => [k]) };
      const temperature = runToEnd(fitTemperature(truth, smallSet, [...smallSet.rows]));
      const top = Math.max(...heldOutProbabilities(kind, smallSet, 0, temperature));
      // The logits are ±9, at which T = 1 is all but certain, and the prior is worth a few examples.
      expect(top).toBeGreaterThan(1 - labelSmoothing(12) - 1e-3);
      expect(top).toBeLessThan(0.97);
    },
  );

  it("evaluates each part at the temperature of the others", () => {
    // Logits of part 0 are three times too large: at its own temperature its loss would be less than at part 1's.
    const parts = Int32Array.from(all, (row) => row % 2);
    const logits = heldOut.logits.map((logit, index) => (Math.floor(index / v.outputs) % 2 === 0 ? 3 * logit : logit));
    const uneven = { ...heldOut, logits };
    const { evaluation } = runToEnd(
      evaluateHeldOut(labels, targets, uneven, parts, { method: "cross_validation", folds: 2 }),
    );
    const part = (which: number) => all.filter((row) => parts[row] === which);
    const others = [1, 0].map((other) => runToEnd(fitTemperature(targets, uneven, part(other))));
    const expected =
      [0, 1].reduce(
        (sum, which) =>
          sum + part(which).length * heldOutLogLoss(targets, uneven, part(which), others[which] as number),
        0,
      ) / all.length;
    expect(evaluation.log_loss).toBeCloseTo(expected, 10);
  });

  it("evaluates an out-of-scope threshold on other examples than it was set on, or not at all", () => {
    const labelIndices = Int32Array.from(v.truth, (label, row) => (row % 4 === 0 ? -1 : label));
    const options = { method: "cross_validation", folds: 2 } as const;
    const evaluateParts = (parts: Int32Array) =>
      runToEnd(evaluateHeldOut(labels, { kind: "single", indices: labelIndices }, heldOut, parts, options)).evaluation
        .out_of_scope;
    const recall = evaluateParts(Int32Array.from(all, (row) => Math.floor(row / 4) % 2))?.expected_recall;
    expect(recall).toBeGreaterThanOrEqual(0);
    expect(recall).toBeLessThanOrEqual(1);
    expect(evaluateParts(Int32Array.from(all, (row) => (row % 4 === 0 ? 0 : 1)))).toMatchObject({
      // No example in scope is judged by others.
      in_scope_kept: null,
      auroc: null,
    });
  });

  it("keeps at most a thousand scores, none below the quantile that it represents", () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 3000 }),
        fc.double({ min: 0.01, max: 1, noNaN: true }),
        (scores, coverage) => {
          const sortedScores = conformalScores(scores);
          expect(sortedScores.length).toBe(Math.min(1000, scores.length));
          const limit = sortedScores[Math.ceil(sortedScores.length * coverage) - 1] as number;
          expect(scores.filter((score) => Math.fround(score) <= limit).length).toBeGreaterThanOrEqual(
            coverage * scores.length - 1e-9,
          );
        },
      ),
    );
  });
});

it("splits evenly, by class, never a group, and never holds a class out whole", () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.integer({ min: -1, max: 4 }), fc.nat(40)), { minLength: 1, maxLength: 80 }),
      fc.integer({ min: 2, max: 6 }),
      fc.nat(),
      (rows, count, seed) => {
        const strata = Int32Array.from(rows, ([label]) => label);
        const groups = Int32Array.from(rows, ([, group]) => group);
        const folds = stratifiedFolds(strata, groups, count, seed);
        expect(stratifiedFolds(strata, groups, count, seed)).toEqual(folds);
        const foldOf = new Map<number, number>();
        folds.forEach((fold, row) => {
          expect(fold).toBeGreaterThanOrEqual(ALWAYS_TRAINED);
          expect(fold).toBeLessThan(count);
          const group = groups[row] as number;
          expect(foldOf.get(group) ?? fold).toBe(fold);
          foldOf.set(group, fold);
        });
        for (const label of new Set(strata)) {
          if (label === -1) continue;
          const classFolds = [...folds].filter((_, row) => strata[row] === label);
          for (let fold = 0; fold < count; fold++)
            expect(classFolds.some((classFold) => classFold !== fold)).toBe(true);
        }
      },
    ),
  );
  const folds = stratifiedFolds(
    Int32Array.from({ length: 103 }, (_, row) => row % 4),
    Int32Array.from({ length: 103 }, (_, row) => row),
    5,
    1,
  );
  const sizes = [0, 1, 2, 3, 4].map((fold) => folds.filter((rowFold) => rowFold === fold).length);
  expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
});

it("holds out the fraction of each class, however few it has, and never all of one", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 30 }), { minLength: 1, maxLength: 6 }),
      fc.constantFrom(0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 0.8),
      fc.nat(),
      (sizes, fraction, seed) => {
        const strata = Int32Array.from(sizes.flatMap((size, label) => Array.from({ length: size }, () => label)));
        const groups = strata.map((_, row) => row);
        const folds = holdoutFolds(strata, groups, fraction, 5, seed);
        sizes.forEach((size, label) => {
          const heldOutCount = [...folds].filter((fold, row) => strata[row] === label && fold === 0).length;
          expect(Math.abs(heldOutCount - fraction * size)).toBeLessThanOrEqual(2);
          if (size > 0) expect(heldOutCount).toBeLessThan(size);
        });
      },
    ),
  );
});
