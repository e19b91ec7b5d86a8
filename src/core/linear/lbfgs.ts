/**
 * L-BFGS for a smooth convex objective, from a given inverse Hessian P.
 *
 * In the compact form of Byrd, Nocedal and Schnabel (1994, theorem 2.2) the inverse Hessian after steps s_i with changes
 * y_i of the gradient is, with H₀ = γP, S = [s_i], Q = P [y_i], R the upper triangle of SᵀY and D its diagonal,
 *
 *   H g = γ P g + S R⁻ᵀ ((D + γ YᵀQ) w − γ Qᵀg) − γ Q w,    w = R⁻¹ Sᵀ g
 *
 * S and Q alone are remembered: since y is a difference of gradients, new entries of SᵀY and YᵀQ are differences of the
 * products Sᵀg and Qᵀg that the direction needs anyway, and P y is one of P g. So a step multiplies by P once.
 *
 * It stops on an estimate of the relative gap (f − f*) / f: the larger of the Newton decrement gᵀHg, and what the last
 * falls of f add up to if they go on shrinking as they did (Aitken). The first alone is far too low where convergence is
 * slow, the second where it has only begun.
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
  /** What a product with P costs, in floating-point operations. */
  readonly preconditionOperations: number;
  /** Called with the objective after each accepted step; it never rises. */
  readonly onStep?: (value: number) => void;
}

/** A step s, and the change y of the gradient along it times P. */
interface Pair {
  readonly step: Float32Array;
  readonly mapped: Float32Array;
}

/** What L-BFGS remembers, oldest first. */
interface Memory {
  readonly pairs: Pair[];
  /** s_iᵀ y_j, for i ≤ j, and y_iᵀ P y_j. */
  readonly steps: number[][];
  readonly changes: number[][];
  /** γ */
  scale: number;
}

/** By what part of itself an objective summed from 32-bit logits may be off. */
const ROUNDING = 2 ** -20;

/** Evaluations along one direction. */
const MOST_TRIES = 13;

