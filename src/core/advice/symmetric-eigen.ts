export interface SymmetricEigen {
  readonly values: Float64Array;
  /** Row j is the unit eigenvector of `values[j]`. n × n, row-major. */
  readonly vectors: Float64Array;
}

const MAX_SWEEPS = 30;
/** Of the matrix's norm: what is left beside the diagonal. */
const TOLERANCE = 1e-12;

/**
 * The eigenvalues and eigenvectors of a symmetric matrix (n × n, row-major), by Jacobi's rotations in cyclic order (Golub
 * and Van Loan, Matrix Computations, 4th edition, section 8.5). It takes about 40 n³ operations.
 */
export function symmetricEigen(matrix: Float64Array, n: number): SymmetricEigen {
  const a = matrix.slice();
  const vectors = new Float64Array(n * n);
  for (let i = 0; i < n; i++) vectors[i * n + i] = 1;
  const norm = Math.sqrt(a.reduce((sum, value) => sum + value * value, 0));
  for (let sweep = 0; sweep < MAX_SWEEPS && offDiagonal(a, n) > TOLERANCE * norm; sweep++)
    for (let p = 0; p < n - 1; p++) for (let q = p + 1; q < n; q++) rotate(a, vectors, n, p, q);
  return { values: Float64Array.from({ length: n }, (_, i) => a[i * n + i] as number), vectors };
}

function offDiagonal(a: Float64Array, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) sum += 2 * (a[i * n + j] as number) ** 2;
  return Math.sqrt(sum);
}

/** Makes a[p][q] zero by a rotation of rows and columns p and q, and rotates the vectors with them. */
function rotate(a: Float64Array, vectors: Float64Array, n: number, p: number, q: number): void {
  const off = a[p * n + q] as number;
  if (off === 0) return;
  const tau = ((a[q * n + q] as number) - (a[p * n + p] as number)) / (2 * off);
  const tangent = (tau >= 0 ? 1 : -1) / (Math.abs(tau) + Math.sqrt(1 + tau * tau));
  const cosine = 1 / Math.sqrt(1 + tangent * tangent);
  const sine = tangent * cosine;
  for (let k = 0; k < n * n; k += n) turn(a, k + p, k + q, cosine, sine);
  for (let k = 0; k < n; k++) {
    turn(a, p * n + k, q * n + k, cosine, sine);
    turn(vectors, p * n + k, q * n + k, cosine, sine);
  }
}

function turn(numbers: Float64Array, i: number, j: number, cosine: number, sine: number): void {
  const x = numbers[i] as number;
  const y = numbers[j] as number;
  numbers[i] = cosine * x - sine * y;
  numbers[j] = sine * x + cosine * y;
}
