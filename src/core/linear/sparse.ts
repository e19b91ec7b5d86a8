/** Sparse rows as plain arrays: checked, cut, picked and joined. */
import type { Matrix, SparseRows } from "../tensors.ts";

/** A number of sparse rows, and its column. */
export const SPARSE_BYTES = 6;

/** Throws where sparse rows are not whole, or have a column beyond `width`: a backend writes where the columns say. */
export function checkSparse({ starts, columns, values }: SparseRows, width: number): void {
  let whole = starts[0] === 0 && starts.at(-1) === values.length && columns.length === values.length && width <= 65_536;
  for (let i = 1; i < starts.length; i++) whole &&= (starts[i - 1] as number) <= (starts[i] as number);
  for (let m = 0; m < columns.length; m++) whole &&= (columns[m] as number) < width;
  if (!whole)
    throw new Error(`${values.length} values and ${columns.length} columns for ${starts.length - 1} rows of ${width}.`);
}

/** Throws where the product of a matrix of `rows` × `columns` with b has not the shape of `to`. */
export function checkShapes([rows, columns]: readonly [number, number], b: Matrix, to: Matrix): void {
  if (columns !== b.rows || to.rows !== rows || to.columns !== b.columns)
    throw new Error(`Cannot add ${rows} × ${columns} by ${b.rows} × ${b.columns} to ${to.rows} × ${to.columns}.`);
}

/** Rows first…last. */
export function sliceRows({ starts, columns, values }: SparseRows, first: number, last: number): SparseRows {
  const from = starts[first] as number;
  const to = starts[last] as number;
  const shifted = starts.slice(first, last + 1);
  for (let i = 0; i < shifted.length; i++) shifted[i] = (shifted[i] as number) - from;
  return { starts: shifted, columns: columns.subarray(from, to), values: values.subarray(from, to) };
}

/** The rows of the given numbers, in their order. */
export function pickRows({ starts, columns, values }: SparseRows, rows: readonly number[]): SparseRows {
  const picked = new Uint32Array(rows.length + 1);
  rows.forEach((row, i) => {
    picked[i + 1] = (picked[i] as number) + (starts[row + 1] as number) - (starts[row] as number);
  });
  const size = picked.at(-1) as number;
  const result = { starts: picked, columns: new Uint16Array(size), values: new Float32Array(size) };
  rows.forEach((row, i) => {
    const [from, to] = [starts[row] as number, starts[row + 1] as number];
    result.columns.set(columns.subarray(from, to), picked[i]);
    result.values.set(values.subarray(from, to), picked[i]);
  });
  return result;
}

/** Rows one after another. */
export function joinRows(parts: readonly SparseRows[]): SparseRows {
  const rows = parts.reduce((sum, { starts }) => sum + starts.length - 1, 0);
  const size = parts.reduce((sum, { values }) => sum + values.length, 0);
  const result = {
    starts: new Uint32Array(rows + 1),
    columns: new Uint16Array(size),
    values: new Float32Array(size),
  };
  let row = 0;
  let at = 0;
  for (const { starts, columns, values } of parts) {
    result.columns.set(columns, at);
    result.values.set(values, at);
    for (let i = 1; i < starts.length; i++) result.starts[++row] = at + (starts[i] as number);
    at += values.length;
  }
  return result;
}
