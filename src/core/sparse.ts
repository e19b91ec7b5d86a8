/** Sparse rows as plain arrays: cut, picked and joined. */
import type { SparseRows } from "./tensors.ts";

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
