/**
 * Kernels of pre-training (src/pretrain/step.ts) in AssemblyScript: 32-bit floats, four at a time, in a memory that the
 * training's threads share. Pointers are byte offsets, strides count floats, and matrices are row-major. A width, n or
 * count is a multiple of 4 if nothing else is said. No result depends on the number of threads, and WebAssembly neither
 * fuses nor reorders operations: equal inputs give equal bytes.
 */
import { at, sumLanes } from "./vectors";

/** How many floats are summed in registers at once. */
const CHUNK: i32 = 32;

/** eˣ, by the method of Cephes' expf; 0 below −87. */
// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
function exp4(x: v128): v128 {
  const low = f32x4.splat(-87.0);
  const small = f32x4.lt(x, low);
  const t = f32x4.max(f32x4.min(x, f32x4.splat(88.0)), low);
  const n = f32x4.nearest(f32x4.mul(t, f32x4.splat(1.44269504088896341)));
  let r = f32x4.sub(t, f32x4.mul(n, f32x4.splat(0.693359375)));
  r = f32x4.add(r, f32x4.mul(n, f32x4.splat(2.12194440e-4)));
  let p = f32x4.splat(1.9875691500e-4);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.3981999507e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(8.3334519073e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(4.1665795894e-2));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.6666665459e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(5.0000001201e-1));
  p = f32x4.add(f32x4.add(f32x4.mul(f32x4.mul(p, r), r), r), f32x4.splat(1.0));
  const power = i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23);
  return v128.andnot(f32x4.mul(p, power), small);
}

/**
 * For each i in [first, last): out[i] = Σ over members m in starts[i]…starts[i+1] of coefficients[m] · rows[members[m]],
 * or without coefficients if `coefficients` is 0. `width` is a multiple of 32.
 */
export function sumRows(
  first: i32,
  last: i32,
  starts: usize,
  members: usize,
  coefficients: usize,
  rows: usize,
  width: i32,
  out: usize,
): void {
  for (let i = first; i < last; i++) {
    const start = load<i32>(at(starts, i));
    const end = load<i32>(at(starts, i + 1));
    for (let j = 0; j < width; j += CHUNK) {
      let s0 = f32x4.splat(0);
      let s1 = s0;
      let s2 = s0;
      let s3 = s0;
      let s4 = s0;
      let s5 = s0;
      let s6 = s0;
      let s7 = s0;
      for (let m = start; m < end; m++) {
        const row = at(rows, load<i32>(at(members, m)) * width + j);
        const c = coefficients == 0 ? f32x4.splat(1) : v128.load32_splat(at(coefficients, m));
        s0 = f32x4.add(s0, f32x4.mul(c, v128.load(row)));
        s1 = f32x4.add(s1, f32x4.mul(c, v128.load(row, 16)));
        s2 = f32x4.add(s2, f32x4.mul(c, v128.load(row, 32)));
        s3 = f32x4.add(s3, f32x4.mul(c, v128.load(row, 48)));
        s4 = f32x4.add(s4, f32x4.mul(c, v128.load(row, 64)));
        s5 = f32x4.add(s5, f32x4.mul(c, v128.load(row, 80)));
        s6 = f32x4.add(s6, f32x4.mul(c, v128.load(row, 96)));
        s7 = f32x4.add(s7, f32x4.mul(c, v128.load(row, 112)));
      }
      const to = at(out, i * width + j);
      v128.store(to, s0);
      v128.store(to, s1, 16);
      v128.store(to, s2, 32);
      v128.store(to, s3, 48);
      v128.store(to, s4, 64);
      v128.store(to, s5, 80);
      v128.store(to, s6, 96);
      v128.store(to, s7, 112);
    }
  }
}

/**
 * A step of Adam (Kingma and Ba 2015) on `count` numbers. `rate` includes the bias corrections: lr · √(1 − β₂ᵗ) / (1 − β₁ᵗ).
 */
export function adam(
  parameters: usize,
  first: usize,
  second: usize,
  gradient: usize,
  count: i32,
  rate: f32,
  beta1: f32,
  beta2: f32,
  epsilon: f32,
): void {
  const b1 = f32x4.splat(beta1);
  const a1 = f32x4.splat(1 - beta1);
  const b2 = f32x4.splat(beta2);
  const a2 = f32x4.splat(1 - beta2);
  const r = f32x4.splat(rate);
  const e = f32x4.splat(epsilon);
  for (let i = 0; i < count; i += 4) {
    const g = v128.load(at(gradient, i));
    const m = f32x4.add(f32x4.mul(b1, v128.load(at(first, i))), f32x4.mul(a1, g));
    const v = f32x4.add(f32x4.mul(b2, v128.load(at(second, i))), f32x4.mul(a2, f32x4.mul(g, g)));
    v128.store(at(first, i), m);
    v128.store(at(second, i), v);
    const step = f32x4.div(f32x4.mul(r, m), f32x4.add(f32x4.sqrt(v), e));
    v128.store(at(parameters, i), f32x4.sub(v128.load(at(parameters, i)), step));
  }
}

