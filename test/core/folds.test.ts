import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { edgeBudget } from "../../src/core/limits.ts";
import { chooseCandidate, lossesByUnit, pairedDifference } from "../../src/core/linear/candidates.ts";
import { estimateCost } from "../../src/core/linear/cost.ts";
import { evaluationFolds, selectionFolds } from "../../src/core/linear/folds.ts";
import { ALWAYS_TRAINED, crossValidationFolds, quantileFolds, stratifiedFolds } from "../../src/core/linear/split.ts";
import { strataOf } from "../../src/core/linear/targets.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { makeClusters, predictions, trainOn, unwrapTrained } from "../contract/training-data.ts";

const wasm = await nodeTensorBackend();

/** Rows of classes of these sizes, each row a group of its own. */
function rowsOf(sizes: readonly number[]) {
  const indices = Int32Array.from(sizes.flatMap((size, label) => Array<number>(size).fill(label)));
  const targets = { kind: "single", indices } as const;
  return { targets, strata: strataOf(targets, sizes.length), groups: Int32Array.from(indices.keys()), labelTexts: 0 };
}

describe("folds", () => {
  const classSizes = fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 2, maxLength: 8 });
  const settings = { evaluation: { method: "auto" }, seed: 3 } as const;

  it("are no more than the smallest class has rows, and leave every class something to train on", () => {
    fc.assert(
      fc.property(classSizes, fc.integer({ min: 2, max: 20 }), fc.nat(), (sizes, maxCount, seed) => {
        const { strata, groups } = rowsOf(sizes);
        const { folds, foldCount } = crossValidationFolds(strata, groups, maxCount, seed);
        const heldOutClasses = sizes.filter((_, label) =>
          folds.some((fold, row) => strata[row] === label && fold !== ALWAYS_TRAINED),
        );
        if (heldOutClasses.length > 0) expect(foldCount).toBeLessThanOrEqual(Math.min(...heldOutClasses));
        expect(foldCount).toBeGreaterThanOrEqual(2);
        sizes.forEach((size, label) => {
          const own = [...folds].filter((_, row) => strata[row] === label);
          if (size === 1) expect(own).toEqual([ALWAYS_TRAINED]);
          else if (heldOutClasses.length > 1 && size > 2) expect(own).not.toContain(ALWAYS_TRAINED);
          for (let fold = 0; fold < foldCount; fold++) expect(own.some((each) => each !== fold)).toBe(true);
        });
      }),
    );
  });

  it("hold out every row that can be once in each repetition of the selection", () => {
    fc.assert(
      fc.property(classSizes, fc.nat(), (sizes, seed) => {
        const rows = rowsOf(sizes);
        const evaluated = evaluationFolds(rows, "cross_validation", { ...settings, seed });
        const trainingRows = {
          ...rows,
          ...evaluated,
          outputs: sizes.length,
          weights: new Float64Array(rows.strata.length),
        };
        const { repetitions, foldCount } = selectionFolds(trainingRows, { folds: 5, repetitions: 4 }, seed);
        expect(repetitions[0]).toEqual(evaluated.folds);
        expect(repetitions.length * foldCount).toBeLessThanOrEqual(20);
        expect(repetitions.length).toBeGreaterThanOrEqual(4);
        for (const folds of repetitions)
          folds.forEach((fold, row) => {
            expect(fold).toBeLessThan(foldCount);
            expect(fold === ALWAYS_TRAINED).toBe(evaluated.folds[row] === ALWAYS_TRAINED);
          });
      }),
    );
  });

  it("differ between repetitions, and are the same for the same seed", () => {
    const rows = rowsOf([10, 10, 10]);
    const evaluated = evaluationFolds(rows, "cross_validation", settings);
    const trainingRows = { ...rows, ...evaluated, outputs: 3, weights: new Float64Array(30) };
    const plan = { folds: 5, repetitions: 4 };
    const { repetitions } = selectionFolds(trainingRows, plan, 3);
    expect(new Set(repetitions.map((folds) => folds.join())).size).toBe(4);
    expect(selectionFolds(trainingRows, plan, 3).repetitions).toEqual(repetitions);
  });

  it("leave a rare class of two in training, and a holdout of few rows takes its share of each class", () => {
    const rare = crossValidationFolds(rowsOf([100, 100, 2]).strata, rowsOf([100, 100, 2]).groups, 5, 1);
    expect(rare.foldCount).toBe(5);
    expect([...rare.folds].slice(-2)).toEqual([ALWAYS_TRAINED, ALWAYS_TRAINED]);
    const pairs = rowsOf([2, 2, 2, 2]);
    const { folds } = evaluationFolds(pairs, "holdout", settings);
    for (let label = 0; label < 4; label++)
      expect([...folds].filter((fold, row) => pairs.strata[row] === label && fold === 0)).toHaveLength(1);
  });

  it("are those of the examples alone where texts of labels follow these, and hold out no example that has such a text", () => {
    const examples = rowsOf([6, 6]);
    const indices = Int32Array.from([...examples.strata, 0, 1]);
    // The text of the first label is that of example 2.
    const groups = Int32Array.from([...examples.groups, 2, 20]);
    const rows = { targets: { kind: "single", indices } as const, strata: indices, groups, labelTexts: 2 };
    for (const method of ["cross_validation", "holdout"] as const) {
      const { folds } = evaluationFolds(rows, method, { ...settings, evaluation: { method, fraction: 0.3 } });
      expect([...folds].flatMap((fold, row) => (fold === ALWAYS_TRAINED ? [row] : []))).toEqual([2, 12, 13]);
    }
    const none = evaluationFolds(
      { ...rows, groups: Int32Array.from(indices.keys()), labelTexts: 14 },
      "holdout",
      settings,
    );
    expect([...none.folds]).toEqual(new Array(14).fill(ALWAYS_TRAINED));
  });

  it("of rows with several labels, and of values, are as many as asked for", () => {
    const groups = Int32Array.from({ length: 12 }, (_, row) => row);
    const targets = { kind: "multi", indices: Array.from(groups, (row) => (row < 10 ? [0] : [0, 1])) } as const;
    const strata = strataOf(targets, 2);
    const { folds, foldCount } = evaluationFolds(
      { targets, strata, groups, labelTexts: 0 },
      "cross_validation",
      settings,
    );
    expect(foldCount).toBe(5);
    expect(folds).toEqual(stratifiedFolds(strata, groups, 5, 3));
    const values = { kind: "value", values: Float64Array.from(groups) } as const;
    const ofValues = { targets: values, strata: strataOf(values, 0), groups, labelTexts: 0 };
    expect(evaluationFolds(ofValues, "cross_validation", settings).foldCount).toBe(5);
  });
});

