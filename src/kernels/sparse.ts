/**
 * The product of rows of few numbers with a matrix, in AssemblyScript: 32-bit floats, four at a time, in the memory of the
 * tensor backend (src/tensor/wasm.ts), which this module has none of its own beside. Pointers are byte offsets into it.
 */

// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
function at(base: usize, index: i32): usize {
  return base + ((<usize>index) << 2);
}

/**
 * to += a·b. Row i of a has values[m] in column columns[m] (16 bits each) for m from starts[i] to starts[i + 1]; b and `to` are
 * row-major with `width` columns. `height`: rows of b.
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
 * The last, fewer than 16, columns of one row: sixteen are computed, of which those beyond the row are dropped. Where they
 * would lie beyond b itself, one column after the other is.
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
  let s0 = f32x4.splat(0);
  let s1 = s0;
  let s2 = s0;
  let s3 = s0;
  for (let m = first; m < last; m++) {
    const row = at(b, <i32>load<u16>(columns + ((<usize>m) << 1)) * width + from);
    const v = v128.load32_splat(at(values, m));
    if (row + 64 > end) {
      for (let j = from; j < width; j++)
        store<f32>(at(to, j), load<f32>(at(to, j)) + load<f32>(at(values, m)) * load<f32>(row + ((<usize>(j - from)) << 2)));
      continue;
    }
    s0 = f32x4.add(s0, f32x4.mul(v, v128.load(row)));
    s1 = f32x4.add(s1, f32x4.mul(v, v128.load(row, 16)));
    s2 = f32x4.add(s2, f32x4.mul(v, v128.load(row, 32)));
    s3 = f32x4.add(s3, f32x4.mul(v, v128.load(row, 48)));
  }
  for (let j = from; j < width; j++) {
    const lane = (j - from) & 3;
    const s = j - from < 4 ? s0 : j - from < 8 ? s1 : j - from < 12 ? s2 : s3;
    const sum =
      lane == 0
        ? f32x4.extract_lane(s, 0)
        : lane == 1
          ? f32x4.extract_lane(s, 1)
          : lane == 2
            ? f32x4.extract_lane(s, 2)
            : f32x4.extract_lane(s, 3);
    store<f32>(at(to, j), load<f32>(at(to, j)) + sum);
  }
}
