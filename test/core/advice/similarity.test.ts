import fc from "fast-check";
import { expect, it } from "vitest";
import { logMe } from "../../../src/core/advice/log-me.ts";
import { type LabelledRows, measureSimilarity } from "../../../src/core/advice/similarity.ts";
import { symmetricEigen } from "../../../src/core/advice/symmetric-eigen.ts";
import { seededRandom } from "../../../src/core/random.ts";
import { plainTensorBackend } from "../../../src/tensor/plain.ts";

/** Roughly normal numbers. */
function makeNumbers(count: number, seed: number): Float64Array {
  const random = seededRandom(seed);
  return Float64Array.from({ length: count }, () => random() + random() + random() + random() - 2);
}

const multiply = (a: Float64Array, b: Float64Array, n: number) =>
  Float64Array.from({ length: n * n }, (_, at) => {
    let sum = 0;
    for (let k = 0; k < n; k++) sum += (a[Math.floor(at / n) * n + k] as number) * (b[k * n + (at % n)] as number);
    return sum;
  });

const transpose = (a: Float64Array, n: number) => a.map((_, at) => a[(at % n) * n + Math.floor(at / n)] as number);

it("decomposes a symmetric matrix into orthonormal vectors and their values", () => {
  const property = fc.property(fc.integer({ min: 1, max: 12 }), fc.integer(), (n, seed) => {
    const half = makeNumbers(n * n, seed);
    const matrix = half.map((value, at) => value + (transpose(half, n)[at] as number));
    const { values, vectors } = symmetricEigen(matrix, n);
    const scaled = vectors.map((value, at) => value * (values[Math.floor(at / n)] as number));
    const restored = multiply(transpose(vectors, n), scaled, n);
    const identity = multiply(vectors, transpose(vectors, n), n);
    for (let i = 0; i < n * n; i++) {
      expect(restored[i]).toBeCloseTo(matrix[i] as number, 9);
      expect(identity[i]).toBeCloseTo(i % (n + 1) === 0 ? 1 : 0, 9);
    }
  });
  fc.assert(property);
});

/** log N(y; 0, I/β + F Fᵀ/α) / n, by Cholesky's factorisation of the covariance. */
function logDensity(features: Float64Array, d: number, y: readonly number[], alpha: number, beta: number): number {
  const n = y.length;
  const covariance = (i: number, j: number) => {
    let sum = i === j ? 1 / beta : 0;
    for (let k = 0; k < d; k++) sum += ((features[i * d + k] as number) * (features[j * d + k] as number)) / alpha;
    return sum;
  };
  const factor = Array.from({ length: n }, () => new Array<number>(n).fill(0));
  const solved: number[] = [];
  let logDeterminant = 0;
  for (const [i, row] of factor.entries()) {
    for (let j = 0; j <= i; j++) {
      const other = factor[j] as number[];
      let sum = covariance(i, j);
      for (let k = 0; k < j; k++) sum -= (row[k] as number) * (other[k] as number);
      row[j] = i === j ? Math.sqrt(sum) : sum / (other[j] as number);
    }
    let value = y[i] as number;
    for (let k = 0; k < i; k++) value -= (row[k] as number) * (solved[k] as number);
    solved.push(value / (row[i] as number));
    logDeterminant += 2 * Math.log(row[i] as number);
  }
  const square = solved.reduce((sum, value) => sum + value * value, 0);
  return -(n * Math.log(2 * Math.PI) + logDeterminant + square) / (2 * n);
}

it("finds the largest evidence that any precisions of the weights and of the noise give", () => {
  const [n, d] = [30, 5];
  for (const seed of [1, 2, 3]) {
    const features = makeNumbers(n * d, seed);
    const noise = makeNumbers(n, seed + 10);
    const y = Array.from(noise, (value, i) => Number((features[i * d] as number) + value > 0.5));
    const gram = new Float64Array(d * d);
    const product = new Float64Array(d);
    for (let i = 0; i < n; i++)
      for (let j = 0; j < d; j++) {
        product[j] = (product[j] as number) + (features[i * d + j] as number) * (y[i] as number);
        for (let k = 0; k < d; k++)
          gram[j * d + k] =
            (gram[j * d + k] as number) + (features[i * d + j] as number) * (features[i * d + k] as number);
      }
    const others = y.map((value) => 1 - value);
    const rest = new Float64Array(d);
    for (let i = 0; i < n; i++)
      for (let j = 0; j < d; j++)
        rest[j] = (rest[j] as number) + (features[i * d + j] as number) * (others[i] as number);
    const count = y.reduce((sum, value) => sum + value, 0);
    const found = logMe(gram, d, Float64Array.from([...product, ...rest]), [count, n - count]);
    const best = (target: readonly number[]) => {
      let largest = Number.NEGATIVE_INFINITY;
      for (let a = -4; a <= 8; a += 0.1)
        for (let b = -3; b <= 6; b += 0.1)
          largest = Math.max(largest, logDensity(features, d, target, Math.exp(a), Math.exp(b)));
      return largest;
    };
    const expected = (best(y) + best(others)) / 2;
    expect(found).toBeGreaterThan(expected - 1e-3);
    expect(found).toBeLessThan(expected + 1e-2);
  }
});

/** Rows around a centre for each class; the further the centres, the further the classes. */
function makeRows(classes: number, distance: number): LabelledRows {
  const [count, dimensions] = [120, 16];
  const noise = makeNumbers(count * dimensions, 5);
  const centres = makeNumbers(classes * dimensions, 6);
  const labels = Int32Array.from({ length: count }, (_, row) => row % classes);
  const values = Float32Array.from(noise, (value, at) => {
    const label = labels[Math.floor(at / dimensions)] as number;
    return value + distance * (centres[label * dimensions + (at % dimensions)] as number);
  });
  return { values, dimensions, classes: labels, groups: Int32Array.from(labels.keys()) };
}

function run<T>(steps: Generator<number, T, void>): T {
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
    expect(step.value).toBeGreaterThan(0);
  }
}

it("says how far classes are from each other", () => {
  const backend = plainTensorBackend();
  const [far, near, same] = [10, 1, 0].map((distance) => run(measureSimilarity(backend, makeRows(4, distance))));
  if (!far || !near || !same) throw new Error("Something is missing.");
  expect(far).toMatchObject({ examples: 120, knn_accuracy: 1, class_overlap: 0 });
  expect(near.knn_accuracy).toBeGreaterThan(same.knn_accuracy);
  expect(near.class_overlap).toBeLessThan(same.class_overlap);
  expect(same.knn_accuracy).toBeLessThan(0.4);
  expect(far.logme).toBeGreaterThan(near.logme);
  expect(near.logme).toBeGreaterThan(same.logme);
  expect(backend.memory().matrices).toBe(0);
});

it("does not take a copy of an input for its neighbour", () => {
  const rows = makeRows(2, 0);
  // Each row again, with its own class: nearest to itself.
  const twice = {
    ...rows,
    values: Float32Array.from([...rows.values, ...rows.values]),
    classes: Int32Array.from([...rows.classes, ...rows.classes]),
    groups: Int32Array.from([...rows.groups, ...rows.groups]),
  };
  const figures = run(measureSimilarity(plainTensorBackend(), twice));
  expect(figures.knn_accuracy).toBeLessThan(0.75);
});