it.each([
  [385, 256, 77],
  [640, 256, 64],
  [640, 768, 77],
  [1000, 384, 150],
  [1000, 768, 77],
])("the selection of %d rows × %d for %d labels stays within a request", (examples, dimensions, outputs) => {
  const lexical = { columns: 2048, entries: 30 * examples, textBytes: 60 * examples };
  const shape = { task: "single_label", examples, dimensions, outputs, lexical, textBytes: 60 * examples } as const;
  const { operations, bytes } = estimateCost(shape, { l2: "auto", evaluation: { method: "auto" } });
  expect(operations).toBeLessThan(edgeBudget.operations);
  expect(bytes).toBeLessThan(edgeBudget.bytes);
});

describe("candidates", () => {
  const losses = (...values: number[]) => lossesByUnit(Int32Array.from(values.keys()), Float64Array.from(values));

  it("are the first that is within a standard error of the best", () => {
    // The second is better by .1 ± .1 / √3, then by .1 exactly.
    const noisy = losses(1, 1.1, 1.2, 1.3);
    expect(chooseCandidate([noisy, losses(0.9, 1.2, 1.0, 1.1)])).toBe(1);
    expect(chooseCandidate([noisy, losses(0.7, 1.5, 0.9, 1.45)])).toBe(0);
    expect(chooseCandidate([noisy, losses(0.9, 1.0, 1.1, 1.2)])).toBe(1);
    expect(chooseCandidate([noisy, noisy])).toBe(0);
    expect(chooseCandidate([losses(Number.NaN), losses(1)])).toBe(1);
    expect(chooseCandidate([noisy])).toBe(0);
  });

  it("have the mean and the standard error of paired differences, a unit for each group of rows", () => {
    const a = lossesByUnit(Int32Array.of(7, 3, 7, 3), Float64Array.of(1, 4, 3, 6));
    expect([...a.losses]).toEqual([5, 2]);
    expect(a.mean).toBe(3.5);
    const { mean, standardError } = pairedDifference(Float64Array.of(5, 2, 2), Float64Array.of(1, 1, 1));
    expect(mean).toBeCloseTo(2, 12);
    expect(standardError).toBeCloseTo(1, 12);
    expect(pairedDifference(Float64Array.of(1), Float64Array.of(2)).standardError).toBe(Number.POSITIVE_INFINITY);
  });
});

