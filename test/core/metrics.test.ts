import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  conformalScores,
  doubtOf,
  fitTemperature,
  heldOutLogLoss,
  heldOutProbabilities,
} from "../../src/core/evaluation/calibration.ts";
import { assess } from "../../src/core/evaluation/evaluation.ts";
import {
  confusionMatrix,
  expectedCalibrationError,
  macroF1,
  mean,
  perClass,
  regressionFigures,
  wilsonInterval,
} from "../../src/core/evaluation/metrics.ts";
import type { Targets } from "../../src/core/linear/objective.ts";
import { ALWAYS_TRAINED, holdoutFolds, stratifiedFolds } from "../../src/core/linear/split.ts";
import { finish } from "../contract/training.ts";
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
    const { truth, predicted } = v.multi;
    const several = {
      rows: Int32Array.from(truth.keys()),
      logits: Float32Array.from(predicted.flatMap((row) => [0, 1, 2].map((k) => (row.includes(k) ? 0.3 : -0.3)))),
      outputs: 3,
    };
    const parts = several.rows.map((row) => row % 5);
    const how = { method: "cross_validation", folds: 5 } as const;
    const { evaluation } = finish(assess(["a", "b", "c"], { kind: "multi", indices: truth }, several, parts, how));
    expect(evaluation.macro_f1).toBeCloseTo(v.multi.macro_f1, 12);
    expect(evaluation.micro_f1).toBeCloseTo(v.multi.micro_f1, 12);
    expect(evaluation.accuracy).toBeCloseTo(v.multi.accuracy, 12);
    expect(evaluation.per_class?.map(({ support }) => support)).toEqual(
      [0, 1, 2].map((k) => truth.filter((row) => row.includes(k)).length),
    );
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
  it("finds the temperature with the least log loss, of truths that may be wrong as Laplace's rule has it", () => {
    const doubt = doubtOf(all.length);
    const best = finish(fitTemperature(targets, held, all));
    const loss = (temperature: number) => heldOutLogLoss(targets, held, all, temperature, doubt);
    for (const factor of [0.9, 0.99, 1.01, 1.1]) expect(loss(best * factor)).toBeGreaterThan(loss(best));
    const hotter = { ...held, logits: held.logits.map((logit) => logit * 3) };
    expect(finish(fitTemperature(targets, hotter, all))).toBeCloseTo(3 * best, 3);
  });

  it.each(["single", "multi"] as const)("is never certain because all of a few examples are right: %s", (kind) => {
    const few = {
      rows: Int32Array.from({ length: 12 }, (_, row) => row),
      logits: Float32Array.from({ length: 36 }, (_, at) => (at % 3 === Math.floor(at / 3) % 3 ? 9 : -9)),
      outputs: 3,
    };
    const right = Array.from(few.rows, (row) => row % 3);
    const truth: Targets =
      kind === "single" ? { kind, indices: Int32Array.from(right) } : { kind, indices: right.map((k) => [k]) };
    const temperature = finish(fitTemperature(truth, few, [...few.rows]));
    const top = Math.max(...heldOutProbabilities(kind, few, 0, temperature));
    expect(top).toBeCloseTo(1 - doubtOf(12), 3);
  });

  it("judges each part at the temperature of the others", () => {
    // Logits of part 0 are three times too large: at its own temperature its loss would be less than at part 1's.
    const parts = Int32Array.from(all, (at) => at % 2);
    const logits = held.logits.map((logit, at) => (Math.floor(at / v.outputs) % 2 === 0 ? 3 * logit : logit));
    const uneven = { ...held, logits };
    const { evaluation } = finish(assess(labels, targets, uneven, parts, { method: "cross_validation", folds: 2 }));
    const part = (which: number) => all.filter((at) => parts[at] === which);
    const others = [1, 0].map((other) => finish(fitTemperature(targets, uneven, part(other))));
    const expected =
      [0, 1].reduce(
        (sum, which) =>
          sum + part(which).length * heldOutLogLoss(targets, uneven, part(which), others[which] as number),
        0,
      ) / all.length;
    expect(evaluation.log_loss).toBeCloseTo(expected, 10);
  });

  it("judges a threshold for what is out of scope by other examples than those it was set on, or not at all", () => {
    const outside = Int32Array.from(v.truth, (label, at) => (at % 4 === 0 ? -1 : label));
    const how = { method: "cross_validation", folds: 2 } as const;
    const judge = (parts: Int32Array) =>
      finish(assess(labels, { kind: "single", indices: outside }, held, parts, how)).evaluation.out_of_scope;
    const recall = judge(Int32Array.from(all, (at) => Math.floor(at / 4) % 2))?.expected_recall;
    expect(recall).toBeGreaterThanOrEqual(0);
    expect(recall).toBeLessThanOrEqual(1);
    expect(judge(Int32Array.from(all, (at) => (at % 4 === 0 ? 0 : 1)))).toMatchObject({ expected_recall: null });
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
          const held = [...folds].filter((fold, row) => strata[row] === label && fold === 0).length;
          expect(Math.abs(held - fraction * size)).toBeLessThanOrEqual(2);
          if (size > 0) expect(held).toBeLessThan(size);
        });
      },
    ),
  );
});
