/**
 * Kernels of fine-tuning (src/finetune) besides those of pre-training, in AssemblyScript: 32-bit floats, four at a time, in
 * an imported memory. Those of a sentence encoder are in transformer.ts. Pointers are byte offsets, matrices are row-major,
 * widths are multiples of 4.
 */
import { at } from "./vectors";
export { adam, adamRows, logSumRows, multiply } from "./pretrain";
export * from "./transformer";

/**
 * features[i][f] = max(0, bias[f] + max_t sums[t][f]) over the positions t in [first_i, first_i + length_i). places[i][f] is
 * the position of the maximum, or −1 if the feature is 0. `spans` holds first_i, length_i for each text i.
 */
export function maxPool(
  texts: i32,
  spans: usize,
  sums: usize,
  filters: i32,
  bias: usize,
  features: usize,
  places: usize,
): void {
  const one = i32x4.splat(1);
  for (let i = 0; i < texts; i++) {
    const first = load<i32>(at(spans, 2 * i));
    const length = load<i32>(at(spans, 2 * i + 1));
    for (let f = 0; f < filters; f += 4) {
      let best = f32x4.splat(-Infinity);
      let place = i32x4.splat(-1);
      let t = i32x4.splat(first);
      for (let n = 0; n < length; n++) {
        const value = v128.load(at(sums, (first + n) * filters + f));
        const larger = f32x4.gt(value, best);
        best = v128.bitselect(value, best, larger);
        place = v128.bitselect(t, place, larger);
        t = i32x4.add(t, one);
      }
      const value = f32x4.add(best, v128.load(at(bias, f)));
      const active = f32x4.gt(value, f32x4.splat(0));
      v128.store(at(features, i * filters + f), v128.and(value, active));
      v128.store(at(places, i * filters + f), v128.or(v128.and(place, active), v128.not(active)));
    }
  }
}

/**
 * The gradient of `maxPool` of a convolution. `gradients` is the gradient of the features. If feature f of text i has its
 * maximum at position t, it goes to filter f and to the window of words that begins at words + t · step floats. A feature
 * with place −1 has no gradient. With wordGradient = 0, the words get none.
 */
export function convolutionBack(
  texts: i32,
  filters: i32,
  places: usize,
  gradients: usize,
  words: usize,
  step: i32,
  width: i32,
  kernel: usize,
  kernelGradient: usize,
  biasGradient: usize,
  wordGradient: usize,
): void {
  for (let f = 0; f < filters; f++) {
    const own = at(kernel, f * width);
    const into = at(kernelGradient, f * width);
    let sum: f32 = 0;
    for (let i = 0; i < texts; i++) {
      const gradient = load<f32>(at(gradients, i * filters + f));
      const place = load<i32>(at(places, i * filters + f));
      if (place < 0 || gradient == 0) continue;
      sum += gradient;
      const g = f32x4.splat(gradient);
      const window = at(words, place * step);
      for (let j = 0; j < width; j += 4)
        v128.store(at(into, j), f32x4.add(v128.load(at(into, j)), f32x4.mul(g, v128.load(at(window, j)))));
      if (wordGradient == 0) continue;
      const back = at(wordGradient, place * step);
      for (let j = 0; j < width; j += 4)
        v128.store(at(back, j), f32x4.add(v128.load(at(back, j)), f32x4.mul(g, v128.load(at(own, j)))));
    }
    store<f32>(at(biasGradient, f), sum);
  }
}

/** Moves each row of the list towards its anchor, by `part` of the distance. */
export function pullRows(rows: i32, list: usize, width: i32, parameters: usize, anchors: usize, part: f32): void {
  const p = f32x4.splat(part);
  for (let i = 0; i < rows; i++) {
    const first = load<i32>(at(list, i)) * width;
    for (let j = first; j < first + width; j += 4) {
      const value = v128.load(at(parameters, j));
      const way = f32x4.sub(v128.load(at(anchors, j)), value);
      v128.store(at(parameters, j), f32x4.add(value, f32x4.mul(p, way)));
    }
  }
}

/** Multiplies `count` numbers by a factor. */
export function shrink(parameters: usize, count: i32, factor: f32): void {
  const f = f32x4.splat(factor);
  for (let i = 0; i < count; i += 4) v128.store(at(parameters, i), f32x4.mul(f, v128.load(at(parameters, i))));
}
