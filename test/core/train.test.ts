import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeHead, encodeHead } from "../../src/core/codec.ts";
import { isInScope, type Scope, scopeScore } from "../../src/core/evaluation/scope.ts";
import { type Head, logitsOf, predict, predictionInterval, predictionSet } from "../../src/core/head.ts";
import { limits } from "../../src/core/limits.ts";
import { estimateCost } from "../../src/core/linear/cost.ts";
import { train } from "../../src/core/linear/train.ts";
import { seededRandom, shuffle } from "../../src/core/random.ts";
import type { Matrix, TensorBackend } from "../../src/core/tensors.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import {
  makeClusters,
  maxDifference,
  options,
  predictions,
  type TrainingData,
  trainOn,
  unwrapTrained,
} from "../contract/training-data.ts";

const wasm = await nodeTensorBackend();
const exact = { l2: 1, evaluation: { method: "none" }, tolerance: 1e-9 } as const;

function indicesOf(data: TrainingData): Int32Array {
  if (data.targets.kind !== "single") throw new Error("Not a single-label set.");
  return data.targets.indices;
}

/** A set of these rows of another. A row may occur several times. */
function selectRows(data: TrainingData, rows: readonly number[]): TrainingData {
  const { dimensions } = data;
  return {
    ...data,
    features: Float32Array.from(
      rows.flatMap((row) => [...data.features.subarray(row * dimensions, (row + 1) * dimensions)]),
    ),
    targets: { kind: "single", indices: Int32Array.from(rows, (row) => indicesOf(data)[row] as number) },
    groups: Int32Array.from(rows),
  };
}

