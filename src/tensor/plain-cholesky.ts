/** Cholesky's factorisation A = L Lᵀ of symmetric matrices, in 64-bit floats, row-major: the reference. */

/** Σ a[x + p] a[y + p] for p < count. */
function rowProduct(a: Float64Array, x: number, y: number, count: number): number {
  let sum = 0;
  for (let p = 0; p < count; p++) sum += (a[x + p] as number) * (a[y + p] as number);
  return sum;
}

/** L of a positive definite matrix. Squared pivots below `minSquaredPivot` are raised to it. */
export function cholesky(a: Float64Array, n: number, minSquaredPivot: number): Float64Array {
  const lower = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++)
      lower[i * n + j] = ((a[i * n + j] as number) - rowProduct(lower, i * n, j * n, j)) / (lower[j * n + j] as number);
    lower[i * n + i] = Math.sqrt(
      Math.max((a[i * n + i] as number) - rowProduct(lower, i * n, i * n, i), minSquaredPivot),
    );
  }
  return lower;
}

/**
 * The independent rows of a positive semidefinite matrix, and L (r × r) of those rows and columns. A row is independent
 * of the previous ones if its squared pivot exceeds `minSquaredPivot`.
 */
export function rankRevealingCholesky(
  a: Float64Array,
  n: number,
  minSquaredPivot: number,
): { readonly rows: number[]; readonly lower: Float64Array } {
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
  }
  const lower = new Float64Array(rows.length ** 2);
  rows.forEach((_, i) => {
    lower.set(factor.subarray(i * n, i * n + rows.length), i * rows.length);
  });
  return { rows, lower };
}

/** L⁻ᵀ: its row j is column j of L⁻¹, (L⁻¹)_ij = (δ_ij − Σ_p L_ip (L⁻¹)_pj) / L_ii. */
export function invertTransposed(lower: Float64Array, n: number): Float64Array {
  const inverse = new Float64Array(n * n);
  for (let j = 0; j < n; j++) {
    for (let i = j; i < n; i++) {
      let sum = i === j ? 1 : 0;
      for (let p = j; p < i; p++) sum -= (lower[i * n + p] as number) * (inverse[j * n + p] as number);
      inverse[j * n + i] = sum / (lower[i * n + i] as number);
    }
  }
  return inverse;
}

/** A⁻¹ = L⁻ᵀ L⁻¹. */
export function multiplyInverse(inverse: Float64Array, n: number): Float64Array {
  const product = new Float64Array(n * n);
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) product[i * n + j] = rowProduct(inverse, i * n, j * n, n);
  return product;
}
