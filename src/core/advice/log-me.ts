import { symmetricEigen } from "./symmetric-eigen.ts";

const MAX_ITERATIONS = 100;
const TOLERANCE = 1e-6;
/** Eigenvalues below this share of the largest are rounding. */
const RANK_TOLERANCE = 1e-10;

/**
 * LogME: the logarithm of the maximum evidence of a linear model, per row, mean over the classes (You et al. 2021, LogME:
 * Practical Assessment of Pre-trained Models for Transfer Learning, algorithm 1). For each class it is
 *
 *   max over α, β of  (1/n) log N(y; 0, I/β + F Fᵀ/α)      y: 1 for rows of the class, else 0
 *
 * with α and β by MacKay's fixed point. The more of the classes the features tell, the larger it is. It compares data
 * sets on one backbone, or backbones on one data set.
 *
 * @param gram FᵀF of the features F (n × d): d × d, row-major
 * @param products Fᵀy of each class: classes × d, row-major
 * @param counts rows of each class
 */
export function logMe(gram: Float64Array, d: number, products: Float64Array, counts: readonly number[]): number {
  const n = counts.reduce((sum, count) => sum + count, 0);
  const { values, vectors } = symmetricEigen(gram, d);
  const largest = Math.max(...values);
  const used = [...values.keys()].filter((j) => (values[j] as number) > RANK_TOLERANCE * largest);
  const sigma = used.map((j) => values[j] as number);
  const evidences = counts.flatMap((count, k) => {
    if (count === 0) return [];
    const y = products.subarray(k * d, (k + 1) * d);
    // The squares of y's coordinates along F's left singular vectors.
    const squares = used.map((j) => dot(vectors.subarray(j * d, (j + 1) * d), y) ** 2 / (values[j] as number));
    return [evidence(sigma, squares, count, n, d)];
  });
  return evidences.reduce((sum, value) => sum + value, 0) / evidences.length;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function evidence(sigma: readonly number[], squares: readonly number[], square: number, n: number, d: number): number {
  const rest = Math.max(0, square - squares.reduce((sum, value) => sum + value, 0));
  const total = (term: (s: number, x: number) => number) =>
    sigma.reduce((sum, s, j) => sum + term(s, squares[j] as number), 0);
  let [alpha, beta] = [1, 1];
  let [norm, residual] = [0, 0];
  for (let iteration = 0, last = Number.NaN; iteration < MAX_ITERATIONS; iteration++) {
    const ratio = alpha / beta;
    norm = total((s, x) => (s * x) / (s + ratio) ** 2);
    residual = total((s, x) => x * (ratio / (s + ratio)) ** 2) + rest;
    if (Math.abs(ratio - last) <= TOLERANCE * ratio) break;
    last = ratio;
    const gamma = total((s) => s / (s + ratio));
    alpha = gamma / Math.max(norm, Number.MIN_VALUE);
    // A class that the features tell exactly would have an infinite precision.
    beta = (n - gamma) / Math.max(residual, 1e-9 * n);
  }
  const determinant = total((s) => Math.log(alpha + beta * s)) + (d - sigma.length) * Math.log(alpha);
  const likelihood = d * Math.log(alpha) + n * Math.log(beta) - n * Math.log(2 * Math.PI) - determinant;
  return (likelihood - beta * residual - alpha * norm) / (2 * n);
}
