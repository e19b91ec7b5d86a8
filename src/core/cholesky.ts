/** Cholesky's factorisation A = L Lᵀ of symmetric matrices, in 64-bit floats, row-major. Generators yield floating-point operations. */

/** What an operation here, in 64-bit floats and plain JavaScript, costs in operations of a product of matrices. */
const PLAIN_OPERATIONS = 12;

/** Operations of factorising an n × n matrix and inverting the factor. */
export function factorOperations(n: number): number {
  return (2 / 3) * PLAIN_OPERATIONS * n ** 3;
}

/** In place: the lower triangle of a positive definite matrix becomes L. Squares of pivots are kept from falling below `least`. */
export function* factorise(a: Float64Array, n: number, least: number): Generator<number, void, void> {
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      const sum = (a[i * n + j] as number) - rowProduct(a, i * n, j * n, j);
      a[i * n + j] = i === j ? Math.sqrt(Math.max(sum, least)) : sum / (a[j * n + j] as number);
    }
    yield PLAIN_OPERATIONS * (i + 1) ** 2;
  }
}

/**
 * Of a positive semidefinite matrix: which rows do not follow from those before (their pivots' squares exceed `least`), and
 * the L (r × r) of those rows and columns.
 */
export function* factoriseIndependent(
  a: Float64Array,
  n: number,
  least: number,
): Generator<number, { rows: number[]; lower: Float64Array }, void> {
  const rows: number[] = [];
  const wide = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const at = rows.length * n;
    for (const [j, row] of rows.entries())
      wide[at + j] = ((a[i * n + row] as number) - rowProduct(wide, at, j * n, j)) / (wide[j * n + j] as number);
    const square = (a[i * n + i] as number) - rowProduct(wide, at, at, rows.length);
    if (square > least) {
      wide[at + rows.length] = Math.sqrt(square);
      rows.push(i);
    } else wide.fill(0, at, at + rows.length);
    yield PLAIN_OPERATIONS * (rows.length + 1) ** 2;
  }
  const lower = new Float64Array(rows.length ** 2);
  rows.forEach((_, i) => {
    lower.set(wide.subarray(i * n, i * n + rows.length), i * rows.length);
  });
  return { rows, lower };
}

/** Σ a[x + p] a[y + p] over the first `count` p, in four sums, which a processor can add at once. */
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

/** L⁻¹, row by row from those above: (L⁻¹)_i = (e_i − Σ_{j<i} L_ij (L⁻¹)_j) / L_ii, four rows j at a time. */
export function* invertLower(lower: Float64Array, n: number): Generator<number, Float64Array, void> {
  const inverse = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = inverse.subarray(i * n, i * n + i + 1);
    row[i] = 1;
    const factor = (j: number) => (j < i ? (lower[i * n + j] as number) : 0);
    for (let j = 0; j < i; j += 4) {
      const a = factor(j);
      const b = factor(j + 1);
      const c = factor(j + 2);
      const d = factor(j + 3);
      const first = j * n;
      const second = Math.min(j + 1, i) * n;
      const third = Math.min(j + 2, i) * n;
      const fourth = Math.min(j + 3, i) * n;
      // Rows above hold zeros right of their diagonal, so all four may be read as far as the last of them.
      for (let p = 0, end = Math.min(j + 4, i); p < end; p++)
        row[p] =
          (row[p] as number) -
          a * (inverse[first + p] as number) -
          b * (inverse[second + p] as number) -
          c * (inverse[third + p] as number) -
          d * (inverse[fourth + p] as number);
    }
    const pivot = lower[i * n + i] as number;
    for (let p = 0; p <= i; p++) row[p] = (row[p] as number) / pivot;
    yield PLAIN_OPERATIONS * (i + 1) ** 2;
  }
  return inverse;
}
