/**
 * Kernels of fine-tuning a sentence encoder (src/finetune/encoder), in AssemblyScript: 32-bit floats, four at a time, in an
 * imported memory. Pointers are byte offsets, matrices are row-major, widths are multiples of 4.
 */
import { weighKeys } from "./attention";
import { at, sumLanes } from "./vectors";

export {
  multiply as product,
  multiplyByTransposed as productByTransposed,
  multiplyTransposed as productOfTransposed,
} from "./dense";

/** out[t] = 2 · table[ids[t]] + timing[positions[t]]. `lookups` holds ids[t], positions[t] for each token. */
export function lookUp(tokens: i32, lookups: usize, table: usize, timing: usize, width: i32, out: usize): void {
  const two = f32x4.splat(2);
  for (let t = 0; t < tokens; t++) {
    const row = at(table, load<i32>(at(lookups, 2 * t)) * width);
    const signal = at(timing, load<i32>(at(lookups, 2 * t + 1)) * width);
    const into = at(out, t * width);
    for (let j = 0; j < width; j += 4)
      v128.store(at(into, j), f32x4.add(f32x4.mul(two, v128.load(at(row, j))), v128.load(at(signal, j))));
  }
}

/** x[i] += bias for each row i. */
export function addBias(rows: i32, width: i32, x: usize, bias: usize): void {
  for (let i = 0; i < rows; i++) {
    const row = at(x, i * width);
    for (let j = 0; j < width; j += 4)
      v128.store(at(row, j), f32x4.add(v128.load(at(row, j)), v128.load(at(bias, j))));
  }
}

/** a += b. */
export function add(count: i32, a: usize, b: usize): void {
  for (let i = 0; i < count; i += 4) v128.store(at(a, i), f32x4.add(v128.load(at(a, i)), v128.load(at(b, i))));
}

/** x ← max(0, x). */
export function relu(count: i32, x: usize): void {
  const zero = f32x4.splat(0);
  for (let i = 0; i < count; i += 4) v128.store(at(x, i), f32x4.max(zero, v128.load(at(x, i))));
}

/** Sets the gradient to 0 where `outputs`, those of `relu`, are 0. */
export function reluBack(count: i32, outputs: usize, gradient: usize): void {
  const zero = f32x4.splat(0);
  for (let i = 0; i < count; i += 4)
    v128.store(at(gradient, i), v128.and(v128.load(at(gradient, i)), f32x4.gt(v128.load(at(outputs, i)), zero)));
}

/** out[j] = Σ_i x[i][j]: the gradient of a bias. */
export function sumColumns(rows: i32, width: i32, x: usize, out: usize): void {
  for (let j = 0; j < width; j += 4) {
    let sum = f32x4.splat(0);
    for (let i = 0; i < rows; i++) sum = f32x4.add(sum, v128.load(at(x, i * width + j)));
    v128.store(at(out, j), sum);
  }
}

/** Σ x². */
export function sumSquares(count: i32, x: usize): f64 {
  let total: f64 = 0;
  for (let first = 0; first < count; first += 4096) {
    let sum = f32x4.splat(0);
    const end = min(count, first + 4096);
    for (let i = first; i < end; i += 4) {
      const value = v128.load(at(x, i));
      sum = f32x4.add(sum, f32x4.mul(value, value));
    }
    total += <f64>sumLanes(sum);
  }
  return total;
}

/**
 * Dropout (Srivastava et al. 2014): sets each number to 0 with probability threshold / 2³², and multiplies the others by
 * `factor`. Which ones depends on `seed` and their place alone, so that the gradient's are the same.
 */
export function dropOut(count: i32, x: usize, seed: i32, threshold: i32, factor: f32): void {
  const f = f32x4.splat(factor);
  const limit = i32x4.splat(threshold ^ 0x80000000);
  const flip = i32x4.splat(0x80000000);
  const step = i32x4.splat(4);
  let index = i32x4.add(v128(0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0), i32x4.splat(seed));
  for (let i = 0; i < count; i += 4) {
    // The finaliser of MurmurHash3 (Appleby), a bijection whose bits are as good as random.
    let hash = index;
    hash = v128.xor(hash, i32x4.shr_u(hash, 16));
    hash = i32x4.mul(hash, i32x4.splat(0x85ebca6b));
    hash = v128.xor(hash, i32x4.shr_u(hash, 13));
    hash = i32x4.mul(hash, i32x4.splat(0xc2b2ae35));
    hash = v128.xor(hash, i32x4.shr_u(hash, 16));
    const kept = i32x4.ge_s(v128.xor(hash, flip), limit);
    v128.store(at(x, i), v128.and(f32x4.mul(f, v128.load(at(x, i))), kept));
    index = i32x4.add(index, step);
  }
}

