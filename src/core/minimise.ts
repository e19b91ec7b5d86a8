/**
 * L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4) with a given inverse Hessian to start from, for a
 * smooth convex objective.
 *
 * It stops on an estimate of the relative gap (f − f*) / f: the larger of the Newton decrement gᵀH⁻¹g, with L-BFGS's own
 * approximation of H⁻¹, and what the last falls of f add up to if they go on shrinking as they did (Aitken). The first
 * alone is far too low where convergence is slow, the second where it has only begun.
 */
import type { Evaluated } from "./objective.ts";

export interface Minimum {
  readonly parameters: Float64Array;
  readonly value: number;
  readonly iterations: number;
  readonly converged: boolean;
}

export interface MinimiseOptions {
  /** Bound of the estimated relative gap. */
  readonly tolerance: number;
  /** Evaluations of the objective after which it ends where it is. */
  readonly maxEvaluations: number;
  /** Called with the objective after each accepted step; it never rises. */
  readonly onStep?: (value: number) => void;
}

interface Pair {
  readonly step: Float32Array;
  readonly change: Float32Array;
  readonly product: number;
}

/**
 * Below this part of where it began, an objective is nothing to 32-bit floats. Where the least is zero itself (every row of
 * one class, with a free intercept), a gap relative to it would never be small.
 */
const RESOLUTION = 2 ** -24;

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
  const values: number[] = [];
  const remembered = memoryLength(start.length);
  let parameters = start;
  let { value, gradient } = yield* evaluate(parameters);
  let scale = 1;
  let evaluations = 1;
  for (let iteration = 0; ; iteration++) {
    const direction = descent(gradient, pairs, precondition, scale);
    const slope = dot(direction, gradient);
    values.push(value);
    const size = Math.max(value, RESOLUTION * (values[0] as number));
    if (estimatedGap(values, -slope) <= options.tolerance * size) {
      return { parameters, value, iterations: iteration, converged: true };
    }
    if (evaluations >= options.maxEvaluations) return { parameters, value, iterations: iteration, converged: false };

    let length = 1;
    let next = moved(parameters, direction, length);
    let evaluated = yield* evaluate(next);
    evaluations++;
    for (let tries = 0; !accepted(value, slope, length, evaluated, direction); tries++) {
      // The 32-bit products cannot tell a better point any more.
      if (tries === 12 || evaluations >= options.maxEvaluations)
        return { parameters, value, iterations: iteration, converged: -slope / 2 <= 1e-4 * size };
      const bend = evaluated.value - value - length * slope;
      const least = Number.isFinite(bend) ? (-slope * length * length) / (2 * bend) : 0;
      length = Math.min(Math.max(least, length / 10), length / 2);
      next = moved(parameters, direction, length);
      evaluated = yield* evaluate(next);
      evaluations++;
    }

    const step = difference(next, parameters);
    const change = difference(evaluated.gradient, gradient);
    const product = inner(step, Float64Array.from(change));
    parameters = next;
    value = evaluated.value;
    gradient = evaluated.gradient;
    options.onStep?.(value);
    if (product > 0) {
      const curved = inner(change, precondition(Float64Array.from(change)));
      if (curved > 0) {
        // Half-way (in powers) between the given matrix and the usual scaling by the last pair: far from the optimum the
        // curvature still grows along a step, and the whole scaling overshoots into another evaluation.
        scale = Math.sqrt(product / curved);
        pairs.push({ step, change, product });
        if (pairs.length > remembered) pairs.shift();
      }
    }
    yield (8 * pairs.length + 8) * parameters.length;
  }
}

/**
 * Armijo's condition, or where that fall is lost in rounding the approximate one of Hager and Zhang (2005), which reads it
 * from the gradients, whose rounding is far smaller. The objective never rises.
 */
function accepted(value: number, slope: number, length: number, next: Evaluated, direction: Float64Array): boolean {
  if (next.value <= value + 1e-4 * length * slope) return true;
  return next.value <= value && dot(direction, next.gradient) <= -(1 - 2e-4) * slope;
}

/** Iterations over which falls of the objective are compared. */
const WINDOW = 4;
/** A slower rate than this cannot be told from none. */
const SLOWEST = 0.98;

function estimatedGap(values: readonly number[], decrement: number): number {
  const at = values.length - 1;
  if (at < 2 * WINDOW) return decrement;
  const recent = (values[at - WINDOW] as number) - (values[at] as number);
  const before = (values[at - 2 * WINDOW] as number) - (values[at - WINDOW] as number);
  const rate = Math.min(recent / before, SLOWEST);
  return Math.max(decrement, (recent * rate) / (1 - rate));
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
    const factor = inner(step, vector) / product;
    factors[i] = factor;
    add(vector, change, -factor);
  }
  const direction = precondition(vector);
  for (let i = 0; i < direction.length; i++) direction[i] = -scale * (direction[i] as number);
  for (let i = 0; i < pairs.length; i++) {
    const { step, change, product } = pairs[i] as Pair;
    add(direction, step, -(factors[i] as number) - inner(change, direction) / product);
  }
  return direction;
}

/** a·b, in four sums, which a processor can add at once. */
function dot(a: Float64Array, b: Float64Array): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = 0;
  for (; i + 3 < a.length; i += 4) {
    s0 += (a[i] as number) * (b[i] as number);
    s1 += (a[i + 1] as number) * (b[i + 1] as number);
    s2 += (a[i + 2] as number) * (b[i + 2] as number);
    s3 += (a[i + 3] as number) * (b[i + 3] as number);
  }
  for (; i < a.length; i++) s0 += (a[i] as number) * (b[i] as number);
  return s0 + s1 + s2 + s3;
}

/** As `dot`, with a remembered vector: a function of its own, since one for both kinds of array runs at half the speed. */
function inner(a: Float32Array, b: Float64Array): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = 0;
  for (; i + 3 < a.length; i += 4) {
    s0 += (a[i] as number) * (b[i] as number);
    s1 += (a[i + 1] as number) * (b[i + 1] as number);
    s2 += (a[i + 2] as number) * (b[i + 2] as number);
    s3 += (a[i + 3] as number) * (b[i + 3] as number);
  }
  for (; i < a.length; i++) s0 += (a[i] as number) * (b[i] as number);
  return s0 + s1 + s2 + s3;
}

function add(to: Float64Array, vector: Float32Array, factor: number): void {
  for (let i = 0; i < to.length; i++) to[i] = (to[i] as number) + factor * (vector[i] as number);
}

function moved(from: Float64Array, direction: Float64Array, length: number): Float64Array {
  const result = new Float64Array(from.length);
  for (let i = 0; i < result.length; i++) result[i] = (from[i] as number) + length * (direction[i] as number);
  return result;
}

function difference(a: Float64Array, b: Float64Array): Float32Array {
  const result = new Float32Array(a.length);
  for (let i = 0; i < a.length; i++) result[i] = (a[i] as number) - (b[i] as number);
  return result;
}
