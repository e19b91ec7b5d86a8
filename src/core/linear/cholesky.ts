/** Cholesky's factorisation A = L Lᵀ of symmetric matrices, in 64-bit floats, row-major. */
import type { Steps } from "../steps.ts";

/** What an operation in plain JavaScript and 64-bit floats costs, in operations of a matrix product. */
const PLAIN_OPERATION_COST = 12;

/** Operations of factorising an n × n matrix and inverting the factor. */
export function choleskyOperations(n: number): number {
  return (2 / 3) * PLAIN_OPERATION_COST * n ** 3;
}

/**
 * Replaces the lower triangle of a positive definite matrix with L. Squared pivots below `minSquaredPivot` are raised
 * to it.
 */
export function* cholesky(a: Float64Array, n: number, minSquaredPivot: number): Steps<void> {
  for (let i = 0; i < n; i++) {
    choleskyRow(a, n, i, minSquaredPivot);
    yield PLAIN_OPERATION_COST * (i + 1) ** 2;
  }
}

// Loops have functions of their own because loops in generators run at a fraction of the speed.
function choleskyRow(a: Float64Array, n: number, i: number, minSquaredPivot: number): void {
  for (let j = 0; j < i; j++)
    a[i * n + j] = ((a[i * n + j] as number) - rowProduct(a, i * n, j * n, j)) / (a[j * n + j] as number);
  a[i * n + i] = Math.sqrt(Math.max((a[i * n + i] as number) - rowProduct(a, i * n, i * n, i), minSquaredPivot));
}

/**
 * The independent rows of a positive semidefinite matrix, and L (r × r) of those rows and columns. A row is independent
 * of the previous ones if its squared pivot exceeds `minSquaredPivot`.
 */
export function* rankRevealingCholesky(
  a: Float64Array,
  n: number,
  minSquaredPivot: number,
): Steps<{ rows: number[]; lower: Float64Array }> {
  const rows: number[] = [];
  const factor = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const rowStart = rows.length * n;
    for (const [j, row] of rows.entries())
      factor[rowStart + j] =
        ((a[i * n + row] as number) - rowProduct(factor, rowStart, j * n, j)) / (factor[j * n + j] as number);
    const squaredPivot = (a[i * n + i] as number) - rowProduct(factor, rowStart, rowStart, rows.length);
    if (squaredPivot > minSquaredPivot) {
      factor[rowStart + rows.length] = Math.sqrt(squaredPivot);
      rows.push(i);
    } else factor.fill(0, rowStart, rowStart + rows.length);
    yield PLAIN_OPERATION_COST * (rows.length + 1) ** 2;
  }
  const lower = new Float64Array(rows.length ** 2);
  rows.forEach((_, i) => {
    lower.set(factor.subarray(i * n, i * n + rows.length), i * rows.length);
  });
  return { rows, lower };
}

/** Σ a[x + p] a[y + p] for p < count, in four sums that a processor adds in parallel. */
function rowProduct(a: Float64Array, x: number, y: number, count: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let p = 0;
  for (; p + 3 < count; p += 4) {
    s0 += (a[x + p] as number) * (a[y + p] as number);
    s1 += (a[x + p + 1] as number) * (a[y + p + 1] as number);
    s2 += (a[x + p + 2] as number) * (a[y + p + 2] as number);
    s3 += (a[x + p + 3] as number) * (a[y + p + 3] as number);
  }
  for (; p < count; p++) s0 += (a[x + p] as number) * (a[y + p] as number);
  return s0 + s1 + s2 + s3;
}

/** L⁻¹, each row from the rows above it: (L⁻¹)_i = (e_i − Σ_{j<i} L_ij (L⁻¹)_j) / L_ii. */
export function* invertLowerTriangular(lower: Float64Array, n: number): Steps<Float64Array> {
  const inverse = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    invertRow(lower, inverse, n, i);
    yield PLAIN_OPERATION_COST * (i + 1) ** 2;
  }
  return inverse;
}

/**
 * Subtracts four rows j at a time. Rows have zeros right of their diagonal, so all four are read as far as the last one
 * goes.
 */
function invertRow(lower: Float64Array, inverse: Float64Array, n: number, i: number): void {
  const row = i * n;
  inverse[row + i] = 1;
  let j = 0;
  for (; j + 3 < i; j += 4) {
    const a = lower[row + j] as number;
    const b = lower[row + j + 1] as number;
    const c = lower[row + j + 2] as number;
    const d = lower[row + j + 3] as number;
    const first = j * n;
    const second = first + n;
    const third = second + n;
    const fourth = third + n;
    for (let p = 0; p < j + 4; p++)
      inverse[row + p] =
        (inverse[row + p] as number) -
        a * (inverse[first + p] as number) -
        b * (inverse[second + p] as number) -
        c * (inverse[third + p] as number) -
        d * (inverse[fourth + p] as number);
  }
  for (; j < i; j++) {
    const a = lower[row + j] as number;
    for (let p = 0; p <= j; p++) inverse[row + p] = (inverse[row + p] as number) - a * (inverse[j * n + p] as number);
  }
  const pivot = lower[row + i] as number;
  for (let p = 0; p <= i; p++) inverse[row + p] = (inverse[row + p] as number) / pivot;
}
