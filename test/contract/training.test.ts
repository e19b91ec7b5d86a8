/** Trainings on the WASM backend in both runtimes, and what they leave behind. */
import { expect, it } from "vitest";
import type { Tensors } from "../../src/core/tensors.ts";
import { train } from "../../src/core/linear/train.ts";
import { plainTensors } from "../../src/tensor/plain.ts";
import { wasmForTests } from "./platform.ts";
import { clusters, type Data, distance, options, predictions, trained, trainOn, worded } from "./training.ts";

const wasm = await wasmForTests();

it("learns as the reference backend does", () => {
  const data = clusters(60, 9, 4, 1);
  const [a, b] = [wasm, plainTensors()].map((tensors) => trained(trainOn(tensors, data)));
  expect(a?.evaluation.accuracy).toBeGreaterThan(0.8);
  expect(a?.training.l2).toBeCloseTo(b?.training.l2 ?? Number.NaN, 6);
  if (a && b)
    expect(distance(predictions(a.head, data.features), predictions(b.head, data.features))).toBeLessThan(0.01);
});

it("leaves no tensor and no memory behind, over a hundred trainings, however they end", { timeout: 60_000 }, () => {
  const data = clusters(120, 70, 6, 1);
  const before = wasm.memory().matrices;
  let bytes = 0;
  for (let i = 0; i < 100; i++) {
    const evaluation = { method: i % 2 === 0 ? "holdout" : "none" } as const;
    if (i % 10 === 7) expect(() => trainOn(failingAfter(50 + i), data, { seed: i, evaluation })).toThrow("out of luck");
    else if (i % 10 === 9) stopAfter(5 * i, data);
    else trained(trainOn(wasm, data, { seed: i, evaluation }));
    expect(wasm.memory().matrices).toBe(before);
    if (i === 9) bytes = wasm.memory().bytes;
  }
  expect(wasm.memory().bytes).toBe(bytes);
});

it("learns words as the reference backend does, and leaves none of their rows behind", () => {
  for (const rows of [80, 700]) {
    const data = worded(rows, 9, 3, "words");
    const before = wasm.memory().matrices;
    const [a, b] = [wasm, plainTensors()].map((tensors) => trained(trainOn(tensors, data, { lexical: true })));
    expect(wasm.memory().matrices).toBe(before);
    if (a === undefined || b === undefined) throw new Error("There are two.");
    expect(a.evaluation.accuracy).toBeGreaterThan(0.6);
    const [own, reference] = [a, b].map(({ head }) => predictions(head, data.features, data.texts));
    expect(distance(own ?? [], reference ?? [])).toBeLessThan(0.02);
  }
});

/** The backend, of which a product throws after so many. */
function failingAfter(products: number): Tensors {
  let left = products;
  return {
    ...wasm,
    multiply(a, b) {
      if (left-- === 0) throw new Error("out of luck");
      return wasm.multiply(a, b);
    },
  };
}

/** A training that is given up after so many steps. */
function stopAfter(count: number, data: Data): void {
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