/** The products of every remembered pair with a gradient: s_iᵀ g and (P y_i)ᵀ g. */
interface Along {
  readonly steps: number[];
  readonly mapped: number[];
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

/** Operations of one step, beside the evaluation of f and the product with P, for so many parameters and steps remembered. */
export function stepOperations(parameters: number, pairs = memoryLength(parameters)): number {
  return (8 * pairs + 8) * parameters;
}

/**
 * @param evaluate f and its gradient; its result is not kept
 * @param precondition P, the given inverse Hessian, applied to a vector
 */
export function* minimise(
  evaluate: (parameters: Float64Array) => Generator<number, Evaluated, void>,
  precondition: (vector: Float64Array) => Float64Array,
  start: Float64Array,
  options: MinimiseOptions,
): Generator<number, Minimum, void> {
  const remembered = memoryLength(start.length);
  const memory: Memory = { pairs: [], steps: [], changes: [], scale: 1 };
  let parameters = start;
  let { value, gradient } = yield* evaluate(parameters);
  let mapped = precondition(gradient);
  let along = nothingAlong();
  let evaluations = 1;
  let iterations = 0;
  const values = [value];
  for (;;) {
    const direction = descent(memory, mapped, along);
    const slope = dot(direction, gradient);
    const size = Math.max(value, RESOLUTION * (values[0] as number));
    const ended = (converged: boolean): Minimum => ({ parameters, value, iterations, converged });
    if (slope < 0) {
      // Not before a first step: from intercepts alone, or from another model's parameters, the estimate says least.
      if (iterations > 0 && estimatedGap(values, -slope) <= options.tolerance * size) return ended(true);
      if (evaluations >= options.maxEvaluations) return ended(false);
      const found = yield* search(evaluate, parameters, value, direction, slope, options.maxEvaluations - evaluations);
      evaluations += found.evaluations;
      if (found.next !== null) {
        const { next, length, evaluated } = found;
        const nextMapped = precondition(evaluated.gradient);
        const nextAlong = productsAlong(memory, evaluated.gradient);
        remember(memory, direction, length, gradient, evaluated.gradient, mapped, nextMapped, along, nextAlong);
        if (memory.pairs.length > remembered) {
          forget(memory, 1);
          nextAlong.steps.shift();
          nextAlong.mapped.shift();
        }
        parameters = next;
        // Above it by rounding alone, see `accepted`.
        value = Math.min(value, evaluated.value);
        gradient = evaluated.gradient;
        mapped = nextMapped;
        along = nextAlong;
        values.push(value);
        iterations++;
        options.onStep?.(value);
        yield stepOperations(parameters.length, memory.pairs.length) + options.preconditionOperations;
        continue;
      }
    }
    // Rounding has spoilt what is remembered, or the 32-bit products cannot tell a better point any more.
    if (memory.pairs.length === 0 || evaluations >= options.maxEvaluations) {
      return ended(slope < 0 ? -slope / 2 <= 1e-4 * size : gradient.every((each) => each === 0));
    }
    forget(memory, memory.pairs.length);
    along = nothingAlong();
  }
}

/** A point along a direction that is accepted, and the evaluations that it took; `next` is null where none was found. */
type Found = { readonly evaluations: number } & (
  | { readonly next: Float64Array; readonly length: number; readonly evaluated: Evaluated }
  | { readonly next: null }
);

/** Backtracks from the whole step, by the least of the parabola through what is known. */
function* search(
  evaluate: (parameters: Float64Array) => Generator<number, Evaluated, void>,
  parameters: Float64Array,
  value: number,
  direction: Float64Array,
  slope: number,
  most: number,
): Generator<number, Found, void> {
  let length = 1;
  for (let evaluations = 1; ; evaluations++) {
    const next = moved(parameters, direction, length);
    const evaluated = yield* evaluate(next);
    const slopeAhead = dot(direction, evaluated.gradient);
    if (accepted(value, slope, length, evaluated, slopeAhead)) return { evaluations, next, length, evaluated };
    if (evaluations >= Math.min(most, MOST_TRIES)) return { evaluations, next: null };
    if (Math.abs(evaluated.value - value) <= ROUNDING * Math.abs(value) && slopeAhead > 0) {
      // Values tell nothing here: to a little before where the slope would be level.
      length *= (0.9 * slope) / (slope - slopeAhead);
      continue;
    }
    const bend = evaluated.value - value - length * slope;
    const least = Number.isFinite(bend) ? (-slope * length * length) / (2 * bend) : 0;
    length = Math.min(Math.max(least, length / 10), length / 2);
  }
}

/** Adds the last step to the memory, where the objective curves along it, and its products with the new gradient to `nextAlong`. */
function remember(
  memory: Memory,
  direction: Float64Array,
  length: number,
  gradient: Float64Array,
  nextGradient: Float64Array,
  mapped: Float64Array,
  nextMapped: Float64Array,
  along: Along,
  nextAlong: Along,
): void {
  const size = direction.length;
  const pair: Pair = { step: new Float32Array(size), mapped: new Float32Array(size) };
  let curve = 0;
  let bend = 0;
  for (let i = 0; i < size; i++) {
    const change = (nextGradient[i] as number) - (gradient[i] as number);
    const step = Math.fround(length * (direction[i] as number));
    const image = Math.fround((nextMapped[i] as number) - (mapped[i] as number));
    pair.step[i] = step;
    pair.mapped[i] = image;
    curve += step * change;
    bend += image * change;
  }
  if (!(curve > 0 && bend > 0)) return;
  memory.pairs.forEach((_, i) => {
    memory.steps[i]?.push((nextAlong.steps[i] as number) - (along.steps[i] as number));
    memory.changes[i]?.push((nextAlong.mapped[i] as number) - (along.mapped[i] as number));
  });
  memory.steps.push([...memory.pairs.map(() => 0), curve]);
  memory.changes.push([...memory.changes.map((row) => row.at(-1) as number), bend]);
  memory.pairs.push(pair);
  // Half-way (in powers) between P itself and the usual scaling by the last pair: far from the optimum the curvature
  // still grows along a step, and the whole scaling overshoots into another evaluation.
  memory.scale = Math.sqrt(curve / bend);
  const newest = productsWith(pair, nextGradient);
  nextAlong.steps.push(newest[0]);
  nextAlong.mapped.push(newest[1]);
}

/** Forgets the `count` oldest pairs. */
function forget(memory: Memory, count: number): void {
  memory.pairs.splice(0, count);
  for (const matrix of [memory.steps, memory.changes]) {
    matrix.splice(0, count);
    for (const row of matrix) row.splice(0, count);
  }
}

function nothingAlong(): Along {
  return { steps: [], mapped: [] };
}

function productsAlong(memory: Memory, gradient: Float64Array): Along {
  const products = memory.pairs.map((pair) => productsWith(pair, gradient));
  return { steps: products.map(([step]) => step), mapped: products.map(([, mapped]) => mapped) };
}

/**
 * Armijo's condition, or where that fall is lost in rounding the approximate one of Hager and Zhang (2005), which reads it
 * from the gradients, whose rounding is far smaller. Where the value seems to have risen within rounding, the slope must still be
 * falling: then, f being convex, f itself has not risen.
 */
function accepted(value: number, slope: number, length: number, next: Evaluated, slopeAhead: number): boolean {
  if (next.value <= value + 1e-4 * length * slope) return true;
  if (next.value <= value) return slopeAhead <= -(1 - 2e-4) * slope;
  return next.value <= value + ROUNDING * Math.abs(value) && slopeAhead <= 0 && slopeAhead >= 0.9 * slope;
}

/** Iterations over which falls of the objective are compared. */
const WINDOW = 4;
/** A slower rate than this cannot be told from none. */
const SLOWEST = 0.98;

function estimatedGap(values: readonly number[], decrement: number): number {
  const at = values.length - 1;
  if (at < 2 * WINDOW) return decrement;
  const recent = (values[at - WINDOW] as number) - (values[at] as number);
  if (recent <= 0) return decrement;
  const before = (values[at - 2 * WINDOW] as number) - (values[at - WINDOW] as number);
  const rate = Math.min(recent / before, SLOWEST);
  return Math.max(decrement, (recent * rate) / (1 - rate));
}

/** −H g by the compact form, where `mapped` is P g. */
function descent({ pairs, steps, changes, scale }: Memory, mapped: Float64Array, along: Along): Float64Array {
  const count = pairs.length;
  const at = (matrix: readonly number[][], i: number, j: number) => matrix[i]?.[j] as number;
  const w = along.steps.slice();
  for (let i = count - 1; i >= 0; i--) {
    let sum = w[i] as number;
    for (let j = i + 1; j < count; j++) sum -= at(steps, i, j) * (w[j] as number);
    w[i] = sum / at(steps, i, i);
  }
  const a = w.map((each, i) => {
    let sum = at(steps, i, i) * each - scale * (along.mapped[i] as number);
    for (let j = 0; j < count; j++) sum += scale * at(changes, i, j) * (w[j] as number);
    return sum;
  });
  for (let i = 0; i < count; i++) {
    let sum = a[i] as number;
    for (let j = 0; j < i; j++) sum -= at(steps, j, i) * (a[j] as number);
    a[i] = sum / at(steps, i, i);
  }
  const direction = new Float64Array(mapped.length);
  for (let i = 0; i < direction.length; i++) direction[i] = -scale * (mapped[i] as number);
  pairs.forEach((pair, i) => {
    addPair(direction, pair, -(a[i] as number), scale * (w[i] as number));
  });
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

/** sᵀv and (P y)ᵀv, in two sums each, in one pass. */
function productsWith({ step, mapped }: Pair, vector: Float64Array): [number, number] {
  let s0 = 0;
  let s1 = 0;
  let m0 = 0;
  let m1 = 0;
  let i = 0;
  for (; i + 1 < vector.length; i += 2) {
    const v0 = vector[i] as number;
    const v1 = vector[i + 1] as number;
    s0 += (step[i] as number) * v0;
    s1 += (step[i + 1] as number) * v1;
    m0 += (mapped[i] as number) * v0;
    m1 += (mapped[i + 1] as number) * v1;
  }
  if (i < vector.length) {
    s0 += (step[i] as number) * (vector[i] as number);
    m0 += (mapped[i] as number) * (vector[i] as number);
  }
  return [s0 + s1, m0 + m1];
}

function addPair(to: Float64Array, { step, mapped }: Pair, a: number, b: number): void {
  for (let i = 0; i < to.length; i++) to[i] = (to[i] as number) + a * (step[i] as number) + b * (mapped[i] as number);
}

function moved(from: Float64Array, direction: Float64Array, length: number): Float64Array {
  const result = new Float64Array(from.length);
  for (let i = 0; i < result.length; i++) result[i] = (from[i] as number) + length * (direction[i] as number);
  return result;
}
