import { expect, it } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { makeClusters, trainOn, unwrapTrained } from "../contract/training-data.ts";

const wasm = await nodeTensorBackend();

it.each(["cross_validation", "holdout"] as const)("shows a head that learns by heart, by %s", (method) => {
  const random = seededRandom(3);
  const data = makeClusters(80, 120, 2, 1);
  const indices = Int32Array.from({ length: 80 }, () => Math.floor(2 * random()));
  const noise = { ...data, targets: { kind: "single" as const, indices } };
  const { evaluation } = unwrapTrained(trainOn(wasm, noise, { l2: 1e-3, evaluation: { method } }));
  expect(evaluation.train_accuracy).toBeGreaterThan(0.95);
  expect(evaluation.accuracy).toBeLessThan(0.8);
  expect(evaluation.generalization_gap).toBe((evaluation.train_accuracy ?? 0) - (evaluation.accuracy ?? 0));
});

it("counts sets of labels at the head's thresholds, and says nothing of values", () => {
  const data = makeClusters(60, 6, 3, 0.2);
  const indices = data.targets.kind === "single" ? [...data.targets.indices] : [];
  const sets = indices.map((label) => [label, 3]);
  const labels = [...data.labels, "any"];
  const multi = unwrapTrained(trainOn(wasm, { ...data, labels, targets: { kind: "multi", indices: sets } }));
  expect(multi.evaluation.train_accuracy).toBeGreaterThan(0.95);
  const values = { kind: "value" as const, values: Float64Array.from(indices) };
  const regression = unwrapTrained(trainOn(wasm, { ...data, labels: [], targets: values }));
  expect(regression.evaluation.train_accuracy).toBeUndefined();
  expect(regression.evaluation.r2_interval?.[0]).toBeLessThan(regression.evaluation.r2 ?? 0);
});
