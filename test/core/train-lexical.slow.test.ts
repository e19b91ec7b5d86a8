import { describe, expect, it } from "vitest";
import { encodeHead } from "../../src/core/codec.ts";
import { estimateCost } from "../../src/core/linear/cost.ts";
import { BYTES_PER_SPARSE_ENTRY } from "../../src/core/linear/sparse.ts";
import { train } from "../../src/core/linear/train.ts";
import { selectionPlan } from "../../src/core/linear/workload.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { Matrix, SparseMatrix, TensorBackend } from "../../src/core/tensors.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import {
  fitLexical,
  makeWordedClusters,
  maxDifference,
  options,
  predictions,
  type TrainingData,
  trainOn,
  unwrapTrained,
} from "../contract/training-data.ts";

const wasm = await nodeTensorBackend();
const none = { method: "none" } as const;

/** The share of rows whose own label is the most probable one. */
function measureAccuracy(result: ReturnType<typeof trainOn>, data: TrainingData): number {
  const { head } = unwrapTrained(result);
  const all = predictions(head, data.features, data.texts);
  const { indices } = data.targets as { indices: Int32Array };
  const k = data.labels.length;
  const right = [...indices].filter((label, row) => {
    const scores = all.slice(row * k, (row + 1) * k);
    return scores.indexOf(Math.max(...scores)) === label;
  });
  return right.length / indices.length;
}

/** The first rows of a set, and the rest. */
function splitData(data: TrainingData, rows: number): [TrainingData, TrainingData] {
  const { indices } = data.targets as { indices: Int32Array };
  const takeRows = (from: number, to?: number): TrainingData => ({
    ...data,
    features: data.features.slice(from * data.dimensions, to === undefined ? undefined : to * data.dimensions),
    targets: { kind: "single", indices: indices.slice(from, to) },
    ...(data.texts === undefined ? {} : { texts: data.texts.slice(from, to) }),
  });
  return [takeRows(0, rows), takeRows(rows)];
}

