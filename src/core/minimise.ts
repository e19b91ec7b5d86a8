/**
 * L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4) with a given inverse Hessian to start from, for a
 * smooth convex objective. It stops on an estimate of the relative gap (f − f*) / f: half of the Newton decrement
 * gᵀH⁻¹g, with L-BFGS's own approximation of H⁻¹.
 */
import type { Evaluated } from "./objective.ts";

export interface Minimum {
  readonly parameters: Float64Array;
  readonly value: number;
  readonly iterations: number;
  readonly converged: boolean;
}

export interface MinimiseOptions {
  readonly tolerance: number;
  readonly maxIterations: number;
  /** Called with the objective after each accepted step; it never rises. */
  readonly onStep?: (value: number) => void;
}

interface Pair {
  readonly step: Float32Array;
  readonly change: Float32Array;
  readonly product: number;
}

/** How many steps L-BFGS remembers for so many parameters: ten, or fewer where they would take more than 8 MB. */
export function memoryLength(parameters: number): number {
  return Math.max(3, Math.min(10, Math.floor(1e6 / parameters)));
}

/**
 * @param evaluate f and its gradient; its result is not kept
 * @param precondition the given inverse Hessian, applied to a vector
 */
export function* minimise(
  evaluate: (parameters: Float64Array) => Generator<number, Evaluated, void>,
  precondition: (vector: Float64Array) => Float64Array,
  start: Float64Array,
  options: MinimiseOptions,
): Generator<number, Minimum, void> {
  const pairs: Pair[] = [];
  const remembered = memoryLength(start.length);
  let parameters = start;
  let { value, gradient } = yield* evaluate(parameters);
  let scale = 1;
  for (let iteration = 0; ; iteration++) {
    const direction = descent(gradient, pairs, precondition, scale);
    const slope = dot(direction, gradient);
    if (-slope / 2 <= options.tolerance * value) return { parameters, value, iterations: iteration, converged: true };
    if (iteration === options.maxIterations) return { parameters, value, iterations: iteration, converged: false };

    let length = 1;
    let next = moved(parameters, direction, length);
    let evaluated = yield* evaluate(next);
    for (let tries = 0; !(evaluated.value <= value + 1e-4 * length * slope); tries++) {
      // The 32-bit products cannot tell a better point any more.
      if (tries === 12) return { parameters, value, iterations: iteration, converged: -slope / 2 <= 1e-4 * value };
      const bend = evaluated.value - value - length * slope;
      const least = Number.isFinite(bend) ? (-slope * length * length) / (2 * bend) : 0;
      length = Math.min(Math.max(least, length / 10), length / 2);
      next = moved(parameters, direction, length);
      evaluated = yield* evaluate(next);
    }

    const step = difference(next, parameters);
    const change = difference(evaluated.gradient, gradient);
    const product = dot(step, change);
    parameters = next;
    value = evaluated.value;
    gradient = evaluated.gradient;
    options.onStep?.(value);
    if (product > 0) {
      const curved = dot(change, precondition(Float64Array.from(change)));
      if (curved > 0) {
        scale = product / curved;
        pairs.push({ step, change, product });
        if (pairs.length > remembered) pairs.shift();
      }
    }
    yield (8 * pairs.length + 8) * parameters.length;
  }
}

/** −H⁻¹g by the two-loop recursion. */
function descent(
  gradient: Float64Array,
  pairs: readonly Pair[],
  precondition: (vector: Float64Array) => Float64Array,
  scale: number,
): Float64Array {
  const vector = gradient.slice();
  const factors = new Float64Array(pairs.length);
  for (let i = pairs.length - 1; i >= 0; i--) {
    const { step, change, product } = pairs[i] as Pair;
    const factor = dot(step, vector) / product;
    factors[i] = factor;
    add(vector, change, -factor);
  }
  const direction = precondition(vector);
  for (let i = 0; i < direction.length; i++) direction[i] = -scale * (direction[i] as number);
  for (let i = 0; i < pairs.length; i++) {
    const { step, change, product } = pairs[i] as Pair;
    add(direction, step, -(factors[i] as number) - dot(change, direction) / product);
  }
  return direction;
}

type Vector = Float64Array | Float32Array;

function dot(a: Vector, b: Vector): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function add(to: Float64Array, vector: Vector, factor: number): void {
  for (let i = 0; i < to.length; i++) to[i] = (to[i] as number) + factor * (vector[i] as number);
}

function moved(from: Float64Array, direction: Float64Array, length: number): Float64Array {
  const result = from.slice();
  add(result, direction, length);
  return result;
}

function difference(a: Float64Array, b: Float64Array): Float32Array {
  const result = new Float32Array(a.length);
  for (let i = 0; i < a.length; i++) result[i] = (a[i] as number) - (b[i] as number);
  return result;
}