/** For each i in [first, last): sums the gradient of row list[i] as `sumRows` does, and takes the row's Adam step. */
export function adamRows(
  first: i32,
  last: i32,
  list: usize,
  starts: usize,
  members: usize,
  coefficients: usize,
  gradients: usize,
  width: i32,
  parameters: usize,
  means: usize,
  squares: usize,
  scratch: usize,
  rate: f32,
  beta1: f32,
  beta2: f32,
  epsilon: f32,
): void {
  for (let i = first; i < last; i++) {
    sumRows(i, i + 1, starts, members, coefficients, gradients, width, scratch - ((<usize>(i * width)) << 2));
    const offset = (<usize>(load<i32>(at(list, i)) * width)) << 2;
    adam(parameters + offset, means + offset, squares + offset, scratch, width, rate, beta1, beta2, epsilon);
  }
}

/** unit[i] = x[i] / ‖x[i]‖ and norms[i] = ‖x[i]‖ for the rows i in [first, last). */
export function normalise(first: i32, last: i32, x: usize, width: i32, norms: usize, unit: usize): void {
  for (let i = first; i < last; i++) {
    const row = at(x, i * width);
    let squares = f32x4.splat(0);
    for (let j = 0; j < width; j += 4) {
      const value = v128.load(at(row, j));
      squares = f32x4.add(squares, f32x4.mul(value, value));
    }
    const norm = <f32>Math.sqrt(<f64>sumLanes(squares)) + 1e-12;
    store<f32>(at(norms, i), norm);
    const factor = f32x4.splat(1 / norm);
    const to = at(unit, i * width);
    for (let j = 0; j < width; j += 4) v128.store(at(to, j), f32x4.mul(factor, v128.load(at(row, j))));
  }
}

/** The gradient of `normalise`, in place: g ← (g − (g·u) u) / ‖x‖, u the unit row. */
export function normaliseBack(first: i32, last: i32, unit: usize, width: i32, norms: usize, gradient: usize): void {
  for (let i = first; i < last; i++) {
    const u = at(unit, i * width);
    const g = at(gradient, i * width);
    let products = f32x4.splat(0);
    for (let j = 0; j < width; j += 4)
      products = f32x4.add(products, f32x4.mul(v128.load(at(u, j)), v128.load(at(g, j))));
    const along = f32x4.splat(sumLanes(products));
    const factor = f32x4.splat(1 / load<f32>(at(norms, i)));
    for (let j = 0; j < width; j += 4) {
      const left = f32x4.sub(v128.load(at(g, j)), f32x4.mul(along, v128.load(at(u, j))));
      v128.store(at(g, j), f32x4.mul(factor, left));
    }
  }
}

/**
 * c[i][j] = scale · Σ_k a(i, k) b(k, j) for i in [first, last) and j in [0, n). a(i, k) is at a + i·ai + k·ak, b(k, j) at
 * b + k·bk + j·bj, c[i][j] at c + i·n + j. (last − first) is a multiple of 4, n of 8, and `depth` any number. `panel` is
 * scratch space of 8·depth floats.
 */
export function multiply(
  first: i32,
  last: i32,
  n: i32,
  depth: i32,
  a: usize,
  ai: i32,
  ak: i32,
  b: usize,
  bk: i32,
  bj: i32,
  c: usize,
  panel: usize,
  scale: f32,
): void {
  const s = f32x4.splat(scale);
  const step = (<usize>ak) << 2;
  for (let j = 0; j < n; j += 8) {
    for (let k = 0; k < depth; k++) {
      for (let l = 0; l < 8; l++) store<f32>(at(panel, k * 8 + l), load<f32>(at(b, k * bk + (j + l) * bj)));
    }
    for (let i = first; i < last; i += 4) {
      let p0 = at(a, i * ai);
      let p1 = at(a, (i + 1) * ai);
      let p2 = at(a, (i + 2) * ai);
      let p3 = at(a, (i + 3) * ai);
      let c00 = f32x4.splat(0);
      let c01 = c00;
      let c10 = c00;
      let c11 = c00;
      let c20 = c00;
      let c21 = c00;
      let c30 = c00;
      let c31 = c00;
      let q = panel;
      for (let k = 0; k < depth; k++) {
        const b0 = v128.load(q);
        const b1 = v128.load(q, 16);
        q += 32;
        const a0 = v128.load32_splat(p0);
        c00 = f32x4.add(c00, f32x4.mul(a0, b0));
        c01 = f32x4.add(c01, f32x4.mul(a0, b1));
        const a1 = v128.load32_splat(p1);
        c10 = f32x4.add(c10, f32x4.mul(a1, b0));
        c11 = f32x4.add(c11, f32x4.mul(a1, b1));
        const a2 = v128.load32_splat(p2);
        c20 = f32x4.add(c20, f32x4.mul(a2, b0));
        c21 = f32x4.add(c21, f32x4.mul(a2, b1));
        const a3 = v128.load32_splat(p3);
        c30 = f32x4.add(c30, f32x4.mul(a3, b0));
        c31 = f32x4.add(c31, f32x4.mul(a3, b1));
        p0 += step;
        p1 += step;
        p2 += step;
        p3 += step;
      }
      const to = at(c, i * n + j);
      const row = (<usize>n) << 2;
      v128.store(to, f32x4.mul(s, c00));
      v128.store(to, f32x4.mul(s, c01), 16);
      v128.store(to + row, f32x4.mul(s, c10));
      v128.store(to + row, f32x4.mul(s, c11), 16);
      v128.store(to + 2 * row, f32x4.mul(s, c20));
      v128.store(to + 2 * row, f32x4.mul(s, c21), 16);
      v128.store(to + 3 * row, f32x4.mul(s, c30));
      v128.store(to + 3 * row, f32x4.mul(s, c31), 16);
    }
  }
}

