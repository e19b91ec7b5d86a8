/** Trainings on the WASM backend in both runtimes, and the memory that they leave allocated. */
import { expect, it } from "vitest";
import { train } from "../../src/core/linear/train.ts";
import type { TensorBackend } from "../../src/core/tensors.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import { loadTensors } from "./runtime.ts";
import {
  makeClusters,
  makeWordedClusters,
  maxDifference,
  options,
  predictions,
  type TrainingData,
  trainOn,
  unwrapTrained,
} from "./training-data.ts";

const wasm = await loadTensors();

it("learns as the reference backend does", () => {
  const data = makeClusters(60, 9, 4, 1);
  const [a, b] = [wasm, plainTensorBackend()].map((tensors) => unwrapTrained(trainOn(tensors, data)));
  expect(a?.evaluation.accuracy).toBeGreaterThan(0.8);
  expect(a?.training.l2).toBeCloseTo(b?.training.l2 ?? Number.NaN, 6);
  if (a && b)
    expect(maxDifference(predictions(a.head, data.features), predictions(b.head, data.features))).toBeLessThan(0.01);
});

it("frees all tensors and memory, over a hundred trainings, however they end", { timeout: 60_000 }, () => {
  const data = makeClusters(120, 70, 6, 1);
  const before = wasm.memory().matrices;
  let bytes = 0;
  for (let i = 0; i < 100; i++) {
    const evaluation = { method: i % 2 === 0 ? "holdout" : "none" } as const;
    if (i % 10 === 7) expect(() => trainOn(failingAfter(50 + i), data, { seed: i, evaluation })).toThrow("out of luck");
    else if (i % 10 === 9) stopTrainingAfter(5 * i, data);
    else unwrapTrained(trainOn(wasm, data, { seed: i, evaluation }));
    expect(wasm.memory().matrices).toBe(before);
    if (i === 9) bytes = wasm.memory().bytes;
  }
  expect(wasm.memory().bytes).toBe(bytes);
});

it("learns words as the reference backend does, and frees their rows", () => {
  for (const rows of [80, 700]) {
    const data = makeWordedClusters(rows, 9, 3, "words");
    const before = wasm.memory().matrices;
    const [a, b] = [wasm, plainTensorBackend()].map((tensors) =>
      unwrapTrained(trainOn(tensors, data, { lexical: true })),
    );
    expect(wasm.memory().matrices).toBe(before);
    if (a === undefined || b === undefined) throw new Error("There are two.");
    expect(a.evaluation.accuracy).toBeGreaterThan(0.6);
    const [own, reference] = [a, b].map(({ head }) => predictions(head, data.features, data.texts));
    expect(maxDifference(own ?? [], reference ?? [])).toBeLessThan(0.02);
  }
});

/** The backend, whose products throw after so many. */
function failingAfter(products: number): TensorBackend {
  let productsLeft = products;
  return {
    ...wasm,
    multiply(a, b) {
      if (productsLeft-- === 0) throw new Error("out of luck");
      return wasm.multiply(a, b);
    },
  };
}

/** Stops a training after so many steps. */
function stopTrainingAfter(count: number, data: TrainingData): void {
  const rows = data.features.length / data.dimensions;
  const features = [wasm.matrix(rows, data.dimensions, data.features)];
  const set = {
    ...data,
    task: "single_label",
    features,
    groups: Int32Array.from({ length: rows }, (_, i) => i),
  } as const;
  const steps = train(wasm, set, options);
  for (let i = 0; i < count; i++) expect(steps.next().done).toBe(false);
  steps.return({ ok: false, failure: { code: "internal_error", message: "" } });
  for (const matrix of features) wasm.free(matrix);
}
