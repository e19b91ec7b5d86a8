/** Agreement with scikit-learn at the optimum, on both tensor backends. */
import { describe, expect, it } from "vitest";
import type { TensorBackend } from "../../src/core/tensors.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import { maxDifference, predictions, trainOn, unwrapTrained } from "../contract/training-data.ts";
import { fitVectors, toTrainingData } from "./vectors/load.ts";

const backends: TensorBackend[] = [plainTensorBackend(), await nodeTensorBackend()];

describe.each(backends)("on $name tensors", (tensors) => {
  it.each(fitVectors)("$name: predicts what scikit-learn predicts", (vector) => {
    const data = toTrainingData(vector);
    const { head, training } = unwrapTrained(
      trainOn(tensors, data, {
        l2: vector.l2,
        classWeight: vector.balanced ? "balanced" : null,
        evaluation: { method: "none" },
        tolerance: 1e-12,
      }),
    );
    const features = data.features.subarray(0, vector.rows * vector.dimensions);
    expect(maxDifference(predictions(head, features), [...vector.expected])).toBeLessThan(1e-4);
    expect(training.examples).toBe(vector.rows + vector.repeat.length);
  });

  it.each(fitVectors)("$name: comes close at the default tolerance", (vector) => {
    const data = toTrainingData(vector);
    const { head, training } = unwrapTrained(
      trainOn(tensors, data, {
        l2: vector.l2,
        classWeight: vector.balanced ? "balanced" : null,
        evaluation: { method: "none" },
      }),
    );
    expect(training.converged).toBe(true);
    const features = data.features.subarray(0, vector.rows * vector.dimensions);
    expect(maxDifference(predictions(head, features), [...vector.expected])).toBeLessThan(0.02);
  });
});
