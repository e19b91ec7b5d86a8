/** Operations on sparse rows in plain arrays. */
import type { Matrix, SparseRows } from "../tensors.ts";

/** A value of 32 bits and a column of 16. */
export const BYTES_PER_SPARSE_ENTRY = 6;

/** Throws if sparse rows are inconsistent or have a column beyond `width`: a backend would write outside its matrix. */
export function checkSparseRows({ starts, columns, values }: SparseRows, width: number): void {
  let isValid =
    starts[0] === 0 && starts.at(-1) === values.length && columns.length === values.length && width <= 65_536;
  for (let i = 1; i < starts.length; i++) isValid &&= (starts[i - 1] as number) <= (starts[i] as number);
  for (let m = 0; m < columns.length; m++) isValid &&= (columns[m] as number) < width;
  if (!isValid)
    throw new Error(`${values.length} values and ${columns.length} columns for ${starts.length - 1} rows of ${width}.`);
}

/** Throws unless the product of a `rows` × `columns` matrix with b has the shape of `accumulator`. */
export function checkShapes([rows, columns]: readonly [number, number], b: Matrix, accumulator: Matrix): void {
  if (columns !== b.rows || accumulator.rows !== rows || accumulator.columns !== b.columns)
    throw new Error(
      `Cannot add ${rows} × ${columns} by ${b.rows} × ${b.columns} to ${accumulator.rows} × ${accumulator.columns}.`,
    );
}

/** Rows `first` to `last`, exclusive. */
function sliceRows({ starts, columns, values }: SparseRows, first: number, last: number): SparseRows {
  const start = starts[first] as number;
  const end = starts[last] as number;
  const shifted = starts.slice(first, last + 1);
  for (let i = 0; i < shifted.length; i++) shifted[i] = (shifted[i] as number) - start;
  return { starts: shifted, columns: columns.subarray(start, end), values: values.subarray(start, end) };
}

/** The rows in blocks of these heights. */
export function* cutRows(rows: SparseRows, heights: readonly number[]): Generator<SparseRows, void> {
  let first = 0;
  for (const height of heights) {
    yield sliceRows(rows, first, first + height);
    first += height;
  }
}

/** These rows, in this order. */
export function pickRows({ starts, columns, values }: SparseRows, rows: readonly number[]): SparseRows {
  const pickedStarts = new Uint32Array(rows.length + 1);
  rows.forEach((row, i) => {
    pickedStarts[i + 1] = (pickedStarts[i] as number) + (starts[row + 1] as number) - (starts[row] as number);
  });
  const size = pickedStarts.at(-1) as number;
  const result = { starts: pickedStarts, columns: new Uint16Array(size), values: new Float32Array(size) };
  rows.forEach((row, i) => {
    const [start, end] = [starts[row] as number, starts[row + 1] as number];
    result.columns.set(columns.subarray(start, end), pickedStarts[i]);
    result.values.set(values.subarray(start, end), pickedStarts[i]);
  });
  return result;
}

/** Sparse rows by their columns: the entries of column j are those from `starts[j]` to `starts[j + 1]`. Rows ascend. */
export interface SparseColumns {
  readonly starts: Uint32Array;
  readonly rows: Uint16Array;
  readonly values: Float32Array;
}

/** The columns of at most 65,536 rows. */
export function transposeRows({ starts, columns, values }: SparseRows, width: number): SparseColumns {
  const next = new Uint32Array(width + 1);
  for (const column of columns) next[column + 1] = (next[column + 1] as number) + 1;
  for (let j = 0; j < width; j++) next[j + 1] = (next[j + 1] as number) + (next[j] as number);
  const result = {
    starts: next.slice(),
    rows: new Uint16Array(columns.length),
    values: new Float32Array(columns.length),
  };
  for (let i = 0; i + 1 < starts.length; i++) {
    for (let m = starts[i] as number; m < (starts[i + 1] as number); m++) {
      const column = columns[m] as number;
      const entry = next[column] as number;
      next[column] = entry + 1;
      result.rows[entry] = i;
      result.values[entry] = values[m] as number;
    }
  }
  return result;
}

/** The rows of all parts, one part after another. */
export function joinRows(parts: readonly SparseRows[]): SparseRows {
  const rows = parts.reduce((sum, { starts }) => sum + starts.length - 1, 0);
  const size = parts.reduce((sum, { values }) => sum + values.length, 0);
  const result = {
    starts: new Uint32Array(rows + 1),
    columns: new Uint16Array(size),
    values: new Float32Array(size),
  };
  let row = 0;
  let offset = 0;
  for (const { starts, columns, values } of parts) {
    result.columns.set(columns, offset);
    result.values.set(values, offset);
    for (let i = 1; i < starts.length; i++) result.starts[++row] = offset + (starts[i] as number);
    offset += values.length;
  }
  return result;
}
