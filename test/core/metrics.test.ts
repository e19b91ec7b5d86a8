import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { conformalScores, fitTemperature, heldOutLogLoss, heldOutProbabilities } from "../../src/core/calibration.ts";
import {
  classFigures,
  confusionMatrix,
  expectedCalibrationError,
  macroF1,
  mean,
  perClass,
  regressionFigures,
  wilsonInterval,
} from "../../src/core/metrics.ts";
import { ALWAYS_TRAINED, stratifiedFolds } from "../../src/core/split.ts";
import { metricVectors as v } from "./vectors/load.ts";

const labels = Array.from({ length: v.outputs }, (_, k) => `label ${k}`);
const held = { rows: Int32Array.from(v.truth.keys()), logits: Float32Array.from(v.logits), outputs: v.outputs };
const targets = { kind: "single", indices: Int32Array.from(v.truth) } as const;
const all = [...v.truth.keys()];

describe("figures", () => {
  it("are scikit-learn's for one label each", () => {
    const matrix = confusionMatrix(v.truth, v.predicted, v.outputs);
    expect(matrix).toEqual(v.confusion);
    expect(macroF1(labels, v.truth, v.predicted)).toBeCloseTo(v.macro_f1, 12);
    const figures = perClass(labels, v.truth, v.predicted);
    figures.forEach(({ precision, recall, f1, support }, k) => {
      expect(precision).toBeCloseTo(v.precision[k] as number, 12);
      expect(recall).toBeCloseTo(v.recall[k] as number, 12);
      expect(f1).toBeCloseTo(v.f1[k] as number, 12);
      expect(support).toBe(v.support[k]);
    });
    expect(mean(v.truth.map((label, i) => Number(label === v.predicted[i])))).toBeCloseTo(v.accuracy, 12);
    expect(heldOutLogLoss(targets, held, all, 1)).toBeCloseTo(v.log_loss, 6);
    const confidences = all.map((at) => Math.max(...heldOutProbabilities("single", held, at, 1)));
    const hits = v.truth.map((label, i) => label === v.predicted[i]);
    expect(expectedCalibrationError(confidences, hits)).toBeCloseTo(v.ece, 6);
  });

  it("are scikit-learn's for several labels", () => {
    const counts = [0, 1, 2].map((k) => {
      const has = (rows: number[][]) => rows.map((row) => row.includes(k));
      const [truth, predicted] = [has(v.multi.truth), has(v.multi.predicted)];
      return {
        hits: truth.filter((each, i) => each && predicted[i]).length,
        predicted: predicted.filter(Boolean).length,
        support: truth.filter(Boolean).length,
      };
    });
    const figures = counts.map(({ hits, predicted, support }) => classFigures("", hits, predicted, support));
    expect(mean(figures.map(({ f1 }) => f1))).toBeCloseTo(v.multi.macro_f1, 12);
    const sum = (pick: (count: (typeof counts)[number]) => number) =>
      counts.reduce((total, count) => total + pick(count), 0);
    expect(
      classFigures(
        "",
        sum((c) => c.hits),
        sum((c) => c.predicted),
        sum((c) => c.support),
      ).f1,
    ).toBeCloseTo(v.multi.micro_f1, 12);
  });

  it("are scikit-learn's for values", () => {
    const { r2, mae, rmse } = regressionFigures(v.regression.truth, v.regression.predicted);
    expect(r2).toBeCloseTo(v.regression.r2, 8);
    expect(mae).toBeCloseTo(v.regression.mae, 8);
    expect(rmse).toBeCloseTo(v.regression.rmse, 8);
  });

  it("bound a share by Wilson's interval", () => {
    // Brown, Cai and DasGupta 2001: the bounds are where the score test turns, (p − share)² = z² p (1 − p) / n.
    for (const [share, count] of [
      [0.5, 10],
      [0, 20],
      [1, 7],
      [0.93, 400],
    ] as const) {
      for (const bound of wilsonInterval(share, count)) {
        expect(Math.abs((bound - share) ** 2 - (1.959963984540054 ** 2 * bound * (1 - bound)) / count)).toBeLessThan(
          1e-9,
        );
      }
    }
  });
});

describe("calibration", () => {
  it("finds the temperature with the least log loss", () => {
    const best = fitTemperature(targets, held, all);
    const loss = heldOutLogLoss(targets, held, all, best);
    for (const factor of [0.9, 0.99, 1.01, 1.1])
      expect(heldOutLogLoss(targets, held, all, best * factor)).toBeGreaterThan(loss);
    const hotter = { ...held, logits: held.logits.map((logit) => logit * 3) };
    expect(fitTemperature(targets, hotter, all)).toBeCloseTo(3 * best, 3);
  });

  it("keeps at most a thousand scores, none below the quantile it stands for", () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 3000 }),
        fc.double({ min: 0.01, max: 1, noNaN: true }),
        (scores, coverage) => {
          const kept = conformalScores(scores);
          expect(kept.length).toBe(Math.min(1000, scores.length));
          const limit = kept[Math.ceil(kept.length * coverage) - 1] as number;
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
          const own = [...folds].filter((_, row) => strata[row] === label);
          for (let fold = 0; fold < count; fold++) expect(own.some((each) => each !== fold)).toBe(true);
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
  const sizes = [0, 1, 2, 3, 4].map((fold) => folds.filter((each) => each === fold).length);
  expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
});