describe.each([
  ["few rows", 150],
  ["more rows than are worked in the span of", 700],
])("a training of %s", (_what, rows) => {
  it("without lexical features equals a training without texts", () => {
    const { texts: _texts, ...data } = makeWordedClusters(rows, 12, 3, "words");
    const result = trainOn(wasm, makeWordedClusters(rows, 12, 3, "words"), { lexical: false });
    expect(result).toEqual(trainOn(wasm, data));
    expect(unwrapTrained(result)).toMatchObject({ head: { lexical: null }, training: { lexical: false } });
  });

  it("learns what only the words tell with lexical features, and not without", () => {
    const [trainingData, testData] = splitData(makeWordedClusters(rows + 300, 12, 3, "words"), rows);
    const result = trainOn(wasm, trainingData, { lexical: true });
    expect(unwrapTrained(result).training.lexical).toBe(true);
    expect(unwrapTrained(result).head.lexical?.seenBuckets.length).toBeGreaterThan(50);
    expect(measureAccuracy(result, testData)).toBeGreaterThan(0.9);
    expect(measureAccuracy(trainOn(wasm, trainingData, { lexical: false }), testData)).toBeLessThan(0.6);
  });

  it("has an evaluation with them that agrees with new examples", () => {
    const [trainingData, testData] = splitData(makeWordedClusters(rows + 600, 12, 6, "words", 3), rows);
    const result = trainOn(wasm, trainingData, { lexical: true });
    const [low, high] = unwrapTrained(result).evaluation.accuracy_interval ?? [0, 0];
    expect(measureAccuracy(result, testData)).toBeGreaterThan(low - 0.05);
    expect(measureAccuracy(result, testData)).toBeLessThan(high + 0.05);
  });

  it("selects them if only the words tell classes apart, and loses nothing if words are noise", () => {
    const [wordData, wordTestData] = splitData(makeWordedClusters(rows + 300, 12, 3, "words"), rows);
    const words = trainOn(wasm, wordData);
    expect(unwrapTrained(words).training.lexical).toBe(true);
    expect(unwrapTrained(words).head.lexical).not.toBeNull();
    expect(measureAccuracy(words, wordTestData)).toBeGreaterThan(0.9);
    const [trainingData, testData] = splitData(makeWordedClusters(rows + 600, 12, 3, "embeddings"), rows);
    const withoutLexical = measureAccuracy(trainOn(wasm, trainingData, { lexical: false }), testData);
    expect(withoutLexical).toBeGreaterThan(0.7);
    expect(measureAccuracy(trainOn(wasm, trainingData), testData)).toBeGreaterThan(withoutLexical - 0.03);
  });

  it("uses a given l2, with lexical features and without", () => {
    for (const [informative, lexical] of [
      ["words", "auto"],
      ["words", true],
      ["embeddings", "auto"],
      ["embeddings", false],
    ] as const) {
      const { training } = unwrapTrained(
        trainOn(wasm, makeWordedClusters(rows, 12, 3, informative), { l2: 0.5, lexical }),
      );
      expect(training.l2).toBeCloseTo(0.5, 6);
      if (lexical !== "auto" || informative === "words") expect(training.lexical).toBe(lexical !== false);
    }
  });

  it("selects even if nothing is evaluated", () => {
    const { training, evaluation } = unwrapTrained(
      trainOn(wasm, makeWordedClusters(rows, 12, 3, "words"), { evaluation: none }),
    );
    expect(evaluation.method).toBe("none");
    expect(training.lexical).toBe(true);
  });

  it("gives the same bytes for the same texts, however its rows are divided into blocks", () => {
    for (const lexical of ["auto", true] as const) {
      const bytes = (blockRows: number) =>
        encodeHead(unwrapTrained(trainOn(wasm, makeWordedClusters(rows, 12, 3, "words"), { lexical }, blockRows)).head);
      expect(bytes(17)).toEqual(bytes(17));
      expect(bytes(rows)).toEqual(bytes(17));
    }
  });

  it("agrees between both backends", () => {
    const data = makeWordedClusters(rows, 12, 3, "words");
    const [a, b] = [wasm, plainTensorBackend()].map((tensors) => unwrapTrained(trainOn(tensors, data)));
    if (a === undefined || b === undefined) throw new Error("There are two.");
    expect(a.training.lexical).toBe(b.training.lexical);
    expect(Math.log(a.training.l2)).toBeCloseTo(Math.log(b.training.l2), 6);
    const predict = ({ head }: typeof a) => predictions(head, data.features, data.texts);
    expect(maxDifference(predict(a), predict(b))).toBeLessThan(0.02);
  });

  it("learns any number of labels, and numbers, from words", () => {
    const data = makeWordedClusters(rows, 12, 3, "words");
    const { indices } = data.targets as { indices: Int32Array };
    const multi: TrainingData = {
      ...data,
      labels: ["x", "y"],
      targets: { kind: "multi", indices: Array.from(indices, (label) => [[0], [1], [0, 1]][label] as number[]) },
    };
    expect(unwrapTrained(trainOn(wasm, multi)).training.lexical).toBe(true);
    const labels = unwrapTrained(trainOn(wasm, multi, { lexical: true }));
    expect(labels.evaluation.accuracy).toBeGreaterThan(0.8);
    const value: TrainingData = {
      ...data,
      labels: [],
      targets: { kind: "value", values: Float64Array.from(indices, (label) => 100 + 10 * label) },
    };
    expect(unwrapTrained(trainOn(wasm, value)).training.lexical).toBe(true);
    const numbers = unwrapTrained(trainOn(wasm, value, { lexical: true }));
    expect(numbers.evaluation.r2).toBeGreaterThan(0.7);
    expect(
      maxDifference(
        predictions(numbers.head, value.features, value.texts).slice(0, 30),
        [...indices.slice(0, 30)].map((label) => 100 + 10 * label),
      ),
    ).toBeLessThan(10);
  });

  it("frees all matrices and sparse rows when it is stopped at any step or fails in any", () => {
    const data = makeWordedClusters(rows, 12, 3, "words");
    const before = wasm.memory().matrices;
    unwrapTrained(trainOn(wasm, data));
    expect(wasm.memory().matrices).toBe(before);
    for (const stopAfter of [0, 1, 3, 5, 10, 40, 200]) {
      const features = [wasm.matrix(rows, 12, data.features)];
      const lexical = fitLexical(data.texts ?? [], 3);
      const groups = Int32Array.from({ length: rows }, (_, i) => i);
      const steps = train(wasm, { ...data, task: "single_label", features, groups, lexical }, options);
      for (let i = 0; i < stopAfter; i++) expect(steps.next().done).toBe(false);
      steps.return({ ok: false, failure: { code: "internal_error", message: "" } });
      for (const matrix of features) wasm.free(matrix);
      expect(wasm.memory().matrices).toBe(before);
    }
    for (const productsLeft of [0, 1, 5, 60]) {
      let count = productsLeft;
      const step =
        <A extends unknown[], B>(run: (...given: A) => B) =>
        (...args: A) => {
          if (count-- === 0) throw new Error("out of luck");
          return run(...args);
        };
      const failing: TensorBackend = {
        ...wasm,
        sparseMatrix: step(wasm.sparseMatrix),
        readSparse: step(wasm.readSparse),
        addSparseProduct: step(wasm.addSparseProduct),
        addTransposedProduct: step(wasm.addTransposedProduct),
      };
      if (rows < 640 && productsLeft > 3) continue;
      expect(() => trainOn(failing, data)).toThrow("out of luck");
      expect(wasm.memory().matrices).toBe(before);
    }
  });
});

