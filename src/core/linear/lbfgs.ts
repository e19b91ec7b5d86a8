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

import type { Steps } from "../steps.ts";
import type { LossGradient } from "./objective.ts";

export interface LbfgsResult {
  readonly parameters: Float64Array;
  readonly value: number;
  readonly iterations: number;
  readonly converged: boolean;
}

export interface LbfgsOptions {
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
interface CorrectionPair {
  readonly step: Float32Array;
  readonly preconditionedChange: Float32Array;
}

/** What L-BFGS remembers, oldest first. */
interface LbfgsMemory {
  readonly pairs: CorrectionPair[];
  /** s_iᵀ y_j, for i ≤ j, and y_iᵀ P y_j. */
  readonly stepChangeProducts: number[][];
  readonly changeProducts: number[][];
  /** γ */
  scale: number;
}

/** By what part of itself an objective summed from 32-bit logits may be off. */
const ROUNDING_TOLERANCE = 2 ** -20;

/** Evaluations along one direction. */
const MAX_LINE_SEARCH_EVALUATIONS = 13;

/** The products of every remembered pair with a gradient: s_iᵀ g and (P y_i)ᵀ g. */
interface PairProducts {
  readonly steps: number[];
  readonly preconditionedChanges: number[];
}

/**
 * Below this part of where it began, an objective is nothing to 32-bit floats. Where the least is zero itself (every row of
 * one class, with a free intercept), a gap relative to it would never be small.
 */
const RELATIVE_RESOLUTION = 2 ** -24;

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
export function* lbfgs(
  evaluate: (parameters: Float64Array) => Steps<LossGradient>,
  precondition: (vector: Float64Array) => Float64Array,
  start: Float64Array,
  options: LbfgsOptions,
): Steps<LbfgsResult> {
  const maxPairs = memoryLength(start.length);
  const memory: LbfgsMemory = { pairs: [], stepChangeProducts: [], changeProducts: [], scale: 1 };
  let parameters = start;
  let { value, gradient } = yield* evaluate(parameters);
  let preconditioned = precondition(gradient);
  let products = emptyProducts();
  let evaluations = 1;
  let iterations = 0;
  const values = [value];
  for (;;) {
    const direction = descentDirection(memory, preconditioned, products);
    const slope = dot(direction, gradient);
    const objectiveScale = Math.max(value, RELATIVE_RESOLUTION * (values[0] as number));
    const finish = (converged: boolean): LbfgsResult => ({ parameters, value, iterations, converged });
    if (slope < 0) {
      // Not before a first step: from intercepts alone, or from another model's parameters, the estimate says least.
      if (iterations > 0 && estimateGap(values, -slope) <= options.tolerance * objectiveScale) return finish(true);
      if (evaluations >= options.maxEvaluations) return finish(false);
      const searchResult = yield* lineSearch(
        evaluate,
        parameters,
        value,
        direction,
        slope,
        options.maxEvaluations - evaluations,
      );
      evaluations += searchResult.evaluations;
      if (searchResult.next !== null) {
        const { next, stepLength, lossGradient } = searchResult;
        const nextPreconditioned = precondition(lossGradient.gradient);
        const nextProducts = pairProducts(memory, lossGradient.gradient);
        updateMemory(
          memory,
          direction,
          stepLength,
          gradient,
          lossGradient.gradient,
          preconditioned,
          nextPreconditioned,
          products,
          nextProducts,
        );
        if (memory.pairs.length > maxPairs) {
          dropOldest(memory, 1);
          nextProducts.steps.shift();
          nextProducts.preconditionedChanges.shift();
        }
        parameters = next;
        // Above it by rounding alone, see `accepted`.
        value = Math.min(value, lossGradient.value);
        gradient = lossGradient.gradient;
        preconditioned = nextPreconditioned;
        products = nextProducts;
        values.push(value);
        iterations++;
        options.onStep?.(value);
        yield stepOperations(parameters.length, memory.pairs.length) + options.preconditionOperations;
        continue;
      }
    }
    // Rounding has spoilt what is remembered, or the 32-bit products cannot tell a better point any more.
    if (memory.pairs.length === 0 || evaluations >= options.maxEvaluations) {
      return finish(slope < 0 ? -slope / 2 <= 1e-4 * objectiveScale : gradient.every((each) => each === 0));
    }
    dropOldest(memory, memory.pairs.length);
    products = emptyProducts();
  }
}

/** A point along a direction that is accepted, and the evaluations that it took; `next` is null where none was found. */
type LineSearchResult = { readonly evaluations: number } & (
  | { readonly next: Float64Array; readonly stepLength: number; readonly lossGradient: LossGradient }
  | { readonly next: null }
);

/** Backtracks from the whole step, by the least of the parabola through what is known. */
function* lineSearch(
  evaluate: (parameters: Float64Array) => Steps<LossGradient>,
  parameters: Float64Array,
  value: number,
  direction: Float64Array,
  slope: number,
  maxEvaluations: number,
): Steps<LineSearchResult> {
  let stepLength = 1;
  for (let evaluations = 1; ; evaluations++) {
    const next = addScaled(parameters, direction, stepLength);
    const lossGradient = yield* evaluate(next);
    const nextSlope = dot(direction, lossGradient.gradient);
    if (isStepAccepted(value, slope, stepLength, lossGradient, nextSlope))
      return { evaluations, next, stepLength, lossGradient };
    if (evaluations >= Math.min(maxEvaluations, MAX_LINE_SEARCH_EVALUATIONS)) return { evaluations, next: null };
    if (Math.abs(lossGradient.value - value) <= ROUNDING_TOLERANCE * Math.abs(value) && nextSlope > 0) {
      // Values tell nothing here: to a little before where the slope would be level.
      stepLength *= (0.9 * slope) / (slope - nextSlope);
      continue;
    }
    const curvature = lossGradient.value - value - stepLength * slope;
    const parabolaMinimum = Number.isFinite(curvature) ? (-slope * stepLength * stepLength) / (2 * curvature) : 0;
    stepLength = Math.min(Math.max(parabolaMinimum, stepLength / 10), stepLength / 2);
  }
}

/** Adds the last step to the memory, where the objective curves along it, and its products with the new gradient to `nextAlong`. */
function updateMemory(
  memory: LbfgsMemory,
  direction: Float64Array,
  stepLength: number,
  gradient: Float64Array,
  nextGradient: Float64Array,
  preconditioned: Float64Array,
  nextPreconditioned: Float64Array,
  products: PairProducts,
  nextProducts: PairProducts,
): void {
  const size = direction.length;
  const pair: CorrectionPair = { step: new Float32Array(size), preconditionedChange: new Float32Array(size) };
  let stepCurvature = 0;
  let changeSquare = 0;
  for (let i = 0; i < size; i++) {
    const change = (nextGradient[i] as number) - (gradient[i] as number);
    const step = Math.fround(stepLength * (direction[i] as number));
    const preconditionedChange = Math.fround((nextPreconditioned[i] as number) - (preconditioned[i] as number));
    pair.step[i] = step;
    pair.preconditionedChange[i] = preconditionedChange;
    stepCurvature += step * change;
    changeSquare += preconditionedChange * change;
  }
  if (!(stepCurvature > 0 && changeSquare > 0)) return;
  memory.pairs.forEach((_, i) => {
    memory.stepChangeProducts[i]?.push((nextProducts.steps[i] as number) - (products.steps[i] as number));
    memory.changeProducts[i]?.push(
      (nextProducts.preconditionedChanges[i] as number) - (products.preconditionedChanges[i] as number),
    );
  });
  memory.stepChangeProducts.push([...memory.pairs.map(() => 0), stepCurvature]);
  memory.changeProducts.push([...memory.changeProducts.map((row) => row.at(-1) as number), changeSquare]);
  memory.pairs.push(pair);
  // Half-way (in powers) between P itself and the usual scaling by the last pair: far from the optimum the curvature
  // still grows along a step, and the whole scaling overshoots into another evaluation.
  memory.scale = Math.sqrt(stepCurvature / changeSquare);
  const newestProducts = dotPair(pair, nextGradient);
  nextProducts.steps.push(newestProducts[0]);
  nextProducts.preconditionedChanges.push(newestProducts[1]);
}

/** Forgets the `count` oldest pairs. */
function dropOldest(memory: LbfgsMemory, count: number): void {
  memory.pairs.splice(0, count);
  for (const matrix of [memory.stepChangeProducts, memory.changeProducts]) {
    matrix.splice(0, count);
    for (const row of matrix) row.splice(0, count);
  }
}

function emptyProducts(): PairProducts {
  return { steps: [], preconditionedChanges: [] };
}

function pairProducts(memory: LbfgsMemory, gradient: Float64Array): PairProducts {
  const products = memory.pairs.map((pair) => dotPair(pair, gradient));
  return { steps: products.map(([step]) => step), preconditionedChanges: products.map(([, mapped]) => mapped) };
}

/**
 * Armijo's condition, or where that fall is lost in rounding the approximate one of Hager and Zhang (2005), which reads it
 * from the gradients, whose rounding is far smaller. Where the value seems to have risen within rounding, the slope must still be
 * falling: then, f being convex, f itself has not risen.
 */
function isStepAccepted(
  value: number,
  slope: number,
  stepLength: number,
  next: LossGradient,
  nextSlope: number,
): boolean {
  if (next.value <= value + 1e-4 * stepLength * slope) return true;
  if (next.value <= value) return nextSlope <= -(1 - 2e-4) * slope;
  return next.value <= value + ROUNDING_TOLERANCE * Math.abs(value) && nextSlope <= 0 && nextSlope >= 0.9 * slope;
}

/** Iterations over which falls of the objective are compared. */
const RATE_WINDOW = 4;
/** A slower rate than this cannot be told from none. */
const MAX_CONVERGENCE_RATE = 0.98;

function estimateGap(values: readonly number[], decrement: number): number {
  const last = values.length - 1;
  if (last < 2 * RATE_WINDOW) return decrement;
  const recentDecrease = (values[last - RATE_WINDOW] as number) - (values[last] as number);
  if (recentDecrease <= 0) return decrement;
  const previousDecrease = (values[last - 2 * RATE_WINDOW] as number) - (values[last - RATE_WINDOW] as number);
  const rate = Math.min(recentDecrease / previousDecrease, MAX_CONVERGENCE_RATE);
  return Math.max(decrement, (recentDecrease * rate) / (1 - rate));
}

/** −H g by the compact form, where `mapped` is P g. */
function descentDirection(
  { pairs, stepChangeProducts, changeProducts, scale }: LbfgsMemory,
  preconditioned: Float64Array,
  products: PairProducts,
): Float64Array {
  const count = pairs.length;
  const entry = (matrix: readonly number[][], i: number, j: number) => matrix[i]?.[j] as number;
  const w = products.steps.slice();
  for (let i = count - 1; i >= 0; i--) {
    let sum = w[i] as number;
    for (let j = i + 1; j < count; j++) sum -= entry(stepChangeProducts, i, j) * (w[j] as number);
    w[i] = sum / entry(stepChangeProducts, i, i);
  }
  const a = w.map((each, i) => {
    let sum = entry(stepChangeProducts, i, i) * each - scale * (products.preconditionedChanges[i] as number);
    for (let j = 0; j < count; j++) sum += scale * entry(changeProducts, i, j) * (w[j] as number);
    return sum;
  });
  for (let i = 0; i < count; i++) {
    let sum = a[i] as number;
    for (let j = 0; j < i; j++) sum -= entry(stepChangeProducts, j, i) * (a[j] as number);
    a[i] = sum / entry(stepChangeProducts, i, i);
  }
  const direction = new Float64Array(preconditioned.length);
  for (let i = 0; i < direction.length; i++) direction[i] = -scale * (preconditioned[i] as number);
  pairs.forEach((pair, i) => {
    addScaledPair(direction, pair, -(a[i] as number), scale * (w[i] as number));
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
function dotPair({ step, preconditionedChange }: CorrectionPair, vector: Float64Array): [number, number] {
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
    m0 += (preconditionedChange[i] as number) * v0;
    m1 += (preconditionedChange[i + 1] as number) * v1;
  }
  if (i < vector.length) {
    s0 += (step[i] as number) * (vector[i] as number);
    m0 += (preconditionedChange[i] as number) * (vector[i] as number);
  }
  return [s0 + s1, m0 + m1];
}

function addScaledPair(
  vector: Float64Array,
  { step, preconditionedChange }: CorrectionPair,
  a: number,
  b: number,
): void {
  for (let i = 0; i < vector.length; i++)
    vector[i] = (vector[i] as number) + a * (step[i] as number) + b * (preconditionedChange[i] as number);
}

function addScaled(start: Float64Array, direction: Float64Array, factor: number): Float64Array {
  const result = new Float64Array(start.length);
  for (let i = 0; i < result.length; i++) result[i] = (start[i] as number) + factor * (direction[i] as number);
  return result;
}
