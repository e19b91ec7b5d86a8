/** The weights of attention, in predictions (encoder.ts) and in training (transformer.ts). No operation is fused. */
import { at, exp, sumLanes } from "./vectors";

/**
 * e^(scale · q·k − the largest) for a query and each of `length` keys, `stride` numbers apart, and zeros up to a multiple of
 * four. Answers their sum.
 */
// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
export function weighKeys(
  length: i32,
  query: usize,
  keys: usize,
  stride: i32,
  width: i32,
  scale: f32,
  weights: usize,
): f32 {
  let most: f32 = -Infinity;
  for (let s = 0; s < length; s++) {
    const key = at(keys, s * stride);
    let dot = f32x4.splat(0);
    for (let j = 0; j < width; j += 4)
      dot = f32x4.add(dot, f32x4.mul(v128.load(at(query, j)), v128.load(at(key, j))));
    const score = scale * sumLanes(dot);
    most = max(most, score);
    store<f32>(at(weights, s), score);
  }
  let total = f32x4.splat(0);
  for (let s = length; s < ((length + 3) & -4); s++) store<f32>(at(weights, s), -Infinity);
  for (let s = 0; s < length; s += 4) {
    const score = f32x4.sub(v128.load(at(weights, s)), f32x4.splat(most));
    const weight = v128.and(exp(score), f32x4.ge(score, f32x4.splat(-87)));
    total = f32x4.add(total, weight);
    v128.store(at(weights, s), weight);
  }
  return sumLanes(total);
}
