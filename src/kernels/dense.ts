/**
 * Products of dense matrices, in AssemblyScript, in the memory of TensorFlow.js's WASM backend: 32-bit floats, row-major,
 * pointers as byte offsets. Six rows by eight columns are computed at a time, so that their sums stay in registers, from
 * columns that are packed beside each other. Multiply-add is relaxed: most processors round it once, others twice.
 */

/** Columns of a panel, and rows of a strip. */
const PANEL: i32 = 8;
const STRIP: i32 = 6;

/** c = a · b: a has `rows` × `inner` numbers, b `inner` × `columns`. `panel` has room for inner × 8 numbers. */
export function multiply(rows: i32, inner: i32, columns: i32, a: usize, b: usize, c: usize, panel: usize): void {
  product(rows, inner, columns, a, <usize>inner << 2, 4, b, false, c, panel);
}

/** c = aᵀ · b: a has `inner` × `rows` numbers, b `inner` × `columns`. `panel` has room for inner × 8 numbers. */
export function multiplyTransposed(
  rows: i32,
  inner: i32,
  columns: i32,
  a: usize,
  b: usize,
  c: usize,
  panel: usize,
): void {
  product(rows, inner, columns, a, 4, <usize>rows << 2, b, false, c, panel);
}

/** c = a · bᵀ: a has `rows` × `inner` numbers, b `columns` × `inner`. `panel` has room for inner × 8 numbers. */
export function multiplyByTransposed(
  rows: i32,
  inner: i32,
  columns: i32,
  a: usize,
  b: usize,
  c: usize,
  panel: usize,
): void {
  product(rows, inner, columns, a, <usize>inner << 2, 4, b, true, c, panel);
}

/** The left factor's rows are `row` bytes apart, and the numbers of one row `step` bytes; the right one may be transposed. */
// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
function product(
  rows: i32,
  inner: i32,
  columns: i32,
  a: usize,
  row: usize,
  step: usize,
  b: usize,
  transposed: bool,
  c: usize,
  panel: usize,
): void {
  for (let first = 0; first < columns; first += PANEL) {
    if (transposed) packRows(inner, columns, b, first, panel);
    else pack(inner, columns, b, first, panel);
    let i = 0;
    for (; i + STRIP <= rows; i += STRIP)
      strip(inner, a + <usize>i * row, row, step, panel, c + ((<usize>(i * columns + first)) << 2), columns, first);
    for (; i < rows; i++)
      single(inner, a + <usize>i * row, step, panel, c + ((<usize>(i * columns + first)) << 2), columns, first);
  }
}

/** Copies eight columns of b, from `first` on, beside each other. Those beyond the last are zeros. */
function pack(inner: i32, columns: i32, b: usize, first: i32, panel: usize): void {
  const width = <usize>columns << 2;
  let from = b + (<usize>first << 2);
  let to = panel;
  if (first + PANEL <= columns) {
    for (let k = 0; k < inner; k++, from += width, to += 32) {
      v128.store(to, v128.load(from));
      v128.store(to + 16, v128.load(from + 16));
    }
    return;
  }
  memory.fill(panel, 0, <usize>inner << 5);
  const bytes = <usize>(columns - first) << 2;
  for (let k = 0; k < inner; k++, from += width, to += 32) memory.copy(to, from, bytes);
}

/** Copies eight rows of b, from `first` on, as the columns of the panel. Those beyond the last are zeros. */
function packRows(inner: i32, rows: i32, b: usize, first: i32, panel: usize): void {
  const count = min(PANEL, rows - first);
  if (count < PANEL) memory.fill(panel, 0, <usize>inner << 5);
  for (let l = 0; l < count; l++) {
    let from = b + ((<usize>(first + l) * inner) << 2);
    let to = panel + (<usize>l << 2);
    for (let k = 0; k < inner; k++, from += 4, to += 32) store<f32>(to, load<f32>(from));
  }
}

/**
 * Six rows by eight columns of c. Rows of a are `row` bytes apart, and numbers of a row `step` bytes.
 */
// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
function strip(
  inner: i32,
  a: usize,
  row: usize,
  step: usize,
  panel: usize,
  c: usize,
  columns: i32,
  first: i32,
): void {
  let s00 = f32x4.splat(0);
  let s01 = s00;
  let s10 = s00;
  let s11 = s00;
  let s20 = s00;
  let s21 = s00;
  let s30 = s00;
  let s31 = s00;
  let s40 = s00;
  let s41 = s00;
  let s50 = s00;
  let s51 = s00;
  let a0 = a;
  let a1 = a + row;
  let a2 = a + 2 * row;
  let a3 = a + 3 * row;
  let a4 = a + 4 * row;
  let a5 = a + 5 * row;
  const end = panel + (<usize>inner << 5);
  for (let b = panel; b < end; b += 32) {
    const b0 = v128.load(b);
    const b1 = v128.load(b + 16);
    let x = v128.load32_splat(a0);
    s00 = f32x4.relaxed_madd(x, b0, s00);
    s01 = f32x4.relaxed_madd(x, b1, s01);
    x = v128.load32_splat(a1);
    s10 = f32x4.relaxed_madd(x, b0, s10);
    s11 = f32x4.relaxed_madd(x, b1, s11);
    x = v128.load32_splat(a2);
    s20 = f32x4.relaxed_madd(x, b0, s20);
    s21 = f32x4.relaxed_madd(x, b1, s21);
    x = v128.load32_splat(a3);
    s30 = f32x4.relaxed_madd(x, b0, s30);
    s31 = f32x4.relaxed_madd(x, b1, s31);
    x = v128.load32_splat(a4);
    s40 = f32x4.relaxed_madd(x, b0, s40);
    s41 = f32x4.relaxed_madd(x, b1, s41);
    x = v128.load32_splat(a5);
    s50 = f32x4.relaxed_madd(x, b0, s50);
    s51 = f32x4.relaxed_madd(x, b1, s51);
    a0 += step;
    a1 += step;
    a2 += step;
    a3 += step;
    a4 += step;
    a5 += step;
  }
  const width = <usize>columns << 2;
  storeRow(c, s00, s01, columns, first);
  storeRow(c + width, s10, s11, columns, first);
  storeRow(c + 2 * width, s20, s21, columns, first);
  storeRow(c + 3 * width, s30, s31, columns, first);
  storeRow(c + 4 * width, s40, s41, columns, first);
  storeRow(c + 5 * width, s50, s51, columns, first);
}

/** One row by eight columns of c. */
function single(inner: i32, a: usize, step: usize, panel: usize, c: usize, columns: i32, first: i32): void {
  let s0 = f32x4.splat(0);
  let s1 = s0;
  const end = panel + (<usize>inner << 5);
  for (let b = panel; b < end; b += 32, a += step) {
    const x = v128.load32_splat(a);
    s0 = f32x4.relaxed_madd(x, v128.load(b), s0);
    s1 = f32x4.relaxed_madd(x, v128.load(b + 16), s1);
  }
  storeRow(c, s0, s1, columns, first);
}

/** Stores eight numbers of a row, or those before its end. */
function storeRow(c: usize, s0: v128, s1: v128, columns: i32, first: i32): void {
  const left = columns - first;
  if (left >= PANEL) {
    v128.store(c, s0);
    v128.store(c + 16, s1);
    return;
  }
  if (left >= 4) v128.store(c, s0);
  const rest = left >= 4 ? s1 : s0;
  const into = left >= 4 ? c + 16 : c;
  const count = left & 3;
  if (count > 0) store<f32>(into, f32x4.extract_lane(rest, 0));
  if (count > 1) store<f32>(into + 4, f32x4.extract_lane(rest, 1));
  if (count > 2) store<f32>(into + 8, f32x4.extract_lane(rest, 2));
}

/**
 * Rounds each row to 8-bit integers: x ≈ scale · code, with the row's largest magnitude at ±127. `scales` gets a scale a
 * row.
 */
export function quantiseRows(rows: i32, columns: i32, x: usize, codes: usize, scales: usize): void {
  for (let i = 0; i < rows; i++) {
    const row = x + ((<usize>i * columns) << 2);
    const into = codes + <usize>i * columns;
    let most: f32 = 0;
    for (let j: usize = 0; j < <usize>columns; j++) most = max(most, abs(load<f32>(row + (j << 2))));
    const scale = most / 127;
    store<f32>(scales + (<usize>i << 2), scale);
    const inverse: f32 = most == 0 ? 0 : <f32>127 / most;
    for (let j: usize = 0; j < <usize>columns; j++)
      store<i8>(into + j, <i8>(<i32>nearest<f32>(load<f32>(row + (j << 2)) * inverse)));
  }
}

/** The rows of `quantiseRows` as 32-bit floats. */
export function expandRows(rows: i32, columns: i32, codes: usize, scales: usize, x: usize): void {
  for (let i = 0; i < rows; i++) {
    const row = codes + <usize>i * columns;
    const into = x + ((<usize>i * columns) << 2);
    const scale = load<f32>(scales + (<usize>i << 2));
    const s = f32x4.splat(scale);
    let j: usize = 0;
    for (; j + 4 <= <usize>columns; j += 4) {
      const integers = i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(v128.load32_zero(row + j)));
      v128.store(into + (j << 2), f32x4.mul(f32x4.convert_i32x4_s(integers), s));
    }
    for (; j < <usize>columns; j++) store<f32>(into + (j << 2), <f32>load<i8>(row + j) * scale);
  }
}
