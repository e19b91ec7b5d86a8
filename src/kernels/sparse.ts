/**
 * Products of a sparse matrix and a dense one, in AssemblyScript: 32-bit floats, four at a time, in the memory of the tensor
 * backend (src/tensor/wasm.ts). This module has no memory of its own. Pointers are byte offsets.
 */
import { at } from "./vectors";

/**
 * to += a·b. Row i of a has values[m] in column columns[m] (16 bits each) for m from starts[i] to starts[i + 1]. b has
 * `height` rows; b and `to` are row-major with `width` columns.
 */
export function addSparseProduct(
  rows: i32,
  starts: usize,
  columns: usize,
  values: usize,
  b: usize,
  height: i32,
  width: i32,
  to: usize,
): void {
  const end = at(b, height * width);
  for (let i = 0; i < rows; i++) {
    const first = load<i32>(at(starts, i));
    const last = load<i32>(at(starts, i + 1));
    if (first == last) continue;
    let j = 0;
    for (; j + 32 <= width; j += 32) {
      const out = at(to, i * width + j);
      let s0 = v128.load(out);
      let s1 = v128.load(out, 16);
      let s2 = v128.load(out, 32);
      let s3 = v128.load(out, 48);
      let s4 = v128.load(out, 64);
      let s5 = v128.load(out, 80);
      let s6 = v128.load(out, 96);
      let s7 = v128.load(out, 112);
      for (let m = first; m < last; m++) {
        const row = at(b, <i32>load<u16>(columns + ((<usize>m) << 1)) * width + j);
        const v = v128.load32_splat(at(values, m));
        s0 = f32x4.add(s0, f32x4.mul(v, v128.load(row)));
        s1 = f32x4.add(s1, f32x4.mul(v, v128.load(row, 16)));
        s2 = f32x4.add(s2, f32x4.mul(v, v128.load(row, 32)));
        s3 = f32x4.add(s3, f32x4.mul(v, v128.load(row, 48)));
        s4 = f32x4.add(s4, f32x4.mul(v, v128.load(row, 64)));
        s5 = f32x4.add(s5, f32x4.mul(v, v128.load(row, 80)));
        s6 = f32x4.add(s6, f32x4.mul(v, v128.load(row, 96)));
        s7 = f32x4.add(s7, f32x4.mul(v, v128.load(row, 112)));
      }
      v128.store(out, s0);
      v128.store(out, s1, 16);
      v128.store(out, s2, 32);
      v128.store(out, s3, 48);
      v128.store(out, s4, 64);
      v128.store(out, s5, 80);
      v128.store(out, s6, 96);
      v128.store(out, s7, 112);
    }
    for (; j + 16 <= width; j += 16) {
      const out = at(to, i * width + j);
      let s0 = v128.load(out);
      let s1 = v128.load(out, 16);
      let s2 = v128.load(out, 32);
      let s3 = v128.load(out, 48);
      for (let m = first; m < last; m++) {
        const row = at(b, <i32>load<u16>(columns + ((<usize>m) << 1)) * width + j);
        const v = v128.load32_splat(at(values, m));
        s0 = f32x4.add(s0, f32x4.mul(v, v128.load(row)));
        s1 = f32x4.add(s1, f32x4.mul(v, v128.load(row, 16)));
        s2 = f32x4.add(s2, f32x4.mul(v, v128.load(row, 32)));
        s3 = f32x4.add(s3, f32x4.mul(v, v128.load(row, 48)));
      }
      v128.store(out, s0);
      v128.store(out, s1, 16);
      v128.store(out, s2, 32);
      v128.store(out, s3, 48);
    }
    if (j < width) addTail(first, last, columns, values, b, end, width, j, at(to, i * width));
  }
}

/**
 * The last columns of a row, fewer than 16. Computes 4, 8 or 16 columns and drops those beyond the row. Where they would
 * reach beyond b, computes column by column.
 */