/** out[i] = log Σ_j exp(logits[i][j]) for the rows i in [first, last), of n numbers. */
export function logSumRows(first: i32, last: i32, logits: usize, n: i32, out: usize): void {
  for (let i = first; i < last; i++) {
    const row = at(logits, i * n);
    let tops = v128.load(row);
    for (let j = 4; j < n; j += 4) tops = f32x4.max(tops, v128.load(at(row, j)));
    const top = max(
      max(f32x4.extract_lane(tops, 0), f32x4.extract_lane(tops, 1)),
      max(f32x4.extract_lane(tops, 2), f32x4.extract_lane(tops, 3)),
    );
    const splat = f32x4.splat(top);
    let sums = f32x4.splat(0);
    for (let j = 0; j < n; j += 4) sums = f32x4.add(sums, exp4(f32x4.sub(v128.load(at(row, j)), splat)));
    store<f32>(at(out, i), top + <f32>Math.log(<f64>sumLanes(sums)));
  }
}

/** out[j] = log Σ_i exp(logits[i][j]) for the columns j in [first, last), multiples of 4, of `rows` × n logits. */
export function logSumColumns(first: i32, last: i32, rows: i32, logits: usize, n: i32, out: usize): void {
  for (let j = first; j < last; j += 4) {
    let tops = v128.load(at(logits, j));
    for (let i = 1; i < rows; i++) tops = f32x4.max(tops, v128.load(at(logits, i * n + j)));
    let sums = f32x4.splat(0);
    for (let i = 0; i < rows; i++) sums = f32x4.add(sums, exp4(f32x4.sub(v128.load(at(logits, i * n + j)), tops)));
    store<f32>(at(out, j), f32x4.extract_lane(tops, 0) + <f32>Math.log(<f64>f32x4.extract_lane(sums, 0)));
    store<f32>(at(out, j + 1), f32x4.extract_lane(tops, 1) + <f32>Math.log(<f64>f32x4.extract_lane(sums, 1)));
    store<f32>(at(out, j + 2), f32x4.extract_lane(tops, 2) + <f32>Math.log(<f64>f32x4.extract_lane(sums, 2)));
    store<f32>(at(out, j + 3), f32x4.extract_lane(tops, 3) + <f32>Math.log(<f64>f32x4.extract_lane(sums, 3)));
  }
}

/**
 * In place, logits → factor · (exp(l − rowSums[i]) + exp(l − columnSums[j])), minus 2 · factor on the diagonal: the
 * gradient of the cross-entropies of both directions, for the rows i in [first, last), of n numbers.
 */
export function contrastiveGradient(
  first: i32,
  last: i32,
  logits: usize,
  n: i32,
  rowSums: usize,
  columnSums: usize,
  factor: f32,
): void {
  const f = f32x4.splat(factor);
  for (let i = first; i < last; i++) {
    const row = at(logits, i * n);
    const sum = v128.load32_splat(at(rowSums, i));
    for (let j = 0; j < n; j += 4) {
      const l = v128.load(at(row, j));
      const p = f32x4.add(exp4(f32x4.sub(l, sum)), exp4(f32x4.sub(l, v128.load(at(columnSums, j)))));
      v128.store(at(row, j), f32x4.mul(f, p));
    }
    store<f32>(at(row, i), load<f32>(at(row, i)) - 2 * factor);
  }
}

/** In place, logits → factor · (softmax(l) − one-hot of targets[i]) for the rows i in [first, last), of n numbers. */
export function softmaxGradient(
  first: i32,
  last: i32,
  logits: usize,
  n: i32,
  rowSums: usize,
  targets: usize,
  factor: f32,
): void {
  const f = f32x4.splat(factor);
  for (let i = first; i < last; i++) {
    const row = at(logits, i * n);
    const sum = v128.load32_splat(at(rowSums, i));
    for (let j = 0; j < n; j += 4)
      v128.store(at(row, j), f32x4.mul(f, exp4(f32x4.sub(v128.load(at(row, j)), sum))));
    const target = at(row, load<i32>(at(targets, i)));
    store<f32>(target, load<f32>(target) - factor);
  }
}
