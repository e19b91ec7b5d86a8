/** Addresses of 32-bit floats, and vectors of four, for the other kernels. No operation is fused. */

/** The address of number `index`. */
// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
export function at(base: usize, index: i32): usize {
  return base + ((<usize>index) << 2);
}

/** The sum of four numbers. */
// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
export function sumLanes(x: v128): f32 {
  return (
    f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3))
  );
}

/**
 * e^x, x ≤ 88, to 2 units in the last place: 2^n · e^r with |r| ≤ ln 2 / 2, and e^r by Cephes' polynomial. Below −87 it
 * is that of −87.
 */
// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
export function exp(value: v128): v128 {
  const x = f32x4.max(value, f32x4.splat(-87));
  const n = f32x4.nearest(f32x4.mul(x, f32x4.splat(1.44269504088896341)));
  const r = f32x4.sub(
    f32x4.sub(x, f32x4.mul(n, f32x4.splat(0.693359375))),
    f32x4.mul(n, f32x4.splat(-2.12194440e-4)),
  );
  let p = f32x4.splat(1.9875691500e-4);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.3981999507e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(8.3334519073e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(4.1665795894e-2));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.6666665459e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(5.0000001201e-1));
  p = f32x4.add(f32x4.add(f32x4.mul(p, f32x4.mul(r, r)), r), f32x4.splat(1));
  const power = i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23);
  return f32x4.mul(p, power);
}