describe("an evaluation of few examples of each of eight labels", () => {
  it.each([2, 3, 4, 5])("is near the truth, and its temperature and scores are sane: %d", (size) => {
    const [classes, dimensions, test, draws] = [8, 24, 400, 4];
    let [evaluated, truth, score] = [0, 0, 0];
    for (let seed = 1; seed <= draws; seed++) {
      const all = makeClusters(classes * size + test, dimensions, classes, 1.8, seed);
      if (all.targets.kind !== "single") throw new Error("Not a single-label set.");
      const { indices } = all.targets;
      const trained = classes * size;
      const { head, evaluation } = unwrapTrained(
        trainOn(wasm, {
          ...all,
          features: all.features.slice(0, trained * dimensions),
          targets: { kind: "single", indices: indices.slice(0, trained) },
        }),
      );
      expect(evaluation.folds).toBe(size);
      expect(evaluation.examples).toBe(trained);
      expect(head.temperature).toBeGreaterThan(0.05);
      expect(head.temperature).toBeLessThan(3);
      const scores = predictions(head, all.features.subarray(trained * dimensions));
      for (let row = 0; row < test; row++) {
        const own = scores.slice(row * classes, (row + 1) * classes);
        const top = Math.max(...own);
        score += top / test / draws;
        if (own.indexOf(top) === indices[trained + row]) truth += 1 / test / draws;
      }
      evaluated += (evaluation.accuracy ?? 0) / draws;
    }
    expect(truth).toBeGreaterThan(0.5);
    expect(evaluated).toBeGreaterThan(truth - 0.25);
    expect(evaluated).toBeLessThan(truth + 0.1);
    expect(Math.abs(score - truth)).toBeLessThan(0.2);
  });
});

describe("the folds of a comparison", () => {
  const positionsOf = (count: number) =>
    fc.array(fc.double({ min: 0, max: 0.999, noNaN: true }), { minLength: count, maxLength: count });
  const classes = fc
    .array(fc.integer({ min: 1, max: 24 }), { minLength: 1, maxLength: 8 })
    .chain((sizes) => fc.tuple(fc.constant(sizes), positionsOf(sizes.reduce((sum, size) => sum + size, 0))));

  it.each([2, 5])(
    "spread every class over %i, keep groups together and leave each class something to train on",
    (count) => {
      fc.assert(
        fc.property(classes, fc.integer({ min: 1, max: 3 }), ([sizes, positions], copies) => {
          const { strata, groups } = rowsOf(sizes);
          const repeat = (values: Int32Array) =>
            Int32Array.from({ length: copies * values.length }, (_, i) => values[i % values.length] as number);
          const folds = quantileFolds(repeat(strata), repeat(groups), positions, count);
          expect(folds).toEqual(repeat(folds.subarray(0, groups.length)));
          sizes.forEach((size, label) => {
            const own = [...folds.subarray(0, groups.length)].filter((_, row) => strata[row] === label);
            const held = Array.from({ length: count }, (_, fold) => own.filter((each) => each === fold).length);
            if (size === 1) expect(own).toEqual([ALWAYS_TRAINED]);
            else expect(Math.max(...held)).toBeLessThan(size);
            for (const each of held) expect(Math.abs(each - size / count)).toBeLessThan(2);
          });
        }),
      );
    },
  );

  it.each([2, 5])("hardly change as a class grows: a new group moves one other at each of %i cuts", (count) => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 40 }).chain((size) => positionsOf(size + 1)),
        (positions) => {
          const foldsOf = (groups: number) =>
            quantileFolds(new Int32Array(groups), Int32Array.from(Array(groups).keys()), positions, count);
          const [before, after] = [foldsOf(positions.length - 1), foldsOf(positions.length)];
          expect(before.filter((fold, group) => fold !== after[group]).length).toBeLessThanOrEqual(count - 1);
        },
      ),
    );
  });

  it("are halves of values and of rows out of scope too", () => {
    const groups = Int32Array.of(0, 1, 2, 3);
    expect([...quantileFolds(new Int32Array(4).fill(-1), groups, [0.9, 0.1, 0.8, 0.7], 2)]).toEqual([1, 0, 1, 0]);
    const positions = [0.9, 0.1, 0.8];
    expect([...quantileFolds(new Int32Array(3).fill(-1), groups.subarray(0, 3), positions, 2)]).toEqual([1, 0, 1]);
  });
});
