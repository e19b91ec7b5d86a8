/**
 * Kernels of the sentence encoder (src/backbones/sentence-encoder), in AssemblyScript, in an imported memory. Pointers are
 * byte offsets and multiples of 16, matrices are row-major, widths are multiples of 16. Sums of products are exact integers,
 * and no operation is fused, so the results are the same on every machine.
 */

import { weighKeys } from "./attention";
import { at, exp, sumLanes } from "./vectors";

/** Codes of a row are 7 bits, the widest for which relaxed products are exact. */
const LEVELS: f32 = 127;

/** The four sums of four vectors' integers. */
// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
function sums(a: v128, b: v128, c: v128, d: v128): v128 {
  const ab = i32x4.add(v128.shuffle<i32>(a, b, 0, 4, 1, 5), v128.shuffle<i32>(a, b, 2, 6, 3, 7));
  const cd = i32x4.add(v128.shuffle<i32>(c, d, 0, 4, 1, 5), v128.shuffle<i32>(c, d, 2, 6, 3, 7));
  return i32x4.add(v128.shuffle<i32>(ab, cd, 0, 1, 4, 5), v128.shuffle<i32>(ab, cd, 2, 3, 6, 7));
}

/**
 * out[t] = 2 · (row ids[t] of the table) + timing[positions[t]]. `scales` holds a scale a row. `lookups` holds ids[t],
 * positions[t] for each token.
 */
export function embed(
  tokens: i32,
  lookups: usize,
  table: usize,
  scales: usize,
  timing: usize,
  width: i32,
  out: usize,
): void {
  for (let t = 0; t < tokens; t++) {
    const id = load<i32>(at(lookups, 2 * t));
    const row = table + <usize>(id * width);
    const signal = at(timing, load<i32>(at(lookups, 2 * t + 1)) * width);
    const into = at(out, t * width);
    const scale = f32x4.splat(2 * load<f32>(at(scales, id)));
    for (let j = 0; j < width; j += 4) {
      const value = f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(v128.load32_zero(row + j))));
      v128.store(at(into, j), f32x4.add(f32x4.mul(value, scale), v128.load(at(signal, j))));
    }
  }
}

/** out = (x − mean) · scale / √(variance + 1e-6) + bias for each row. */
export function normalise(rows: i32, width: i32, x: usize, scale: usize, bias: usize, out: usize): void {
  for (let i = 0; i < rows; i++) {
    const row = at(x, i * width);
    const into = at(out, i * width);
    let sum = f32x4.splat(0);
    for (let j = 0; j < width; j += 4) sum = f32x4.add(sum, v128.load(at(row, j)));
    const mean = f32x4.splat(sumLanes(sum) / <f32>width);
    let squares = f32x4.splat(0);
    for (let j = 0; j < width; j += 4) {
      const centred = f32x4.sub(v128.load(at(row, j)), mean);
      squares = f32x4.add(squares, f32x4.mul(centred, centred));
    }
    const factor = f32x4.splat(<f32>1 / sqrt<f32>(sumLanes(squares) / <f32>width + 1e-6));
    for (let j = 0; j < width; j += 4) {
      const centred = f32x4.mul(f32x4.sub(v128.load(at(row, j)), mean), factor);
      v128.store(at(into, j), f32x4.add(f32x4.mul(centred, v128.load(at(scale, j))), v128.load(at(bias, j))));
    }
  }
}

