/** Agreement with scikit-learn at the optimum, on both tensor backends. */
import { describe, expect, it } from "vitest";
import type { Tensors } from "../../src/core/tensors.ts";
import { nodeTensors } from "../../src/tensor/node.ts";
import { plainTensors } from "../../src/tensor/plain.ts";
import { distance, predictions, trained, trainOn } from "../contract/training.ts";
import { dataOf, fitVectors } from "./vectors/load.ts";

const backends: Tensors[] = [plainTensors(), await nodeTensors()];

describe.each(backends)("on $name tensors", (tensors) => {
  it.each(fitVectors)("$name: predicts what scikit-learn predicts", (vector) => {
    const data = dataOf(vector);
    const { head, training } = trained(
      trainOn(tensors, data, {
        l2: vector.l2,
        classWeight: vector.balanced ? "balanced" : null,
        evaluation: { method: "none" },
        tolerance: 1e-12,
      }),
    );
    const given = data.features.subarray(0, vector.rows * vector.dimensions);
    expect(distance(predictions(head, given), [...vector.expected])).toBeLessThan(1e-4);
    expect(training.examples).toBe(vector.rows + vector.repeat.length);
  });

  it.each(fitVectors)("$name: comes close at the default tolerance", (vector) => {
    const data = dataOf(vector);
    const { head, training } = trained(
      trainOn(tensors, data, {
        l2: vector.l2,
        classWeight: vector.balanced ? "balanced" : null,
        evaluation: { method: "none" },
      }),
    );
    expect(training.converged).toBe(true);
    const given = data.features.subarray(0, vector.rows * vector.dimensions);
    expect(distance(predictions(head, given), [...vector.expected])).toBeLessThan(0.02);
  });
});