describe("lexical features", () => {
  it.each([1, 2, 3])("are left out if words are noise and the embeddings are enough: %i", (seed) => {
    const { head, training } = unwrapTrained(trainOn(wasm, makeWordedClusters(900, 12, 3, "embeddings", seed)));
    expect(training.lexical).toBe(false);
    expect(head.lexical).toBeNull();
  });

  it("are left out if no rows can be held out to show that they are better", () => {
    const [twoRows] = splitData(makeWordedClusters(20, 3, 2, "words"), 2);
    expect(unwrapTrained(trainOn(wasm, twoRows)).training.lexical).toBe(false);
    expect(unwrapTrained(trainOn(wasm, twoRows, { lexical: true })).training.lexical).toBe(true);
  });

  it("of texts without words are empty, and do no harm", () => {
    for (const rows of [60, 700]) {
      const data = { ...makeWordedClusters(rows, 12, 3, "embeddings"), texts: Array(rows).fill(" ") };
      const { head } = unwrapTrained(trainOn(wasm, data, { lexical: true }));
      expect(head.lexical?.seenBuckets).toHaveLength(0);
      const { texts: _texts, ...dense } = data;
      const without = unwrapTrained(trainOn(wasm, dense)).head;
      expect(
        maxDifference(predictions(head, data.features, data.texts), predictions(without, data.features)),
      ).toBeLessThan(0.02);
    }
  });

  it("select their penalty on a subsample of many rows, each with its own words", { timeout: 60_000 }, () => {
    const [rows, classes] = [6_000, 150];
    const data = makeWordedClusters(rows, 16, classes, "words");
    const { entries, columns } = fitLexical(data.texts ?? [], classes);
    expect(selectionPlan({ examples: rows, dimensions: 16, outputs: classes, entries, columns }).rows).toBeLessThan(
      rows / 2,
    );
    const before = wasm.memory().matrices;
    const result = trainOn(wasm, data, { evaluation: none, lexical: true });
    expect(wasm.memory().matrices).toBe(before);
    expect(unwrapTrained(result).training.lexical).toBe(true);
    expect(measureAccuracy(result, data)).toBeGreaterThan(0.9);
  });

  it("cost more the more entries they have, and are refused over the budget before any work", () => {
    const shape = { task: "single_label", examples: 2_000, dimensions: 64, outputs: 10 } as const;
    const trainingOptions = { ...options, evaluation: { method: "holdout" } } as const;
    const cost = (entries: number, lexical: boolean | "auto" = "auto", textBytes = 0) =>
      estimateCost({ ...shape, lexical: { columns: 16_384, entries, textBytes } }, { ...trainingOptions, lexical });
    const without = estimateCost(shape, trainingOptions);
    for (const entries of [0, 1e5, 1e6, 3e6]) {
      expect(cost(entries).bytes).toBeGreaterThan(without.bytes);
      expect(cost(entries).bytes).toBeGreaterThan(2 * BYTES_PER_SPARSE_ENTRY * entries);
    }
    const last = cost(3e6);
    expect(last.bytes).toBeGreaterThan(cost(1e6).bytes);
    expect(cost(3e6, "auto", 1e6).operations).toBe(last.operations + 1e10);
    expect(cost(3e6, false, 1e6)).toEqual(without);
    expect(cost(5e6).bytes).toBeGreaterThan(options.budget.bytes);

    const data = makeWordedClusters(100, 4, 3, "words");
    const { columns, entries } = fitLexical(data.texts ?? [], 3);
    const size = { task: "single_label", examples: 100, dimensions: 4, outputs: 3 } as const;
    const bytes = estimateCost({ ...size, lexical: { columns, entries } }, options, "int8").bytes - 1;
    const budget = { operations: 1e12, bytes };
    expect(trainOn(wasm, data, { budget })).toMatchObject({
      ok: false,
      failure: {
        code: "edge_budget_exceeded",
        details: { estimate: estimateCost({ ...size, lexical: { columns, entries } }, options, "int8"), budget },
      },
    });
    expect(trainOn(wasm, data, { budget, lexical: false }).ok).toBe(true);
  });

  it.each([
    [60, 16, 3, "auto", "auto", "auto"],
    [300, 8, 4, true, "auto", "auto"],
    [630, 16, 3, "auto", 1, "none"],
    [700, 40, 5, "auto", "auto", "auto"],
    [900, 16, 3, true, 0.1, "holdout"],
    [2500, 8, 60, "auto", "auto", "none"],
  ] as const)(
    "take less than is estimated: %d × %d, %d labels, %s, l2 %s, %s",
    { timeout: 60_000 },
    (rows, dimensions, classes, lexical, l2, method) => {
      const random = seededRandom(1);
      const data = makeWordedClusters(rows, dimensions, classes, "words");
      // Long texts, so that sparse rows take most of the memory.
      const texts = (data.texts ?? []).map(
        (text) => `${text} ${Array.from({ length: 120 }, () => `x${Math.floor(random() * 5000)}`).join(" ")}`,
      );
      const { columns, entries } = fitLexical(texts, classes);
      const trainingOptions = { l2, lexical, evaluation: { method } };
      const shape = { task: "single_label", examples: rows, dimensions, outputs: classes } as const;
      const cost = estimateCost({ ...shape, lexical: { columns, entries } }, { ...options, ...trainingOptions });
      const sizes = new Map<Matrix | SparseMatrix, number>();
      let heldBytes = 0;
      let maxBytes = 0;
      let products = 0;
      const retain = <T extends Matrix | SparseMatrix>(matrix: T, bytes: number): T => {
        sizes.set(matrix, bytes);
        heldBytes += bytes;
        maxBytes = Math.max(maxBytes, heldBytes);
        return matrix;
      };
      const dense = (matrix: Matrix) => retain(matrix, 4 * matrix.rows * matrix.columns);
      const counting: TensorBackend = {
        ...wasm,
        matrix: (height, width, values) => dense(wasm.matrix(height, width, values)),
        transpose: (a) => dense(wasm.transpose(a)),
        multiply(a, b) {
          products += 2 * a.rows * a.columns * b.columns;
          return dense(wasm.multiply(a, b));
        },
        multiplyTransposed(a, b) {
          products += 2 * a.rows * a.columns * b.columns;
          return dense(wasm.multiplyTransposed(a, b));
        },
        sparseMatrix: (rows, width) =>
          retain(wasm.sparseMatrix(rows, width), BYTES_PER_SPARSE_ENTRY * rows.values.length),
        readSparse(a) {
          maxBytes = Math.max(maxBytes, heldBytes + BYTES_PER_SPARSE_ENTRY * a.entries);
          return wasm.readSparse(a);
        },
        addSparseProduct(a, b, to) {
          products += 2 * a.entries * b.columns;
          wasm.addSparseProduct(a, b, to);
        },
        addTransposedProduct(a, b, to) {
          products += 2 * a.entries * b.columns;
          wasm.addTransposedProduct(a, b, to);
        },
        free(matrix) {
          heldBytes -= sizes.get(matrix) ?? 0;
          sizes.delete(matrix);
          wasm.free(matrix);
        },
      };
      const { training } = unwrapTrained(trainOn(counting, { ...data, texts }, trainingOptions));
      expect(heldBytes).toBe(0);
      expect(maxBytes).toBeLessThan(cost.bytes);
      expect(products).toBeLessThanOrEqual(training.operations);
      expect(training.operations).toBeLessThan(cost.operations);
    },
  );
});