/**
 * Layer normalisation (Ba et al. 2016): unit[i] = (x[i] − mean) · factors[i], out[i] = unit[i] · scale + bias, where
 * factors[i] is one over the standard deviation of x[i].
 */
export function normalise(
  rows: i32,
  width: i32,
  x: usize,
  scale: usize,
  bias: usize,
  unit: usize,
  factors: usize,
  out: usize,
): void {
  for (let i = 0; i < rows; i++) {
    const row = at(x, i * width);
    let sum = f32x4.splat(0);
    for (let j = 0; j < width; j += 4) sum = f32x4.add(sum, v128.load(at(row, j)));
    const mean = f32x4.splat(sumLanes(sum) / <f32>width);
    let squares = f32x4.splat(0);
    for (let j = 0; j < width; j += 4) {
      const centred = f32x4.sub(v128.load(at(row, j)), mean);
      squares = f32x4.add(squares, f32x4.mul(centred, centred));
    }
    const factor: f32 = <f32>1 / sqrt<f32>(sumLanes(squares) / <f32>width + 1e-6);
    store<f32>(at(factors, i), factor);
    const f = f32x4.splat(factor);
    for (let j = 0; j < width; j += 4) {
      const value = f32x4.mul(f32x4.sub(v128.load(at(row, j)), mean), f);
      v128.store(at(unit, i * width + j), value);
      v128.store(
        at(out, i * width + j),
        f32x4.add(f32x4.mul(value, v128.load(at(scale, j))), v128.load(at(bias, j))),
      );
    }
  }
}

/**
 * The gradient of `normalise`. `gradient` is that of its output. It writes those of scale and bias, and adds that of x to
 * `into`:
 *
 *   factor · (s − mean(s) − unit · mean(s · unit))    s = gradient · scale
 */
export function normaliseBack(
  rows: i32,
  width: i32,
  gradient: usize,
  scale: usize,
  unit: usize,
  factors: usize,
  scaleGradient: usize,
  biasGradient: usize,
  into: usize,
): void {
  memory.fill(scaleGradient, 0, <usize>width << 2);
  memory.fill(biasGradient, 0, <usize>width << 2);
  for (let i = 0; i < rows; i++) {
    const g = at(gradient, i * width);
    const u = at(unit, i * width);
    let sum = f32x4.splat(0);
    let products = f32x4.splat(0);
    for (let j = 0; j < width; j += 4) {
      const value = v128.load(at(g, j));
      const unitValue = v128.load(at(u, j));
      const along = f32x4.mul(value, unitValue);
      v128.store(at(scaleGradient, j), f32x4.add(v128.load(at(scaleGradient, j)), along));
      v128.store(at(biasGradient, j), f32x4.add(v128.load(at(biasGradient, j)), value));
      const s = v128.load(at(scale, j));
      sum = f32x4.add(sum, f32x4.mul(value, s));
      products = f32x4.add(products, f32x4.mul(along, s));
    }
    const mean = f32x4.splat(sumLanes(sum) / <f32>width);
    const meanProduct = f32x4.splat(sumLanes(products) / <f32>width);
    const factor = f32x4.splat(load<f32>(at(factors, i)));
    const to = at(into, i * width);
    for (let j = 0; j < width; j += 4) {
      const s = f32x4.mul(v128.load(at(g, j)), v128.load(at(scale, j)));
      const centred = f32x4.sub(f32x4.sub(s, mean), f32x4.mul(v128.load(at(u, j)), meanProduct));
      v128.store(at(to, j), f32x4.add(v128.load(at(to, j)), f32x4.mul(factor, centred)));
    }
  }
}

/**
 * Attention of each text's tokens to each other, a head at a time: softmax(q kᵀ / √width) v. A row of `projections`
 * holds q, k and v of all heads. `spans` holds the first token and the number of tokens of each text. `weights` gets each
 * text's softmax, head after head, as length × (length rounded up to a multiple of 4) numbers.
 */
export function attend(
  texts: i32,
  spans: usize,
  heads: i32,
  width: i32,
  projections: usize,
  weights: usize,
  out: usize,
): void {
  const model = heads * width;
  const stride = 3 * model;
  const scale: f32 = <f32>1 / sqrt<f32>(<f32>width);
  let row = weights;
  for (let i = 0; i < texts; i++) {
    const first = load<i32>(at(spans, 2 * i));
    const length = load<i32>(at(spans, 2 * i + 1));
    const padded = (length + 3) & -4;
    for (let h = 0; h < heads; h++) {
      const keys = at(projections, first * stride + model + h * width);
      const values = at(projections, first * stride + 2 * model + h * width);
      for (let t = first; t < first + length; t++, row = at(row, padded)) {
        const query = at(projections, t * stride + h * width);
        const total = weighKeys(length, query, keys, stride, width, scale, row);
        const inverse = f32x4.splat(<f32>1 / total);
        for (let s = 0; s < length; s += 4) v128.store(at(row, s), f32x4.mul(inverse, v128.load(at(row, s))));
        const into = at(out, t * model + h * width);
        for (let j = 0; j < width; j += 4) {
          let sum = f32x4.splat(0);
          for (let s = 0; s < length; s++)
            sum = f32x4.add(sum, f32x4.mul(v128.load32_splat(at(row, s)), v128.load(at(values, s * stride + j))));
          v128.store(at(into, j), sum);
        }
      }
    }
  }
}

