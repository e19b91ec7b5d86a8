/** The chi-square distribution, by the regularised incomplete gamma functions. */
import { logGamma } from "./beta.ts";

const MAX_TERMS = 10_000;
const PRECISION = 1e-14;
const TINY = 1e-300;

/** P(X > x) of the chi-square distribution, 1 degree of freedom or more: Q(k / 2, x / 2). */
export function chiSquareTail(x: number, degreesOfFreedom: number): number {
  if (x <= 0) return 1;
  const [a, z] = [degreesOfFreedom / 2, x / 2];
  const density = Math.exp(a * Math.log(z) - z - logGamma(a));
  // The series (DLMF 8.7.1) converges fast below the mean, the continued fraction (DLMF 8.9.2) above it.
  return z < a + 1 ? Math.max(0, 1 - density * lowerSeries(a, z)) : density * upperFraction(a, z);
}

/** P(Z ≤ z) of the standard normal distribution, of whose variable the square is chi-square distributed. */
export function normalCdf(z: number): number {
  const tail = chiSquareTail(z * z, 1) / 2;
  return z < 0 ? tail : 1 - tail;
}

/** Σ_n zⁿ / (a (a + 1) … (a + n)). */
function lowerSeries(a: number, z: number): number {
  let term = 1 / a;
  let sum = term;
  for (let n = 1; n < MAX_TERMS && term > sum * PRECISION; n++) {
    term *= z / (a + n);
    sum += term;
  }
  return sum;
}

/** Lentz's method. */
function upperFraction(a: number, z: number): number {
  let b = z + 1 - a;
  let c = 1 / TINY;
  let d = 1 / b;
  let fraction = d;
  for (let n = 1; n < MAX_TERMS; n++) {
    const factor = -n * (n - a);
    b += 2;
    d = factor * d + b;
    d = 1 / (Math.abs(d) < TINY ? TINY : d);
    c = b + factor / c;
    if (Math.abs(c) < TINY) c = TINY;
    const change = c * d;
    fraction *= change;
    if (Math.abs(change - 1) < PRECISION) break;
  }
  return fraction;
}
