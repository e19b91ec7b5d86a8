import { describe, expect, it } from "vitest";
import { encodeHead } from "../../src/core/codec.ts";
import { estimate, selectionPlan } from "../../src/core/linear/cost.ts";
import { seededRandom } from "../../src/core/random.ts";
import { SPARSE_BYTES } from "../../src/core/linear/sparse.ts";
import type { Matrix, Sparse, Tensors } from "../../src/core/tensors.ts";
import { train } from "../../src/core/linear/train.ts";
import { nodeTensors } from "../../src/tensor/node.ts";
import { plainTensors } from "../../src/tensor/plain.ts";
import {
  type Data,
  distance,
  lexicalOf,
  options,
  predictions,
  trained,
  trainOn,
  worded,
} from "../contract/training.ts";

const wasm = await nodeTensors();
const none = { method: "none" } as const;

/** The share of rows whose own label is the most probable one. */
function accuracy(result: ReturnType<typeof trainOn>, data: Data): number {
  const { head } = trained(result);
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
function split(data: Data, rows: number): [Data, Data] {
  const { indices } = data.targets as { indices: Int32Array };
  const part = (from: number, to?: number): Data => ({
    ...data,
    features: data.features.slice(from * data.dimensions, to === undefined ? undefined : to * data.dimensions),
    targets: { kind: "single", indices: indices.slice(from, to) },
    ...(data.texts === undefined ? {} : { texts: data.texts.slice(from, to) }),
  });
  return [part(0, rows), part(rows)];
}

describe.each([
  ["few rows", 150],
  ["more rows than are worked in the span of", 700],
])("a training of %s", (_what, rows) => {
  it("without lexical features is as if there were no texts", () => {
    const { texts: _texts, ...data } = worded(rows, 12, 3, "words");
    const result = trainOn(wasm, worded(rows, 12, 3, "words"), { lexical: false });
    expect(result).toEqual(trainOn(wasm, data));
    expect(trained(result)).toMatchObject({ head: { lexical: null }, training: { lexical: false } });
  });

  it("with lexical features learns what words alone tell, and without does not", () => {
    const [known, unseen] = split(worded(rows + 300, 12, 3, "words"), rows);
    const result = trainOn(wasm, known, { lexical: true });
    expect(trained(result).training.lexical).toBe(true);
    expect(trained(result).head.lexical?.seen.length).toBeGreaterThan(50);
    expect(accuracy(result, unseen)).toBeGreaterThan(0.9);
    expect(accuracy(trainOn(wasm, known, { lexical: false }), unseen)).toBeLessThan(0.6);
  });

  it("says honestly how well it does with them", () => {
    const [known, unseen] = split(worded(rows + 600, 12, 6, "words", 3), rows);
    const result = trainOn(wasm, known, { lexical: true });
    const [low, high] = trained(result).evaluation.accuracy_interval ?? [0, 0];
    expect(accuracy(result, unseen)).toBeGreaterThan(low - 0.05);
    expect(accuracy(result, unseen)).toBeLessThan(high + 0.05);
  });

  it("takes them by itself where only words tell classes apart, and loses nothing where words are noise", () => {
    const [wordy, unseenWordy] = split(worded(rows + 300, 12, 3, "words"), rows);
    const words = trainOn(wasm, wordy);
    expect(trained(words).training.lexical).toBe(true);
    expect(trained(words).head.lexical).not.toBeNull();
    expect(accuracy(words, unseenWordy)).toBeGreaterThan(0.9);
    const [known, unseen] = split(worded(rows + 600, 12, 3, "embeddings"), rows);
    const without = accuracy(trainOn(wasm, known, { lexical: false }), unseen);
    expect(without).toBeGreaterThan(0.7);
    expect(accuracy(trainOn(wasm, known), unseen)).toBeGreaterThan(without - 0.03);
  });

  it("keeps to an l2 that is given, with lexical features and without", () => {
    for (const [tells, lexical] of [
      ["words", "auto"],
      ["words", true],
      ["embeddings", "auto"],
      ["embeddings", false],
    ] as const) {
      const { training } = trained(trainOn(wasm, worded(rows, 12, 3, tells), { l2: 0.5, lexical }));
      expect(training.l2).toBeCloseTo(0.5, 6);
      if (lexical !== "auto" || tells === "words") expect(training.lexical).toBe(lexical !== false);
    }
  });

  it("chooses where nothing is evaluated too", () => {
    const { training, evaluation } = trained(trainOn(wasm, worded(rows, 12, 3, "words"), { evaluation: none }));
    expect(evaluation.method).toBe("none");
    expect(training.lexical).toBe(true);
  });

  it("gives the same bytes for the same texts, however its rows are cut into blocks", () => {
    for (const lexical of ["auto", true] as const) {
      const bytes = (blockRows: number) =>
        encodeHead(trained(trainOn(wasm, worded(rows, 12, 3, "words"), { lexical }, blockRows)).head);
      expect(bytes(17)).toEqual(bytes(17));
      expect(bytes(rows)).toEqual(bytes(17));
    }
  });

  it("agrees between both backends", () => {
    const data = worded(rows, 12, 3, "words");
    const [a, b] = [wasm, plainTensors()].map((tensors) => trained(trainOn(tensors, data)));
    if (a === undefined || b === undefined) throw new Error("There are two.");
    expect(a.training.lexical).toBe(b.training.lexical);
    expect(Math.log(a.training.l2)).toBeCloseTo(Math.log(b.training.l2), 6);
    const of = ({ head }: typeof a) => predictions(head, data.features, data.texts);
    expect(distance(of(a), of(b))).toBeLessThan(0.02);
  });

  it("learns any number of labels, and numbers, from words", () => {
    const data = worded(rows, 12, 3, "words");
    const { indices } = data.targets as { indices: Int32Array };
    const multi: Data = {
      ...data,
      labels: ["x", "y"],
      targets: { kind: "multi", indices: Array.from(indices, (label) => [[0], [1], [0, 1]][label] as number[]) },
    };
    expect(trained(trainOn(wasm, multi)).training.lexical).toBe(true);
    const labels = trained(trainOn(wasm, multi, { lexical: true }));
    expect(labels.evaluation.accuracy).toBeGreaterThan(0.8);
    const value: Data = {
      ...data,
      labels: [],
      targets: { kind: "value", values: Float64Array.from(indices, (label) => 100 + 10 * label) },
    };
    expect(trained(trainOn(wasm, value)).training.lexical).toBe(true);
    const numbers = trained(trainOn(wasm, value, { lexical: true }));
    expect(numbers.evaluation.r2).toBeGreaterThan(0.7);
    expect(
      distance(
        predictions(numbers.head, value.features, value.texts).slice(0, 30),
        [...indices.slice(0, 30)].map((label) => 100 + 10 * label),
      ),
    ).toBeLessThan(10);
  });

  it("leaves neither matrices nor sparse rows behind, stopped at any step or failed in any", () => {
    const data = worded(rows, 12, 3, "words");
    const before = wasm.memory().matrices;
    trained(trainOn(wasm, data));
    expect(wasm.memory().matrices).toBe(before);
    for (const stop of [0, 1, 3, 5, 10, 40, 200]) {
      const features = [wasm.matrix(rows, 12, data.features)];
      const lexical = lexicalOf(data.texts ?? [], 3);
      const groups = Int32Array.from({ length: rows }, (_, i) => i);
      const steps = train(wasm, { ...data, task: "single_label", features, groups, lexical }, options);
      for (let i = 0; i < stop; i++) expect(steps.next().done).toBe(false);
      steps.return({ ok: false, failure: { code: "internal_error", message: "" } });
      for (const matrix of features) wasm.free(matrix);
      expect(wasm.memory().matrices).toBe(before);
    }
    for (const left of [0, 1, 5, 60]) {
      let count = left;
      const step =
        <A extends unknown[], B>(run: (...given: A) => B) =>
        (...given: A) => {
          if (count-- === 0) throw new Error("out of luck");
          return run(...given);
        };
      const failing: Tensors = {
        ...wasm,
        sparse: step(wasm.sparse),
        readSparse: step(wasm.readSparse),
        addSparseProduct: step(wasm.addSparseProduct),
        addTransposedProduct: step(wasm.addTransposedProduct),
      };
      if (rows < 640 && left > 3) continue;
      expect(() => trainOn(failing, data)).toThrow("out of luck");
      expect(wasm.memory().matrices).toBe(before);
    }
  });
});

describe("lexical features", () => {
  it.each([1, 2, 3])("are left where words are noise and the embeddings tell all: %i", (seed) => {
    const { head, training } = trained(trainOn(wasm, worded(900, 12, 3, "embeddings", seed)));
    expect(training.lexical).toBe(false);
    expect(head.lexical).toBeNull();
  });

  it("are left out where nothing can be held out that would tell that they are better", () => {
    const [two] = split(worded(20, 3, 2, "words"), 2);
    expect(trained(trainOn(wasm, two)).training.lexical).toBe(false);
    expect(trained(trainOn(wasm, two, { lexical: true })).training.lexical).toBe(true);
  });

  it("of texts without a word are nothing, and do no harm", () => {
    for (const rows of [60, 700]) {
      const data = { ...worded(rows, 12, 3, "embeddings"), texts: Array(rows).fill(" ") };
      const { head } = trained(trainOn(wasm, data, { lexical: true }));
      expect(head.lexical?.seen).toHaveLength(0);
      const { texts: _texts, ...dense } = data;
      const without = trained(trainOn(wasm, dense)).head;
      expect(distance(predictions(head, data.features, data.texts), predictions(without, data.features))).toBeLessThan(
        0.02,
      );
    }
  });

  it("choose their penalty on part of many rows, each with its own words", { timeout: 60_000 }, () => {
    const [rows, classes] = [6_000, 150];
    const data = worded(rows, 16, classes, "words");
    const { entries, columns } = lexicalOf(data.texts ?? [], classes);
    expect(selectionPlan({ examples: rows, dimensions: 16, outputs: classes, entries, columns }).rows).toBeLessThan(
      rows / 2,
    );
    const before = wasm.memory().matrices;
    const result = trainOn(wasm, data, { evaluation: none, lexical: true });
    expect(wasm.memory().matrices).toBe(before);
    expect(trained(result).training.lexical).toBe(true);
    expect(accuracy(result, data)).toBeGreaterThan(0.9);
  });

  it("cost more the more numbers they have, and are refused beyond the bytes before any work", () => {
    const shape = { task: "single_label", examples: 2_000, dimensions: 64, outputs: 10 } as const;
    // Without room for transposes, which are kept where there is any.
    const how = { ...options, evaluation: { method: "holdout" } } as const;
    const cost = (entries: number, lexical: boolean | "auto" = "auto", textBytes = 0) =>
      estimate({ ...shape, lexical: { columns: 16_384, entries, textBytes } }, { ...how, lexical }, { bytes: 0 });
    const without = estimate(shape, how, { bytes: 0 });
    for (const entries of [0, 1e5, 1e6, 3e6]) {
      expect(cost(entries).bytes).toBeGreaterThan(without.bytes);
      expect(cost(entries).bytes).toBeGreaterThan(2 * SPARSE_BYTES * entries);
    }
    const last = cost(3e6);
    expect(last.bytes).toBeGreaterThan(cost(1e6).bytes);
    expect(cost(3e6, "auto", 1e6).operations).toBe(last.operations + 1e10);
    expect(cost(3e6, false, 1e6)).toEqual(without);
    expect(cost(5e6).bytes).toBeGreaterThan(options.budget.bytes);

    const data = worded(100, 4, 3, "words");
    const { columns, entries } = lexicalOf(data.texts ?? [], 3);
    const size = { task: "single_label", examples: 100, dimensions: 4, outputs: 3 } as const;
    const bytes = estimate({ ...size, lexical: { columns, entries } }, options, { bytes: 0 }).bytes - 1;
    const budget = { operations: 1e12, bytes };
    expect(trainOn(wasm, data, { budget })).toMatchObject({
      ok: false,
      failure: {
        code: "edge_budget_exceeded",
        details: { estimate: estimate({ ...size, lexical: { columns, entries } }, options, budget), budget },
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
      const data = worded(rows, dimensions, classes, "words");
      // Long texts, so that sparse rows weigh more than all else.
      const texts = (data.texts ?? []).map(
        (text) => `${text} ${Array.from({ length: 120 }, () => `x${Math.floor(random() * 5000)}`).join(" ")}`,
      );
      const { columns, entries } = lexicalOf(texts, classes);
      const how = { l2, lexical, evaluation: { method } };
      const shape = { task: "single_label", examples: rows, dimensions, outputs: classes } as const;
      const cost = estimate({ ...shape, lexical: { columns, entries } }, { ...options, ...how }, options.budget);
      const sizes = new Map<Matrix | Sparse, number>();
      let held = 0;
      let most = 0;
      let products = 0;
      const keep = <T extends Matrix | Sparse>(each: T, bytes: number): T => {
        sizes.set(each, bytes);
        held += bytes;
        most = Math.max(most, held);
        return each;
      };
      const dense = (matrix: Matrix) => keep(matrix, 4 * matrix.rows * matrix.columns);
      const counting: Tensors = {
        ...wasm,
        matrix: (height, width, values) => dense(wasm.matrix(height, width, values)),
        transpose: (a) => dense(wasm.transpose(a)),
        multiply(a, b) {
          products += 2 * a.rows * a.columns * b.columns;
          return dense(wasm.multiply(a, b));
        },
        sparse: (given, width) => keep(wasm.sparse(given, width), SPARSE_BYTES * given.values.length),
        readSparse(a) {
          most = Math.max(most, held + SPARSE_BYTES * a.entries);
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
        free(each) {
          held -= sizes.get(each) ?? 0;
          sizes.delete(each);
          wasm.free(each);
        },
      };
      const { training } = trained(trainOn(counting, { ...data, texts }, how));
      expect(held).toBe(0);
      expect(most).toBeLessThan(cost.bytes);
      expect(products).toBeLessThanOrEqual(training.operations);
      expect(training.operations).toBeLessThan(cost.operations);
    },
  );
});