/** The codes of each row, a byte each: x ≈ low + step · code. `ranges` gets low, step for each row. */
export function quantise(rows: i32, width: i32, x: usize, codes: usize, ranges: usize): void {
  for (let i = 0; i < rows; i++) {
    const row = at(x, i * width);
    let least = v128.load(row);
    let most = least;
    for (let j = 4; j < width; j += 4) {
      const value = v128.load(at(row, j));
      least = f32x4.min(least, value);
      most = f32x4.max(most, value);
    }
    const low = min(
      min(f32x4.extract_lane(least, 0), f32x4.extract_lane(least, 1)),
      min(f32x4.extract_lane(least, 2), f32x4.extract_lane(least, 3)),
    );
    const high = max(
      max(f32x4.extract_lane(most, 0), f32x4.extract_lane(most, 1)),
      max(f32x4.extract_lane(most, 2), f32x4.extract_lane(most, 3)),
    );
    const step = (high - low) / LEVELS;
    store<f32>(at(ranges, 2 * i), low);
    store<f32>(at(ranges, 2 * i + 1), step);
    const l = f32x4.splat(low);
    const inverse = f32x4.splat(step == 0 ? 0 : <f32>1 / step);
    const into = codes + <usize>(i * width);
    for (let j = 0; j < width; j += 16) {
      const c0 = code(at(row, j), l, inverse);
      const c1 = code(at(row, j + 4), l, inverse);
      const c2 = code(at(row, j + 8), l, inverse);
      const c3 = code(at(row, j + 12), l, inverse);
      v128.store(into + j, i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(c0, c1), i16x8.narrow_i32x4_s(c2, c3)));
    }
  }
}

// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
function code(x: usize, low: v128, inverse: v128): v128 {
  const level = f32x4.nearest(f32x4.mul(f32x4.sub(v128.load(x), low), inverse));
  return i32x4.trunc_sat_f32x4_s(f32x4.min(f32x4.max(level, f32x4.splat(0)), f32x4.splat(LEVELS)));
}

/** What is done with a product: it replaces the output, is added to it, or replaces it where it is above 0. */
export enum Mode {
  Replace = 0,
  Add = 1,
  Relu = 2,
}

/**
 * out[i][o] = Σ_j x[i][j] w[o][j] + bias[o], of rows as codes and ranges (`quantise`) and weights as 8-bit integers with a
 * scale an output. `weightSums` holds scale · Σ_j w[o][j]. Rows and outputs are multiples of 2 and 4.
 */
export function product(
  rows: i32,
  inner: i32,
  outputs: i32,
  codes: usize,
  ranges: usize,
  weights: usize,
  weightScales: usize,
  weightSums: usize,
  bias: usize,
  mode: Mode,
  out: usize,
): void {
  for (let o = 0; o < outputs; o += 4) {
    const w0 = weights + <usize>(o * inner);
    const w1 = w0 + inner;
    const w2 = w1 + inner;
    const w3 = w2 + inner;
    const scale = v128.load(at(weightScales, o));
    const sum = v128.load(at(weightSums, o));
    const b = v128.load(at(bias, o));
    for (let i = 0; i < rows; i += 2) {
      const x0 = codes + <usize>(i * inner);
      const x1 = x0 + inner;
      let s00 = i32x4.splat(0);
      let s01 = s00;
      let s02 = s00;
      let s03 = s00;
      let s10 = s00;
      let s11 = s00;
      let s12 = s00;
      let s13 = s00;
      for (let j = 0; j < inner; j += 16) {
        const c0 = v128.load(x0 + j);
        const c1 = v128.load(x1 + j);
        let w = v128.load(w0 + j);
        s00 = i32x4.relaxed_dot_i8x16_i7x16_add_s(w, c0, s00);
        s10 = i32x4.relaxed_dot_i8x16_i7x16_add_s(w, c1, s10);
        w = v128.load(w1 + j);
        s01 = i32x4.relaxed_dot_i8x16_i7x16_add_s(w, c0, s01);
        s11 = i32x4.relaxed_dot_i8x16_i7x16_add_s(w, c1, s11);
        w = v128.load(w2 + j);
        s02 = i32x4.relaxed_dot_i8x16_i7x16_add_s(w, c0, s02);
        s12 = i32x4.relaxed_dot_i8x16_i7x16_add_s(w, c1, s12);
        w = v128.load(w3 + j);
        s03 = i32x4.relaxed_dot_i8x16_i7x16_add_s(w, c0, s03);
        s13 = i32x4.relaxed_dot_i8x16_i7x16_add_s(w, c1, s13);
      }
      storeProducts(sums(s00, s01, s02, s03), at(ranges, 2 * i), scale, sum, b, mode, at(out, i * outputs + o));
      storeProducts(
        sums(s10, s11, s12, s13),
        at(ranges, 2 * i + 2),
        scale,
        sum,
        b,
        mode,
        at(out, (i + 1) * outputs + o),
      );
    }
  }
}

// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
function storeProducts(integers: v128, range: usize, scale: v128, sum: v128, bias: v128, mode: Mode, out: usize): void {
  const low = v128.load32_splat(range);
  const step = v128.load32_splat(range + 4);
  const scaled = f32x4.mul(f32x4.mul(scale, step), f32x4.convert_i32x4_s(integers));
  let value = f32x4.add(f32x4.add(scaled, f32x4.mul(low, sum)), bias);
  if (mode == Mode.Add) value = f32x4.add(value, v128.load(out));
  if (mode == Mode.Relu) value = f32x4.max(value, f32x4.splat(0));
  v128.store(out, value);
}

/**
 * Attention of each text's tokens to each other, a head at a time: softmax(q kᵀ / √width) v. A row of `projections`
 * holds q, k and v of all heads. `spans` holds the first token and the number of tokens of each text. `scores` has room
 * for the tokens of the longest text.
 */
export function attend(
  texts: i32,
  spans: usize,
  heads: i32,
  width: i32,
  projections: usize,
  scores: usize,
  out: usize,
): void {
  const model = heads * width;
  const stride = 3 * model;
  const scale: f32 = <f32>1 / sqrt<f32>(<f32>width);
  for (let i = 0; i < texts; i++) {
    const first = load<i32>(at(spans, 2 * i));
    const length = load<i32>(at(spans, 2 * i + 1));
    for (let h = 0; h < heads; h++) {
      const keys = at(projections, first * stride + model + h * width);
      const values = at(projections, first * stride + 2 * model + h * width);
      for (let t = first; t < first + length; t++) {
        const query = at(projections, t * stride + h * width);
        const total = weighKeys(length, query, keys, stride, width, scale, scores);
        const inverse = <f32>1 / total;
        const into = at(out, t * model + h * width);
        for (let j = 0; j < width; j += 4) {
          let sum = f32x4.splat(0);
          for (let s = 0; s < length; s++)
            sum = f32x4.add(sum, f32x4.mul(v128.load32_splat(at(scores, s)), v128.load(at(values, s * stride + j))));
          v128.store(at(into, j), f32x4.mul(sum, f32x4.splat(inverse)));
        }
      }
    }
  }
}

/** The mean of each text's rows. */
export function pool(texts: i32, spans: usize, width: i32, x: usize, out: usize): void {
  for (let i = 0; i < texts; i++) {
    const first = load<i32>(at(spans, 2 * i));
    const length = load<i32>(at(spans, 2 * i + 1));
    const factor = f32x4.splat(<f32>1 / <f32>length);
    for (let j = 0; j < width; j += 4) {
      let sum = f32x4.splat(0);
      for (let t = first; t < first + length; t++) sum = f32x4.add(sum, v128.load(at(x, t * width + j)));
      v128.store(at(out, i * width + j), f32x4.mul(sum, factor));
    }
  }
}

/** tanh of each number, then each row to unit norm. */
export function tanhUnit(rows: i32, width: i32, x: usize): void {
  const one = f32x4.splat(1);
  for (let i = 0; i < rows; i++) {
    const row = at(x, i * width);
    let squares = f32x4.splat(0);
    for (let j = 0; j < width; j += 4) {
      const value = v128.load(at(row, j));
      // tanh |x| = 1 − 2 / (e^(2|x|) + 1), which is 1 beyond 10.
      const doubled = f32x4.min(f32x4.mul(f32x4.splat(2), f32x4.abs(value)), f32x4.splat(20));
      const magnitude = f32x4.sub(one, f32x4.div(f32x4.splat(2), f32x4.add(exp(doubled), one)));
      const sign = v128.and(value, i32x4.splat(<i32>0x80000000));
      const result = v128.or(magnitude, sign);
      squares = f32x4.add(squares, f32x4.mul(result, result));
      v128.store(at(row, j), result);
    }
    const factor = f32x4.splat(<f32>1 / sqrt<f32>(max(sumLanes(squares), <f32>1e-12)));
    for (let j = 0; j < width; j += 4) v128.store(at(row, j), f32x4.mul(v128.load(at(row, j)), factor));
  }
}
