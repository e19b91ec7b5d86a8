/** Trainings on the WASM backend in both runtimes, and what they leave behind. */
import { expect, it } from "vitest";
import { plainTensors } from "../../src/tensor/plain.ts";
import { clusters, distance, options, predictions, trained, trainOn } from "./training.ts";
import { wasmForTests } from "./wasm.ts";

const wasm = await wasmForTests();

it("learns as the reference backend does", () => {
  const data = clusters(60, 9, 4, 1);
  const [a, b] = [wasm, plainTensors()].map((tensors) => trained(trainOn(tensors, data)));
  expect(a?.evaluation.accuracy).toBeGreaterThan(0.8);
  expect(a?.training.l2).toBeCloseTo(b?.training.l2 ?? Number.NaN, 6);
  if (a && b)
    expect(distance(predictions(a.head, data.features), predictions(b.head, data.features))).toBeLessThan(0.01);
});

it("leaves no tensor and no memory behind, over a hundred trainings", () => {
  const data = clusters(120, 70, 6, 1);
  const before = wasm.memory().matrices;
  let bytes = 0;
  for (let i = 0; i < 100; i++) {
    const budget = i % 10 === 9 ? { operations: 1e6, bytes: 56e6 } : options.budget;
    trainOn(wasm, data, { seed: i, budget, evaluation: { method: i % 2 === 0 ? "holdout" : "none" } });
    expect(wasm.memory().matrices).toBe(before);
    if (i === 4) bytes = wasm.memory().bytes;
  }
  expect(wasm.memory().bytes).toBe(bytes);
});