/**
 * The gradient of `attend`: `gradient` is that of its output, `weights` are those it wrote, `scores` has room for the
 * tokens of the longest text. `into` gets the gradient of `projections`.
 */
export function attendBack(
  texts: i32,
  spans: usize,
  heads: i32,
  width: i32,
  projections: usize,
  weights: usize,
  gradient: usize,
  scores: usize,
  into: usize,
): void {
  const model = heads * width;
  const stride = 3 * model;
  const scale: f32 = <f32>1 / sqrt<f32>(<f32>width);
  let row = weights;
  for (let i = 0; i < texts; i++) {
    const first = load<i32>(at(spans, 2 * i));
    const length = load<i32>(at(spans, 2 * i + 1));
    const padded = (length + 3) & -4;
    memory.fill(at(into, first * stride), 0, (<usize>(length * stride)) << 2);
    for (let h = 0; h < heads; h++) {
      const keys = first * stride + model + h * width;
      const values = keys + model;
      for (let t = first; t < first + length; t++, row = at(row, padded)) {
        const g = at(gradient, t * model + h * width);
        let mean: f32 = 0;
        for (let s = 0; s < length; s++) {
          const value = at(projections, values + s * stride);
          const valueGradient = at(into, values + s * stride);
          const weight = load<f32>(at(row, s));
          const w = f32x4.splat(weight);
          let dot = f32x4.splat(0);
          for (let j = 0; j < width; j += 4) {
            const gj = v128.load(at(g, j));
            dot = f32x4.add(dot, f32x4.mul(gj, v128.load(at(value, j))));
            v128.store(at(valueGradient, j), f32x4.add(v128.load(at(valueGradient, j)), f32x4.mul(w, gj)));
          }
          const product = sumLanes(dot);
          store<f32>(at(scores, s), product);
          mean += weight * product;
        }
        const query = at(projections, t * stride + h * width);
        const queryGradient = at(into, t * stride + h * width);
        for (let s = 0; s < length; s++) {
          const score = f32x4.splat(scale * load<f32>(at(row, s)) * (load<f32>(at(scores, s)) - mean));
          const key = at(projections, keys + s * stride);
          const keyGradient = at(into, keys + s * stride);
          for (let j = 0; j < width; j += 4) {
            v128.store(
              at(queryGradient, j),
              f32x4.add(v128.load(at(queryGradient, j)), f32x4.mul(score, v128.load(at(key, j)))),
            );
            v128.store(
              at(keyGradient, j),
              f32x4.add(v128.load(at(keyGradient, j)), f32x4.mul(score, v128.load(at(query, j)))),
            );
          }
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
    const factor = f32x4.splat(<f32>1 / <f32>max(1, length));
    for (let j = 0; j < width; j += 4) {
      let sum = f32x4.splat(0);
      for (let t = first; t < first + length; t++) sum = f32x4.add(sum, v128.load(at(x, t * width + j)));
      v128.store(at(out, i * width + j), f32x4.mul(sum, factor));
    }
  }
}

/** The gradient of `pool`: that of each text, divided by its length, for each of its rows. */
export function poolBack(texts: i32, spans: usize, width: i32, gradient: usize, into: usize): void {
  for (let i = 0; i < texts; i++) {
    const first = load<i32>(at(spans, 2 * i));
    const length = load<i32>(at(spans, 2 * i + 1));
    const factor = f32x4.splat(<f32>1 / <f32>max(1, length));
    for (let j = 0; j < width; j += 4) {
      const value = f32x4.mul(factor, v128.load(at(gradient, i * width + j)));
      for (let t = first; t < first + length; t++) v128.store(at(into, t * width + j), value);
    }
  }
}

/** Moves `count` numbers towards their anchors, by `part` of the distance. */
export function pull(count: i32, parameters: usize, anchors: usize, part: f32): void {
  const p = f32x4.splat(part);
  for (let i = 0; i < count; i += 4) {
    const value = v128.load(at(parameters, i));
    const way = f32x4.sub(v128.load(at(anchors, i)), value);
    v128.store(at(parameters, i), f32x4.add(value, f32x4.mul(p, way)));
  }
}