function addTail(
  first: i32,
  last: i32,
  columns: usize,
  values: usize,
  b: usize,
  end: usize,
  width: i32,
  from: i32,
  to: usize,
): void {
  const left = width - from;
  let s0 = f32x4.splat(0);
  let s1 = s0;
  let s2 = s0;
  let s3 = s0;
  for (let m = first; m < last; m++) {
    const row = at(b, <i32>load<u16>(columns + ((<usize>m) << 1)) * width + from);
    if (row + 64 > end) {
      for (let j = 0; j < left; j++) {
        const out = at(to, from + j);
        store<f32>(out, load<f32>(out) + load<f32>(at(values, m)) * load<f32>(at(row, j)));
      }
      continue;
    }
    const v = v128.load32_splat(at(values, m));
    s0 = f32x4.add(s0, f32x4.mul(v, v128.load(row)));
    if (left <= 4) continue;
    s1 = f32x4.add(s1, f32x4.mul(v, v128.load(row, 16)));
    if (left <= 8) continue;
    s2 = f32x4.add(s2, f32x4.mul(v, v128.load(row, 32)));
    s3 = f32x4.add(s3, f32x4.mul(v, v128.load(row, 48)));
  }
  for (let j = 0; j < left; j++) {
    const s = j < 4 ? s0 : j < 8 ? s1 : j < 12 ? s2 : s3;
    const lane = j & 3;
    const sum =
      lane == 0
        ? f32x4.extract_lane(s, 0)
        : lane == 1
          ? f32x4.extract_lane(s, 1)
          : lane == 2
            ? f32x4.extract_lane(s, 2)
            : f32x4.extract_lane(s, 3);
    const out = at(to, from + j);
    store<f32>(out, load<f32>(out) + sum);
  }
}

/** to += aᵀ·b, with a as above. b has `rows` rows, as a; b and `to` have `width` columns. */
export function addTransposedProduct(
  rows: i32,
  starts: usize,
  columns: usize,
  values: usize,
  b: usize,
  width: i32,
  to: usize,
): void {
  for (let i = 0; i < rows; i++) {
    const first = load<i32>(at(starts, i));
    const last = load<i32>(at(starts, i + 1));
    const row = at(b, i * width);
    let j = 0;
    for (; j + 32 <= width; j += 32) {
      const from = at(row, j);
      const r0 = v128.load(from);
      const r1 = v128.load(from, 16);
      const r2 = v128.load(from, 32);
      const r3 = v128.load(from, 48);
      const r4 = v128.load(from, 64);
      const r5 = v128.load(from, 80);
      const r6 = v128.load(from, 96);
      const r7 = v128.load(from, 112);
      for (let m = first; m < last; m++) {
        const out = at(to, <i32>load<u16>(columns + ((<usize>m) << 1)) * width + j);
        const v = v128.load32_splat(at(values, m));
        v128.store(out, f32x4.add(v128.load(out), f32x4.mul(v, r0)));
        v128.store(out, f32x4.add(v128.load(out, 16), f32x4.mul(v, r1)), 16);
        v128.store(out, f32x4.add(v128.load(out, 32), f32x4.mul(v, r2)), 32);
        v128.store(out, f32x4.add(v128.load(out, 48), f32x4.mul(v, r3)), 48);
        v128.store(out, f32x4.add(v128.load(out, 64), f32x4.mul(v, r4)), 64);
        v128.store(out, f32x4.add(v128.load(out, 80), f32x4.mul(v, r5)), 80);
        v128.store(out, f32x4.add(v128.load(out, 96), f32x4.mul(v, r6)), 96);
        v128.store(out, f32x4.add(v128.load(out, 112), f32x4.mul(v, r7)), 112);
      }
    }
    for (; j + 4 <= width; j += 4) {
      const r = v128.load(at(row, j));
      for (let m = first; m < last; m++) {
        const out = at(to, <i32>load<u16>(columns + ((<usize>m) << 1)) * width + j);
        v128.store(out, f32x4.add(v128.load(out), f32x4.mul(v128.load32_splat(at(values, m)), r)));
      }
    }
    for (; j < width; j++) {
      const r = load<f32>(at(row, j));
      for (let m = first; m < last; m++) {
        const out = at(to, <i32>load<u16>(columns + ((<usize>m) << 1)) * width + j);
        store<f32>(out, load<f32>(out) + load<f32>(at(values, m)) * r);
      }
    }
  }
}
