/** Cholesky's factorisation with the kernels of src/kernels/cholesky.ts, some rows at a time. */
import type { Steps } from "../core/steps.ts";
import type { Damping, RowBasis } from "../core/tensors.ts";

type Kernel = (...values: number[]) => void;
export type CholeskyKernels = Record<"factoriseRows" | "invertRows" | "multiplyInverse", Kernel>;

/** An array of 64-bit floats in the backend's memory. Both answers hold until that grows. */
export interface DoubleArray {
  readonly offset: () => number;
  readonly view: () => Float64Array;
  readonly free: () => void;
}

/** What a factorisation works with. */
export interface CholeskyMemory {
  readonly kernels: CholeskyKernels;
  readonly allocate: (length: number) => DoubleArray;
}

/** The kernels work on so many rows and columns at a time. */
const TILE = 4;
/** What a number costs that is filled in or copied out, in operations of a product. */
const OPERATIONS_PER_FILLED_NUMBER = 40;
/** Rows of a step. */
const STEP_ROWS = 32;

/** Both of `width` × `width` numbers, of which the matrix has the first `size` rows and columns. */
interface InverseFactor {
  readonly size: number;
  readonly width: number;
  /** L, whose place others may take. */
  readonly factor: DoubleArray;
  /** L⁻ᵀ */
  readonly inverse: DoubleArray;
}

/** The numbers of the backend's `invert`. */
export function invertMatrix(memory: CholeskyMemory, a: Float32Array, damping: Damping): Steps<Float32Array> {
  return withInverseFactor(memory, a, damping, false, function* ({ size, width, factor, inverse }) {
    for (let first = 0; first < width; first += STEP_ROWS) {
      const last = Math.min(width, first + STEP_ROWS);
      memory.kernels.multiplyInverse(width, first, last, inverse.offset(), factor.offset());
      yield 2 * (last - first) * last * (width - first);
    }
    yield OPERATIONS_PER_FILLED_NUMBER * size ** 2;
    return mirrorLowerTriangle(factor.view(), width, size);
  });
}

/** The backend's `rowBasis`, with the numbers of L⁻ᵀ. */
export function findRowBasis(
  memory: CholeskyMemory,
  a: Float32Array,
  minSquaredPivot: number,
): Steps<{ readonly rows: RowBasis["rows"]; readonly inverse: Float32Array }> {
  const damping = { scale: 1, shift: 0, minSquaredPivot };
  return withInverseFactor(memory, a, damping, true, function* ({ size, width, inverse }) {
    yield OPERATIONS_PER_FILLED_NUMBER * size ** 2;
    const values = inverse.view();
    const rows = Array.from({ length: size }, (_, i) => i).filter((i) => values[i * width + i] !== 0);
    return { rows, inverse: pick(values, width, rows) };
  });
}

/** Factorises scale · a + shift · I, and calls `use` with L⁻ᵀ. */
function* withInverseFactor<T>(
  { kernels, allocate }: CholeskyMemory,
  a: Float32Array,
  { scale, shift, minSquaredPivot }: Damping,
  dropsDependentRows: boolean,
  use: (factor: InverseFactor) => Steps<T>,
): Steps<T> {
  const size = Math.sqrt(a.length);
  const width = TILE * Math.ceil(size / TILE);
  const [matrix, inverse, reciprocals] = [allocate(width ** 2), allocate(width ** 2), allocate(width)];
  try {
    fillIdentity(matrix.view(), width);
    fillDamped(matrix.view(), width, a, scale, shift);
    fillIdentity(inverse.view(), width);
    yield OPERATIONS_PER_FILLED_NUMBER * width ** 2;
    for (let first = 0; first < width; first += STEP_ROWS) {
      const last = Math.min(width, first + STEP_ROWS);
      const drops = Number(dropsDependentRows);
      kernels.factoriseRows(width, first, last, matrix.offset(), reciprocals.offset(), minSquaredPivot, drops);
      yield (last - first) * last ** 2;
    }
    for (let first = 0; first < width; first += STEP_ROWS) {
      const last = Math.min(width, first + STEP_ROWS);
      kernels.invertRows(width, first, last, matrix.offset(), reciprocals.offset(), inverse.offset());
      yield (last - first) * (width - first) ** 2;
    }
    return yield* use({ size, width, factor: matrix, inverse });
  } finally {
    for (const array of [matrix, inverse, reciprocals]) array.free();
  }
}

// Loops have functions of their own because loops in generators run at a fraction of the speed.
function fillIdentity(matrix: Float64Array, width: number): void {
  matrix.fill(0);
  for (let i = 0; i < width; i++) matrix[i * width + i] = 1;
}

/** scale · a + shift · I, in the lower triangle of the first rows and columns. */
function fillDamped(matrix: Float64Array, width: number, a: Float32Array, scale: number, shift: number): void {
  const size = Math.sqrt(a.length);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j <= i; j++) matrix[i * width + j] = scale * (a[i * size + j] as number);
    matrix[i * width + i] = (matrix[i * width + i] as number) + shift;
  }
}

/** The first `size` rows and columns of a symmetric matrix, from its lower triangle. */
function mirrorLowerTriangle(lower: Float64Array, width: number, size: number): Float32Array {
  const matrix = new Float32Array(size ** 2);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j <= i; j++) {
      const value = lower[i * width + j] as number;
      matrix[i * size + j] = value;
      matrix[j * size + i] = value;
    }
  }
  return matrix;
}

/** These rows and columns. */
function pick(values: Float64Array, width: number, indices: readonly number[]): Float32Array {
  const picked = new Float32Array(indices.length ** 2);
  let at = 0;
  for (const row of indices) for (const column of indices) picked[at++] = values[row * width + column] as number;
  return picked;
}