describe("a training", () => {
  it("gives the same bytes for the same set, options and seed", () => {
    const data = makeClusters(60, 9, 4, 1);
    expect(unwrapTrained(trainOn(wasm, data))).toEqual(unwrapTrained(trainOn(wasm, data)));
  });

  it("does not depend on how the rows are divided into blocks", () => {
    const data = makeClusters(60, 9, 4, 1);
    expect(trainOn(wasm, data, {}, 60)).toEqual(trainOn(wasm, data, {}, 7));
  });

  it("reports the objective after each step of its final fit, which never rises", () => {
    const steps: number[] = [];
    const { training } = unwrapTrained(
      trainOn(wasm, makeClusters(60, 9, 4, 1), { onStep: (value) => void steps.push(value) }),
    );
    expect(steps).toHaveLength(training.iterations);
    expect(steps.at(-1)).toBe(training.objective);
    expect(steps).toEqual([...steps].sort((a, b) => b - a));
  });

  it("permutes the head when the labels are permuted", () => {
    const data = makeClusters(40, 6, 4, 1);
    const renamed = [2, 0, 3, 1];
    const indices = indicesOf(data).map((label) => renamed[label] as number);
    const a = predictions(unwrapTrained(trainOn(wasm, data, exact)).head, data.features);
    const b = predictions(
      unwrapTrained(trainOn(wasm, { ...data, targets: { kind: "single", indices } }, exact)).head,
      data.features,
    );
    const permutedValues = a.map((_, index) => b[Math.floor(index / 4) * 4 + (renamed[index % 4] as number)] as number);
    expect(maxDifference(a, permutedValues)).toBeLessThan(1e-4);
  });

  it("does not depend on the rows' order", () => {
    const data = makeClusters(50, 6, 5, 1);
    const order = shuffle([...Array(50).keys()], seededRandom(3));
    const a = predictions(unwrapTrained(trainOn(wasm, data, exact)).head, data.features);
    const b = predictions(unwrapTrained(trainOn(wasm, selectRows(data, order), exact)).head, data.features);
    expect(maxDifference(a, b)).toBeLessThan(1e-4);
  });

  it("solves the same problem for a doubled set with a doubled penalty", () => {
    const data = makeClusters(30, 5, 3, 1);
    const duplicatedData = selectRows(
      data,
      [...Array(60).keys()].map((row) => row % 30),
    );
    const a = predictions(unwrapTrained(trainOn(wasm, data, exact)).head, data.features);
    const b = predictions(unwrapTrained(trainOn(wasm, duplicatedData, { ...exact, l2: 2 })).head, data.features);
    expect(maxDifference(a, b)).toBeLessThan(1e-4);
  });

  it("selects the same model for any scale and offset of the features", () => {
    const data = makeClusters(80, 8, 4, 1.5);
    const base = unwrapTrained(trainOn(wasm, data));
    for (const [scale, offset] of [
      [1e6, 0],
      [1e-6, 0],
      [1, 100],
    ] as const) {
      const features = data.features.map((value) => (value + offset) * scale);
      const other = unwrapTrained(trainOn(wasm, { ...data, features }));
      expect(other.training.l2 / scale ** 2 / base.training.l2).toBeCloseTo(1, 3);
      expect(maxDifference(predictions(base.head, data.features), predictions(other.head, features))).toBeLessThan(
        0.02,
      );
    }
  });

  it("learns as much if one number is as large as an embedding's may be, and nothing if it is 1e38", () => {
    const data = makeClusters(120, 8, 3, 1);
    const accuracyBeside = (largest: number) => {
      const features = data.features.with(3, largest);
      const { head } = unwrapTrained(trainOn(wasm, { ...data, features }));
      const scores = predictions(head, data.features);
      const hits = indicesOf(data).filter((label, row) => {
        const probabilities = scores.slice(3 * row, 3 * row + 3);
        return probabilities.indexOf(Math.max(...probabilities)) === label;
      });
      return hits.length / 120;
    };
    const accuracy = accuracyBeside(1);
    expect(accuracyBeside(limits.largest_embedding_number)).toBeGreaterThan(accuracy - 0.05);
    expect(accuracyBeside(1e38)).toBeLessThan(0.5);
  });

  it("agrees between both backends", () => {
    const data = makeClusters(60, 9, 4, 1);
    const a = unwrapTrained(trainOn(wasm, data));
    const b = unwrapTrained(trainOn(plainTensorBackend(), data));
    expect(a.training.l2).toBeCloseTo(b.training.l2, 6);
    expect(maxDifference(predictions(a.head, data.features), predictions(b.head, data.features))).toBeLessThan(0.01);
  });

  it("learns clusters, and its evaluation agrees with new examples", () => {
    const data = makeClusters(400, 20, 8, 1.5);
    const testData = makeClusters(1200, 20, 8, 1.5);
    const known = selectRows(testData, [...Array(400).keys()]);
    const unseen = selectRows(
      testData,
      [...Array(800).keys()].map((row) => row + 400),
    );
    const { head, evaluation } = unwrapTrained(trainOn(wasm, known));
    const all = predictions(head, unseen.features);
    let correct = 0;
    for (let row = 0; row < 800; row++) {
      const scores = all.slice(row * 8, row * 8 + 8);
      if (scores.indexOf(Math.max(...scores)) === indicesOf(unseen)[row]) correct++;
    }
    const [low, high] = evaluation.accuracy_interval ?? [0, 0];
    expect(data.labels).toEqual(known.labels);
    expect(evaluation.examples).toBe(400);
    expect(correct / 800).toBeGreaterThan(low - 0.03);
    expect(correct / 800).toBeLessThan(high + 0.03);
    expect(evaluation.ece).toBeLessThan(0.1);
  });

  it("yields often, and frees everything when it is stopped at any yield", () => {
    const data = makeClusters(60, 9, 4, 1);
    for (const stop of [0, 1, 5, 20, 60]) {
      const features = [wasm.matrix(60, 9, data.features)];
      const set = {
        task: "single_label",
        dimensions: 9,
        labels: data.labels,
        features,
        targets: data.targets,
        groups: Int32Array.from({ length: 60 }, (_, i) => i),
      } as const;
      const before = wasm.memory().matrices - 1;
      const steps = train(wasm, set, options);
      for (let i = 0; i < stop; i++) expect(steps.next().done).toBe(false);
      steps.return({ ok: false, failure: { code: "internal_error", message: "" } });
      for (const matrix of features) wasm.free(matrix);
      expect(wasm.memory().matrices).toBe(before);
    }
  });
});

