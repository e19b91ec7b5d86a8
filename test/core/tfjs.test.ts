import "@tensorflow/tfjs-backend-cpu";
import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import type { TensorBackend } from "../../src/core/tensors.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";

it("multiplies and transposes as tfjs's own CPU backend does", async () => {
  const random = seededRandom(7);
  const shapes = [
    [1, 1, 1],
    [3, 5, 2],
    [33, 64, 17],
    [100, 7, 129],
  ] as const;
  const cases = shapes.map(([rows, inner, columns]) => ({
    a: { rows, columns: inner, values: Float32Array.from({ length: rows * inner }, () => random() - 0.5) },
    b: { rows: inner, columns, values: Float32Array.from({ length: inner * columns }, () => random() - 0.5) },
  }));
  await tf.setBackend("cpu");
  const expected = cases.map(({ a, b }) => {
    const left = tf.tensor2d(a.values, [a.rows, a.columns]);
    const right = tf.tensor2d(b.values, [b.rows, b.columns]);
    return { product: tf.matMul(left, right).dataSync(), transposed: tf.transpose(left).dataSync() };
  });
  const checkBackend = (tensors: TensorBackend) => {
    for (const [i, { a, b }] of cases.entries()) {
      const left = tensors.matrix(a.rows, a.columns, a.values);
      const product = tensors.read(tensors.multiply(left, tensors.matrix(b.rows, b.columns, b.values)));
      product.forEach((value, index) => {
        expect(value).toBeCloseTo(expected[i]?.product[index] as number, 5);
      });
      expect(tensors.read(tensors.transpose(left))).toEqual(expected[i]?.transposed);
    }
  };
  checkBackend(plainTensorBackend());
  checkBackend(await nodeTensorBackend());
});