describe("hard sets", () => {
  const makeData = (values: number[], labels: number[], dimensions = 1): TrainingData => ({
    dimensions,
    features: Float32Array.from(values),
    targets: { kind: "single", indices: Int32Array.from(labels) },
    labels: ["a", "b", "c"].slice(0, Math.max(2, Math.max(...labels) + 1)),
  });

  it("refuses one class, no examples, and numbers that are not finite", () => {
    expect(trainOn(wasm, makeData([1, 2, 3], [0, 0, 0]))).toMatchObject({
      ok: false,
      failure: { code: "too_few_labels" },
    });
    expect(trainOn(wasm, makeData([1, 2, 3], [-1, 0, -1]))).toMatchObject({
      ok: false,
      failure: { code: "too_few_labels" },
    });
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(trainOn(wasm, makeData([1, 2, 3, bad], [0, 1, 0, 1]))).toMatchObject({
        ok: false,
        failure: { code: "invalid_features", details: { row: 3 } },
      });
    }
    expect(
      trainOn(wasm, { ...makeData([1], [0]), targets: { kind: "value", values: Float64Array.of(1) } }),
    ).toMatchObject({
      ok: false,
      failure: { code: "too_few_examples" },
    });
    expect(wasm.memory().matrices).toBe(0);
  });

  it("trains on two examples in all, and on a class with one example", () => {
    const twoClasses = unwrapTrained(trainOn(wasm, makeData([-1, 1], [0, 1])));
    expect(twoClasses.evaluation).toMatchObject({ method: "none", examples: 0, reason: expect.stringMatching("two") });
    expect(predict(twoClasses.head, Float32Array.of(5))[1]).toBeGreaterThan(0.5);
    const threeClasses = unwrapTrained(
      trainOn(wasm, makeData([-1, -1.1, -0.9, 1, 1.1, 0.9, 40], [0, 0, 0, 1, 1, 1, 2])),
    );
    expect(threeClasses.evaluation.per_class?.map(({ support }) => support)).toEqual([3, 3, 0]);
    expect(predict(threeClasses.head, Float32Array.of(40))[2]).toBeGreaterThan(0.5);
  });

  it("accepts constant features and zero rows", () => {
    const data = makeClusters(30, 3, 3, 0.5);
    const features = data.features.map((value, index) => (index % 3 === 2 ? 1e6 : index < 9 ? 0 : value));
    const { head } = unwrapTrained(trainOn(wasm, { ...data, features }));
    expect(predictions(head, features).every(Number.isFinite)).toBe(true);
    const nothing = unwrapTrained(trainOn(wasm, { ...data, features: new Float32Array(90) }));
    expect([...predict(nothing.head, new Float32Array(3))].map((p) => p.toFixed(2))).toEqual(["0.33", "0.33", "0.33"]);
  });

  it("fits a value that all rows share, and evaluates nothing if all rows are one group", () => {
    const data: TrainingData = {
      dimensions: 2,
      features: new Float32Array(6),
      targets: { kind: "value", values: Float64Array.of(3, 3, 3) },
      labels: [],
      groups: Int32Array.of(0, 0, 0),
    };
    const { head, evaluation } = unwrapTrained(trainOn(wasm, data));
    expect(predict(head, Float32Array.of(1, 1))[0]).toBeCloseTo(3, 5);
    expect(evaluation.examples).toBe(0);
  });

  it("treats features as constant that differ by less than 32-bit weights can express", () => {
    const { head } = unwrapTrained(trainOn(wasm, makeData([0, -1.401298464324817e-45], [0, 1])));
    expect(predictions(head, Float32Array.of(0, 1)).every(Number.isFinite)).toBe(true);
  });

  it("refuses a training over the budget before it starts, with the estimate", () => {
    const data = makeClusters(30, 3, 3, 0.5);
    const budget = { operations: 1e12, bytes: 1000 };
    const result = trainOn(wasm, data, { budget });
    const shape = { task: "single_label", examples: 30, dimensions: 3, outputs: 3 } as const;
    expect(result).toMatchObject({
      ok: false,
      failure: { code: "edge_budget_exceeded", details: { estimate: estimateCost(shape, options, "int8"), budget } },
    });
  });

  it("quantises its rows where the budget has no room for 32-bit floats, and predicts nearly the same", () => {
    const data = makeClusters(900, 96, 6, 0.35);
    const shape = { task: "single_label", examples: 900, dimensions: 96, outputs: 6 } as const;
    const { bytes } = estimateCost(shape, options);
    const exact = unwrapTrained(trainOn(wasm, data));
    const before = wasm.memory().matrices;
    const quantised = unwrapTrained(trainOn(wasm, data, { budget: { operations: 1e12, bytes: bytes - 1 } }));
    expect(wasm.memory().matrices).toBe(before);
    expect(quantised.head.weights).not.toEqual(exact.head.weights);
    const [ours, theirs] = [quantised, exact].map(({ head }) => predictions(head, data.features));
    expect(maxDifference(ours ?? [], theirs ?? [])).toBeLessThan(0.05);
    expect(Math.abs((quantised.evaluation.accuracy ?? 0) - (exact.evaluation.accuracy ?? 0))).toBeLessThan(0.01);
  });

  it("holds out the requested fraction, to a twentieth", () => {
    const data = makeClusters(400, 5, 4, 1);
    for (const fraction of [0.05, 0.1, 0.2, 0.3, 0.35, 0.45, 0.5]) {
      const { evaluation } = unwrapTrained(trainOn(wasm, data, { evaluation: { method: "holdout", fraction } }));
      expect(Math.abs(evaluation.examples / 400 - fraction)).toBeLessThan(0.026);
    }
  });

  it.each([
    [40, 4, 2, "auto", "auto"],
    [200, 30, 10, 0.01, "auto"],
    [500, 64, 5, "auto", "holdout"],
    [60, 300, 30, "auto", "cross_validation"],
    [300, 100, 100, 1e-4, "none"],
    [120, 700, 12, "auto", "none"],
  ] as const)(
    "estimates more than is done and held: %d × %d, %d labels, l2 %s, %s",
    (rows, dimensions, classes, l2, method) => {
      const shape = { task: "single_label", examples: rows, dimensions, outputs: classes } as const;
      const trainingOptions = { l2, evaluation: { method } };
      const cost = estimateCost(shape, { ...options, ...trainingOptions });
      let products = 0;
      let heldBytes = 0;
      let maxBytes = 0;
      const track = (matrix: Matrix) => {
        heldBytes += 4 * matrix.rows * matrix.columns;
        maxBytes = Math.max(maxBytes, heldBytes);
        return matrix;
      };
      const alive = new Set<Matrix>();
      const retain = (matrix: Matrix) => {
        alive.add(matrix);
        return track(matrix);
      };
      const counting: TensorBackend = {
        ...wasm,
        matrix: (height, width, values) => retain(wasm.matrix(height, width, values)),
        transpose: (a) => retain(wasm.transpose(a)),
        multiply(a, b) {
          products += 2 * a.rows * a.columns * b.columns;
          return retain(wasm.multiply(a, b));
        },
        multiplyTransposed(a, b) {
          products += 2 * a.rows * a.columns * b.columns;
          return retain(wasm.multiplyTransposed(a, b));
        },
        free(matrix) {
          if (alive.delete(matrix)) heldBytes -= 4 * matrix.rows * matrix.columns;
          wasm.free(matrix);
        },
      };
      const { training } = unwrapTrained(
        trainOn(counting, makeClusters(rows, dimensions, classes, 1.5), trainingOptions),
      );
      expect(heldBytes).toBe(0);
      expect(maxBytes).toBeLessThan(cost.bytes);
      expect(products).toBeLessThanOrEqual(training.operations);
      expect(training.operations).toBeLessThan(cost.operations);
    },
  );

  it("holds out part of a few values, and predicts numbers", () => {
    const features = Float32Array.from({ length: 6 }, (_, row) => row);
    const data: TrainingData = {
      dimensions: 1,
      features,
      targets: { kind: "value", values: Float64Array.from(features) },
      labels: [],
    };
    for (const fraction of [0.3, 0.5]) {
      const { head, evaluation } = unwrapTrained(trainOn(wasm, data, { evaluation: { method: "holdout", fraction } }));
      expect(evaluation.examples).toBeGreaterThan(0);
      expect(evaluation.examples).toBeLessThan(6);
      expect(evaluation.rmse).toBeGreaterThanOrEqual(0);
      expect(Number.isFinite(predict(head, Float32Array.of(2.5))[0])).toBe(true);
    }
  });

  it("sets no threshold and reports no metrics if everything held out is out of scope", () => {
    const data = makeData([-1, -1.1, 1, 1.1, 5], [0, 0, 1, 1, -1]);
    const { head, evaluation } = unwrapTrained(trainOn(wasm, data, { evaluation: { method: "holdout" } }));
    if (evaluation.examples === 0) expect(head.outOfScopeThreshold).toBeNull();
    expect(evaluation.accuracy === undefined).toBe(evaluation.examples === 0);
  });

  it("evaluates a holdout alike for any order of its rows", () => {
    const data = makeClusters(400, 3, 2, 2);
    const order = shuffle([...Array(400).keys()], seededRandom(5));
    const loss = (set: TrainingData) =>
      unwrapTrained(trainOn(wasm, set, { evaluation: { method: "holdout" } })).evaluation.log_loss ?? 9;
    expect(
      Math.abs(loss(data) - loss({ ...selectRows(data, order), groups: Int32Array.from(order.keys()) })),
    ).toBeLessThan(0.15);
  });

  it("is not fully confident because the few held-out examples were all predicted correctly", () => {
    const fewRows = makeClusters(40, 12, 4, 0.9);
    const testData = makeClusters(1040, 12, 4, 0.9);
    const { head, evaluation } = unwrapTrained(trainOn(wasm, fewRows));
    const rows = [...Array(1000).keys()].map((row) => row + 40);
    const loss = rows.reduce((sum, row) => {
      const p = predict(head, testData.features.subarray(row * 12, row * 12 + 12));
      return sum - Math.log(p[indicesOf(testData)[row] as number] as number) / 1000;
    }, 0);
    expect(evaluation.accuracy).toBeGreaterThan(0.9);
    expect(loss).toBeLessThan((evaluation.log_loss ?? 0) + 0.15);
  });

  it("trains on features that are nearly multiples of each other, however weak the penalty", () => {
    const flat = makeClusters(200, 3, 4, 0.3);
    const random = seededRandom(11);
    const mix = Float64Array.from({ length: 3 * 120 }, () => random() - 0.5);
    const features = Float32Array.from({ length: 200 * 120 }, (_, index) => {
      const row = Math.floor(index / 120);
      return [0, 1, 2].reduce(
        (sum, j) => sum + (flat.features[row * 3 + j] as number) * (mix[j * 120 + (index % 120)] as number),
        1e-4 * random(),
      );
    });
    let last = Number.POSITIVE_INFINITY;
    for (const l2 of [10, 1, 0.1, 1e-2, 1e-4]) {
      const { training } = unwrapTrained(
        trainOn(wasm, { ...flat, dimensions: 120, features }, { l2, evaluation: { method: "none" } }),
      );
      expect(training.converged).toBe(true);
      expect(training.objective).toBeLessThan(last);
      last = training.objective;
    }
    expect(last).toBeLessThan(10);
  });

  it("evaluates models at their own optimum if rows are few and the penalty is weak for their scale", () => {
    const random = seededRandom(8);
    const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    const direction = Float64Array.from({ length: 64 }, (_, j) => normal() / Math.sqrt(j + 1));
    const draw = (rows: number) => {
      const features = Float32Array.from(
        { length: rows * 64 },
        (_, index) => (100 * normal()) / Math.sqrt((index % 64) + 1),
      );
      const values = Float64Array.from({ length: rows }, (_, row) =>
        direction.reduce((sum, weight, j) => sum + (weight * (features[row * 64 + j] as number)) / 100, 0),
      );
      return { features, values };
    };
    const { features, values } = draw(40);
    const testData = draw(500);
    for (const l2 of [1, 1e-4]) {
      const { head, evaluation } = unwrapTrained(
        trainOn(wasm, { dimensions: 64, features, targets: { kind: "value", values }, labels: [] }, { l2 }),
      );
      const errors = testData.values.map(
        (value, row) => value - (predict(head, testData.features.subarray(row * 64, row * 64 + 64))[0] as number),
      );
      const square = (list: Float64Array) => list.reduce((sum, value) => sum + value * value, 0);
      const truth = 1 - square(errors) / square(testData.values);
      expect(truth).toBeGreaterThan(0.9);
      expect(evaluation.r2).toBeGreaterThan(truth - 0.15);
    }
  });

  it("learns although a column, or a value, is larger by orders of magnitude", () => {
    const data = makeClusters(300, 8, 3, 0.3);
    const column = data.features.map((value, index) => (index % 8 === 5 ? 1e4 * value : value));
    const value = data.features.map((feature, index) => (index === 2 ? 1e5 : feature));
    for (const features of [column, value]) {
      const { evaluation } = unwrapTrained(trainOn(wasm, { ...data, features }));
      expect(evaluation.accuracy).toBeGreaterThan(0.95);
    }
  });

  it("learns something however strong the penalty", () => {
    const data = makeClusters(60, 40, 3, 0.5);
    const { evaluation } = unwrapTrained(trainOn(wasm, data, { l2: 1e6 }));
    expect(evaluation.accuracy).toBeGreaterThan(0.9);
  });

  it("finds the same model in the row space as in all dimensions", () => {
    const data = makeClusters(50, 80, 5, 1);
    const triplicatedData = selectRows(
      data,
      [...Array(150).keys()].map((row) => row % 50),
    );
    const a = predictions(unwrapTrained(trainOn(wasm, data, exact)).head, data.features);
    const b = predictions(unwrapTrained(trainOn(wasm, triplicatedData, { ...exact, l2: 3 })).head, data.features);
    expect(maxDifference(a, b)).toBeLessThan(1e-4);
  });

  it("refuses class weights for anything but one label", () => {
    for (const targets of [
      { kind: "value", values: Float64Array.of(1, 2, 3) },
      { kind: "multi", indices: [[0], [1], []] },
    ] as const)
      expect(trainOn(wasm, { ...makeData([1, 2, 3], [0, 1, 0]), targets }, { classWeight: "balanced" })).toMatchObject({
        ok: false,
        failure: { code: "task_mismatch", param: "hyperparameters.class_weight" },
      });
  });

  it("never throws and never returns NaN, for any set", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(
            fc.float({ noNaN: true, noDefaultInfinity: true, min: -1e6, max: 1e6 }),
            fc.integer({ min: -1, max: 2 }),
            fc.nat(3),
          ),
          { minLength: 1, maxLength: 12 },
        ),
        fc.constantFrom<number | "auto">("auto", 1e-6, 1e6),
        (rows, l2) => {
          const data = {
            ...makeData(
              rows.map(([x]) => x),
              rows.map(([, y]) => y),
            ),
            labels: ["a", "b", "c"],
            groups: Int32Array.from(rows, ([, , group]) => group),
          };
          const result = trainOn(wasm, data, { l2 });
          if (!result.ok) expect(["too_few_labels", "too_few_examples"]).toContain(result.failure.code);
          else expect(predictions(result.value.head, data.features).every(Number.isFinite)).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe("other tasks", () => {
  it("rejects out-of-scope inputs by a threshold, and does not train on them", () => {
    const data = makeClusters(200, 10, 4, 0.6);
    const random = seededRandom(9);
    const outOfScopeRows = Float32Array.from({ length: 40 * 10 }, () => 0.4 * (random() - 0.5));
    const features = Float32Array.from([...data.features, ...outOfScopeRows]);
    const indices = Int32Array.from([...indicesOf(data), ...new Int32Array(40).fill(-1)]);
    const { head, training, evaluation } = unwrapTrained(
      trainOn(wasm, { ...data, features, targets: { kind: "single", indices } }),
    );
    expect(training.examples).toBe(200);
    expect(evaluation.examples).toBe(200);
    expect(evaluation.out_of_scope?.expected_recall).toBeGreaterThan(0.7);
    const refused = [...Array(40).keys()].filter((row) => {
      const x = outOfScopeRows.subarray(row * 10, row * 10 + 10);
      const { scope, outOfScopeThreshold } = decodeHead(encodeHead(head)) as Head;
      return !isInScope(
        scope as Scope,
        scopeScore(scope as Scope, logitsOf(head, x, null), x),
        outOfScopeThreshold as number,
      );
    });
    expect(refused.length).toBeGreaterThan(28);
  });

  it("gives prediction sets that have their coverage", () => {
    const all = makeClusters(1500, 6, 5, 1.6);
    const { head } = unwrapTrained(trainOn(wasm, selectRows(all, [...Array(500).keys()])));
    let coveredCount = 0;
    for (let row = 500; row < 1500; row++) {
      const set = predictionSet(head, predict(head, all.features.subarray(row * 6, row * 6 + 6)), 0.9);
      if (set.includes(indicesOf(all)[row] as number)) coveredCount++;
    }
    expect(coveredCount / 1000).toBeGreaterThan(0.86);
    expect(coveredCount / 1000).toBeLessThan(0.96);
  });

  it("learns several labels at once", () => {
    const data = makeClusters(200, 8, 4, 0.5);
    const targets = {
      kind: "multi",
      indices: Array.from(indicesOf(data), (k) => (k === 3 ? [0, 1] : k === 2 ? [] : [k])),
    } as const;
    const { head, evaluation } = unwrapTrained(trainOn(wasm, { ...data, targets, labels: ["x", "y"] }));
    expect(evaluation.accuracy).toBeGreaterThan(0.9);
    expect(evaluation.micro_f1).toBeGreaterThan(0.9);
    expect([...predict(head, data.features.subarray(24, 32))].every((p) => p > 0.5)).toBe(true);
  });

  it("fits a line, and its intervals have their coverage", () => {
    const random = seededRandom(4);
    const features = Float32Array.from({ length: 300 }, () => 4 * random() - 2);
    const values = Float64Array.from(features, (x) => 3 * x + 7 + (random() - 0.5));
    const { head, evaluation } = unwrapTrained(
      trainOn(wasm, { dimensions: 1, features, targets: { kind: "value", values }, labels: [] }),
    );
    expect(evaluation.r2).toBeGreaterThan(0.98);
    expect(predict(head, Float32Array.of(1))[0]).toBeCloseTo(10, 1);
    expect(evaluation.rmse).toBeCloseTo(Math.sqrt(1 / 12), 1);
    let coveredCount = 0;
    for (let i = 0; i < 1000; i++) {
      const x = 4 * random() - 2;
      const value = predict(head, Float32Array.of(x))[0] as number;
      const [low, high] = predictionInterval(head, value, 0.8);
      const truth = 3 * x + 7 + (random() - 0.5);
      if (low <= truth && truth <= high) coveredCount++;
    }
    expect(coveredCount / 1000).toBeGreaterThan(0.74);
    expect(coveredCount / 1000).toBeLessThan(0.88);
  });

  it("keeps the differences between values that are far from zero", () => {
    const random = seededRandom(6);
    const features = Float32Array.from({ length: 100 }, () => 4 * random() - 2);
    for (const [offset, scale] of [
      [1.7e9, 50],
      [1e15, 1e3],
    ] as const) {
      const values = Float64Array.from(features, (x) => offset + scale * (x + 0.1 * random()));
      const { head, evaluation } = unwrapTrained(
        trainOn(wasm, { dimensions: 1, features, targets: { kind: "value", values }, labels: [] }),
      );
      expect(evaluation.r2).toBeGreaterThan(0.98);
      const decodedHead = decodeHead(encodeHead(head));
      for (const candidate of [head, decodedHead])
        expect(
          Math.abs((predict(candidate ?? head, Float32Array.of(1))[0] as number) - offset - 1.05 * scale),
        ).toBeLessThan(0.1 * scale);
    }
  });
});
